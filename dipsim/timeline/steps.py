"""From traffic to steps: who reads how many bytes from where, and at what rate."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dipsim.budget.plan import Budget
from dipsim.flash.cost import FlashCost
from dipsim.hardware import Backend, Profile
from dipsim.methods import Method
from dipsim.model import Model
from dipsim.replay.traffic import Traffic
from dipsim.settings import Overlap
from dipsim.timeline.closed import Step, is_paper
from dipsim.trace import PREFILL, Trace


@dataclass(frozen=True)
class Rates:
    """Bytes per second at which weights and KV are used."""

    weights: float
    dram: float
    flops: float
    compute_bound: bool
    """Whether ``weights`` is the kernel's limit rather than DRAM's."""
    used: tuple[str, ...]
    """Keys of the profile these rates rest on."""


def rates(
    profile: Profile, name: str, backend: Backend, model: Model | None, overlap: Overlap
) -> Rates:
    """How fast a backend uses this model's weights (DESIGN section 8).

    A ``gemv`` entry for the model's weight format is a measured rate and decides; otherwise it is
    the slower of DRAM and of 2 FLOP per weight. The paper's modes know only DRAM at its peak.
    """
    peak, at = profile.dram.bandwidth, f"backends.{name}"
    if is_paper(overlap):
        return Rates(peak, peak, np.inf, False, ("dram.bandwidth",))
    dram = backend.dram_efficiency * peak
    used: tuple[str, ...] = ("dram.bandwidth", f"{at}.dram_efficiency")
    quant = model.quant if model is not None else None
    if quant is not None and quant.format in backend.gemv:
        gemv = backend.gemv[quant.format]
        return Rates(gemv, dram, backend.compute, True, (*used, f"{at}.gemv.{quant.format}"))
    per_weight = model.bytes_per_weight if model is not None else 0.5
    kernel = backend.compute * per_weight / 2
    return Rates(min(dram, kernel), dram, backend.compute, kernel < dram, (*used, f"{at}.compute"))


@dataclass(frozen=True)
class Workload:
    """What runs, the device apart."""

    trace: Trace
    model: Model | None
    method: Method
    unit_bytes: NDArray[np.float64]
    """[layers, groups]"""
    budget: Budget
    kv_bits: float
    context: int
    """Tokens the budget holds KV for."""
    kv: Literal["grows", "average", "context"] = "grows"
    """How many positions a token reads: those before it; the average over the tokens of its
    sequence, as the DIP authors count; or always ``context``."""
    authors: bool = False
    """Whether rates and the time to the first token are the DIP authors'."""

    def kv_bytes(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """[rows] bytes of keys and values each token reads, all layers."""
        if self.model is None:
            return np.zeros(len(rows))
        positions = self.trace.position[rows].astype(np.float64)
        if self.kv == "context":
            positions[:] = self.context
        elif self.kv == "average":
            positions = self._average_positions()[rows]
        kept: NDArray[np.float64] = self.model.kv_bytes(positions, self.kv_bits)
        return kept

    def _average_positions(self) -> NDArray[np.float64]:
        """[tokens] (rows of the prompt + rows of the sequence) / 2, of the token's sequence."""
        number = np.cumsum(self.trace.begins_sequence()) - 1
        prompt = np.bincount(number, weights=self.trace.phase == PREFILL)
        average: NDArray[np.float64] = ((prompt + np.bincount(number)) / 2)[number]
        return average

    def embedding_row_bytes(self, overlap: Overlap) -> float:
        """Bytes of the token's own embedding, read from flash; the paper's modes leave it out."""
        return 0.0 if self.model is None or is_paper(overlap) else self.model.embedding_row_bytes


def steps(
    work: Workload,
    traffic: Traffic,
    rows: NDArray[np.int64],
    flash: FlashCost,
    rate: Rates,
    backend: Backend,
    overlap: Overlap,
) -> Iterator[Step]:
    """The steps of the tokens ``rows``, in the order a token takes them."""
    nothing = np.zeros(len(rows))
    layers, groups = work.unit_bytes.shape
    static = work.budget.static
    streamed = work.budget.streamed / static.total if static.total else 0.0

    def static_step(size: float, kv: NDArray[np.float64], place: str) -> Step:
        """Weights every token reads; the share that does not fit comes from flash, in order."""
        loaded = size * streamed
        return Step(
            flash=nothing + loaded / flash.sequential_bandwidth,
            hit=nothing + (size - loaded) / rate.weights,
            miss=nothing + loaded / rate.weights,
            kv=kv,
            reads=nothing + flash.reads_in_order(loaded),
            static=True,
            moved=nothing + loaded,
            place=place,
        )

    row = work.embedding_row_bytes(overlap)
    if row:
        pages = flash.pages(np.array([row]))
        yield Step(
            flash=nothing + flash.seconds(pages, 1),
            hit=nothing,
            miss=nothing,
            kv=nothing,
            reads=nothing + 1,
            static=True,
            moved=nothing + pages,
            place="embedding",
        )
    kv = work.kv_bytes(rows) / layers / rate.dram
    final_norm = static.norms / (2 * layers + 1)
    per_layer = (static.total - static.head - final_norm) / layers
    for layer in range(layers):
        yield static_step(per_layer, kv, f"layer {layer} attention")
        for group in range(groups):
            size = work.unit_bytes[layer, group]
            hits = traffic.hits[rows, layer, group]
            misses = traffic.misses[rows, layer, group]
            copied = traffic.kept[rows, layer, group] * size
            masked = work.method.groups[group].choice != "all"
            early = traffic.ahead
            yield Step(
                flash=traffic.flash_seconds[rows, layer, group],
                hit=hits * size / rate.weights,
                miss=misses * size / rate.weights,
                kv=nothing,
                reads=traffic.reads[rows, layer, group].astype(np.float64),
                sync=backend.sync if masked else 0.0,
                management=copied / backend.cache_copy,
                moved=traffic.moved[rows, layer, group],
                copied=copied,
                ahead=nothing if early is None else early.flash_seconds[rows, layer, group],
                ahead_moved=nothing if early is None else early.moved[rows, layer, group],
                place=f"layer {layer} {traffic.groups[group]}",
                opens_layer=group == 0,
            )
    yield static_step(static.head + final_norm, nothing, "head")
