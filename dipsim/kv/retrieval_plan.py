"""Keys and values that each token moves where it reads the best blocks only, layer by layer.

How many blocks a token reads follows from the tokens before it. Which of them lie in flash depends
on what was chosen before: `dipsim.systems.blocks` replays that.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.kv.plan import ALL, KvPlan, KvStep
from dipsim.kv.retrieval import BlockBytes, Retrieval


@dataclass(frozen=True, kw_only=True)
class RetrievalPlan(KvPlan):
    """Plan for keys and values of which tokens read blocks; all positions are kept.

    ``resident`` positions of a layer are in DRAM: the newest block, and as many complete ones as
    there is room for; all blocks lie in flash then, written once as they become complete.
    """

    retrieval: Retrieval

    @cached_property
    def sizes(self) -> BlockBytes:
        """Bytes of a complete block of a layer."""
        return self.retrieval.block_bytes(self.format, self.width)

    @property
    def sets(self) -> int:
        """Choices of blocks that a layer makes."""
        return self.retrieval.sets(self.model.kv_heads)

    @property
    def capacity(self) -> NDArray[np.int64]:
        """Complete blocks of each choice that DRAM holds, int64[layers]."""
        positions = np.asarray(ALL if self.resident is None else self.resident, np.int64)
        beside = np.maximum(positions // self.retrieval.block - 1, 0)
        return np.broadcast_to(beside, self.model.layers)

    def index_bytes(self, context: int) -> float:
        """Return the bytes of DRAM of what blocks are chosen by, of all layers."""
        return context // self.retrieval.block * self.sizes.chosen_by * self.model.layers

    def most_dram_bytes(self, context: int, present: NDArray[np.int64] | None = None) -> float:
        """Return the bytes of DRAM that hold keys and values after ``context`` tokens; ``present``
        is None, as no tokens and layers are left out."""
        return float(self.dram_bytes(context).max())

    def dram_bytes(
        self, before: NDArray[Any] | int, present: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """Return the bytes of DRAM that hold keys and values after ``before`` tokens, of all
        layers, float64[tokens]; what blocks are chosen by apart.

        Args:
            before: int64[tokens].
            present: None, as no tokens and layers are left out.
        """
        complete, newest = self._blocks(before)
        held = np.minimum(complete, self.capacity)
        room = np.where(held < complete, self.retrieval.block, newest)
        total: NDArray[np.float64] = (held * self.sizes.read + room * self._position).sum(axis=1)
        return total

    def flash_bytes(self, before: NDArray[Any] | int) -> NDArray[np.float64]:
        """Return the bytes of flash that hold blocks after ``before`` tokens, of all layers,
        float64[tokens]."""
        complete, _ = self._blocks(before)
        stored = 0.0 if self.resident is None else self.sizes.read * self.model.layers
        return np.asarray(complete[:, 0] * stored, np.float64)

    def buffer_bytes(self, before: NDArray[Any] | int) -> NDArray[np.float64]:
        """Return the bytes that one layer's blocks come through from flash, float64[tokens]."""
        read = 0.0 if self.resident is None else self.sizes.read
        return np.asarray(self.chosen(before) * read, np.float64)

    def chosen(self, before: NDArray[Any] | int) -> NDArray[np.int64]:
        """Return the complete blocks that a token reads of each choice, int64[tokens]."""
        complete, _ = self._blocks(before)
        return np.minimum(complete[:, 0], self.retrieval.top)

    def step(self, before: NDArray[Any] | int, present: NDArray[np.int64] | None = None) -> KvStep:
        """Return what decoded tokens move, but for what comes from flash.

        Args:
            before: int64[tokens], tokens before each token.
            present: None, as no tokens and layers are left out.
        """
        block, layers = self.retrieval.block, self.model.layers
        complete, newest = (np.repeat(each, layers, axis=1) for each in self._blocks(before))
        chosen = self.chosen(before)[:, None]
        index = complete * self.sizes.chosen_by
        born = newest == block - 1
        nothing = np.zeros(complete.shape)
        own = self.format.written(np.ravel(before) + 1, self.width)[:, None]
        centroid = self.sizes.chosen_by if self.retrieval.by == "centroid" else 0.0
        return KvStep(
            held=chosen * block + newest,
            in_flash=np.zeros_like(complete),
            recomputed=np.zeros_like(complete),
            read=index + chosen * self.sizes.read + newest * self._position,
            flash_read=nothing,
            written=own + born * centroid,
            flash_written=nothing if self.resident is None else born * self.sizes.read,
            flops=nothing,
        )

    @property
    def _position(self) -> float:
        """Bytes of a position of the newest block, in one layer."""
        return self.format.position_bytes(self.width)

    def _blocks(self, before: NDArray[Any] | int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the complete blocks after ``before`` tokens, and the positions of the newest one,
        int64[tokens, 1] each."""
        tokens = np.atleast_1d(np.asarray(before, np.int64))[:, None]
        complete, newest = np.divmod(tokens, self.retrieval.block)
        return complete, newest
