"""Geometry of the models that benchmarks ran: known by name, by their number of weights, or told.

A benchmark prints a name such as ``llama 1B Q4_0`` or a file's, the number of weights and the bytes
of the file, but no layers; a rate says something of a device once these are known.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dipsim.calibrate.measured import Rate
from dipsim.errors import DipsimError, brief
from dipsim.model import Model, load_model, model_names
from dipsim.validate.devices import known_model, shipped

_SAME = 0.02
"""Share by which the weights of one model may differ: some files hold the embedding twice or none
of the norms."""
_EXACT = 5e-3
"""Share within which a number of weights alone says which model it is, as tables round it."""


class Geometries:
    """Geometries of benchmarked models, found once each.

    Args:
        told: ``NAME=FILE`` texts: FILE (a preset, GGUF, config.json or YAML) is what benchmarks
            call NAME, or a part of it.
        stated: geometries that the measurements state, by name.

    Raises:
        DipsimError: a text of another form, or a model that cannot be loaded.
    """

    def __init__(self, told: Sequence[str], stated: Mapping[str, Mapping[str, Any]]) -> None:
        self._told = dict(_told(text) for text in told)
        self._stated = stated
        self._used: set[str] = set()

    def of(self, rate: Rate) -> Model | str:
        """Return the model of a rate; or a sentence why it is not known."""
        text = f"{rate.case.model} {rate.model_file}".strip()
        for part, model in self._told.items():
            if part.lower() in text.lower():
                self._used.add(part)
                return model
        if str(rate.case.model) in self._stated:
            return load_model(dict(self._stated[str(rate.case.model)]))
        named = known_model(text)
        if named is not None:
            given: Any = shipped().models.get(named)
            known = load_model(named if given is None else dict(given))
            if _near(known.parameters, rate.parameters, _SAME):
                return known
        same = [m for m in _known() if rate.parameters and _near(m.parameters, rate.parameters)]
        if len(same) == 1:
            return same[0]
        weights = f" of {rate.parameters / 1e9:.3g} B weights" if rate.parameters else ""
        return (
            f"the layers of {brief(text, 60)}{weights} are not known: "
            f"add --model '{brief(text, 40)}=FILE', FILE its GGUF, config.json or a preset"
        )

    def check_used(self) -> None:
        """Refuse a model that was told for a name no benchmark has.

        Raises:
            DipsimError: there is such a name.
        """
        unused = [text for text in self._told if text not in self._used]
        if unused:
            raise DipsimError(
                f"--model {brief(unused[0])}: no benchmark ran a model whose name has this in it"
            )


def _told(text: str) -> tuple[str, Model]:
    name, equals, given = (part.strip() for part in text.rpartition("="))
    if not (name and equals and given):
        raise DipsimError(
            f"--model {brief(text)}: write NAME=FILE, e.g. 'llama 1B=llama-3.2-1b': what the "
            "benchmark calls it, and a preset, GGUF or config.json"
        )
    return name, load_model(given)


def _near(parameters: float, stated: float | None, share: float = _EXACT) -> bool:
    """Return whether a model has as many weights as were stated, within a share; True for none
    stated."""
    return stated is None or abs(parameters / stated - 1) <= share


def _known() -> list[Model]:
    """Return the presets, and the models that shipped cases state, one of each size."""
    models: list[Model] = [load_model(name) for name in model_names()]
    models += [load_model(dict(given)) for given in shipped().models.values()]
    return [*{(m.parameters, m.layers, m.hidden): m for m in models}.values()]
