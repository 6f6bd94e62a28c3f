"""Axes of a comparison: devices, methods, densities and budgets, as a user gives them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from dipsim.errors import BudgetError, DipsimError, not_taken
from dipsim.methods import PruningMethod, default_method, kind_of, load_methods
from dipsim.methods.contract import DEFAULT_DENSITY
from dipsim.option import flag
from dipsim.settings import HAVE_DENSITY, make_settings
from dipsim.trace import Trace
from dipsim.units import BYTES


class GivenBudget(NamedTuple):
    """DRAM as it was asked for."""

    kind: Literal["available", "dram", "cache", "cache_fraction"]
    """``available``: what the device leaves."""
    value: str | float | None
    """The option's."""
    bytes: float | None = None
    """Bytes that were given, of DRAM or of cache."""
    share: float | None = None
    """Share that was given: of the model's bytes for ``dram``, of the units for the caches."""

    @property
    def label(self) -> str:
        """The budget as it was asked for: ``cache_fraction=0.6``."""
        return self.kind if self.value is None else f"{self.kind}={self.value}"

    @property
    def option(self) -> dict[str, Any]:
        """The budget as an option of a run."""
        return {} if self.value is None else {self.kind: self.value}


def is_share(value: Any) -> bool:
    """Return whether a value is a number from 0 to 1."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def refuse_twice(option: str, names: Sequence[str]) -> None:
    """Refuse values of an axis that no table could tell apart."""
    for name in names:
        if names.count(name) > 1:
            raise DipsimError(f"{option} {', '.join(names)}: {name} is there twice; name each once")


def methods_of(trace: Trace, given: Sequence[str | PruningMethod]) -> list[str | PruningMethod]:
    """Return the methods that run, those of a user's own as they were given.

    Raises:
        MethodError: one that there is not, two of one name, or none that fits the trace.
    """
    load_methods(given)
    return list(given) or [default_method(trace)]


def densities_of(given: Sequence[Any]) -> list[float]:
    """Return densities as numbers.

    Raises:
        DipsimError: not a share, or there twice.
    """
    for density in given:
        if not is_share(density):
            raise DipsimError(f"--density {density}: the share of the weights kept, from 0 to 1")
    refuse_twice("--density", [f"{density:g}" for density in given])
    return [float(density) for density in given]


def has_density(method: str | PruningMethod) -> bool:
    """Tell whether a method takes a density."""
    return kind_of(method) in HAVE_DENSITY


def density_of(
    method: str | PruningMethod, kept: float | None, given: Mapping[str, Any]
) -> float | None:
    """Return the density of a method's runs; None where it has none, or its groups have."""
    if not has_density(method) or "group_density" in given:
        return None
    return DEFAULT_DENSITY if kept is None else kept


def budgets_of(
    dram: Sequence[Any], cache: Sequence[Any], fractions: Sequence[Any]
) -> list[GivenBudget]:
    """Return the budgets in the order dram, cache, cache_fraction; without any, the device's own.

    Raises:
        DipsimError: neither a size nor a share, or the same budget twice.
    """
    budgets = [_size("dram", size) for size in dram] + [_size("cache", size) for size in cache]
    for share in fractions:
        if not is_share(share):
            raise DipsimError(f"--cache-fraction {share}: a fraction of the units, from 0 to 1")
        budgets.append(GivenBudget("cache_fraction", float(share), share=float(share)))
    known: dict[Any, GivenBudget] = {}
    for budget in budgets:
        same = known.setdefault((budget.kind, budget.bytes, budget.share), budget)
        if same is not budget:
            raise DipsimError(
                f"{flag(budget.kind)} {same.value} and {budget.value} are the same budget: name "
                "each once"
            )
    return budgets or [GivenBudget("available", None)]


def _size(kind: Literal["dram", "cache"], given: Any) -> GivenBudget:
    """Return the budget of a size, which is a text with a unit or a number of bytes.

    Raises:
        BudgetError: neither.
    """
    text = given
    if isinstance(given, int | float) and not isinstance(given, bool):
        if not BYTES.believes(float(given)):
            raise BudgetError(f"{flag(kind)} {given}: bytes, {' to '.join(BYTES.range)}")
        text = BYTES.exact(float(given))
    if not isinstance(text, str):
        takes = "a number of bytes, or a text such as '3.5 GB'"
        raise BudgetError(not_taken(flag(kind), given, takes))
    settings = make_settings({kind: text})
    if kind == "cache":
        return GivenBudget(kind, text, bytes=settings.cache_bytes())
    share = settings.dram_bytes(1.0) if "%" in text else None
    return GivenBudget(kind, text, None if share is not None else settings.dram_bytes(1.0), share)
