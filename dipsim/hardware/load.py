"""Loading a profile: shipped or a file's, with what it extends and what ``-s`` overrides.

With ``extends:`` a file states only the keys that differ, and ``-s key=value`` overrides single
numbers; a number that so changes, and comes without a source, is an estimate of whoever states it.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dipsim import files
from dipsim.errors import ProfileError, brief, first_problem, not_taken
from dipsim.hardware.profile import STATED, Profile, is_text, leaves, prefixes

FOLDER, SUFFIX = "hardware_profiles", ".yaml"
Overrides = Sequence[str] | Mapping[str, Any]
"""``key=value`` texts, or values by key."""
_BARE = {
    "dram_efficiency": "0.001 to 1",
    "overlap_factor": "0 to 1",
    "thermal.flash": "0.001 to 1",
    "thermal.compute": "0.001 to 1",
    "flash.fit.p": "0.5 to 100",
}
"""Keys, or their last parts, of numbers without a unit that need not be whole, and their ranges."""
_MOST_DIGITS = 20
"""Digits beyond which no whole number is read; those that are refused are quoted as they are."""
_SPEEDS = ("bandwidth", "reads", "fit")
"""Keys of flash that state its speed; each replaces the others, and ``iops`` beside them."""


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
    if isinstance(given, Profile) and not overrides:
        return given
    if isinstance(given, Profile):
        data, where = given.model_dump(mode="json", by_alias=True, exclude_unset=True), given.name
    elif isinstance(given, Mapping):
        data, where = _extended(dict(given), "profile", ()), str(given.get("name", "profile"))
    elif isinstance(given, str | os.PathLike):
        data, where = _read(given, ()), str(given)
    else:
        raise ProfileError(not_taken("profile", given, "a shipped name, a YAML file or a mapping"))
    data = _one_backend(_first_backend(data))
    for text in override_texts(overrides):
        data = _override(data, text)
    data = _without_sync(data, where)
    try:
        return Profile.model_validate(data)
    except ValidationError as problem:
        raise ProfileError(f"profile {where}: {first_problem(problem)}") from None


def override_pairs(overrides: Overrides) -> dict[str, str]:
    """Return overrides of a profile as a mapping of keys to values.

    Raises:
        ProfileError: as `override_texts`, or a text without a value.
    """
    pairs: dict[str, str] = {}
    for text in override_texts(overrides):
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise ProfileError(f"-s {brief(text)}: write key=value, e.g. flash.bandwidth=2GB/s")
        pairs[key] = value
    return pairs


def override_texts(overrides: Overrides) -> tuple[str, ...]:
    """Return overrides of a profile as ``key=value`` texts.

    Raises:
        ProfileError: not texts and no mapping, or a key given twice.
    """
    if isinstance(overrides, Mapping):
        overrides = [f"{key}={value}" for key, value in overrides.items()]
    texts = (overrides,) if isinstance(overrides, str) else overrides
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        takes = "texts such as 'flash.bandwidth=2GB/s', or a mapping of keys to values"
        raise ProfileError(not_taken("override", overrides, takes))
    values: dict[str, str] = {}
    for text in texts:
        key, _, value = (part.strip() for part in text.partition("="))
        if key in values:
            shown = f"{brief(values[key])}, {brief(value)}"
            raise ProfileError(f"-s {brief(key)} given twice ({shown}): one only")
        values[key] = value
    return tuple(texts)


def profile_names() -> list[str]:
    """Return the names of the shipped profiles."""
    return files.shipped_names(FOLDER, SUFFIX)


def _read(
    given: str | os.PathLike[str], seen: tuple[str, ...], beside: Path | None = None
) -> dict[str, Any]:
    """Read a profile and those it extends.

    Args:
        seen: paths of the files that led here by extending.
        beside: folder of the file that extends this one; one that lies there goes first.

    Raises:
        ProfileError: no such file, another kind of file, or one that extends itself.
    """
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
_YAML = "a profile is YAML; give one of dipsim profiles"
_WAYS: Mapping[files.Kind, str] = {
    "a trace": _TRACE,
    "one array": "dipsim import makes a trace of it; a profile is YAML",
    "a folder": "give a YAML file; a folder of shards is a trace and stands first",
    "a GGUF model": _MODEL,
    "a model folder": _MODEL,
    "a model config": _MODEL,
    "a model": _MODEL,
    "weights": _YAML,
    "a pickle": _YAML,
    "an archive": "unpack it; a profile is YAML",
    "a result": "dipsim run --config FILE repeats it, its profile included",
    "a routing log": "dipsim import makes a trace of it",
    "lines of JSON": _YAML,
    "a table": "of a measured flash dipsim calibrate makes a profile",
}
"""Advice on a file that is no profile, by its kind."""


def _first_backend(data: dict[str, Any]) -> dict[str, Any]:
    """Put the backend that ``first:`` names before all others, so that it is the default."""
    if "first" not in data:
        return data
    data = dict(data)
    name, backends = data.pop("first"), data.get("backends")
    if not (isinstance(backends, Mapping) and isinstance(name, str) and name in backends):
        known = ", ".join(map(str, backends)) if isinstance(backends, Mapping) else "none"
        raise ProfileError(
            f"profile {data.get('name', '')}: first names the backend {brief(str(name))}: there "
            f"are {known}"
        )
    return {**data, "backends": {name: backends[name], **backends}}


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


def _without_sync(data: dict[str, Any], where: str) -> dict[str, Any]:
    """Read ``sync``, the cost per masked group of earlier versions, as ``per_layer``; warn of it.

    A cost of a layer is what such numbers were measured as.
    """
    backends = data.get("backends")
    if not isinstance(backends, Mapping):
        return data  # validation refuses it
    renamed: dict[str, Any] = {}
    moved: dict[str, str] = {}
    for name, backend in backends.items():
        if isinstance(backend, Mapping) and "sync" in backend:
            rest = {key: value for key, value in backend.items() if key != "sync"}
            renamed[name] = {**rest, "per_layer": backend["sync"]}
            moved[f"backends.{name}.sync"] = f"backends.{name}.per_layer"
    if not moved:
        return data
    warnings.warn(
        f"profile {where}: {', '.join(moved)} is deprecated and read as per_layer, which every "
        "layer of every method pays: rename it; what choosing a mask takes is per_mask",
        FutureWarning,
        stacklevel=3,
    )
    sources = data.get("sources", {})
    if isinstance(sources, Mapping):
        kept = {key: value for key, value in sources.items() if key not in moved}
        sources = kept | {moved[key]: sources[key] for key in moved if key in sources}
    return {**data, "backends": {**backends, **renamed}, "sources": sources}


def _extended(
    data: dict[str, Any], where: str, seen: tuple[str, ...], beside: Path | None = None
) -> dict[str, Any]:
    """Lay ``data`` over the profile that it extends, if any; the other arguments as of `_read`."""
    base = data.pop("extends", None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise ProfileError(f"profile {where}: extends takes one profile's name, given {base!r}")
    if "first" in data:  # why the base's own comes first says nothing of it
        data = {"default": "", **data}
    parent, data = _taken_away(_resourced(_read(base, seen, beside), data), data)
    changed = _changed(parent, data)
    return _sourced(_merged(_without_rivals(parent, data), data), changed, where)


def _resourced(base: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return the profile ``base`` without sources that ``change`` replaces: those inside a section
    of which ``change`` states a source and no number."""
    known, own = base.get("sources"), change.get("sources")
    if not isinstance(known, Mapping) or not isinstance(own, Mapping):
        return base
    changed = {path for key, _ in leaves(dict(change)) for path in prefixes(key)}
    anew = {*own} - changed
    kept = {key: source for key, source in known.items() if not {*prefixes(str(key))[:-1]} & anew}
    return {**base, "sources": kept}


def _taken_away(
    base: dict[str, Any], change: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return both without the backends that ``change`` states as null, and without their sources.

    So a profile that extends another drops the engines that its device does not have.
    """
    backends, known = change.get("backends"), base.get("backends")
    if not isinstance(backends, dict) or not isinstance(known, dict):
        return base, change
    gone = [name for name, backend in backends.items() if backend is None and name in known]
    if not gone:
        return base, change
    kept = {name: backend for name, backend in known.items() if name not in gone}
    sources = _without(base.get("sources", {}), [f"backends.{name}" for name in gone])
    left = {name: backend for name, backend in backends.items() if name not in gone}
    return {**base, "backends": kept, "sources": sources}, {**change, "backends": left}


def _without(sources: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Return sources but those of two-part keys, such as ``flash.reads``, and of all below them."""
    return {
        path: source
        for path, source in sources.items()
        if ".".join(str(path).split(".")[:2]) not in keys
    }


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
        if key in own or not (_is_stated(source) and set(prefixes(str(key))) & {*own})
    }
    numbers = [key for key, _ in leaves(dict(change)) if not is_text(key)]
    for key in numbers:
        long = "backends.default.compute" if key == "compute" else key  # see `_one_backend`
        places = dict.fromkeys((key, *reversed(prefixes(long))))
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
    replaced = [key for key in (*_SPEEDS, "iops") if stated and key in old and key not in new]
    result = {**base, "flash": {key: value for key, value in old.items() if key not in replaced}}
    sources = base.get("sources")
    if isinstance(sources, dict):
        result["sources"] = _without(sources, [f"flash.{key}" for key in replaced])
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
    allowed = _BARE.get(key, _BARE.get(key.rpartition(".")[2]))
    if allowed is not None:
        try:
            parsed = float(parsed)
        except ValueError:
            raise ProfileError(f"-s {brief(text)!r}: {key} is a number from {allowed}") from None
    for part in reversed(key.split(".")):
        parsed = {part: parsed}
    data = _merged(_without_rivals(data, parsed), parsed)
    if not isinstance(data.get("sources", {}), dict):
        return data  # validation refuses it
    source = {"kind": "estimate", "from": f"{STATED}-s {brief(text, 200)}"}
    return _merged(data, {"sources": {key: source}})
