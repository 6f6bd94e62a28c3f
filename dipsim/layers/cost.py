"""Bytes that tokens read and write when they skip layers: weights, and the KV of skipped layers.

Pure functions of the modes. What becomes of the keys and values of a layer that a token skips is a
choice of its own: they are projected all the same (``project``), missing (``hole``), or those of
the layer below (``copy``).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dipsim.layers.contract import LayerError
from dipsim.model import Model
from dipsim.trace import Tokens
from dipsim.trace.decisions import FULL, PARTIAL, SKIP

SkipKv = Literal["project", "hole", "copy"]
SKIP_KV: tuple[SkipKv, ...] = get_args(SkipKv)


@dataclass(frozen=True)
class LayerBytes:
    """Bytes of the weights of a model's layers, all alike."""

    attention: float
    """Bytes of q, k, v and o of a layer."""
    projection: float
    """Bytes of k and v of a layer, which are among them."""
    mlp: float
    head: float
    """Bytes of lm_head, which every token reads."""
    partial: float = 1.0
    """Share of its bytes that a partial layer reads."""

    @property
    def layer(self) -> float:
        """Bytes of a whole layer."""
        return self.attention + self.mlp

    @classmethod
    def of(cls, model: Model, partial_bits: float | None = None) -> "LayerBytes":
        """Return the bytes of a model whose tokens use all of each MLP.

        Args:
            model: without experts.
            partial_bits: bits per weight, scales included, of partial layers; default: as stored.

        Raises:
            LayerError: more bits than the weights have, or none.
        """
        stored = 8 * model.bytes_per_weight
        bits = stored if partial_bits is None else partial_bits
        if not 0 < bits <= stored:
            raise LayerError(
                f"partial bits {bits:g}: give more than 0 and at most {stored:g}, the model's own"
            )
        return cls(
            attention=model.attention_bytes,
            projection=model.matrix_bytes("k") + model.matrix_bytes("v"),
            mlp=model.mlp_bytes,
            head=model.head_bytes,
            partial=bits / stored,
        )


def parts_of(modes: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the modes of attention and of the MLP, each uint8 of the shape of ``modes``."""
    return modes % 4, modes // 4


def weight_bytes(
    modes: NDArray[np.uint8], sizes: LayerBytes, skip_kv: SkipKv = "hole"
) -> NDArray[np.float64]:
    """Return the bytes of weights that each token uses, float64[tokens], lm_head included.

    Args:
        modes: uint8[tokens, layers], attention + 4 x MLP.
        sizes: of the model's layers.
        skip_kv: ``project`` reads W_k and W_v of skipped attention too.

    Raises:
        LayerError: no such choice.
    """
    _check(skip_kv)
    share = np.zeros(FULL + 1)
    share[[SKIP, PARTIAL, FULL]] = 0.0, sizes.partial, 1.0
    attention, mlp = parts_of(modes)
    layers = share[attention] * sizes.attention + share[mlp] * sizes.mlp
    if skip_kv == "project":
        layers += (attention == SKIP) * sizes.projection
    total: NDArray[np.float64] = layers.sum(axis=1) + sizes.head
    return total


def kv_written(modes: NDArray[np.uint8], skip_kv: SkipKv) -> NDArray[np.int64]:
    """Return the layers in which each token leaves keys and values, int64[tokens].

    A copy takes as much room as keys and values of its own.

    Raises:
        LayerError: no such choice.
    """
    written: NDArray[np.int64] = _present(modes, skip_kv).sum(axis=1, dtype=np.int64)
    return written


def kv_read(modes: NDArray[np.uint8], rows: Tokens, skip_kv: SkipKv) -> NDArray[np.int64]:
    """Return the positions that each token's attention reads, over all layers, int64[tokens]; the
    arguments are those of `positions_read`."""
    total: NDArray[np.int64] = positions_read(modes, rows, skip_kv).sum(axis=1)
    return total


def positions_read(modes: NDArray[np.uint8], rows: Tokens, skip_kv: SkipKv) -> NDArray[np.int64]:
    """Return the positions that each token's attention reads in each layer, int64[tokens, layers].

    A token that skips a layer's attention reads none there; its own position counts.

    Args:
        modes: uint8[tokens, layers].
        rows: the tokens; earlier positions than the first of a sequence here count as present.
        skip_kv: see `SkipKv`.

    Raises:
        LayerError: no such choice.
    """
    runs = parts_of(modes)[0] != SKIP
    missing = positions_missing(modes, rows, skip_kv)
    read: NDArray[np.int64] = (rows.position[:, None] + 1 - missing) * runs
    return read


def positions_missing(modes: NDArray[np.uint8], rows: Tokens, skip_kv: SkipKv) -> NDArray[np.int64]:
    """Return the positions, up to each token's own, of which each layer has no keys and values,
    int64[tokens, layers]; the arguments are those of `positions_read`."""
    absent = ~_present(modes, skip_kv)
    missing = np.cumsum(absent, axis=0, dtype=np.int64)
    starts = np.flatnonzero(rows.begins_sequence())
    before = missing[starts] - absent[starts]
    of_sequence: NDArray[np.int64] = missing - np.repeat(
        before, np.diff(np.append(starts, len(rows))), axis=0
    )
    return of_sequence


def _present(modes: NDArray[np.uint8], skip_kv: SkipKv) -> NDArray[np.bool_]:
    _check(skip_kv)
    runs: NDArray[np.bool_] = parts_of(modes)[0] != SKIP
    return runs if skip_kv == "hole" else np.ones_like(runs)


def _check(skip_kv: str) -> None:
    if skip_kv not in SKIP_KV:
        raise LayerError(f"skip-kv {skip_kv!r}: give one of {', '.join(SKIP_KV)}")
