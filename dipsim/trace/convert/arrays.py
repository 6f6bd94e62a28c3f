"""Import of arrays as a trace: each is matched to a signal and becomes scores or sets."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dipsim.errors import TraceError, brief
from dipsim.files import refuse_same
from dipsim.trace.archive import Compress
from dipsim.trace.checks import any_negative
from dipsim.trace.encoding import Encoding, Meaning
from dipsim.trace.npz import Array, Member, evenly
from dipsim.trace.signal import SIGNALS, wanted_instead
from dipsim.trace.sources import open_arrays
from dipsim.trace.vectors import VECTORS, VectorEncoding
from dipsim.trace.writer import TraceWriter

_MARKS = ("phase", "sequence", "token_id")
_KNOWN = (*SIGNALS, *VECTORS, *_MARKS)
_BLOCK_BYTES = 32 * 2**20


@dataclass(frozen=True)
class _Stack:
    """Arrays of one signal: one [tokens, layers, units], or [tokens, units] per layer."""

    signal: str
    members: tuple[Member, ...]

    @property
    def tokens(self) -> int:
        return self.members[0].shape[0]

    @property
    def row_bytes(self) -> int:
        return sum(
            int(np.prod(member.shape[1:], dtype=object)) * max(member.dtype.itemsize, 4)
            for member in self.members
        )

    def blocks(self, block: int) -> Iterator[Array]:
        """Yield [n <= block, layers, units]."""
        streams = [member.rows(0, evenly(self.tokens, block)) for member in self.members]
        for rows in zip(*streams, strict=True):
            yield rows[0] if rows[0].ndim == 3 else np.stack(rows, axis=1)


def import_arrays(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    names: Mapping[str, str] | None = None,
    encodings: Mapping[str, Encoding | Meaning | VectorEncoding] | None = None,
    meta: Mapping[str, Any] | None = None,
    compress: Compress = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write the arrays of a file or folder as a trace.

    Args:
        source: `.npy`, `.npz`, `.safetensors`, or a folder of such files.
        out: a `.npz` file, or a new folder of shards.
        names: per signal (or phase, sequence, token_id) the array's name; one ``*`` stands for the
            number of the layer: arrays [tokens, units] are then stacked. Default: arrays that are
            named like signals.
        encodings: see `TraceWriter`; floats become ``sparse`` sets of the units above 0, with their
            scores.
        meta: see `TraceWriter`.
        compress: see `TraceWriter`.
        progress: called with (tokens done, tokens).

    Returns:
        Sentences about changes made to the values, and about arrays left out.

    Raises:
        DipsimError: arrays that are missing, disagree, or are neither floats nor bool; ``out`` is
            one of their files.
    """
    path = Path(source)
    arrays = open_arrays(path)
    chosen = dict(names or {key: key for key in _KNOWN if key in arrays})
    stacks = _stacks(path, arrays, chosen)
    refuse_same(out, {member.path for stack in stacks for member in stack.members if member.path})
    count = stacks[0].tokens
    marks = {
        key: _mark(path, arrays, key, name, count) for key, name in chosen.items() if key in _MARKS
    }
    block = max(1, min(count, _BLOCK_BYTES // max(sum(stack.row_bytes for stack in stacks), 1)))
    listed = {key for key, encoding in (encodings or {}).items() if encoding == "sparse"}
    signed: set[str] = set()
    start = 0
    with TraceWriter(out, meta=meta, encodings=encodings, compress=compress) as writer:
        for parts in zip(*(stack.blocks(block) for stack in stacks), strict=True):
            rows: dict[str, Any] = {}
            for stack, values in zip(stacks, parts, strict=True):
                rows[stack.signal] = values
                if stack.signal == "expert" and start == 0 and _are_ids(values):
                    raise TraceError(
                        f"{path}: {chosen['expert']} holds whole numbers, each once a row: ids of "
                        "experts, not scores; save them as integers, x.astype(np.int16)"
                    )
                if stack.signal in listed and values.dtype.kind == "f" and values.min() >= 0:
                    rows |= {stack.signal: values > 0, f"{stack.signal}.scores": values}
                    continue
                signed_by_nature = stack.signal in ("expert", *VECTORS)
                if values.dtype.kind == "f" and not signed_by_nature and any_negative(values):
                    rows[stack.signal] = np.abs(values)
                    signed.add(stack.signal)
            size = len(parts[0])
            writer.append(rows | {key: mark[start : start + size] for key, mark in marks.items()})
            start += size
            if progress is not None:
                progress(start, count)
    notes = [f"took absolute values of {', '.join(sorted(signed))}"] if signed else []
    if others := _left_out(arrays, chosen, stacks):
        notes.append(f"left out, as no --map names them: {brief(', '.join(others), 200)}")
    return notes


def _are_ids(values: Array) -> bool:
    """Return whether floats [tokens, layers, k] look like ids of experts that were used."""
    if values.dtype.kind != "f" or values.shape[2] < 2 or not np.isfinite(values).all():
        return False
    ordered = np.sort(values, axis=2)
    whole = bool((values == np.floor(values)).all() and values.min() >= 0)
    once = bool((ordered[..., 1:] > ordered[..., :-1]).all())
    return whole and once and bool(values.max() >= values.shape[2])


def _left_out(
    arrays: Mapping[str, Member], chosen: Mapping[str, str], stacks: list[_Stack]
) -> list[str]:
    """Return the names of the arrays that no signal and no mark is taken from."""
    taken = {id(member) for stack in stacks for member in stack.members}
    taken |= {id(arrays[name]) for key, name in chosen.items() if key in _MARKS}
    return [key for key, member in arrays.items() if id(member) not in taken]


def _stacks(path: Path, arrays: Mapping[str, Member], chosen: Mapping[str, str]) -> list[_Stack]:
    """Return the arrays of every chosen signal; all have the same number of tokens."""
    stacks = [_stack(path, arrays, key, name) for key, name in chosen.items() if key not in _MARKS]
    if not stacks:
        listed = brief(", ".join(arrays), 200)
        raise TraceError(
            f"{path}: no array is named like a signal (has {listed}): say which is which, "
            f"e.g. --map glu={brief(next(iter(arrays), 'NAME'))}"
        )
    tokens = {stack.signal: stack.tokens for stack in stacks}
    if len(set(tokens.values())) > 1:
        raise TraceError(f"{path}: signals disagree on tokens: {tokens}")
    return stacks


def _stack(path: Path, arrays: Mapping[str, Member], signal: str, name: str) -> _Stack:
    """Check the arrays that ``name`` means for a signal, and stack them."""
    if signal not in (*SIGNALS, *VECTORS):
        known = ", ".join(_KNOWN)
        raise TraceError(f"--map {signal}={name}: no signal {signal!r}; use one of {known}")
    members = _members(path, arrays, signal, name)
    for member in members:
        if signal in VECTORS and member.dtype.kind != "f":
            raise TraceError(f"{path}: {name} is {member.dtype}: {signal} is of floats")
        if member.dtype.kind != "f" and member.dtype != np.bool_:
            raise TraceError(f"{path}: {name} is {wanted_instead(member.dtype)}")
        if len(member.shape) not in (2, 3) or 0 in member.shape[1:]:
            raise TraceError(
                f"{path}: {name} has shape {list(member.shape)}: it must be [tokens, layers, "
                "units], or [tokens, units] per layer (--map 'glu=layers.*'); save "
                "x.reshape(-1, layers, units)"
            )
        if member.shape != members[0].shape or member.dtype != members[0].dtype:
            raise TraceError(
                f"{path}: layers of {name} differ: {members[0].dtype}{list(members[0].shape)} and "
                f"{member.dtype}{list(member.shape)}"
            )
    if len(members) > 1 and len(members[0].shape) != 2:
        raise TraceError(f"{path}: {name} stacks layers: each must be [tokens, units]")
    return _Stack(signal, tuple(members))


def _members(path: Path, arrays: Mapping[str, Member], signal: str, name: str) -> list[Member]:
    """Return the arrays that ``name`` means: one, or with a ``*`` one per layer, in order."""
    listed = brief(", ".join(arrays), 200)
    if "*" not in name:
        if name not in arrays:
            raise TraceError(f"{path}: no array {name!r} for {signal}: has {listed or 'nothing'}")
        return [arrays[name]]
    before, _, after = name.partition("*")
    pattern = re.compile(re.escape(before) + r"(\d{1,6})" + re.escape(after), re.ASCII)
    by_layer = {int(hit[1]): arrays[key] for key in arrays if (hit := pattern.fullmatch(key))}
    if not by_layer:
        raise TraceError(f"{path}: no array matches {name!r} for {signal}: has {listed}")
    numbers = sorted(by_layer)
    for number in range(numbers[0], numbers[-1]):
        if number not in by_layer:
            raise TraceError(f"{path}: layer {number} of {name!r} is missing")
    return [by_layer[number] for number in numbers]


def _mark(path: Path, arrays: Mapping[str, Member], key: str, name: str, tokens: int) -> Array:
    if name not in arrays:
        raise TraceError(f"{path}: no array {name!r} for {key}")
    if arrays[name].shape != (tokens,):
        raise TraceError(f"{path}: {name} has shape {arrays[name].shape}: {key} is [{tokens}]")
    return arrays[name].whole()
