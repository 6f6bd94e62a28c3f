"""Hardware profiles: DRAM, flash, backends, energy; every number with a source and a kind.

A profile is one YAML file in ``hardware_profiles/`` (docs/profiles.md). With ``extends:`` it states
only the keys that differ, unknown keys are errors, and ``-s key=value`` overrides single numbers.
All of that is resolved here: the simulator sees one frozen, complete `Profile`.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dipsim import files
from dipsim.errors import ProfileError, brief, first_problem, not_taken
from dipsim.units import (
    BANDWIDTH,
    BYTES,
    Bandwidth,
    Bytes,
    JoulesPerByte,
    Seconds,
    UnlimitedBandwidth,
    UnlimitedCompute,
    UnlimitedIops,
    Watts,
)
from dipsim.views import shortened

FOLDER, SUFFIX = "hardware_profiles", ".yaml"
Kind = Literal["measured", "vendor", "estimate"]
STATED = "stated by "
"""Begin of the source of a number that came without one: who stated it follows."""
Overrides = Sequence[str] | Mapping[str, Any]
"""``key=value`` texts, or values by key."""
_SHARES = ("dram_efficiency", "overlap_factor")
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
SpeedShare = Annotated[float, Field(ge=1e-3, le=1, strict=True)]
"""Share of a speed that is left: never none of it."""
Lanes = Annotated[int, Field(ge=1, le=256, strict=True)]
_LARGEST_PAGE = 2.0**30
"""Largest page of a read, in bytes: far above any real one."""
_MOST_DIGITS = 20
"""Digits beyond which no whole number is read; those that are refused are quoted as they are."""
_TEXTS = ("name", "summary", "sources", "extends")
"""Keys of a profile that are no numbers."""
_SPEEDS = ("bandwidth", "reads", "fit")
"""Keys of flash that state its speed; each replaces the others."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    __repr__ = __str__ = shortened


class Dram(_Section):
    """Main memory. ``available`` is what an app may use; it defaults to ``capacity``."""

    capacity: Bytes = Field(description="size of DRAM")
    available: Bytes = Field(description="DRAM for weights and KV; default: capacity")
    bandwidth: Bandwidth = Field(description="peak read bandwidth")
    background: Bandwidth = Field(
        default="0 B/s", validate_default=True, description="bandwidth that other programs take"
    )

    @model_validator(mode="before")
    @classmethod
    def _all_available(cls, data: Any) -> Any:
        if isinstance(data, dict) and "capacity" in data:
            return {"available": data["capacity"], **data}
        return data

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.available > self.capacity:
            raise ValueError("available is larger than capacity: lower it")
        if self.bandwidth == 0:
            raise ValueError("bandwidth is 0: it must be positive")
        if self.background >= self.bandwidth:
            raise ValueError("background takes all the bandwidth: lower it")
        return self


class Read(_Section):
    """One measured point: reads of ``size``, ``lanes`` in flight, reach ``bandwidth`` together."""

    size: Bytes
    lanes: Lanes
    bandwidth: Bandwidth

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.size == 0 or self.bandwidth == 0:
            raise ValueError("a read point needs a positive size and bandwidth")
        return self


class Fit(_Section):
    """A formula fitted to measured reads (flash/read_time.py)."""

    t0: Seconds = Field(description="time from a read's start to its first byte")
    bandwidth: Bandwidth = Field(description="bandwidth of one lane once its bytes flow")
    cap: Bandwidth = Field(description="bandwidth of the whole device")
    iops: UnlimitedIops = Field(
        default="unlimited", validate_default=True, description="reads per second of the device"
    )
    p: float = Field(ge=0.5, le=100, strict=True, description="how sharply the limits meet")
    sizes: tuple[Bytes, Bytes] = Field(description="smallest and largest read that was fitted")
    lanes: tuple[Lanes, Lanes] = Field(
        description="fewest and most reads in flight that were fitted"
    )

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if min(self.bandwidth, self.cap, self.iops, self.sizes[0]) == 0:
            raise ValueError("bandwidth, cap, iops and sizes of a fit must be positive")
        for name, (least, most) in (("sizes", self.sizes), ("lanes", self.lanes)):
            if least > most:
                raise ValueError(f"{name} must ascend: the smallest, then the largest")
        return self


class Fault(_Section):
    """A page fault: touching a page of a mapped file that is not in DRAM (``--io mmap``)."""

    seconds: Seconds = Field(description="time from the touch until the page is in DRAM")
    page: Bytes = Field(
        default="4 KiB", validate_default=True, description="bytes that one fault loads"
    )

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.seconds == 0 or not 512 <= self.page <= _LARGEST_PAGE:
            raise ValueError("seconds must be positive and page 512 B to 1 GiB")
        return self


class Flash(_Section):
    """Storage; its speed is one ``bandwidth``, measured ``reads``, or a ``fit`` to such."""

    capacity: Bytes | None = Field(default=None, description="size of flash; a model must fit")
    lanes: Lanes = Field(default=1, description="reads kept in flight")
    align: Bytes = Field(default="1 B", validate_default=True, description="page size of a read")
    bandwidth: Bandwidth | None = None
    reads: tuple[Read, ...] = ()
    fit: Fit | None = None
    fault: Fault | None = Field(default=None, description="page faults of --io mmap")

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if (self.bandwidth is not None) + bool(self.reads) + (self.fit is not None) != 1:
            raise ValueError(
                "give either bandwidth or reads (measured points) or fit (a formula), one of them"
            )
        if self.bandwidth == 0 or not 1 <= self.align <= _LARGEST_PAGE:
            raise ValueError("bandwidth must be positive and align 1 B to 1 GiB")
        points = [(read.size, read.lanes) for read in self.reads]
        if len(set(points)) < len(points):
            raise ValueError("reads: the same size and lanes stand there twice")
        for lanes in {read.lanes for read in self.reads}:
            sizes = [read.size for read in self.reads if read.lanes == lanes]
            if sizes != sorted(sizes):
                raise ValueError(f"reads: with {lanes} lanes the sizes do not ascend; sort them")
        return self


class Backend(_Section):
    """An engine on a compute unit; its numbers belong to the pair, not to the chip."""

    gemv: Mapping[str, Bandwidth] = Field(
        default={}, description="matrix-vector rate in weight bytes/s, per weight format"
    )
    dram_efficiency: SpeedShare = Field(
        default=1.0, description="share of peak DRAM bandwidth reached"
    )
    compute: UnlimitedCompute = Field(default="unlimited", validate_default=True)
    sync: Seconds = Field(
        default="0 s", validate_default=True, description="fixed cost per masked group"
    )
    overlap_factor: Share = Field(
        default=0.0, description="share of reading that compute can hide, 0 to 1"
    )
    cache_copy: UnlimitedBandwidth = Field(
        default="unlimited",
        validate_default=True,
        description="rate of copying kept weights into the cache",
    )
    active_power: Watts | None = None

    @model_validator(mode="after")
    def _positive(self) -> Self:
        rates = {"compute": self.compute, "cache_copy": self.cache_copy}
        rates |= {f"gemv.{name}": rate for name, rate in self.gemv.items()}
        for name, rate in rates.items():
            if rate == 0:
                raise ValueError(f"{name} is 0: it must be positive")
        return self


class Thermal(_Section):
    """Throttling of a device: the shares of its speed that are left once it is hot."""

    after: Seconds = Field(description="decoding time until it throttles")
    flash: SpeedShare = Field(default=1.0, description="share of the flash's speed that is left")
    compute: SpeedShare = Field(default=1.0, description="share of the kernels' speed that is left")


class PageCache(_Section):
    """The operating system's cache of file pages, for ``--io buffered``."""

    bandwidth: Bandwidth = Field(description="rate of copying its pages to the reader")
    size: Bytes | None = Field(
        default=None, description="its size; default: available DRAM that the run leaves free"
    )

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.bandwidth == 0:
            raise ValueError("bandwidth is 0: it must be positive")
        return self


class Energy(_Section):
    """Energy per byte moved, and the power of an idle device."""

    dram: JoulesPerByte
    flash: JoulesPerByte
    idle: Watts = Field(default="0 W", validate_default=True)


class Source(BaseModel):
    """The origin of a number, and its kind, which says how far to trust it."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
    kind: Kind
    origin: str = Field(alias="from", min_length=3)

    @model_validator(mode="before")
    @classmethod
    def _given_before(cls, data: Any) -> Any:
        """Read what results of earlier versions call a number of ``-s``."""
        if isinstance(data, dict) and data.get("kind") == "given":
            return {"kind": "estimate", "from": f"{STATED}{data.get('from')}"}
        return data


class Profile(_Section):
    """A device. Load one with `load_profile`; all quantities are in base units."""

    name: str = Field(min_length=1)
    summary: str = ""
    dram: Dram
    flash: Flash
    backends: Mapping[str, Backend] = Field(min_length=1)
    staging: Bytes | None = Field(
        default=None, description="buffer for loads; default: the largest active set of one group"
    )
    runtime_overhead: Bytes = Field(default="0 B", validate_default=True)
    thermal: Thermal | None = None
    page_cache: PageCache | None = None
    energy: Energy | None = None
    sources: Mapping[str, Source] = {}

    @model_validator(mode="after")
    def _sources_name_keys(self) -> Self:
        for name in self.backends:
            if "." in name or "=" in name:
                raise ValueError(f"backend {name!r}: its name takes no '.' or '=' (-s needs them)")
        known = {key for path, _ in self.numbers() for key in _prefixes(path)}
        for path in self.sources:
            if path not in known:
                raise ValueError(f"sources names {path!r}, which is no number of this profile")
        return self

    def __repr__(self) -> str:
        dram = f"{BYTES.show(self.dram.capacity)} of DRAM at {BANDWIDTH.show(self.dram.bandwidth)}"
        return f"Profile {brief(self.name, 40)}: {dram}, {brief(', '.join(self.backends), 60)}"

    __str__ = __repr__

    def backend(self, name: str | None = None) -> tuple[str, Backend]:
        """Return (name, backend) by its name; None means the first one.

        Raises:
            ProfileError: no such backend.
        """
        chosen = name or next(iter(self.backends))
        if chosen not in self.backends:
            allowed = ", ".join(self.backends)
            raise ProfileError(f"profile {self.name} has no backend {chosen!r}: use {allowed}")
        return chosen, self.backends[chosen]

    def numbers(self) -> Iterator[tuple[str, Any]]:
        """Yield every number that the profile states, as (dotted key, text)."""
        dump = self.model_dump(mode="json", exclude_unset=True, exclude={"sources"})
        for key, value in _leaves(dump):
            if key.split(".")[0] not in _TEXTS:
                yield key, value

    def source(self, path: str) -> Source | None:
        """Return the source of a dotted key, or of the nearest section above it that has one."""
        for prefix in reversed(_prefixes(path)):
            if prefix in self.sources:
                return self.sources[prefix]
        return None


def load_profile(
    given: str | os.PathLike[str] | Mapping[str, Any] | Profile, overrides: Overrides = ()
) -> Profile:
    """Load a profile by the name of a shipped one, by its path, or from a mapping of its keys.

    Args:
        given: e.g. ``"snapdragon8"``, ``"my/phone.yaml"``, or a mapping such as the file holds.
        overrides: ``key=value`` texts, e.g. ``"flash.bandwidth=2GB/s"``, or a mapping such as
            ``{"flash.bandwidth": "2GB/s"}``.

    Raises:
        ProfileError: unknown name, unreadable file, unknown key, missing unit, bad override.
    """
    if isinstance(given, Profile):
        data, where = given.model_dump(mode="json", by_alias=True, exclude_unset=True), given.name
    elif isinstance(given, Mapping):
        data, where = _extended(dict(given), "profile", ()), str(given.get("name", "profile"))
    elif isinstance(given, str | os.PathLike):
        data, where = _read(given, ()), str(given)
    else:
        raise ProfileError(not_taken("profile", given, "a shipped name, a YAML file or a mapping"))
    data = _one_backend(data)
    for text in override_texts(overrides):
        data = _override(data, text)
    try:
        return Profile.model_validate(data)
    except ValidationError as problem:
        raise ProfileError(f"profile {where}: {first_problem(problem)}") from None


def override_texts(overrides: Overrides) -> tuple[str, ...]:
    """Return overrides of a profile as ``key=value`` texts.

    Raises:
        ProfileError: not texts and no mapping.
    """
    if isinstance(overrides, Mapping):
        return tuple(f"{key}={value}" for key, value in overrides.items())
    texts = (overrides,) if isinstance(overrides, str) else overrides
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        takes = "texts such as 'flash.bandwidth=2GB/s', or a mapping of keys to values"
        raise ProfileError(not_taken("override", overrides, takes))
    return tuple(texts)


def profile_schema() -> dict[str, Any]:
    """Return the JSON Schema of a profile file: `Profile`, ``extends``, the short ``compute``."""
    schema = Profile.model_json_schema(by_alias=True)
    schema["$defs"]["Dram"]["required"].remove("available")
    schema["properties"]["extends"] = {"type": "string", "description": "start from this profile"}
    schema["properties"]["compute"] = {
        **schema["$defs"]["Backend"]["properties"]["compute"],
        "description": "short for one backend with this compute rate",
    }
    del schema["required"]
    schema["anyOf"] = [
        {"required": ["extends"]},
        {"required": ["name", "dram", "flash", "backends"]},
        {"required": ["name", "dram", "flash", "compute"]},
    ]
    for section in schema["$defs"].values():  # one that extends another may state a part of it
        if section["title"] not in ("Profile", "Source", "Read"):
            section.pop("required", None)
    return schema


def profile_names() -> list[str]:
    """Return the names of the shipped profiles."""
    return files.shipped_names(FOLDER, SUFFIX)


def _read(
    given: str | os.PathLike[str], seen: tuple[str, ...], beside: Path | None = None
) -> dict[str, Any]:
    """Read a profile and those it extends; ``seen`` are the files that led here."""
    path = files.find(given, FOLDER, SUFFIX)
    if beside is not None and os.path.isfile(beside / given):
        path = beside / given
    if path is None:
        known = ", ".join(profile_names())
        meant = files.nearest(given, "profile")
        raise ProfileError(f"no profile {str(given)!r}: {meant}give a file, or one of {known}")
    kind = files.kind_of(path)
    if kind is not None and kind in _WAYS:
        raise ProfileError(f"{path}: {kind}, no profile: {_WAYS[kind]}")
    identity = os.path.realpath(path)
    if identity in seen:
        raise ProfileError(f"profile {given}: extends itself in a circle: break it")
    data = files.read_yaml(path, ProfileError)
    data = _extended(data, path.name, (*seen, identity), path.parent)
    return _sourced(data, data, path.name)


_TRACE = "give it first, dipsim run TRACE --profile NAME"
_MODEL = "give it as --model, and one of dipsim profiles as --profile"
_WAYS: Mapping[files.Kind, str] = {
    "a trace": _TRACE,
    "one array": "dipsim import makes a trace of it; a profile is YAML",
    "a folder": "give a YAML file; a folder of shards is a trace and stands first",
    "a GGUF model": _MODEL,
    "a model folder": _MODEL,
    "a model config": _MODEL,
    "a model": _MODEL,
    "weights": "a profile is YAML; give one of dipsim profiles",
    "a pickle": "a profile is YAML; give one of dipsim profiles",
    "an archive": "unpack it; a profile is YAML",
    "a result": "dipsim run --config FILE repeats it, its profile included",
    "a log of experts": "dipsim import makes a trace of it",
    "a table": "of a measured flash dipsim calibrate makes a profile",
}


def _one_backend(data: dict[str, Any]) -> dict[str, Any]:
    """Expand ``compute:`` at the top, short for a single backend ``default`` with that rate."""
    if "compute" not in data:
        return data
    if "backends" in data:
        raise ProfileError(
            f"profile {data.get('name', '')}: give compute at the top or inside backends, not both"
        )
    data = {**data, "backends": {"default": {"compute": data["compute"]}}}
    del data["compute"]
    sources = data.get("sources")
    if isinstance(sources, Mapping) and "compute" in sources:
        renamed = {"compute": "backends.default.compute"}
        data["sources"] = {renamed.get(key, key): value for key, value in sources.items()}
    return data


def _extended(
    data: dict[str, Any], where: str, seen: tuple[str, ...], beside: Path | None = None
) -> dict[str, Any]:
    """Lay ``data`` over the profile that it extends, if any."""
    base = data.pop("extends", None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise ProfileError(f"profile {where}: extends takes one profile's name, given {base!r}")
    parent = _read(base, seen, beside)
    changed = _changed(parent, data)
    return _sourced(_merged(_without_rivals(parent, data), data), changed, where)


def _changed(base: Mapping[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return the part of ``change`` that differs from ``base``, and its sources."""
    result: dict[str, Any] = {}
    for key, value in change.items():
        old = base.get(key)
        if isinstance(old, Mapping) and isinstance(value, dict) and key != "sources":
            result[key] = _changed(old, value)
        elif value != old:
            result[key] = value
    return result


def _sourced(data: dict[str, Any], change: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a profile's data with a source for every number in ``change``.

    It is the one that ``change`` states for it or for a section above it; else the number is an
    estimate, stated by ``where``.
    """
    known, own = data.get("sources", {}), change.get("sources", {})
    if not isinstance(known, Mapping) or not isinstance(own, Mapping):
        return data  # validation refuses it
    stated = {"kind": "estimate", "from": f"{STATED}{where}"}
    sources = {
        key: source
        for key, source in known.items()
        if key in own or not (_is_stated(source) and set(_prefixes(str(key))) & {*own})
    }
    for key, _ in _leaves({key: value for key, value in change.items() if key not in _TEXTS}):
        long = "backends.default.compute" if key == "compute" else key  # see `_one_backend`
        places = dict.fromkeys((key, *reversed(_prefixes(long))))
        nearest = next((path for path in places if path in own), None)
        sources[key] = stated if nearest is None else own[nearest]
    dram = data.get("dram")
    unsaid = isinstance(dram, Mapping) and "capacity" in dram and "available" not in dram
    if unsaid and not {"dram", "dram.available"} & {*sources}:
        sources["dram.available"] = {"kind": "estimate", "from": "all of dram.capacity"}
    return {**data, "sources": sources} if sources else data


def _is_stated(source: Any) -> bool:
    """Return True for the source of a number that came without one."""
    return isinstance(source, Mapping) and str(source.get("from", "")).startswith(STATED)


def _without_rivals(base: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` without the flash speed that ``change`` states in another form."""
    old, new = base.get("flash"), change.get("flash")
    if not isinstance(old, dict) or not isinstance(new, Mapping):
        return base
    stated = [key for key in _SPEEDS if key in new]
    replaced = [key for key in _SPEEDS if stated and key in old and key not in new]
    result = {**base, "flash": {key: value for key, value in old.items() if key not in replaced}}
    sources = base.get("sources")
    if isinstance(sources, dict):
        dropped = tuple(f"flash.{key}" for key in replaced)
        result["sources"] = {
            key: value
            for key, value in sources.items()
            if ".".join(str(key).split(".")[:2]) not in dropped
        }
    return result


def _merged(base: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Lay ``change`` over ``base``: sections merge, lists and numbers replace."""
    result = dict(base)
    for key, value in change.items():
        old = result.get(key)
        both = isinstance(old, dict) and isinstance(value, Mapping)
        result[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def _override(data: dict[str, Any], text: str) -> dict[str, Any]:
    """Lay one ``key=value`` of ``-s`` over a profile's data, as an estimate that ``-s`` states."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key or not value.strip():
        raise ProfileError(f"-s {brief(text)!r}: write key=value, e.g. -s flash.bandwidth=2GB/s")
    parsed: Any = value.strip()
    if key == "compute":
        key = f"backends.{next(iter(data.get('backends', {'default': 0})))}.compute"
    if key == "flash.lanes":
        whole = parsed.isascii() and parsed.isdecimal() and len(parsed) < _MOST_DIGITS
        parsed = int(parsed) if whole else parsed
    elif key.rpartition(".")[2] in _SHARES or key in ("thermal.flash", "thermal.compute"):
        try:
            parsed = float(parsed)
        except ValueError:
            least = "0" if key.endswith("overlap_factor") else "0.001"
            raise ProfileError(f"-s {brief(text)!r}: {key} is a number from {least} to 1") from None
    elif key == "flash.fit.p":
        try:
            parsed = float(parsed)
        except ValueError:
            raise ProfileError(f"-s {brief(text)!r}: {key} is a number from 0.5 to 100") from None
    for part in reversed(key.split(".")):
        parsed = {part: parsed}
    data = _merged(_without_rivals(data, parsed), parsed)
    if not isinstance(data.get("sources", {}), dict):
        return data  # validation refuses it
    source = {"kind": "estimate", "from": f"{STATED}-s {brief(text, 200)}"}
    return _merged(data, {"sources": {key: source}})


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of all values that are no sections."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    elif value is not None:
        yield prefix, value


def _prefixes(path: str) -> list[str]:
    """Return ``["a", "a.b", "a.b.c"]`` for ``a.b.c``."""
    parts = path.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]
