"""Keys and values that lie in flash: what reading them takes, and what hides it.

Where they are known beforehand, those of a layer are read while the layer before computes, as far
as flash has nothing else to do then. What is left is waited for. Blocks are chosen by the layer's
own queries, so all of their time is.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.run import Run
from dipsim.settings import Overlap
from dipsim.timeline.closed import Seconds, Step, idle_seconds
from dipsim.timeline.work import ratio

if TYPE_CHECKING:
    from dipsim.kv.plan import KvStep

KV_FROM_FLASH = "KV from flash", "KV blocks from flash"
"""Places of steps in which a layer waits for keys and values: known beforehand, or chosen by its
queries."""


class KvTail(NamedTuple):
    """Keys and values that tokens read from flash; float64[rows, layers]."""

    seconds: Seconds
    """Seconds of flash, whatever computes meanwhile."""
    moved: Seconds
    """Bytes; of blocks those of whole pages."""
    reads: Seconds
    rest: Seconds
    """Seconds of them in which keys and values come, after the inputs of those computed again."""
    compute: Seconds
    """Seconds of computing keys and values again."""
    of_blocks: bool = False
    """True if they are blocks that a layer's queries choose, each a read of its own."""
    extrapolated: bool = False
    """True if a read was outside the measured points of the flash curve."""

    def hidden_behind(
        self, before: Sequence[Step], layer: int, overlap: Overlap
    ) -> tuple[list[Step], Seconds]:
        """Return steps that read a layer's keys and values beside their own work, and the seconds
        that are left to wait for, float64[rows].

        Args:
            before: steps of the layer before.
        """
        waits, reading = self.seconds[:, layer], []
        if self.of_blocks:
            return [*before], waits
        for step in before:
            hidden = np.minimum(waits, idle_seconds(step, overlap))
            moved, place = self._moved(layer, hidden), self._place(layer)
            reading.append(step._replace(tail=hidden, tail_moved=moved, tail_place=place))
            waits = waits - hidden
        return reading, waits

    def steps(self, layer: int, waits: Seconds) -> Iterator[Step]:
        """Yield the steps in which a layer waits for its keys and values, and computes some again.

        Args:
            waits: float64[rows], seconds of reading them that nothing hides.
        """
        nothing = np.zeros(len(waits))
        waiting = Step(
            flash=waits,
            hit=nothing,
            miss=nothing,
            kv=nothing,
            reads=self.reads[:, layer],
            static=True,
            moved=self._moved(layer, waits),
            place=self._place(layer),
        )
        yield waiting
        # It fills the wait for the rest. While the layer before runs, compute is busy.
        beyond = self.compute[:, layer] - np.minimum(self.rest[:, layer], waits)
        if (beyond > 0).any():  # a step of its own: the wait has its overlap already
            computing = np.maximum(beyond, 0.0)
            yield waiting._replace(
                flash=nothing, hit=computing, arithmetic=computing, reads=nothing, moved=nothing
            )

    def _moved(self, layer: int, seconds: Seconds) -> Seconds:
        """Return the bytes that come in part of a layer's seconds, float64[rows]."""
        return ratio(seconds * self.moved[:, layer], self.seconds[:, layer])

    def _place(self, layer: int) -> str:
        return f"layer {layer} {KV_FROM_FLASH[self.of_blocks]}"


def kv_tail(run: Run, rows: NDArray[np.int64], step: "KvStep", flops: float) -> KvTail | None:
    """Return the keys and values that tokens read from flash; None where there are none.

    They come in one run per layer, inputs of attention first. While keys and values are computed
    from these the rest comes (KVPR, arXiv 2411.17089, section 3). Blocks that tokens choose are
    reads of their own.

    Args:
        rows: int64[rows], rows that are replayed; step: what they move.
        flops: FLOP per second of computing keys and values again.
    """
    if not step.flash_read.any():
        return None
    assert run.kv is not None, "its KV lies in flash"
    compute = step.flops / flops
    if run.kv.missed is not None:
        blocks = run.kv.missed.reads(rows, run.flash)
        return KvTail(
            seconds=blocks.seconds,
            moved=blocks.moved,
            reads=blocks.requests.astype(np.float64),
            rest=blocks.seconds,
            compute=compute,
            of_blocks=True,
            extrapolated=bool(blocks.outside.any()),
        )
    link = run.flash.sequential_bandwidth
    rest: Any = (step.in_flash - step.recomputed) * run.kv.format.position_bytes(run.kv.plan.width)
    return KvTail(
        seconds=step.flash_read / link,
        moved=step.flash_read,
        reads=run.flash.reads_in_order(step.flash_read),
        rest=rest / link,
        compute=compute,
    )
