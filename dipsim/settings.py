"""Settings of a run: one frozen, validated record, the same from the command line, from Python and
from a result's ``config``.

Every option is declared once, as a field of `Settings`. The command line's options, what
``--config`` discards and which methods take an option are read off these declarations.
"""

import os
from collections.abc import Collection, Mapping
from numbers import Integral, Real
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dipsim.errors import BudgetError, ConflictError, DipsimError, brief, first_problem
from dipsim.lists import pairs
from dipsim.option import Concern, declarations, flag, option
from dipsim.units import BYTES, parse_share
from dipsim.views import shortened

_FIXED_BY_AUTHORS = {
    "reset": "sequence",
    "prefill": "stream",
    "access": "atomic",
    "scope": "layer",
    "allocate": "even",
    "kv": "fixed",
}
"""Settings of the DIP authors' simulator (docs/methods.md)."""
FIXED_BY_MMAP = {
    "policy": ("none", "the system's page cache holds the weights, an LRU of pages"),
    "overlap": ("serial", "a page fault stops the thread that computes"),
}
"""Settings that ``io="mmap"`` leaves no choice of, and why."""
_SIZES = ("dram", "cache", "kv_dram", "unit_bytes")
"""Options that are sizes, of which a number is one of bytes; the command line wants a unit."""
_RANGES = ("tokens", "layers", "sequence", "calibrate_tokens", "order_from")
"""Options that are ranges A:B."""
REFINES = (
    ("kv_budget", "kv_policy", "tova"),
    ("kv_when", "kv_policy", "tova"),
    ("skip_kv", "skip_layers", "unified"),
    ("partial_bits", "skip_layers", "similarity:share=.1,partial=.2"),
    ("prefetch_into", "prefetch", "previous"),
    ("prefetch_guard", "prefetch_into", "cache"),
    ("prefetch_depth", "prefetch", "previous"),
    ("prefetch_cut", "prefetch", "predictions.npz"),
)
"""Options that mean something beside another one only: (option, the other, an example of it)."""
PREFETCHES = ("prefetch", "prefetch_into", "prefetch_guard", "prefetch_depth", "prefetch_cut")
"""Options that together say what is read ahead, when, and where to."""
Count = Annotated[int, Field(ge=0, le=2**40)]
Overlap = Literal["paper-serial", "paper-concurrent", "serial", "pipelined", "prefetch"]
Layout = Literal["column", "bundle", "expert", "row", "permuted"]
Access = Literal["atomic", "sequential"]
Scope = Literal["layer", "global"]
Reset = Literal["never", "sequence"]
Prefill = Literal["stream", "cache"]
KvRead = Literal["grows", "average", "context"]
"""Positions a token reads: those before it; the average over the tokens of its sequence, as the DIP
authors count; or always the context."""
CURVE_CONCERNS: tuple[Concern, ...] = (
    "method",
    "pruning",
    "calibration",
    "experts",
    "units",
    "replay",
    "trace",
    "draws",
)
"""Subjects of the options that mean something without a device and a budget."""
OWN = "file.py:attribute"
"""Name under which options list the methods of a user's own."""
PRUNING = ("glu", "glu-oracle", "gate", "up", "cats", "predictor", "teal", "dip", "dip-ca")
"""Built-in methods that have a density."""
HAVE_DENSITY = (*PRUNING, OWN)
"""Methods that have a density."""
_SELECTING = ("glu", "glu-oracle", "gate", "up", "dip")
"""Methods that keep the best scores, or those above a threshold."""


class Settings(BaseModel):
    """Options of a run; None means the default that docs/concepts.md names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str | None = option(None, "see dipsim methods, or file.py:attribute", "method")
    density: float | None = option(
        None,
        "share of MLP weights kept [0.7]",
        "pruning",
        family="density",
        methods=HAVE_DENSITY,
        own_check=True,
    )
    group_density: Mapping[str, float] = option(
        {},
        "per group, e.g. mlp_input=.75,glu=.6",
        "pruning",
        family="density",
        methods=HAVE_DENSITY,
        own_check=True,
    )
    split: str | None = option(
        None,
        "of dip: authors, equal or the input's density; of teal: greedy or equal",
        "pruning",
        family="density",
        methods=("dip", "dip-ca", "teal"),
    )
    gamma: Mapping[str, float] = option(
        {}, "of dip-ca: a number, or mlp_input=.5,glu=.2", "pruning", methods=("dip-ca",)
    )
    masking: str | None = option(
        None,
        "of dip-ca: gamma, blend or approximate:top_m=.9 [gamma]",
        "pruning",
        methods=("dip-ca",),
    )
    routing: str | None = option(
        None,
        "of moe: cache-prior, max-rank, drop-cold or reuse-distance",
        "experts",
        methods=("moe",),
    )
    top_k: int | None = option(
        None,
        "of moe: experts a token uses [the model's]",
        "experts",
        methods=("moe",),
        ge=1,
        le=2**16,
    )
    selection: Literal["top-k", "threshold"] | None = option(
        None,
        "top-k, or threshold, a static one per layer [top-k]",
        "calibration",
        family="threshold",
        methods=_SELECTING,
    )
    calibrate_tokens: str | None = option(
        None,
        "tokens for thresholds; they are not measured",
        "calibration",
        family="threshold",
        methods=(*_SELECTING, "cats", "teal"),
        own_check=True,
    )
    recall: float | None = option(
        None, "of predictor: right neurons it finds [0.9]", "calibration", methods=("predictor",)
    )
    predictor_rank: int | None = option(
        None,
        "of predictor: its width [hidden / 8]",
        "calibration",
        methods=("predictor",),
        ge=0,
        le=2**20,
    )
    cluster: int = option(
        1, "neighbouring units read as one [1]", "units", of="method", ge=1, le=2**16
    )
    weights: Literal["2:4"] | None = option(
        None,
        "of dense: 2:4, two of four MLP weights kept",
        "comparison",
        methods=("dense",),
        own_check=True,
    )
    compat: Literal["authors"] | None = option(
        None, "authors: rule for rule as the DIP authors' simulator", "comparison"
    )
    policy: str = option("lfu", "see dipsim policies, or file.py:attribute [lfu]", "policy")
    admission: Literal["forced", "ranked"] | None = option(
        None, "forced or ranked [the policy's own]", "replay", of="policy"
    )
    static_from: str | None = option(
        None, "trace whose most used units static pins", "pins", of="policy"
    )
    warm_from: str | None = option(
        None, "counts or trace whose most used units the caches start with", "pins"
    )
    dram: str | None = option(
        None, "for weights and KV: 3.5GB, or 50% of the model", "budget", family="budget"
    )
    cache: str | None = option(None, "for the caches alone: 400MiB", "budget", family="budget")
    cache_fraction: float | None = option(
        None, "share of the units the caches hold", "budget", family="budget", ge=0, le=1
    )
    bits: float | None = option(
        None, "bits per weight, scales included [the trace's, or 4.5]", "storage", ge=0.01, le=32
    )
    weight_format: str | None = option(
        None, "of the weights: q4_0, q4_k, q8_0, 8da4w, bf16 ... [the model's]", "storage"
    )
    unit_bytes: str | None = option(
        None, "of an expert: 1MB [the trace's, or the model's]", "storage"
    )
    context: Count | None = option(None, "tokens of KV in the budget [longest sequence]", "storage")
    depth: Count | None = option(
        None, "tokens before the first one, whose KV is read [0]", "storage"
    )
    prompt: Count | None = option(
        None, "tokens of a prompt, whose first token is timed [none]", "prompt"
    )
    kv: Literal["fixed", "grow"] = option(
        "fixed", "fixed: KV of --context tokens; grow: it takes from the caches [fixed]", "kv"
    )
    kv_policy: str | None = option(
        None, "which positions of the KV stay: tova, snapkv:window=16 ... [full]", "beside"
    )
    kv_budget: str | None = option(
        None, "they are: 1024 per layer and kv head, or 25%", "beside", of="kv_policy"
    )
    kv_when: Literal["token", "prompt", "both"] | None = option(
        None, "others leave: token, prompt or both [the policy's]", "beside", of="kv_policy"
    )
    kv_quant: str | None = option(
        None, "format of KV: q8_0, kivi:bits=2 ... [--kv-bits]", "beside", family="kv_format"
    )
    kv_dram: str | None = option(
        None, "of the KV in DRAM: 50%, 100MB, auto (the fastest share) [all]", "beside"
    )
    kv_fetch: str | None = option(
        None, "blocks of the KV that a token reads, the best ones: top=64:block=16 [all]", "beside"
    )
    kv_recompute: str | None = option(
        None, "of the KV in flash: none, auto or l=256 [none]", "beside"
    )
    prune_tokens: str | None = option(
        None,
        "tokens that later layers leave out: lazy:at=.3/.6/.9,rate=.3, static, random",
        "beside",
    )
    skip_layers: str | None = option(
        None, "layers that tokens skip: similarity:share=.2, drop, unified ... [none]", "beside"
    )
    skip_kv: Literal["project", "hole", "copy"] | None = option(
        None, "KV of a layer that is skipped: project, hole or copy [project]", "beside"
    )
    batch: int | None = option(
        None,
        "sequences decoded side by side, which share each read [1]",
        "steps",
        family="steps",
        ge=1,
        le=2**22,
    )
    speculate: str | None = option(
        None,
        "drafts verified in one step: draft=4,accept=.8[,cost=.1,seed=0]; draft=0 for none [none]",
        "steps",
        family="steps",
    )
    partial_bits: float | None = option(
        None, "bits per weight of layers that run in part [2.5]", "storage", gt=0, le=32
    )
    kv_bits: float = option(
        16, "bits per key or value [16]", "storage", family="kv_format", ge=0.01, le=32
    )
    layout: Layout | None = option(
        None, "in flash: column, bundle, expert, row or permuted [the method's]", "flash"
    )
    order_from: str | None = option(
        None, "of permuted: tokens A:B it learns from [the first half]", "flash", of="layout"
    )
    io: Literal["direct", "buffered", "mmap"] = option(
        "direct", "direct, buffered (page cache) or mmap (page faults) [direct]", "flash"
    )
    overlap: Overlap = option(
        "pipelined",
        "paper-serial, paper-concurrent, serial, pipelined or prefetch [pipelined]",
        "time",
        family="overlap",
    )
    prefetch: str | None = option(
        None,
        "guesses: previous, next-layer, right=SHARE, a trace of predictions",
        "time",
        family="overlap",
    )
    prefetch_into: Literal["buffer", "cache"] | None = option(
        None, "where guesses go: a buffer, or the caches [buffer]", "time", of="prefetch"
    )
    prefetch_guard: float | None = option(
        None,
        "the most that guesses to come take of a cache [.25]",
        "time",
        of="prefetch",
        ge=0,
        le=1,
    )
    prefetch_depth: int | None = option(
        None, "layers ahead that guesses go out, 1 to 4 [1]", "time", of="prefetch", ge=1, le=4
    )
    prefetch_cut: float | None = option(
        None,
        "leave out guesses less sure than this share of the surest [0]",
        "time",
        of="prefetch",
        ge=0,
        le=1,
    )
    engine: Literal["auto", "closed", "events"] = option(
        "auto", "of time: auto, closed or events [auto]", "time"
    )
    thermal: Literal["cold", "sustained"] = option(
        "cold", "cold, or sustained: throttles as it gets hot [cold]", "time"
    )
    backend: str | None = option(None, "engine of the profile [its first]", "device")
    scope: Scope = option(
        "layer", "layer: a cache per layer and group; or global: one for all [layer]", "caches"
    )
    access: Access = option("atomic", "atomic or sequential [atomic]", "replay")
    allocate: Literal["even", "equal", "optimal"] = option(
        "even", "divide the cache: even, equal (bytes) or optimal [even]", "caches"
    )
    warmup: Count = option(0, "decode tokens not measured [0]", "replay")
    reset: Reset = option("never", "empty caches: never or sequence [never]", "replay")
    prefill: Prefill | None = option(
        None, "prefill tokens: stream or cache [experts: cache]", "replay"
    )
    tokens: str | None = option(None, "a part of the trace [all]", "trace")
    layers: str | None = option(None, "a part of the layers [all]", "trace")
    sequence: str | None = option(None, "a part of the sequences [all]", "trace")
    seed: Count = option(0, "of every random draw [0]", "draws")

    __repr__ = __str__ = shortened

    @model_validator(mode="before")
    @classmethod
    def _apply_compat(cls, given: Any) -> Any:
        """Set what the authors' simulator does in one way only, for ``compat="authors"``."""
        if not isinstance(given, dict) or given.get("compat") != "authors":
            return given
        for name, value in _FIXED_BY_AUTHORS.items():
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
        return {**given, **_FIXED_BY_AUTHORS, "overlap": overlap}

    @model_validator(mode="before")
    @classmethod
    def _apply_mmap(cls, given: Any) -> Any:
        """Set what page faults leave no choice of, for ``io="mmap"``."""
        if not isinstance(given, dict) or given.get("io") != "mmap" or given.get("compat"):
            return given
        for name, (value, why) in FIXED_BY_MMAP.items():
            if given.get(name, value) != value:
                raise ValueError(
                    f"--io mmap and --{name} {given[name]}: {why}; use {value}, or drop --{name}"
                )
        return {**given, **{name: value for name, (value, _) in FIXED_BY_MMAP.items()}}

    @model_validator(mode="before")
    @classmethod
    def _apply_prefetch(cls, given: Any) -> Any:
        """Make ``prefetch`` (the guesses) and ``overlap="prefetch"`` imply each other.

        Guesses are by default what the token before needed.
        """
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
    def _check_engine(self) -> "Settings":
        """Refuse what the engine or the overlap cannot time."""
        if self.engine == "closed" and (self.overlap == "prefetch" or self.thermal == "sustained"):
            other = "--overlap prefetch" if self.overlap == "prefetch" else "--thermal sustained"
            raise ValueError(
                f"--engine closed and {other}: the closed form knows no clock; use --engine events"
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
    def _check_budget(self) -> "Settings":
        """Refuse several sizes of DRAM."""
        given = [flag(name) for name in concerning("budget") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: give one of them")
        return self

    @model_validator(mode="after")
    def _check_kv(self) -> "Settings":
        """Refuse options on the KV cache that contradict each other."""
        for name, of, example in REFINES:
            if getattr(self, name) is not None and getattr(self, of) is None:
                given = f"{flag(name)} {getattr(self, name)}"
                raise ValueError(f"{given} is for a {flag(of)}: add one, e.g. {example}")
        if self.prefetch_guard is not None and self.prefetch_into != "cache":
            raise ValueError(
                f"--prefetch-guard {self.prefetch_guard:g} and --prefetch-into buffer: a buffer "
                "takes no room that a guard would keep; drop one of them"
            )
        if self.kv_quant is not None and self.kv_bits != 16:
            raise ValueError(
                f"--kv-quant {self.kv_quant} and --kv-bits {self.kv_bits:g}: give one of them"
            )
        for name in concerning("beside"):
            if self.compat == "authors" and getattr(self, name) is not None:
                raise ValueError(
                    f"--compat authors and {flag(name)}: the authors' simulator has all KV in "
                    "DRAM; drop one of them"
                )
        return self

    @model_validator(mode="after")
    def _check_steps(self) -> "Settings":
        """Refuse what is not known of steps of several tokens."""
        given = [
            f"{flag(name)} {brief(getattr(self, name))}"
            for name in concerning("steps")
            if getattr(self, name) not in (None, 1)
        ]
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(given)}: drafts of several sequences at once are not modelled; "
                "drop one of them"
            )
        if not given:
            return self
        (text,) = given
        why = {
            "prune_tokens": "which tokens come back differs between those of a step",
            "skip_layers": "the tokens of a step skip layers of their own",
        }
        for name, reason in why.items():
            if getattr(self, name) is not None:
                raise ValueError(f"{text} and {flag(name)}: {reason}; drop one of them")
        if self.overlap == "prefetch":
            raise ValueError(f"{text} and --prefetch: guesses are for one token; drop one of them")
        if self.allocate == "optimal":
            raise ValueError(
                f"{text} and --allocate optimal, which is fitted to single tokens: drop one of them"
            )
        if self.compat == "authors":
            raise ValueError(
                f"--compat authors and {text}: the authors' simulator takes one token at a time; "
                "drop one of them"
            )
        return self

    @model_validator(mode="after")
    def _check_division(self) -> "Settings":
        """Refuse reads, and divisions of DRAM, that do not go together."""
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
            size = flag("cache" if self.cache is not None else "cache_fraction")
            raise ValueError(
                f"--kv grow takes DRAM from the caches, but {size} gives them without it: give "
                "--dram, or --kv fixed"
            )
        if self.kv == "grow" and self.allocate == "optimal":
            raise ValueError(
                "--allocate optimal divides one size of cache, and --kv grow changes it: use "
                "--allocate even or equal, or --kv fixed"
            )
        return self

    @property
    def kv_read(self) -> KvRead:
        """Positions whose KV a token reads."""
        if self.compat == "authors" and self.context is None:
            return "average"
        return "context" if self.overlap.startswith("paper-") else "grows"

    def dram_bytes(self, model_bytes: float | None) -> float | None:
        """Return ``dram`` in bytes; a percentage is a share of the model's bytes.

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

    def expert_bytes(self) -> float | None:
        """Return ``unit_bytes`` in bytes.

        Raises:
            BudgetError: not a size, or none that an expert has.
        """
        try:
            size = None if self.unit_bytes is None else BYTES.parse(self.unit_bytes)
        except ValueError as problem:
            raise BudgetError(f"--unit-bytes: {problem}") from None
        if size is not None and not 1 <= size <= 2**40:
            raise BudgetError(f"--unit-bytes {self.unit_bytes}: an expert has 1 byte to 1 TB")
        return size

    def cache_bytes(self) -> float | None:
        """Return ``cache`` in bytes.

        Raises:
            BudgetError: not a size.
        """
        try:
            return None if self.cache is None else BYTES.parse(self.cache)
        except ValueError as problem:
            raise BudgetError(f"--cache {problem}") from None


OPTIONS = declarations(Settings)
"""Declaration of every option, by name."""
TAKES = {entry.name: entry.methods for entry in OPTIONS.values() if entry.methods}
"""Methods that take an option, of options that only some take."""


def concerning(*concerns: Concern) -> tuple[str, ...]:
    """Return the names of the options that concern these subjects, subject by subject."""
    entries = [
        entry for concern in concerns for entry in OPTIONS.values() if entry.concerns == concern
    ]
    return tuple(entry.name for entry in entries)


def discarded(given: Collection[str]) -> set[str]:
    """Return the options whose saved values are discarded when the named ones are given anew."""
    families = {entry.family for entry in OPTIONS.values() if entry.name in given} - {None}
    together = {entry.name for entry in OPTIONS.values() if entry.family in families}
    parents = {*given, *together}
    return together | {entry.name for entry in OPTIONS.values() if entry.of in parents}


def make_settings(options: Mapping[str, Any]) -> Settings:
    """Make settings of plain values; None counts as not given.

    Numbers may be numpy's; a number of ``dram`` or ``cache`` is one of bytes. Pairs may be a text,
    as on the command line: ``"mlp_input=.5,glu=.2"``.

    Raises:
        DipsimError: an unknown option or an impossible value, in one line.
        ConflictError: options that exclude each other, likewise.
    """
    for name in options:
        if name not in OPTIONS:
            raise DipsimError(f"unknown option {name!r}: use one of {', '.join(OPTIONS)}")
    given = {key: _plain(key, value) for key, value in options.items() if value is not None}
    try:
        return Settings.model_validate(given)
    except ValidationError as problem:
        text = first_problem(problem)
        place, _, message = text.partition(": ")
        if place == "the whole":
            raise ConflictError(message) from None
        raise DipsimError(f"{flag(place)}: {message}") from None


def _plain(name: str, value: Any) -> Any:
    """Return a value of an option as a file of settings holds it: numbers, texts, mappings.

    Raises:
        DipsimError: a text that holds no pairs where those are due, no text where a range is due,
            or as `_plain_number`.
    """
    if isinstance(value, Mapping):
        return {key: _plain_number(name, inner) for key, inner in value.items()}
    if OPTIONS[name].kind is dict:
        if isinstance(value, str):
            return pairs(value, flag(name), alone=name == "gamma")
        number = _plain_number(name, value)
        return {"*": number} if name == "gamma" and isinstance(number, Real) else number
    if name in _RANGES and not isinstance(value, str):
        raise DipsimError(
            f"{flag(name)} {brief(repr(value), 60)}: write the text 'A:B', e.g. '0:64'"
        )
    return _plain_number(name, value)


def _plain_number(name: str, value: Any) -> Any:
    """Return a number of numpy as Python's, one of bytes as a text with a unit, a path as its text.

    Raises:
        DipsimError: a truth value, which no option is; a number that is no size.
    """
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        raise DipsimError(f"{flag(name)} {value}: give a number or a text, no truth value")
    if not isinstance(value, Real):
        return value
    number = int(value) if isinstance(value, Integral) else float(value)
    if name in ("kv_budget", "split"):
        return f"{number:.17g}"
    return _size(name, number) if name in _SIZES else number


def _size(name: str, number: float) -> str:
    """Return a number of bytes as a text with a unit, which keeps it to the last bit.

    Raises:
        BudgetError: negative, no number, or a share.
    """
    if not BYTES.believes(number):
        share = ", or a share of the model such as '50%'" if name == "dram" else ""
        raise BudgetError(
            f"{flag(name)} {number:g}: give bytes, {' to '.join(BYTES.range)}, e.g. 3.5e9, or a "
            f"text such as '3.5 GB'{share}"
        )
    return BYTES.exact(number)
