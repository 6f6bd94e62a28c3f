"""Layer skipping: which layers each token runs, and what that reads.

`BUILTIN`, the table of the rules by name, feeds command line, docs and tests.
"""

from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim import plugins
from dipsim.errors import not_taken
from dipsim.layers.contract import (
    Calibration,
    LayerError,
    LayerRule,
    Schedule,
    calibration_of,
    modes_of,
    pack,
)
from dipsim.layers.drop import Drop
from dipsim.layers.early_exit import EarlyExit
from dipsim.layers.recorded import Recorded
from dipsim.layers.similarity import Similarity
from dipsim.layers.skipdecode import SkipDecode
from dipsim.layers.unified import Unified
from dipsim.trace import Trace

BUILTIN: dict[str, LayerRule] = {
    rule.name: rule
    for rule in (Drop(), Unified(), SkipDecode(), EarlyExit(), Similarity(), Recorded())
}
"""The rules that come with dipsim, by name."""
_KIND = plugins.Kind(
    "layer rule", LayerRule, LayerError, BUILTIN, "similarity:share=.2,by=previous"
)

__all__ = [
    "BUILTIN",
    "Calibration",
    "LayerError",
    "LayerRule",
    "Schedule",
    "calibration_of",
    "decide",
    "load_rule",
    "modes_of",
    "pack",
    "runs_file",
]


def load_rule(given: str | LayerRule) -> LayerRule:
    """Return a rule by its name, from ``file.py:attribute``, or the object as it is.

    Parameters follow after another colon: ``similarity:share=.2,by=previous``. The file is Python
    and is run, as any program of the user's would be.

    Raises:
        LayerError: unknown name, no such file or attribute, or parameters that the rule does not
            have or cannot take.
    """
    if isinstance(given, LayerRule):
        return given
    if not isinstance(given, str):
        raise LayerError(not_taken("layer rule", given, "a name, file.py:attribute or a LayerRule"))
    name, text = plugins.name_and_parameters(given)
    rule = BUILTIN[name] if name in BUILTIN else plugins.load(_KIND, name)
    return _with_parameters(rule, given, text) if text else rule


def runs_file(given: str) -> bool:
    """Return whether `load_rule` runs a file for this text."""
    return plugins.runs_file(_KIND, given)


def decide(rule: str | LayerRule, trace: Trace, calibrate: str | None = None) -> NDArray[np.uint8]:
    """Return the mode of each token and layer of a trace, uint8[tokens, layers].

    A mode is attention + 4 x MLP, each 0 skip, 1 partial, 2 full.

    Args:
        rule: as `load_rule` takes it.
        trace: with ``layer_io``, where the rule looks at states.
        calibrate: tokens "A:B" that the rule is fitted to; default: all.

    Raises:
        DipsimError: an unknown rule, or a trace without the vectors that it reads.
    """
    loaded = load_rule(rule)
    if isinstance(loaded, Recorded):
        return trace.layer_modes().read()
    fitted = trace if calibrate is None else trace.part(tokens=calibrate)
    schedule = loaded.fit(calibration_of(loaded, fitted))
    cosine = calibration_of(loaded, trace).cosine if loaded.reads_states else None
    return modes_of(schedule, trace.rows, trace.layers, cosine)


def _with_parameters(rule: LayerRule, given: str, text: str) -> LayerRule:
    known = {field.name: getattr(rule, field.name) for field in fields(rule)}
    values: dict[str, Any] = {}
    for pair in text.split(","):
        key, _, value = (part.strip() for part in pair.partition("="))
        if key not in known or key in values or not value:
            raise LayerError(
                f"layer rule {given!r}: {key!r} is given twice, empty or unknown; parameters of "
                f"{rule.name} are {', '.join(known)}, as in {_KIND.example}"
            )
        values[key] = _value(given, key, value, known[key])
    return replace(rule, **values)


def _value(given: str, key: str, text: str, default: object) -> object:
    """Read a parameter in the type of its default."""
    if isinstance(default, str):
        return text
    try:
        return type(default)(text) if isinstance(default, int) else float(text)
    except ValueError:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise LayerError(f"layer rule {given!r}: {key} is {kind}, not {text!r}") from None
