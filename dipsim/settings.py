"""What a run is asked to do: one frozen, validated record, the same from the command line, from
Python and from a result's ``config``."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dipsim.errors import BudgetError, DipsimError, first_problem
from dipsim.units import BYTES, parse_share

_AUTHORS = {
    "reset": "sequence",
    "prefill": "stream",
    "access": "atomic",
    "scope": "layer",
    "allocate": "even",
    "kv": "fixed",
}
"""What the DIP authors' simulator does (docs/methods.md)."""
MAPPED = {
    "policy": ("none", "the system's page cache holds the weights, an LRU of pages"),
    "overlap": ("serial", "a page fault stops the thread that computes"),
}
"""What ``io="mmap"`` leaves no choice of, and why."""
Count = Annotated[int, Field(ge=0, le=2**40)]
Overlap = Literal["paper-serial", "paper-concurrent", "serial", "pipelined", "prefetch"]
Layout = Literal["column", "bundle", "expert", "row", "permuted"]
Access = Literal["atomic", "sequential"]
Scope = Literal["layer", "global"]
Reset = Literal["never", "sequence"]
Prefill = Literal["stream", "cache"]


class Settings(BaseModel):
    """Options of a run; None means the default that docs/concepts.md names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str | None = None
    density: float | None = None
    group_density: Mapping[str, float] = {}
    split: str | None = None
    gamma: Mapping[str, float] = {}
    masking: str | None = None
    routing: str | None = None
    top_k: int | None = Field(default=None, ge=1, le=2**16)
    selection: Literal["top-k", "threshold"] | None = None
    calibrate_tokens: str | None = None
    recall: float | None = None
    predictor_rank: int | None = Field(default=None, ge=0, le=2**20)
    cluster: int = Field(default=1, ge=1, le=2**16)
    weights: Literal["2:4"] | None = None
    compat: Literal["authors"] | None = None
    policy: str = "lfu"
    admission: Literal["forced", "ranked"] | None = None
    static_from: str | None = None
    dram: str | None = None
    cache: str | None = None
    cache_fraction: float | None = Field(default=None, ge=0, le=1)
    bits: float | None = Field(default=None, gt=0, le=32)
    context: Count | None = None
    kv: Literal["fixed", "grow"] = "fixed"
    kv_bits: float = Field(default=16, gt=0, le=32)
    layout: Layout | None = None
    order_from: str | None = None
    io: Literal["direct", "buffered", "mmap"] = "direct"
    overlap: Overlap = "pipelined"
    prefetch: str | None = None
    engine: Literal["auto", "closed", "events"] = "auto"
    thermal: Literal["cold", "sustained"] = "cold"
    backend: str | None = None
    scope: Literal["layer", "global"] = "layer"
    access: Literal["atomic", "sequential"] = "atomic"
    allocate: Literal["even", "equal", "optimal"] = "even"
    warmup: Count = 0
    reset: Literal["never", "sequence"] = "never"
    prefill: Literal["stream", "cache"] | None = None
    tokens: str | None = None
    layers: str | None = None
    sequence: str | None = None
    seed: Count = 0

    @model_validator(mode="before")
    @classmethod
    def _as_the_authors(cls, given: Any) -> Any:
        """``compat="authors"`` fixes what their simulator does in one way only."""
        if not isinstance(given, dict) or given.get("compat") != "authors":
            return given
        for name, value in _AUTHORS.items():
            if given.get(name, value) != value:
                raise ValueError(
                    f"--compat authors and --{name} {given[name]}: the authors' simulator has "
                    f"{value} only; drop one of them"
                )
        if given.get("admission", "forced") != "forced":
            raise ValueError(
                f"--compat authors and --admission {given['admission']}: the authors' simulator "
                "has forced only; drop one of them"
            )
        overlap = given.get("overlap", "paper-concurrent")
        if overlap not in ("paper-concurrent", "paper-serial"):
            raise ValueError(
                f"--compat authors and --overlap {overlap}: use paper-concurrent or paper-serial"
            )
        return {**given, **_AUTHORS, "overlap": overlap}

    @model_validator(mode="before")
    @classmethod
    def _mapped(cls, given: Any) -> Any:
        """``io="mmap"`` leaves some things no choice."""
        if not isinstance(given, dict) or given.get("io") != "mmap" or given.get("compat"):
            return given
        for name, (value, why) in MAPPED.items():
            if given.get(name, value) != value:
                raise ValueError(
                    f"--io mmap and --{name} {given[name]}: {why}; use {value}, or drop --{name}"
                )
        return {**given, **{name: value for name, (value, _) in MAPPED.items()}}

    @model_validator(mode="before")
    @classmethod
    def _what_is_read_ahead(cls, given: Any) -> Any:
        """``prefetch`` names the guesses of ``overlap="prefetch"``, which guesses by default what
        the token before needed."""
        if not isinstance(given, dict):
            return given
        overlap = given.get("overlap")
        if given.get("prefetch") is None:
            return {**given, "prefetch": "previous"} if overlap == "prefetch" else given
        if overlap not in (None, "prefetch"):
            raise ValueError(
                f"--prefetch {given['prefetch']} and --overlap {overlap}: only --overlap prefetch "
                "reads ahead; drop one of them"
            )
        return {**given, "overlap": "prefetch"}

    @model_validator(mode="after")
    def _one_engine(self) -> "Settings":
        if self.engine == "closed" and (self.overlap == "prefetch" or self.thermal == "sustained"):
            what = "--overlap prefetch" if self.overlap == "prefetch" else "--thermal sustained"
            raise ValueError(
                f"--engine closed and {what}: the closed form knows no clock; use --engine events"
            )
        if self.overlap == "prefetch" and self.allocate == "optimal":
            raise ValueError(
                "--allocate optimal counts every miss as a read of its own time, --overlap "
                "prefetch does not: drop one of them"
            )
        if self.overlap == "prefetch" and self.io != "direct":
            raise ValueError(
                f"--io {self.io} and --overlap prefetch: reads ahead are direct reads; drop one of "
                "them"
            )
        if self.overlap.startswith("paper-") and self.thermal == "sustained":
            raise ValueError(
                f"--thermal sustained and --overlap {self.overlap}: the authors' simulator knows "
                "no heat; drop one of them"
            )
        return self

    @model_validator(mode="after")
    def _one_budget(self) -> "Settings":
        sizes = (self.dram, self.cache, self.cache_fraction)
        names = ("--dram", "--cache", "--cache-fraction")
        given = [name for name, size in zip(names, sizes, strict=True) if size is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: give one of them")
        if self.io != "direct" and (self.allocate == "optimal" or self.compat == "authors"):
            other = "--compat authors" if self.compat else "--allocate optimal"
            raise ValueError(f"{other} knows direct reads only: drop it, or --io {self.io}")
        if self.order_from is not None and self.layout != "permuted":
            raise ValueError(
                f"--order-from {self.order_from} is for --layout permuted: add that, or drop it"
            )
        if self.scope == "global" and self.allocate != "even":
            raise ValueError(
                f"--allocate {self.allocate} divides DRAM between caches; --scope global has one: "
                "drop one of them"
            )
        if self.kv == "grow" and (self.cache, self.cache_fraction) != (None, None):
            raise ValueError(
                f"--kv grow takes DRAM from the caches, but {given[0]} gives them without it: give "
                "--dram, or --kv fixed"
            )
        if self.kv == "grow" and self.allocate == "optimal":
            raise ValueError(
                "--allocate optimal divides one size of cache, and --kv grow changes it: use "
                "--allocate even or equal, or --kv fixed"
            )
        return self

    def dram_bytes(self, model_bytes: float | None) -> float | None:
        """``dram`` in bytes; a percentage is a share of the model's bytes.

        Raises:
            BudgetError: neither a size nor a share, or a share of an unknown model.
        """
        if self.dram is None:
            return None
        try:
            share = parse_share(self.dram)
            if share is None:
                return BYTES.parse(self.dram)
        except ValueError as problem:
            known = "" if "%" in self.dram else " or '50%'"
            raise BudgetError(f"--dram {problem}{known}") from None
        if model_bytes is None:
            raise BudgetError(f"--dram {self.dram} is a share of the model: pass --model too")
        return share * model_bytes

    def cache_bytes(self) -> float | None:
        """``cache`` in bytes.

        Raises:
            BudgetError: not a size.
        """
        try:
            return None if self.cache is None else BYTES.parse(self.cache)
        except ValueError as problem:
            raise BudgetError(f"--cache {problem}") from None


def make_settings(options: Mapping[str, Any]) -> Settings:
    """Settings from plain values; None counts as not given.

    Raises:
        DipsimError: an unknown option or an impossible value, in one line.
    """
    given = {key: value for key, value in options.items() if value is not None}
    if isinstance(given.get("gamma"), int | float):
        given["gamma"] = {"*": float(given["gamma"])}
    try:
        return Settings.model_validate(given)
    except ValidationError as problem:
        first = problem.errors()[0]
        if first["type"] == "extra_forbidden":
            known = ", ".join(Settings.model_fields)
            raise DipsimError(f"unknown option {first['loc'][0]!r}: use one of {known}") from None
        text = first_problem(problem)
        place, _, message = text.partition(": ")
        option = f"--{place.replace('_', '-')}: {message}"
        raise DipsimError(message if place == "the whole" else option) from None
