"""Meta of a trace: the JSON object that it carries, read and made fit to be written."""

import datetime
import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

import numpy as np
from pydantic import BaseModel

from dipsim.errors import TraceError, brief
from dipsim.trace.npz import Member

FORMAT, VERSION = "dipsim-trace", 1
_LONGEST = 2**22  # characters of JSON; numpy stores four bytes for each
_ROOM = 2**12  # characters for what a writer adds
_DEEPEST = 64
_LARGEST = 10**4000  # Python reads no integer of more than 4300 digits
_MOST_VALUES = 10**6


def read_meta(trace: str, members: Mapping[str, Member]) -> dict[str, Any]:
    """Return the meta of one file's arrays; empty where it has none.

    Args:
        trace: the trace's name, for error messages.
        members: all arrays of the file.

    Raises:
        TraceError: not one text that holds a JSON object, or of another format or version.
    """
    if "meta" not in members:
        return {}
    member = members["meta"]
    if member.shape != () or member.dtype.kind != "U":
        raise TraceError(f"{trace}: meta must be one text (0-d unicode) that holds a JSON object")
    try:
        meta = json.loads(str(member.whole()), parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        raise TraceError(f"{trace}: meta is not JSON: use json.dumps of a dict") from None
    if not isinstance(meta, dict):
        raise TraceError(f"{trace}: meta must be a JSON object, got {type(meta).__name__}")
    if meta.get("format", FORMAT) != FORMAT or meta.get("version", VERSION) != VERSION:
        given = brief(f"{meta.get('format')} version {meta.get('version')}")
        raise TraceError(
            f"{trace}: written as {given}; this dipsim reads {FORMAT} version {VERSION}"
        )
    check_signals(trace, meta.get("signals", {}))
    return meta


def _finite(text: str) -> float:
    """Return a number; NaN and infinities, also as 1e999, are none of JSON's."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number of JSON")
    return number


def check_signals(trace: str, declared: Any) -> None:
    """Check the form of ``meta.signals``.

    Raises:
        TraceError: it does not map names to properties.
    """
    if not isinstance(declared, Mapping) or not all(
        isinstance(properties, Mapping) for properties in declared.values()
    ):
        raise TraceError(f"{trace}: meta.signals must map a signal's name to its properties")


def misplaced(meta: Mapping[str, Any], signals: Iterable[str]) -> list[str]:
    """Return sentences about entries that dipsim would read in another place, and ignores here.

    Args:
        meta: checked by `read_meta`, or made plain by `plain_meta`.
        signals: the names that a signal can have.
    """
    remarks = [
        f"meta.{key} is ignored: it belongs under meta.signals.<signal>"
        for key in _OF_SIGNALS
        if key in meta
    ]
    remarks += [
        f"meta.{name} is ignored: it belongs under meta.signals"
        for name in signals
        if isinstance(meta.get(name), Mapping) and {*meta[name]} & {*_OF_SIGNALS}
    ]
    if "model" not in meta and {"layers", "hidden", "intermediate"} <= {*meta}:
        remarks.append("meta.layers and others are ignored: they belong under meta.model")
    declared: Mapping[str, Any] = meta.get("signals", {})
    remarks += [
        f"meta.signals.{name}.experts_per_token is ignored: it belongs under meta"
        for name, properties in declared.items()
        if "experts_per_token" in properties
    ]
    count = meta.get("experts_per_token", 1)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        remarks.append(
            f"meta.experts_per_token is ignored: {brief(count)!r} is no number of experts"
        )
    return remarks


_OF_SIGNALS = ("encoding", "units", "unit_bytes", "layer_units", "slices")


def meta_text(meta: Mapping[str, Any]) -> str:
    """Return meta as the JSON text that a trace stores.

    Raises:
        TraceError: longer than a reader takes.
    """
    text = json.dumps(meta, allow_nan=False)
    if len(text) > _LONGEST:
        raise TraceError(f"meta has {len(text)} characters as JSON, at most {_LONGEST} are kept")
    return text


def plain_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return meta in the types of JSON.

    numpy's numbers and arrays become numbers and lists, paths text, dates ISO text, tuples and sets
    lists (those of a set sorted), pydantic models objects, integers as keys text.

    Raises:
        TraceError: NaN, infinities, integers of thousands of digits, other types, what holds
            itself, is deeper than 64 levels or longer than a reader takes; names the place.
    """
    if not isinstance(meta, Mapping):
        raise TraceError(f"meta is a {type(meta).__name__}: give a dict")
    plain: dict[str, Any] = _plain(meta, "meta", (), itertools.count(1))
    meta_text({**plain, "": "x" * _ROOM})
    return plain


def _plain(value: Any, place: str, above: tuple[int, ...], number: Iterator[int]) -> Any:
    """Return a value in the types of JSON.

    Args:
        value: of any type.
        place: its place in the meta, for error messages.
        above: ids of all that it lies in.
        number: counts the values of the meta.
    """
    if id(value) in above:
        raise TraceError(f"{brief(place)} holds itself: give a copy without the loop")
    if len(above) > _DEEPEST:
        raise TraceError(f"{brief(place)} lies deeper than {_DEEPEST} levels: store it as text")
    if next(number) > _MOST_VALUES:
        raise TraceError(f"meta holds more than {_MOST_VALUES} values: store less beside a trace")
    value = _usual(value)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        if abs(value) >= _LARGEST:
            raise TraceError(f"{brief(place)} has thousands of digits: store it as text")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TraceError(f"{brief(place)} is {value}, which JSON cannot hold: use null")
        return float(value)
    inside = (*above, id(value))
    if isinstance(value, Mapping):
        keys = [_key(key, place) for key in value]
        if len(set(keys)) < len(keys):
            raise TraceError(f"{brief(place)} has two keys of one name as text")
        pairs = zip(keys, value.values(), strict=True)
        return {key: _plain(inner, f"{place}.{key}", inside, number) for key, inner in pairs}
    if isinstance(value, list | tuple):
        return [_plain(inner, f"{place}[{i}]", inside, number) for i, inner in enumerate(value)]
    raise TraceError(
        f"{brief(place)} is of type {type(value).__name__}, which JSON cannot hold: give text, "
        "numbers, lists or dicts"
    )


def _usual(value: Any) -> Any:
    """Return a value of an obvious form in Python's own types, anything else as it is."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, np.ndarray):
        return value.tolist() if value.size <= _MOST_VALUES else value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return _sorted(value) if isinstance(value, Set) else value


def _sorted(values: Iterable[Any]) -> list[Any]:
    """Return the members of a set in an order that does not depend on the process."""
    return sorted(values, key=lambda value: (type(value).__name__, repr(value)))


def _key(key: Any, place: str) -> str:
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        return str(int(key))
    raise TraceError(f"{brief(place)} has the key {brief(key)!r}: keys are text")
