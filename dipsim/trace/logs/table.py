"""Rows of a log, collected on disk and put in order: tokens, layers and the experts of each.

Rows may come token by token or layer by layer, and how many tokens, layers and experts there are
is known at the end. So they are spooled as they come, and scattered to arrays in files afterwards:
memory stays bounded, whatever the log's length.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import TraceError, brief
from dipsim.trace.logs.contract import MOST_EXPERTS, MOST_LAYERS, MOST_PER_TOKEN, Ask, Log, Rows
from dipsim.trace.routes import NONE
from dipsim.trace.tokens import PREFILL
from dipsim.trace.trace import MAX_TOKENS

_CHUNK = 2**16
_MOST_BYTES = 2**38
_MOST_NUMBER = 2**40  # of a token


@dataclass
class _Stretch:
    """Tokens of one sequence, up to a step that is repeated."""

    sequence: int
    first: int
    last: int
    newest: dict[int, int] = field(default_factory=dict)
    """The last token that came, by layer."""


def _record(rows: Rows) -> np.dtype[Any]:
    """Return the type in which a row is spooled."""
    k = rows.ids.shape[1]
    parts: list[tuple[str, Any, Any]] = [
        ("stretch", np.int32, ()),
        ("token", np.int64, ()),
        ("layer", np.int32, ()),
        ("phase", np.uint8, ()),
        ("ids", np.uint16, (k,)),
    ]
    if rows.weights is not None:
        parts.append(("weights", np.float32, (k,)))
    if rows.guesses is not None:
        parts.append(("guesses", np.uint16, (rows.guesses.shape[1],)))
    return np.dtype(parts)


class _Segment:
    """Rows of one type in a file."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path, self.dtype = path, dtype
        self.file: IO[bytes] = open(path, "wb")  # noqa: SIM115 - closed by `close`

    def write(self, rows: Rows, stretch: NDArray[np.int32]) -> None:
        table = np.empty(len(rows.token), self.dtype)
        table["stretch"], table["token"], table["layer"] = stretch, rows.token, rows.layer
        table["phase"], table["ids"] = rows.phase, np.where(rows.ids < 0, NONE, rows.ids)
        if rows.weights is not None:
            table["weights"] = rows.weights
        if rows.guesses is not None:
            table["guesses"] = np.where(rows.guesses < 0, NONE, rows.guesses)
        self.file.write(table.tobytes())

    def close(self) -> None:
        """End writing.

        Raises:
            OSError: the disk is full.
        """
        self.file.close()

    def chunks(self) -> Iterator[NDArray[Any]]:
        with open(self.path, "rb") as file:
            while data := file.read(_CHUNK * self.dtype.itemsize):
                yield np.frombuffer(data, self.dtype)


class Table:
    """Collects the rows of a log in a folder.

    Args:
        path: of the log, for error messages.
        folder: an empty one, for temporary files.
        ask: what the user said of the log.
        experts: number of experts of a layer, where it is known.
    """

    def __init__(self, path: Path, folder: Path, ask: Ask, experts: int | None) -> None:
        self.path, self.folder, self.ask = path, folder, ask
        self.experts = experts
        self.largest = -1
        """Largest id that came."""
        self.layers: set[int] = set()
        self.width = self.guessed = 0
        self.weighed = True
        """True if every row has weights, all of them known."""
        self.unknown = False
        """True if some weights are nan."""
        self.repeated = 0
        """Steps that came again after a later one: rejected guesses."""
        self._stretches: list[_Stretch] = []
        self._open: dict[int, int] = {}
        self._segments: list[_Segment] = []
        self.rows = 0

    def close(self) -> None:
        """End writing the rows, which `tokens` reads."""
        for segment in self._segments:
            segment.close()

    # Collecting -----------------------------------------------------------------------------------

    def add(self, rows: Rows) -> None:
        """Spool rows.

        Raises:
            TraceError: ids, layers or tokens that no log holds.
            OSError: the disk is full.
        """
        if self.ask.decode_only:
            rows = _chosen(rows, np.broadcast_to(rows.phase, rows.token.shape) != PREFILL)
        if not len(rows.token):
            return
        self._check(rows)
        stretch = self._placed(rows)
        dtype = _record(rows)
        if not self._segments or self._segments[-1].dtype != dtype:
            self._segments.append(_Segment(self.folder / f"rows-{len(self._segments)}", dtype))
        self._segments[-1].write(rows, stretch)
        self.rows += len(rows.token)

    def _check(self, rows: Rows) -> None:
        ids, layer = rows.ids, rows.layer
        if not 0 < ids.shape[1] <= MOST_PER_TOKEN:
            raise TraceError(
                f"{self.path}: {ids.shape[1]} experts a token: 1 to {MOST_PER_TOKEN} are read"
            )
        for found in (ids, *(() if rows.guesses is None else (rows.guesses,))):
            limit = MOST_EXPERTS if self.experts is None else self.experts
            bad = (found >= limit) | (found < -1)
            if bad.any():
                row, column = np.argwhere(bad)[0]
                raise TraceError(
                    f"{self._where(rows, row)}: expert {found[row, column]}: "
                    + (f"from 0 to {limit - 1}" if limit < MOST_EXPERTS else "no such id")
                )
        ordered = np.sort(ids, axis=1)
        twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        if twice.any():
            row, column = np.argwhere(twice)[0]
            raise TraceError(f"{self._where(rows, row)}: expert {ordered[row, column]} twice")
        if rows.token.min() < 0 or rows.token.max() >= _MOST_NUMBER:
            worst = max(rows.token.tolist(), key=abs)
            raise TraceError(f"{self.path}: token {worst}: from 0 to {_MOST_NUMBER - 1}")
        if layer.min() < 0 or layer.max() >= MOST_LAYERS:
            raise TraceError(f"{self.path}: layer {layer.max()}: from 0 to {MOST_LAYERS - 1}")
        if rows.weights is not None and np.isinf(rows.weights).any():
            row = int(np.argwhere(np.isinf(rows.weights))[0][0])
            raise TraceError(f"{self._where(rows, row)}: a weight that is infinite")
        self.layers.update(np.unique(layer).tolist())
        self.largest = max(self.largest, int(ids.max()))
        self.width = max(self.width, ids.shape[1])
        if rows.guesses is not None:
            self.guessed = max(self.guessed, rows.guesses.shape[1])
            self.largest = max(self.largest, int(rows.guesses.max(initial=-1)))
        self.unknown |= rows.weights is not None and bool(np.isnan(rows.weights).any())
        self.weighed &= rows.weights is not None and not self.unknown

    def _where(self, rows: Rows, row: int) -> str:
        return f"{self.path}: token {rows.token[row]}, layer {rows.layer[row]}"

    def _placed(self, rows: Rows) -> NDArray[np.int32]:
        """Return the stretch that each row belongs to, int32[n]."""
        if (number := self._in_order(rows)) is not None:
            return np.full(len(rows.token), number, np.int32)
        sequences = np.broadcast_to(rows.sequence, rows.token.shape).tolist()
        stretches = np.empty(len(sequences), np.int32)
        triples = zip(sequences, rows.token.tolist(), rows.layer.tolist(), strict=True)
        for row, (sequence, token, layer) in enumerate(triples):
            number = self._open.get(sequence)
            if number is None:
                number = self._begin(sequence, len(self._stretches), token, token - 1)
            stretch = self._stretches[number]
            newest = stretch.newest.get(layer)
            if token < stretch.first or (newest is not None and token <= newest):
                number = self._again(sequence, stretch, token)
                stretch = self._stretches[number]
            stretch.newest[layer] = token
            if token > stretch.last:
                stretch.last = token
            stretches[row] = number
        return stretches

    def _in_order(self, rows: Rows) -> int | None:
        """Return the one stretch that rows go on with, token after token and layer after layer;
        None where their order has to be looked at row by row."""
        sequence = np.broadcast_to(rows.sequence, rows.token.shape)
        key = rows.token * MOST_LAYERS + rows.layer
        if (sequence != sequence[0]).any() or (np.diff(key) <= 0).any():
            return None
        number = self._open.get(int(sequence[0]))
        if number is None:
            return None
        stretch = self._stretches[number]
        done = max((n for n, token in stretch.newest.items() if token == stretch.last), default=-1)
        if key[0] <= stretch.last * MOST_LAYERS + done:
            return None
        last_of = dict(zip(rows.layer.tolist(), rows.token.tolist(), strict=True))
        stretch.newest |= last_of
        stretch.last = int(rows.token[-1])
        return number

    def _begin(self, sequence: int, own: int, first: int, last: int) -> int:
        if len(self._stretches) >= MAX_TOKENS:
            raise TraceError(f"{self.path}: tokens fall back too often: sort the log by token")
        self._stretches.append(_Stretch(own, first, last))
        self._open[sequence] = len(self._stretches) - 1
        return self._open[sequence]

    def _again(self, sequence: int, stretch: _Stretch, token: int) -> int:
        """Begin another sequence, or after a rejected guess another stretch of the same one."""
        beginning = self._stretches[stretch.sequence].first
        if token <= beginning:
            return self._begin(sequence, len(self._stretches), token, token - 1)
        self.repeated += 1
        return self._begin(sequence, stretch.sequence, token, token - 1)

    # Putting in order -----------------------------------------------------------------------------

    def tokens(self) -> "Ordered":
        """Scatter all rows to arrays in files.

        Raises:
            TraceError: no rows, or more tokens than a trace may have.
            OSError: the disk is full.
        """
        if not self.rows:
            what = "no row" if not self.ask.decode_only else "no row of a decode token"
            raise TraceError(f"{self.path}: holds {what}")
        order = sorted(range(len(self._stretches)), key=lambda n: (self._stretches[n].sequence, n))
        spans = np.array([self._stretches[n].last - self._stretches[n].first + 1 for n in order])
        begins = np.zeros(len(order), np.int64)
        begins[order] = np.append(0, np.cumsum(spans)[:-1])
        count = int(spans.sum(dtype=object))
        layers = sorted(self.layers)
        if count > 4 * MAX_TOKENS or count * len(layers) * self.width * 2 > _MOST_BYTES:
            raise TraceError(
                f"{self.path}: its tokens are numbered over {brief(count)} numbers, at most "
                f"{MAX_TOKENS} are read: number them from 0 on, or cut the log"
            )
        ordered = Ordered(self, count, layers)
        first = np.array([stretch.first for stretch in self._stretches])
        index = np.full(MOST_LAYERS, -1, np.int32)
        index[layers] = np.arange(len(layers))
        own = np.array([stretch.sequence for stretch in self._stretches])
        for segment in self._segments:
            for rows in segment.chunks():
                slot = begins[rows["stretch"]] + rows["token"] - first[rows["stretch"]]
                ordered.put(slot, index[rows["layer"]], own[rows["stretch"]], rows)
            os.unlink(segment.path)
        return ordered


class Ordered:
    """Tokens of a log in order, in files: their experts in every layer."""

    def __init__(self, table: Table, count: int, layers: list[int]) -> None:
        self.layers = layers
        """Numbers of the layers that have rows, as the log counts them."""
        self._folder, self._path = table.folder, table.path
        shape = (count, len(layers))
        self.ids = self._array("ids", np.uint16, (*shape, table.width))
        self.weights = self.guesses = None
        if table.weighed:
            self.weights = self._array("weights", np.float32, (*shape, table.width))
        if table.guessed:
            self.guesses = self._array("guesses", np.uint16, (*shape, table.guessed))
        self.phase = self._array("phase", np.uint8, (count,))
        self.sequence = self._array("sequence", np.int32, (count,))

    def _array(self, name: str, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        """Map a new file of zeros, which take no room until they are written."""
        return np.memmap(self._folder / name, dtype, "w+", shape=shape)

    def put(
        self,
        slot: NDArray[np.int64],
        layer: NDArray[np.int32],
        sequence: NDArray[np.int64],
        rows: NDArray[Any],
    ) -> None:
        """Write rows to the places of their tokens; ids are kept plus 1, and none becomes 0."""
        ids = rows["ids"] + np.uint16(1)  # 65535 wraps to 0
        self.ids[slot, layer, : ids.shape[1]] = ids
        self.phase[slot] = rows["phase"] + 1
        self.sequence[slot] = sequence
        if self.weights is not None:
            self.weights[slot, layer, : ids.shape[1]] = rows["weights"]
        if self.guesses is not None and "guesses" in (rows.dtype.names or ()):
            guesses = rows["guesses"] + np.uint16(1)
            self.guesses[slot, layer, : guesses.shape[1]] = guesses

    def blocks(self, block: int) -> Iterator["Block"]:
        """Yield the tokens in order, at most ``block`` at a time.

        Raises:
            TraceError: a token without rows.
        """
        renumbered: dict[int, int] = {}
        for start in range(0, len(self.phase), block):
            part = slice(start, start + block)
            absent = np.flatnonzero(self.phase[part] == 0)
            if len(absent):
                raise TraceError(
                    f"{self._path}: token {start + absent[0]} of {len(self.phase)}, counted from "
                    "its first one, has no rows: rows are missing, or tokens are not numbered one "
                    "after the other"
                )
            sequence = [renumbered.setdefault(n, len(renumbered)) for n in self.sequence[part]]
            yield Block(
                self.ids[part].astype(np.int64) - 1,
                None if self.weights is None else self.weights[part],
                None if self.guesses is None else self.guesses[part].astype(np.int64) - 1,
                self.phase[part] - np.uint8(1),
                np.array(sequence, np.int32),
            )


@dataclass(frozen=True)
class Block:
    """Some tokens: ids, weights and guesses [n, layers, k], phase and sequence [n]."""

    ids: NDArray[np.int64]
    weights: NDArray[np.float32] | None
    guesses: NDArray[np.int64] | None
    phase: NDArray[np.uint8]
    sequence: NDArray[np.int32]


def _chosen(rows: Rows, kept: NDArray[np.bool_]) -> Rows:
    """Return some of the rows."""
    parts: Any = (part[kept] if isinstance(part, np.ndarray) else part for part in rows)
    return Rows(*parts)


def collected(
    path: Path,
    log: Log,
    ask: Ask,
    folder: Path,
    experts: int | None,
    progress: Callable[[int], None] | None = None,
) -> Table:
    """Read all rows of a log into a table.

    Args:
        experts: number of experts of a layer, where it is known.
        progress: called with the rows so far.

    Raises:
        TraceError: as the reader, or rows that no log holds.
        OSError: the disk is full.
    """
    with closing(Table(path, folder, ask, experts)) as table:
        for rows in log.rows:
            table.add(rows)
            if progress is not None:
                progress(table.rows)
    return table
