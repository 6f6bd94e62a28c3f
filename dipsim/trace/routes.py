"""Recorded routes: the experts that a model used, and their weights, beside the scores of all."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import TraceError
from dipsim.trace.checks import check_believable
from dipsim.trace.encoding import pack_sets
from dipsim.trace.layer_array import LayerArray, what_of
from dipsim.trace.npz import Array, Member
from dipsim.trace.parts import VectorPart
from dipsim.views import shortened

USED, WEIGHTS = "expert.used", "expert.weights"
ROUTES = (USED, WEIGHTS)
NONE = 2**16 - 1
"""Id in `expert.used` where a token uses fewer experts than there are columns."""


@dataclass(frozen=True, kw_only=True)
class Routes(LayerArray):
    """Ids of the experts that tokens used, or the weights of the same, [tokens, layers, k]."""

    columns: int
    """k, the most experts that a token uses in a layer."""
    experts: int
    """Number of experts of a layer."""
    dtype: np.dtype[Any]

    __repr__ = shortened

    @property
    def kind(self) -> tuple[Any, ...]:
        """Type, columns and experts, which all shards share."""
        return (self.dtype, self.columns, self.experts)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in all layers of the files, as `read` returns it."""
        return 4 * self.recorded_layers * self.columns

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return tokens start..stop-1; default: all.

        Returns:
            ``expert.used``: uint16[tokens, layers, k], `NONE` where fewer are used;
            ``expert.weights``: float32 of the same shape.

        Raises:
            TraceError: experts that there are not or that are listed twice, weights that are no
                numbers, or tokens outside it.
        """
        first, last = self.rows(start, stop)
        shape = (last - first, self.layers[1] - self.layers[0], self.columns)
        values = np.empty(shape, np.uint16 if self.name == USED else np.float32)
        for rows, _, row in self.raw(first, last, max(1, last - first)):
            values[row - first : row - first + len(rows)] = self._checked(rows)
        return values

    def blocks(self, block: int) -> Iterator[NDArray[Any]]:
        """Yield all tokens in order, at most ``block`` at a time; raises as `read`."""
        for rows, _, _ in self.raw(self.first, self.first + self.count, block):
            yield self._checked(rows)

    def check(self) -> None:
        """Read all values once.

        Raises:
            TraceError: as `read`.
        """
        for _ in self.blocks(1 + 2**22 // self.row_bytes):
            pass

    def describe(self) -> dict[str, Any]:
        """Return the type and the columns as plain values."""
        return {"encoding": self.dtype.name, "columns": self.columns}

    def _checked(self, rows: Array) -> NDArray[Any]:
        return checked_rows(self.what, self.name, rows, self.experts)


def checked_rows(what: str, name: str, rows: Array, experts: int) -> NDArray[Any]:
    """Return rows of ``expert.used`` as uint16, or of ``expert.weights`` as float32.

    Args:
        what: the array, for error messages.
        name: one of `ROUTES`.
        rows: integers or floats [tokens, layers, k].
        experts: number of experts of a layer.

    Raises:
        TraceError: experts that there are not or that are listed twice, or weights that are not
            finite.
    """
    if name == WEIGHTS:
        with np.errstate(over="ignore"):
            weights = np.array(rows, np.float32, order="C")
        if not np.isfinite(weights).all():
            raise TraceError(f"{what}: weights must be finite, 0 where no expert is used")
        return weights
    unknown = (rows < 0) | ((rows >= experts) & (rows != NONE))
    if unknown.any():
        raise TraceError(
            f"{what} holds {int(rows[unknown][0])}: experts are 0..{experts - 1}, {NONE} is none"
        )
    used: NDArray[np.uint16] = np.array(rows, np.uint16, order="C")
    ranked = np.sort(used, axis=-1)
    if ((ranked[..., 1:] == ranked[..., :-1]) & (ranked[..., 1:] != NONE)).any():
        raise TraceError(f"{what} lists an expert twice for one token and layer")
    return used


def open_routes(trace: str, key: str, members: Mapping[str, Member]) -> Routes:
    """Open ``expert.used`` or ``expert.weights`` of one file.

    Args:
        trace: the trace's name, for error messages.
        key: one of `ROUTES`.
        members: all arrays of the file.

    Raises:
        TraceError: shapes or types that make none, no scores of all experts beside it.
    """
    member, what = members[key], what_of(trace, key)
    if "expert" not in members:
        raise TraceError(f"{what} belongs to expert, which is missing")
    if key == WEIGHTS and USED not in members:
        raise TraceError(f"{what} belongs to {USED}, which is missing")
    kinds, wanted = ("iu", "uint16") if key == USED else ("f", "float16 or float32")
    if len(member.shape) != 3 or member.shape[2] == 0 or member.dtype.kind not in kinds:
        raise TraceError(
            f"{what} is {member.dtype}{list(member.shape)}: it must be {wanted} [tokens, layers, k]"
        )
    if key == WEIGHTS and member.shape != members[USED].shape:
        raise TraceError(
            f"{what} has shape {list(member.shape)}: it must be that of {USED}, "
            f"{list(members[USED].shape)}"
        )
    check_believable(what, member.shape[1], member.shape[2])
    beside = members["expert"]
    if len(beside.shape) != 3 or beside.dtype.kind != "f":
        raise TraceError(f"{what} stands beside scores of all experts, and expert holds none")
    return Routes(
        name=key,
        trace=trace,
        parts=(VectorPart(member),),
        count=member.shape[0],
        layers=(0, member.shape[1]),
        recorded_layers=member.shape[1],
        columns=member.shape[2],
        experts=beside.shape[2],
        dtype=member.dtype,
    )


def route_rows(key: str, values: Array) -> Array:
    """Return rows of ``expert.used`` or ``expert.weights`` as they are stored.

    Raises:
        TraceError: of another type.
    """
    if values.dtype.kind not in ("iu" if key == USED else "f"):
        wanted = f"integers, {NONE} for none" if key == USED else "floats, 0 for none"
        raise TraceError(f"{key} is {values.dtype}: append {wanted}")
    checked = checked_rows(key, key, values, NONE)
    return checked if key == USED else checked.astype(np.promote_types(values.dtype, np.float16))


def sets_of(used: NDArray[np.uint16], experts: int) -> NDArray[np.bool_]:
    """Return bool[..., experts] of ids [..., k], some of which may be `NONE`."""
    sets = np.zeros((*used.shape[:-1], experts + 1), np.bool_)
    np.put_along_axis(sets, np.minimum(used, experts).astype(np.int64), True, axis=-1)
    return sets[..., :experts]


def packed_sets(used: NDArray[np.uint16], experts: int) -> NDArray[np.uint64]:
    """Return uint64[..., words] of ids [..., k]."""
    return pack_sets(sets_of(used, experts))


def raised(
    scores: NDArray[np.float32], used: NDArray[np.uint16], closed: float, precision: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return scores whose best are the experts used, where ties or rounding hid that.

    Where a token uses fewer experts than there are columns, no other one is a candidate.

    Args:
        scores: float32[tokens, layers, experts].
        used: uint16[tokens, layers, k].
        closed: score of what is no candidate.
        precision: relative difference that rounding may have made.

    Returns:
        The scores, and bool[tokens, layers], where used experts are not the best ones.
    """
    sets = sets_of(used, scores.shape[-1])
    least = np.where(sets, scores, np.inf).min(axis=-1)
    best_other = np.where(sets, -np.inf, scores).max(axis=-1)
    hidden = least <= best_other
    fewer = (used == NONE).any(axis=-1)
    if not hidden.any() and not fewer.any():
        return scores, hidden
    with np.errstate(invalid="ignore"):
        rounding = precision * np.maximum(np.abs(least), np.abs(best_other))
        wrong = hidden & ~fewer & ~((best_other - least <= rounding) | (best_other == least))
    above = np.nextafter(best_other, np.float32(np.inf), dtype=np.float32)[..., None]
    raise_to = sets & hidden[..., None] & ~fewer[..., None] & (scores < above)
    scores = np.where(raise_to, above, scores)
    return np.where(fewer[..., None] & ~sets, np.float32(closed), scores), wrong
