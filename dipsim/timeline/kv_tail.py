"""Keys and values that lie in flash: what reading them takes, and what hides it.

They are known beforehand, so those of a layer are read while the layer before computes, as far as
flash has nothing else to do then. What is left is waited for.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dipsim.run import Run
from dipsim.settings import Overlap
from dipsim.timeline.closed import Seconds, Step, idle_seconds

if TYPE_CHECKING:
    from dipsim.kv.plan import KvStep

KV_TAIL = "KV from flash"
"""Place of a step in which a layer waits for keys and values."""


class KvTail(NamedTuple):
    """Keys and values that tokens read from flash, in one run per layer; float64[rows, layers]."""

    seconds: Seconds
    """Seconds of flash, whatever computes meanwhile."""
    reads: Seconds
    rest: Seconds
    """Seconds of them in which keys and values come, after the inputs of those computed again."""
    compute: Seconds
    """Seconds of computing keys and values again."""
    link: float
    """Bytes per second."""

    def hidden_behind(
        self, before: Sequence[Step], layer: int, overlap: Overlap
    ) -> tuple[list[Step], Seconds]:
        """Return steps that read a layer's keys and values beside their own work, and the seconds
        that are left to wait for, float64[rows].

        Args:
            before: steps of the layer before.
        """
        waits, reading, place = self.seconds[:, layer], [], _place(layer)
        for step in before:
            hidden = np.minimum(waits, idle_seconds(step, overlap))
            moved = hidden * self.link
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
            moved=waits * self.link,
            place=_place(layer),
        )
        yield waiting
        # It fills the wait for the rest. While the layer before runs, compute is busy.
        beyond = self.compute[:, layer] - np.minimum(self.rest[:, layer], waits)
        if (beyond > 0).any():  # a step of its own: the wait has its overlap already
            computing = np.maximum(beyond, 0.0)
            yield waiting._replace(
                flash=nothing, hit=computing, arithmetic=computing, reads=nothing, moved=nothing
            )


def kv_tail(run: Run, step: "KvStep", flops: float) -> KvTail | None:
    """Return the keys and values that tokens read from flash; None where there are none.

    Inputs of attention come first. While keys and values are computed from them the rest comes
    (KVPR, arXiv 2411.17089, section 3).

    Args:
        flops: FLOP per second of computing keys and values again.
    """
    if not step.flash_read.any():
        return None
    assert run.kv is not None, "its KV lies in flash"
    link = run.flash.sequential_bandwidth
    rest: Any = (step.in_flash - step.recomputed) * run.kv.format.position_bytes(run.kv.plan.width)
    return KvTail(
        seconds=step.flash_read / link,
        reads=run.flash.reads_in_order(step.flash_read),
        rest=rest / link,
        compute=step.flops / flops,
        link=link,
    )


def _place(layer: int) -> str:
    return f"layer {layer} {KV_TAIL}"
