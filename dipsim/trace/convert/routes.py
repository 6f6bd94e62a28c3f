"""Import of `route_trace v1`: the experts that a phone's runtime used, token by token.

The file is a CSV with a preamble (experts, and their bytes per layer) and one row per (token,
layer, slot). Prefill rows come layer by layer, decode rows token by token. The format is that of
Helldez/BigMoeOnEdge.
"""

import math
import os
import re
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from dipsim.errors import TraceError
from dipsim.files import refuse_same
from dipsim.model import weight_format
from dipsim.trace.tokens import DECODE
from dipsim.trace.writer import TraceWriter

FIRST_LINE = b"# route_trace v1"
COLUMNS = "turn,phase,step,layer,slot,expert,weight,residency,expert_bytes"
TENSORS = 3
"""Tensors that an expert of a GGUF model lies in: gate, up and down, each read alone."""
_LONGEST_LINE = 4096
_MOST_LAYERS, _MOST_EXPERTS, _MOST_STEPS = 10_000, 65_536, 2**22
_MOST_PER_TOKEN = 2**24  # layers x experts
_BATCH_ROWS = 2**25  # rows of one prefill batch that are held
_DECODE_ROWS = 2**16  # decode rows that are held before they are written


def is_routes(path: Path) -> bool:
    """Return True if a path is taken for a route trace: it ends in .csv and is no folder."""
    return path.suffix == ".csv" and not os.path.isdir(path)


@dataclass(frozen=True)
class Preamble:
    """The comments at the top of a route trace; bytes are per layer."""

    layers: int
    experts: int
    per_token: int
    model: str
    arch: str
    expert_bytes: tuple[int, ...]
    dense_bytes: tuple[int, ...]


class _RouteRow(NamedTuple):
    """A row; ``place`` = layer * experts + expert, ``slot`` = layer * experts per token + slot."""

    turn: int
    phase: int
    step: int
    place: int
    slot: int
    weight: float


@dataclass
class _RouteRows:
    """Rows of one turn and phase, not yet written."""

    first_line: int = 0
    step: "array[int]" = field(default_factory=lambda: array("i"))
    place: "array[int]" = field(default_factory=lambda: array("i"))
    slot: "array[int]" = field(default_factory=lambda: array("i"))
    weight: "array[float]" = field(default_factory=lambda: array("f"))


def import_routes(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    meta: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a route trace as sparse sets of ``expert`` with the routing weights as scores.

    A turn is a sequence; bytes per layer become ``unit_bytes``.

    Args:
        source: the CSV file.
        out: a `.npz` file, or a new folder of shards.
        meta: further entries of the trace's meta.
        progress: called with (bytes read, bytes).

    Raises:
        TraceError: no route trace, or rows that are damaged, missing, repeated or out of order;
            the message names the line.
    """
    path = Path(source)
    if not os.path.isfile(path):
        raise TraceError(f"{path}: not a regular file; give a route_trace CSV")
    refuse_same(out, [path])
    try:
        with open(path, "rb") as file:
            reader = _RouteReader(path, file)
            full_meta = _meta(path, reader.preamble) | dict(meta or {})
            with TraceWriter(out, meta=full_meta) as writer:
                size = max(path.stat().st_size, 1)
                reader.write_to(writer, lambda: progress and progress(file.tell(), size))
    except OSError as problem:
        raise TraceError(f"{path}: cannot be read ({problem.strerror})") from None


def _meta(path: Path, preamble: Preamble) -> dict[str, Any]:
    stored_as = weight_format(preamble.model)
    return {
        **({} if stored_as is None else {"weight_format": stored_as}),
        "source": f"route_trace v1 {path.name}: {preamble.model} ({preamble.arch})",
        "experts_per_token": preamble.per_token,
        "dense_bytes": list(preamble.dense_bytes),
        "signals": {"expert": {"unit_bytes": list(preamble.expert_bytes), "tensors": TENSORS}},
    }


class _RouteReader:
    """Reads a route trace line by line and knows the current line for error messages."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.file, self.line = path, file, 0
        self.preamble = self._preamble()

    def _fail(self, what: str, line: int | None = None) -> TraceError:
        return TraceError(f"{self.path}: line {self.line if line is None else line}: {what}")

    def _next(self) -> bytes:
        """Return the next line without its end; empty at the end of the file."""
        text = self.file.readline(_LONGEST_LINE)
        self.line += 1
        if len(text) == _LONGEST_LINE:
            raise self._fail(f"longer than {_LONGEST_LINE} bytes")
        if text and not text.endswith(b"\n"):
            raise self._fail("cut short (no end of line)")
        return text.rstrip(b"\r\n")

    def _preamble(self) -> Preamble:
        if not self._next().startswith(FIRST_LINE):
            raise self._fail(f"a route trace begins with {FIRST_LINE.decode()!r}")
        header: dict[str, str] = {}
        sizes: dict[int, tuple[int, int]] = {}
        while (text := self._next()).startswith(b"#"):
            pairs = dict(re.findall(r"(\w+)=(\S+)", text.decode("utf-8", "replace")))
            if "layer" not in pairs:
                header |= pairs
                continue
            layer, expert, dense = (
                self._integer(pairs.get(key, ""), key, 2**50)
                for key in ("layer", "expert_bytes", "dense_bytes")
            )
            if layer in sizes or layer >= _MOST_LAYERS or expert == 0:
                raise self._fail(f"layer {layer} stands there twice, or has no bytes")
            sizes[layer] = (expert, dense)
        if text.decode("utf-8", "replace") != COLUMNS:
            raise self._fail(f"the columns must be {COLUMNS}")
        layers = self._integer(header.get("n_layer", ""), "n_layer", _MOST_LAYERS)
        experts = self._integer(header.get("n_expert", ""), "n_expert", _MOST_EXPERTS)
        used = self._integer(header.get("n_expert_used", ""), "n_expert_used", experts)
        if min(layers, experts, used) == 0 or layers * experts > _MOST_PER_TOKEN:
            raise self._fail(f"{layers} layers of {experts} experts, {used} used: not believable")
        if sorted(sizes) != list(range(layers)):
            raise self._fail(f"the preamble must give expert_bytes of layers 0 to {layers - 1}")
        return Preamble(
            layers,
            experts,
            used,
            Path(header.get("model", "unknown")).name[:80],
            header.get("arch", "unknown")[:80],
            tuple(sizes[layer][0] for layer in range(layers)),
            tuple(sizes[layer][1] for layer in range(layers)),
        )

    def _integer(self, text: str, what: str, most: int) -> int:
        if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or int(text) > most:
            raise self._fail(f"{what} {text[:40]!r}: an integer from 0 to {most}")
        return int(text)

    def write_to(self, writer: TraceWriter, progress: Callable[[], Any]) -> None:
        """Write all rows, batch by batch."""
        rows, now = _RouteRows(), (0, 0)
        next_step = 0  # the first step of the turn that is not written yet
        while text := self._next():
            row = self._row(text)
            enough = row.phase == DECODE and len(rows.step) >= _DECODE_ROWS
            if (row.turn, row.phase) != now or (enough and row.step != rows.step[-1]):
                if (row.turn, row.phase) < now:
                    raise self._fail(f"turn {row.turn}, phase {row.phase} comes after {now}")
                next_step = self._write(writer, rows, now, next_step)
                progress()
                next_step = next_step if row.turn == now[0] else 0
                now, rows = (row.turn, row.phase), _RouteRows()
            if not rows.step:
                rows.first_line = self.line
            if len(rows.step) >= _BATCH_ROWS:
                raise self._fail(f"more than {_BATCH_ROWS} rows in one prefill batch")
            rows.step.append(row.step)
            rows.place.append(row.place)
            rows.slot.append(row.slot)
            rows.weight.append(row.weight)
        if self.file.read(1):
            raise self._fail("an empty line")
        self._write(writer, rows, now, next_step)

    def _row(self, text: bytes) -> _RouteRow:
        pre = self.preamble
        fields = text.decode("utf-8", "replace").split(",")
        if len(fields) != 9:
            raise self._fail(f"{len(fields)} fields, there must be 9: {COLUMNS}")
        layer = self._integer(fields[3], "layer", pre.layers - 1)
        slot = self._integer(fields[4], "slot", pre.per_token - 1)
        expert = self._integer(fields[5], "expert", pre.experts - 1)
        loaded = self._integer(fields[8], "expert_bytes", 2**50)
        if loaded not in (0, pre.expert_bytes[layer]):
            raise self._fail(
                f"expert_bytes {loaded}: layer {layer} has {pre.expert_bytes[layer]}, or 0"
            )
        return _RouteRow(
            turn=self._integer(fields[0], "turn", 2**31 - 1),
            phase=self._integer(fields[1], "phase", 1),
            step=self._integer(fields[2], "step", _MOST_STEPS),
            place=layer * pre.experts + expert,
            slot=layer * pre.per_token + slot,
            weight=self._weight(fields[6]),
        )

    def _weight(self, text: str) -> float:
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if not 0 <= weight < 1e30:
            raise self._fail(f"weight {text[:40]!r}: a number >= 0")
        return weight

    def _write(
        self, writer: TraceWriter, rows: _RouteRows, now: tuple[int, int], start: int
    ) -> int:
        """Append the tokens of ``rows``, whose steps go on from ``start``; return the next step."""
        if not rows.step:
            return start
        pre, (turn, phase) = self.preamble, now
        step = np.frombuffer(rows.step, np.int32)
        place, slot = np.frombuffer(rows.place, np.int32), np.frombuffer(rows.slot, np.int32)
        weight = np.frombuffer(rows.weight, np.float32)
        order = np.argsort(step, kind="stable")
        kinds = np.unique(step)
        if kinds[0] != start or kinds[-1] - kinds[0] + 1 != len(kinds):
            missing = next(s for s in range(start, int(kinds[-1]) + 2) if s not in kinds)
            raise self._fail(f"turn {turn} has no rows of step {missing}, or has them elsewhere")
        bounds = np.searchsorted(step[order], [*kinds, kinds[-1] + 1])
        for index in range(len(kinds)):
            token_rows = order[bounds[index] : bounds[index + 1]]
            for what, values in (("expert", place), ("slot", slot)):
                first = np.unique(values[token_rows], return_index=True)[1]
                if len(first) < len(token_rows):
                    twice = np.setdiff1d(np.arange(len(token_rows)), first)[0]
                    line = rows.first_line + int(token_rows[twice])
                    raise self._fail(f"the same {what} twice in one layer of a token", line)
            sets = np.zeros(pre.layers * pre.experts, np.bool_)
            scores = np.zeros(pre.layers * pre.experts, np.float32)
            sets[place[token_rows]], scores[place[token_rows]] = True, weight[token_rows]
            used = sets.reshape(pre.layers, pre.experts).sum(axis=1)
            whole = (used == pre.per_token) | ((used == 0) & (phase != DECODE))
            if not whole.all():
                layer = int(np.flatnonzero(~whole)[0])
                line = rows.first_line + int(token_rows[-1])
                raise self._fail(
                    f"step {kinds[index]} has {used[layer]} experts in layer {layer}, "
                    f"{pre.per_token} are used: rows are missing",
                    line,
                )
            shape = (pre.layers, pre.experts)
            block = {"expert": sets.reshape(shape), "expert.scores": scores.reshape(shape)}
            writer.append({**block, "phase": phase, "sequence": turn})
        return int(kinds[-1]) + 1
