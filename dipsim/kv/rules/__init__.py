"""Rules of KV eviction, one file each.

`BUILTIN`, the table of them by name, feeds command line, docs and tests.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace

from dipsim import plugins
from dipsim.errors import BudgetError, brief, not_taken
from dipsim.kv.rules.adakv import adakv
from dipsim.kv.rules.contract import Pool, Rule, Share, When
from dipsim.kv.rules.criticalkv import criticalkv
from dipsim.kv.rules.full import full
from dipsim.kv.rules.h2o import h2o
from dipsim.kv.rules.keydiff import keydiff
from dipsim.kv.rules.knorm import knorm
from dipsim.kv.rules.obcache import obcache
from dipsim.kv.rules.observed import observed
from dipsim.kv.rules.pyramidkv import pyramidkv
from dipsim.kv.rules.snapkv import snapkv
from dipsim.kv.rules.streaming import streaming
from dipsim.kv.rules.tova import tova
from dipsim.kv.rules.vatp import vatp
from dipsim.kv.rules.window import window

_RECENCY = (full, window, streaming)
_TOKEN = (h2o, tova, vatp, obcache, keydiff)
_PROMPT = (observed, snapkv, pyramidkv, adakv, criticalkv, knorm)
BUILTIN: Mapping[str, Callable[..., Rule]] = {
    rule.__name__: rule for rule in (*_RECENCY, *_TOKEN, *_PROMPT)
}
"""Functions that return a rule, whose arguments are its parameters."""

_KIND = plugins.Kind("KV policy", Rule, BudgetError, BUILTIN, "snapkv:window=16")

__all__ = ["BUILTIN", "Pool", "Rule", "Share", "When", "load_rule", "parameters_of"]


def parameters_of(name: str) -> dict[str, float | str]:
    """Return the parameters of a built-in rule with their defaults."""
    arguments = inspect.signature(BUILTIN[name]).parameters.values()
    return {argument.name: argument.default for argument in arguments}


def load_rule(given: str | Rule) -> Rule:
    """Return a rule by its name and parameters, ``obcache:score=key,recent=8``, or as it is.

    Raises:
        BudgetError: an unknown name, or parameters that the rule does not have or cannot take.
    """
    if isinstance(given, Rule):
        return given
    if not isinstance(given, str):
        raise BudgetError(not_taken("KV policy", given, "a name or a Rule"))
    name, text = plugins.name_and_parameters(given)
    if name not in BUILTIN:
        raise plugins.unknown(_KIND, given)
    values = _values(given, name, text)
    try:
        return replace(BUILTIN[name](**dict(values)), given=values)
    except BudgetError as problem:
        raise BudgetError(f"KV policy {name}: {problem}") from None


def _values(given: str, name: str, text: str) -> tuple[tuple[str, float | str], ...]:
    """Return the parameters that are set; words where the default is one, else numbers."""
    known, what = parameters_of(name), f"KV policy {name}"
    pairs = [pair.partition("=") for pair in text.split(",")] if text else []
    words = [(key.strip(), word.strip()) for key, _, word in pairs]
    for key, word in words:
        if word and key not in known:
            raise plugins.no_parameter(what, known, key, BudgetError)
    words = [(key, word) for key, word in words if isinstance(known.get(key), str)]
    rest = ",".join(
        key + equals + value for key, equals, value in pairs if key.strip() not in dict(words)
    )
    numbers = plugins.parse_parameters(_KIND, f"{name}:{rest}") if rest else {}
    if len(dict(words)) < len(words):
        raise BudgetError(f"KV policy {brief(given)!r}: a parameter is given twice; give it once")
    return (*words, *plugins.with_values(what, known, (), numbers, BudgetError))
