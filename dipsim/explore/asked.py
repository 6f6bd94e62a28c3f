"""Request of a page: a trace and a device that the app offers, and options from a list."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dipsim import methods, policies
from dipsim.errors import DipsimError, brief, first_problem
from dipsim.plugins import name_and_parameters
from dipsim.settings import make_settings
from dipsim.store import key_of

BESIDE_SETS = (
    *("policy", "admission", "dram", "cache_fraction", "scope", "access", "allocate"),
    *("layout", "io", "overlap", "engine", "thermal", "kv", "kv_bits", "context", "depth"),
)
"""Options that a request may set and that no active set depends on, unless a method looks at the
cache."""
OPTIONS = (
    *("method", "density", "group_density", "split", "gamma", "masking", "calibrate_tokens"),
    *("selection", "routing", "top_k", "recall", "cluster", "weights", "bits"),
    *BESIDE_SETS,
    *("tokens", "layers", "sequence", "warmup", "reset", "prefill", "seed"),
)
"""Options that a request may set; none of them names a file."""
MOST_RUNS = 24
"""Runs in one comparison."""
Text = Annotated[str, Field(max_length=200)]
Number = Annotated[int | float, Field(allow_inf_nan=False)]
Options = dict[Text, Number | Text | dict[Text, Number]]


class Asked(BaseModel):
    """A run that is asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    trace: Annotated[str, Field(max_length=4096)]
    profile: Text
    options: Annotated[Options, Field(max_length=40)] = {}

    @property
    def key(self) -> str:
        """Equal for requests that ask for the same."""
        return key_of(self.model_dump())

    @property
    def place(self) -> dict[str, Any]:
        """Trace, device and options as one mapping."""
        return {"trace": self.trace, "profile": self.profile, **self.options}

    def check(self, profiles: Collection[str]) -> Self:
        """Return the request if it asks for nothing but what the app offers.

        Raises:
            DipsimError: another device, an option that is not in the list or whose value is
                impossible, or a method or policy that is not built in.
        """
        if self.profile not in profiles:
            raise DipsimError(f"profile {brief(self.profile)!r}: use one of {', '.join(profiles)}")
        for name in self.options:
            if name not in OPTIONS:
                raise DipsimError(
                    f"option {brief(name)!r} cannot be set here: use one of {', '.join(OPTIONS)}"
                )
        _check_built_in("method", self.options.get("method"), methods.BUILTIN)
        _check_built_in("policy", self.options.get("policy"), policies.BUILTIN)
        make_settings(self.options)
        return self


class AskedRuns(BaseModel):
    """Runs that are to be compared."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    runs: Annotated[list[Asked], Field(min_length=1, max_length=MOST_RUNS)]


class AskedCell(BaseModel):
    """A cell of the sweep, by its number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    cell: Annotated[int, Field(ge=0, le=2**31)]


Kind = TypeVar("Kind", bound=BaseModel)


def parse(kind: type[Kind], value: object) -> Kind:
    """Return a request of a kind.

    Raises:
        DipsimError: it is none, in one line.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as problem:
        raise DipsimError(brief(first_problem(problem), 300)) from None
    except OverflowError:
        raise DipsimError("a number is too large: give one that a float can hold") from None


def asked_of(options: Mapping[str, Any], traces: Collection[str]) -> Asked:
    """Return the request that repeats a cell of a store.

    Args:
        options: arguments of `dipsim.simulate`.
        traces: that the app offers.

    Raises:
        DipsimError: it needs what no request may set.
    """
    given = {name: value for name, value in options.items() if value is not None}
    trace, profile = given.pop("trace", None), given.pop("profile", None)
    if trace not in traces or not isinstance(profile, str):
        raise DipsimError("its trace or its device is none that can be chosen here")
    others = [name for name in given if name not in OPTIONS]
    if others:
        raise DipsimError(f"{', '.join(map(brief, others))} cannot be set here")
    return parse(Asked, {"trace": trace, "profile": profile, "options": given})


def _check_built_in(what: str, given: object, known: Collection[str]) -> None:
    if given is None:
        return
    name, _ = name_and_parameters(given) if isinstance(given, str) else ("", "")
    if name not in known:
        raise DipsimError(
            f"{what} {brief(given)!r}: only built-in ones can be run here: {', '.join(known)}"
        )
