"""Signals: the big arrays of a trace, read block by block from whatever encoding they have.

A signal is a list of parts (one per shard, parts.py) of raw rows. `Signal` checks and decodes them
to what the kernels take: float32 scores, or sets as 64-bit words.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import TraceError
from dipsim.model import SIGNALS as SIGNALS
from dipsim.trace.checks import check_believable, check_not_negative, check_scores
from dipsim.trace.encoding import (
    Encoding,
    as_float32,
    decode_floats,
    decode_log8,
    join_scores,
    join_sets,
    pack_sets,
    widen_bits,
)
from dipsim.trace.layer_units import read_layer_units, refuse_beyond
from dipsim.trace.npz import Array, Member, evenly
from dipsim.trace.outline import SignalOutline
from dipsim.trace.parts import DensePart, Reading, SignalPart, SparsePart
from dipsim.views import shortened

MEANINGS = ("prob", "logits")
"""Encodings that say what the floats of ``expert`` are; without one they are taken for logits."""
_BY_DTYPE: dict[str, Encoding] = {
    "float16": "float16",
    "float32": "float32",
    "float64": "float64",
    "bool": "bool",
}


@dataclass(frozen=True, kw_only=True)
class Signal(SignalOutline):
    """A vector per layer and token: scores, or sets of active units."""

    __repr__ = shortened

    trace: str
    """Name of the trace, for error messages."""
    parts: tuple[SignalPart, ...] = field(repr=False)
    layers: tuple[int, int]
    """Layers (first, end) of the file that are read."""
    recorded_norms: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    """float32[layers of the file, recorded units], norms of the columns that the scores weigh."""

    @property
    def norms(self) -> NDArray[np.float32] | None:
        """float32[layers, units] norms of the columns; None without them or with clusters."""
        if self.recorded_norms is None or self.cluster > 1:
            return None
        return self.recorded_norms[slice(*self.layers)]

    @property
    def coded(self) -> bool:
        """True if log8 codes can be read instead of scores."""
        return self.encoding == "log8" and self.cluster == 1

    @cached_property
    def fewest_listed(self) -> int:
        """The least number of units that sparse sets list for a token and layer.

        Empty lists do not count: a prompt's token may be missing in a layer. 0 without sparse sets.
        """
        listed = [part.fewest() for part in self.parts if isinstance(part, SparsePart)]
        return min(listed, default=0)

    def with_units(self, units: int) -> Self:
        """Return sparse sets with more units, of which the last are never active."""
        parts = [
            replace(part, shape=(*part.shape[:2], units)) if isinstance(part, SparsePart) else part
            for part in self.parts
        ]
        return replace(self, recorded_units=units, parts=tuple(parts))

    def blocks(self, first: int, last: int, block: int, reading: Reading) -> Iterator[Array]:
        """Yield tokens first..last-1, decoded and checked, at most ``block`` at a time.

        Args:
            reading: the form that is wanted. Sparse sets may have both scores and sets, log8 has
                scores, codes and values, every other encoding has one form.

        Yields:
            scores : float32[n, layers, units], 0 where sparse sets list no unit; log8 relative to
            the largest of each token and layer,
            sets : uint64[n, layers, words],
            codes : uint8[n, layers, units], to be looked up in `LOG8_TABLE`, or
            values : as scores, but log8 on the scale of the recording.

        Raises:
            TraceError: NaN, infinite or negative scores, bits beyond the units, units beyond those
                of a layer, bad lists.
        """
        if reading == "values":
            yield from self.values(first, last, block)
            return
        begin, end = self.layers
        start = 0
        for part in self.parts:
            span = max(first - start, 0), min(last - start, part.tokens)
            token = start + span[0]
            for raw in part.rows(*span, block, reading) if span[0] < span[1] else ():
                rows = raw[:, begin:end]
                if reading == "codes":
                    decoded: Array = np.array(rows, order="C")  # plain, writeable arrays
                else:
                    decoded = self._decoded(rows, token)
                if self.recorded_layer_units:
                    counts, what = self.recorded_layer_units[begin:end], f"signal {self.name}"
                    refuse_beyond(f"{self.trace}: {what}", decoded, counts, (token, begin))
                yield decoded if reading == "codes" else self._joined(decoded)
                token += len(raw)
            start += part.tokens

    def values(self, first: int, last: int, block: int) -> Iterator[NDArray[np.float32]]:
        """Yield float32[n, layers, units] scores, those of log8 on the scale of the recording.

        Raises:
            TraceError: as `blocks`; largest scores that are negative or not finite.
        """
        begin, end = self.layers
        scores = self.blocks(first, last, block, "scores")
        if self.encoding != "log8":
            yield from scores
            return
        start = 0
        for part in self.parts:
            span = max(first - start, 0), min(last - start, part.tokens)
            start += part.tokens
            if span[0] >= span[1]:
                continue
            assert isinstance(part, DensePart), "log8 is dense"
            assert part.largest is not None, "open_signal asks for it"
            for largest in part.largest.rows(span[0], evenly(span[1] - span[0], block)):
                scale = as_float32(largest[:, begin:end, None])
                check_not_negative(scale, f"{self.trace}: {self.name}.max")
                yield next(scores) * scale

    def _joined(self, rows: Array) -> Array:
        """Join the units of each cluster."""
        if self.cluster == 1:
            return rows
        if rows.dtype == np.uint64:
            return join_sets(rows, self.recorded_units, self.cluster)
        return join_scores(rows, self.cluster)

    def _decoded(self, raw: Array, start: int) -> Array:
        """Decode and check raw rows, the first of which is token ``start``."""
        if raw.dtype == np.bool_:
            if raw.size and np.ascontiguousarray(raw).view(np.uint8).max() > 1:
                raise TraceError(
                    f"{self.trace}: signal {self.name}: bool bytes other than 0 and 1; damaged file"
                )
            return pack_sets(raw)
        if self.encoding == "bits":
            spare = raw.shape[-1] * 8 - self.recorded_units
            if spare and (raw[..., -1] >> (8 - spare)).any():
                raise TraceError(
                    f"{self.trace}: signal {self.name}: bits beyond its "
                    f"{self.recorded_units} units are set"
                )
            return widen_bits(raw)
        if self.encoding == "log8":
            return decode_log8(np.ascontiguousarray(raw))
        scores, checked = decode_floats(raw)
        if not checked:
            check_scores(scores, self.trace, self.name, (start, self.layers[0]))
        return scores


def open_signal(
    trace: str, key: str, members: Mapping[str, Member], declared: Mapping[str, Any]
) -> Signal:
    """Open a signal of one file and check its arrays against each other.

    Args:
        trace: the trace's name, for error messages.
        key: the signal's name.
        members: all arrays of the file.
        declared: the signal's entry in ``meta.signals``.

    Raises:
        TraceError: shapes, types or encoding that make no signal.
    """
    what = f"{trace}: signal {key}"
    if f"{key}.indptr" in members:
        return _open_sparse(trace, key, members, declared)
    member = members[key]
    if len(member.shape) != 3:
        raise TraceError(f"{what} has shape {list(member.shape)}: {_axes(key, member.shape)}")
    units = member.shape[2]
    encoding = _encoding(what, member, declared)
    if encoding == "bits":
        given = declared.get("units")
        if not isinstance(given, int) or isinstance(given, bool) or -(-given // 8) != units:
            raise TraceError(
                f"{what} is bits in {units} bytes: meta.signals.{key}.units must be "
                f"{units * 8 - 7} to {units * 8}, given {given!r}"
            )
        units = given
    if encoding == "log8" and key == "expert":
        raise TraceError(f"{what} is log8, which holds no logits: save float16 or float32")
    if encoding == "log8":
        largest = members.get(f"{key}.max")
        if largest is None or largest.shape != member.shape[:2] or largest.dtype.kind != "f":
            raise TraceError(f"{what} is log8: it needs {key}.max, float32 [tokens, layers]")
    _check_units(what, declared, units)
    check_believable(what, member.shape[1], units)
    scored = encoding not in ("bool", "bits")
    part = DensePart(member, members.get(f"{key}.max"))
    layers = (0, member.shape[1])
    norms = _norms(what, key, members, (member.shape[1], units)) if scored else None
    return Signal(
        name=key,
        encoding=encoding,
        recorded_units=units,
        scored=scored,
        declared=declared,
        trace=trace,
        parts=(part,),
        layers=layers,
        recorded_norms=norms,
        recorded_layer_units=read_layer_units(what, declared, member.shape[1], units),
    )


def _axes(key: str, shape: tuple[int, ...]) -> str:
    """Return what an array of other than three axes should be, and the line that makes it so."""
    wanted = "it must be [tokens, layers, units]"
    if len(shape) == 2:
        return (
            f"{wanted}; of one layer save {key}[:, None], of one token {key}[None], of a list of "
            f"layers np.stack(list, axis=1)"
        )
    if len(shape) == 4:
        return (
            f"{wanted}; of [sequences, tokens, layers, units] save "
            f"{key}.reshape(-1, *{key}.shape[2:]), and sequence=np.repeat(range(sequences), tokens)"
        )
    return wanted


def _check_units(what: str, declared: Mapping[str, Any], units: int) -> None:
    """Refuse a declared number of units other than that of the arrays."""
    given = declared.get("units", units)
    if given != units:
        raise TraceError(f"{what} has {units} units, and meta.signals says {given!r}: drop it")


def _norms(
    what: str, key: str, members: Mapping[str, Member], shape: tuple[int, int]
) -> NDArray[np.float32] | None:
    member = members.get(f"{key}.norms")
    if member is None or key != "glu":
        return None
    if member.shape != shape or member.dtype.kind != "f":
        raise TraceError(
            f"{what}.norms is {member.dtype}{list(member.shape)}: it must be floats "
            f"[layers, units], here {list(shape)}"
        )
    norms = as_float32(member.whole())
    check_not_negative(norms, f"{what}.norms")
    return norms


def _open_sparse(
    trace: str, key: str, members: Mapping[str, Member], declared: Mapping[str, Any]
) -> Signal:
    what = f"{trace}: signal {key}"
    if key in members:
        raise TraceError(f"{what} stands there twice: as {key} and as {key}.indptr")
    if declared.get("encoding", "sparse") != "sparse":
        raise TraceError(f"{what} is sparse: encoding {declared['encoding']!r} does not fit")
    for suffix in ("indices", "shape"):
        if f"{key}.{suffix}" not in members:
            raise TraceError(f"{what} is sparse: it needs {key}.indptr, .indices and .shape")
    indptr, indices, shape = (members[f"{key}.{suffix}"] for suffix in _SPARSE[:3])
    if shape.shape != (3,) or shape.dtype.kind not in "iu":
        raise TraceError(f"{what}.shape must be three integers: tokens, layers, units")
    tokens, layers, units = (int(n) for n in shape.whole())
    if min(tokens, layers) < 0:
        raise TraceError(f"{what}.shape is {tokens} x {layers} x {units}: negative")
    _check_units(what, declared, units)
    check_believable(what, layers, units)
    if indptr.shape != (tokens * layers + 1,) or indptr.dtype.kind not in "iu":
        rows = f"{tokens} tokens x {layers} layers + 1"
        raise TraceError(f"{what}.indptr has shape {indptr.shape}: it must be integers [{rows}]")
    if len(indices.shape) != 1 or indices.dtype.kind not in "iu":
        raise TraceError(f"{what}.indices must be a list of integers (uint16 or uint32)")
    scores = members.get(f"{key}.scores")
    if scores is not None and (scores.shape != indices.shape or scores.dtype.kind != "f"):
        raise TraceError(f"{what}.scores must be floats, one for each of {key}.indices")
    part = SparsePart(what, (tokens, layers, units), indptr, indices, scores)
    part.check()
    return Signal(
        name=key,
        encoding="sparse",
        recorded_units=units,
        scored=scores is not None,
        declared=declared,
        trace=trace,
        parts=(part,),
        layers=(0, layers),
        recorded_layer_units=read_layer_units(what, declared, layers, units),
    )


_SPARSE = ("indptr", "indices", "shape", "scores")


def arrays_of(signal: Signal) -> tuple[str, ...]:
    """Return the names of all arrays that a signal is stored in."""
    key = signal.name
    if signal.encoding == "sparse":
        return tuple(f"{key}.{suffix}" for suffix in _SPARSE)
    own = (f"{key}.max",) if signal.encoding == "log8" else ()
    weighs = key == "glu" and signal.holds == "scores"
    return (key, *own, *((f"{key}.norms",) if weighs else ()))


def check_companions(trace: str, names: Collection[str], signals: Mapping[str, Signal]) -> None:
    """Refuse arrays that belong to a signal's storage, but not to the one it has.

    Args:
        trace: the trace's name, for error messages.
        names: of all arrays of the file.

    Raises:
        TraceError: says what such an array is for.
    """
    known = {array for signal in signals.values() for array in arrays_of(signal)}
    for name in sorted(set(names) - known):
        key, _, suffix = name.partition(".")
        if key not in SIGNALS or suffix not in _COMPANIONS:
            continue
        signal = signals.get(key)
        has = f"there is no signal {key}" if signal is None else f"{key} is {signal.encoding}"
        raise TraceError(f"{trace}: {name} {_COMPANIONS[suffix].format(key=key)}, but {has}")


_COMPANIONS = {
    "max": "is for scores as 8-bit logarithms (meta.signals.{key}.encoding = 'log8')",
    "norms": "are the norms of the columns that scores of glu weigh",
    **dict.fromkeys(
        ("indices", "shape"), "is for sparse sets ({key}.indptr, {key}.indices, {key}.shape)"
    ),
    "scores": "is for sparse sets ({key}.indptr, {key}.indices, {key}.shape; "
    "dipsim.TraceWriter(path, encodings={{'{key}': 'sparse'}}) makes them of bool arrays)",
}


def _encoding(what: str, member: Member, declared: Mapping[str, Any]) -> Encoding:
    """Return how a dense signal is stored, as its type and ``meta`` say."""
    given = declared.get("encoding")
    if member.dtype == np.uint8:
        if given == "bits" or given == "log8":
            return "bits" if given == "bits" else "log8"
        key = what.rpartition(" ")[2]
        raise TraceError(
            f"{what} is uint8, encoding {given!r}: say in meta whether these are 'bits' or 'log8' "
            f'codes, e.g. meta=json.dumps({{"signals": {{"{key}": {{"encoding": "log8"}}}}}}); '
            f"of sets of 0 and 1 save {key}.astype(bool)"
        )
    if member.dtype.name not in _BY_DTYPE:
        raise TraceError(f"{what} is {wanted_instead(member.dtype)}")
    stored = _BY_DTYPE[member.dtype.name]
    meant = what.endswith(" expert") and given in MEANINGS and member.dtype.kind == "f"
    if given is not None and given != stored and not meant:
        raise TraceError(f"{what} is {member.dtype}: encoding {given!r} does not fit")
    return stored


def wanted_instead(dtype: np.dtype[Any]) -> str:
    """Return a type that is no signal's, with the line of numpy that makes it one."""
    if dtype.kind in "iu":
        return (
            f"{dtype}: scores are floats, x.astype(np.float16); sets are bool arrays with a column "
            "for every unit, which of a list of active units x[tokens, layers, k] are "
            "(x[..., None] == np.arange(units)).any(-2)"
        )
    if dtype.kind == "c":
        return f"{dtype}: save np.abs(x).astype(np.float32)"
    return f"{dtype}: save float16 or float32 (x.astype(np.float16)) for scores, bool for sets"
