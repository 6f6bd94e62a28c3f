"""Keys and values that each token moves, per layer: held, read, written, computed again.

A plan is a pure function of the number of tokens before a token, so any part of a run can be asked
for alone. Oldest positions lie in flash, in one run per layer, newest ones in DRAM.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import BudgetError
from dipsim.kv.bits import FP16, KvFormat
from dipsim.kv.split import Recompute
from dipsim.model import Model

When = Literal["token", "prompt", "both"]
"""Times at which positions over the budget are dropped: at each token, or of the prompt in one go,
growing after it, or both."""
ALL = 2**40
"""Positions of a layer without a budget: more than any sequence has."""


class KvStep(NamedTuple):
    """Keys and values of decoded tokens, each float64 or int64[tokens, layers]."""

    held: NDArray[np.int64]
    """Positions that a token attends to, its own not among them."""
    in_flash: NDArray[np.int64]
    """Those of them that lie in flash: the oldest, or blocks that were chosen."""
    recomputed: NDArray[np.int64]
    """The oldest of those, which are computed again from the inputs of attention."""
    read: NDArray[np.float64]
    """Bytes that attention reads from DRAM: what was there, and what has come from flash."""
    flash_read: NDArray[np.float64]
    """Bytes that come from flash: in one run, known beforehand, or of blocks that were chosen."""
    written: NDArray[np.float64]
    """Bytes that compute writes to DRAM: the token's own, and those computed again. What flash
    writes there is apart."""
    flash_written: NDArray[np.float64]
    """Bytes that leave DRAM for flash, before they fill pages (offload.py)."""
    flops: NDArray[np.float64]
    """FLOP of computing keys and values again."""


@dataclass(frozen=True)
class KvPlan:
    """Plan for the keys and values of a model; by default all are kept, in fp16, in DRAM."""

    model: Model
    format: KvFormat = FP16
    budget: int | NDArray[np.int64] | None = None
    """Positions that a layer holds between tokens, or int64[layers]; None for all."""
    when: When = "token"
    prompt: int = 0
    """Tokens of the prompt, which is dense unless ``when`` is ``token``."""
    resident: int | NDArray[np.int64] | None = None
    """Newest positions of a layer that stay in DRAM, the others lying in flash; None for all."""
    recompute: Recompute | int | None = None
    """Number of those in flash that are computed again: as many as takes least time, at the bytes
    of the format, or so many."""
    value_reads: int = 1
    """Times that attention reads values: 2 where a rule of eviction scores them with its output."""
    every: int = 1
    """Positions by which a layer outgrows its budget before it is cut back to it."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            BudgetError: a budget or residents that are too few.
        """
        budgets = self._budgets
        if budgets.shape != (self.model.layers,):
            raise BudgetError(
                f"KV budgets of shape {budgets.shape}: give one, or one for each of the "
                f"{self.model.layers} layers"
            )
        if np.any(budgets < 1):
            raise BudgetError(
                f"a KV budget of {budgets.min()} positions: give at least 1 for each layer"
            )
        if isinstance(self.recompute, int) and self.recompute < 0:
            raise BudgetError(f"{self.recompute} positions to compute again: give 0 or more")
        if self.resident is not None and np.any(np.less(self.resident, self.format.newest)):
            raise BudgetError(
                f"{np.min(self.resident)} positions of KV in DRAM: give at least "
                f"{self.format.newest}, as {self.format.name} quantises older ones only"
            )

    @property
    def width(self) -> int:
        """Keys of one position of a layer."""
        return self.model.kv_heads * self.model.head_dim

    @cached_property
    def _budgets(self) -> NDArray[np.int64]:
        budget = ALL if self.budget is None else self.budget
        budgets = np.asarray(budget, np.int64)
        return np.full(self.model.layers, budget, np.int64) if budgets.ndim == 0 else budgets

    @cached_property
    def _windows(self) -> NDArray[np.int64]:
        """Positions that each layer attends to, int64[layers]."""
        return np.minimum(self.model.layer_windows, ALL).astype(np.int64)

    def held(self, before: NDArray[Any] | int) -> NDArray[np.int64]:
        """Return the positions each layer holds after ``before`` tokens.

        Args:
            before: int64[tokens], tokens before each token.

        Returns:
            int64[tokens, layers].
        """
        tokens = np.atleast_1d(np.asarray(before, np.int64))[:, None]
        budgets = self._budgets
        if self.when != "token":
            after = np.maximum(tokens - self.prompt, 0)
            cut = np.minimum(self.prompt, budgets) + after
            held = np.where(tokens < self.prompt, tokens, cut)
            if self.when == "both":
                held = np.where(after > 0, self._cut(held), held)
        else:
            held = self._cut(tokens)
        return np.minimum(held, self._windows)

    def _cut(self, grown: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return what is left of positions that grew to so many, int64[tokens, layers]: a budget,
        and fewer than ``every`` beyond it."""
        beyond = grown - self._budgets
        cut: NDArray[np.int64] = np.where(
            beyond < self.every, grown, self._budgets + beyond % self.every
        )
        return cut

    def most_dram_bytes(self, context: int, present: NDArray[np.int64] | None = None) -> float:
        """Return the most bytes of DRAM that hold keys and values after up to ``context`` tokens,
        but for a prompt that is being cut.

        Args:
            present: int64[layers], positions that a layer has at most; None for all.
        """
        before_cuts = np.append(np.unique(self._budgets), self.prompt) + self.every - 1
        held = self.held(np.minimum(np.append(before_cuts, context), context)).max(0)
        if present is not None:
            held = np.minimum(held, present)
        return float(self._in_dram(self.format.fullest(held)).max(0).sum())

    def _in_flash(self, held: NDArray[np.int64]) -> NDArray[np.int64]:
        resident = ALL if self.resident is None else self.resident
        in_flash: NDArray[np.int64] = np.maximum(held - resident, 0)
        return in_flash

    def dram_bytes(
        self, before: NDArray[Any] | int, present: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """Return the bytes of DRAM that hold keys and values after ``before`` tokens, of all
        layers, float64[tokens].

        Args:
            before: int64[tokens].
            present: int64[..., layers], positions that are there at most; None for all.
        """
        held = self.held(before)
        if present is not None:
            held = np.minimum(held, present)
        total: NDArray[np.float64] = self._in_dram(held).sum(1)
        return total

    def _in_dram(self, held: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the bytes of DRAM of layers that hold so many positions, float64 of their
        shape."""
        flash = self._in_flash(held) * self.format.position_bytes(self.width)
        in_dram: NDArray[np.float64] = self.format.bytes(held, self.width) - flash
        return in_dram

    def flash_bytes(self, before: NDArray[Any] | int) -> NDArray[np.float64]:
        """Return the bytes of flash that hold keys, values and inputs after ``before`` tokens, of
        all layers, float64[tokens]."""
        in_flash = self._in_flash(self.held(before))
        kv, inputs = self._stored(in_flash)
        total: NDArray[np.float64] = (
            kv * self.format.position_bytes(self.width) + inputs * self._input_bytes
        ).sum(1)
        return total

    def buffer_bytes(self, before: NDArray[Any] | int) -> NDArray[np.float64]:
        """Return the bytes of two layers' reads from flash: one is used while the next arrives,
        float64[tokens]."""
        buffers: NDArray[np.float64] = 2 * self.step(before).flash_read.max(1)
        return buffers

    def prefill_peak_bytes(self, tokens: int) -> float:
        """Return the most bytes that a prompt holds: a layer's own while it is at work, whole, and
        what the layers before it keep."""
        whole = self.format.bytes(np.minimum(tokens, self._windows), self.width)
        held = self.held(tokens)
        flash = self._in_flash(held)[0] * self.format.position_bytes(self.width)
        kept = self.format.bytes(held[0], self.width) - flash
        before = np.cumsum(kept) - kept
        return float((before + whole).max())

    def step(self, before: NDArray[Any] | int, present: NDArray[np.int64] | None = None) -> KvStep:
        """Return what decoded tokens move.

        Args:
            before: int64[tokens], tokens before each token.
            present: int64[tokens, layers], positions that are there at most, where tokens or layers
                are left out; None for all.
        """
        position = self.format.position_bytes(self.width)
        tokens = np.atleast_1d(np.asarray(before, np.int64))
        held = self.held(tokens)
        if present is not None:
            held = np.minimum(held, present)
        in_flash = self._in_flash(held)
        again = self._recomputed(in_flash)
        inputs = again * self._input_bytes
        after = self._in_flash(self.held(tokens + 1))
        earlier = np.maximum(after - 1, 0)  # its own, or the oldest of DRAM, goes to flash
        kv, inputs_kept = np.subtract(self._stored(after), self._stored(earlier))
        whole = self.format.bytes(held, self.width, self.value_reads)
        fresh = 2 * self.width * 2.0 * again
        return KvStep(
            held,
            in_flash,
            again,
            read=whole + inputs,
            flash_read=inputs + (in_flash - again) * position,
            written=self.format.written(tokens + 1, self.width)[:, None] + fresh,
            flash_written=kv * position + inputs_kept * self._input_bytes,
            flops=4.0 * self.model.hidden * self.width * again.astype(np.float64),
        )

    @property
    def _input_bytes(self) -> float:
        """Bytes of the input of attention of one position."""
        return self.model.hidden * (2.0 if self._split is None else self._split.input_element)

    @cached_property
    def _split(self) -> Recompute | None:
        """The search for the best part; None where it is not asked for."""
        if not isinstance(self.recompute, Recompute):
            return None
        element = self.format.position_bytes(self.width) / (2 * self.width)
        return replace(self.recompute, element=element)

    def _recomputed(self, in_flash: NDArray[np.int64]) -> NDArray[np.int64]:
        if self._split is not None:
            return self._split.positions(in_flash)
        again = self.recompute if isinstance(self.recompute, int) else 0
        return np.minimum(in_flash, again)

    def _stored(self, in_flash: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return of how many positions flash holds keys and values, and of how many inputs.

        A number that is given lies there as inputs alone. One that grows with the sequence takes in
        positions that were read before, so flash holds both of all.
        """
        if self._split is not None:
            inputs = 0 if self._split.why_none else in_flash
            return in_flash, np.broadcast_to(inputs, in_flash.shape)
        again = self._recomputed(in_flash)
        return in_flash - again, again
