"""Work of the cases: its time per token by dipsim's rules, for given device parameters.

The rules are those of every run: `rates` for the use of weights, `FlashCost` for reads,
`token_times` for the sum of flash, DRAM and compute.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dipsim.flash.cost import FlashCost
from dipsim.hardware import Backend, Profile
from dipsim.model import Model, Quant
from dipsim.timeline.closed import Step, token_times
from dipsim.timeline.steps import Rates, rates_of

PAGE = 4096
"""Bytes that a page fault brings in."""
_FORMAT = "weights"


class DeviceParameter(NamedTuple):
    """A number of a device that is fitted; ``log`` for a search on a logarithmic scale."""

    name: str
    unit: str
    low: float
    high: float
    log: bool


RATE = DeviceParameter("gemv", "GB/s", 0.05, 2000.0, True)
OVERLAP = DeviceParameter("overlap_factor", "", 0.0, 1.0, False)
SHARE = DeviceParameter("dram_efficiency", "", 0.01, 1.0, True)
FAULT = DeviceParameter("page fault", "us", 0.1, 1e5, True)


Values = Mapping[str, float]
"""Values of parameters by name, in their units."""


class Work(Protocol):
    """The work of a case's tokens."""

    @property
    def parameters(self) -> tuple[DeviceParameter, ...]:
        """Parameters of the device that the case does not state."""
        ...

    def seconds(self, values: Values) -> float:
        """Return the seconds per token with these values of the parameters."""
        ...


def using(backend: Backend, rate: float) -> tuple[Backend, Model]:
    """Return the backend with a rate of ``rate`` weight bytes/s, and a model.

    Nothing matters of the model but its weight format, the one that the rate is stated for.
    """
    return backend.model_copy(update={"gemv": {_FORMAT: rate}}), _model()


@cache
def _model() -> Model:
    quant = Quant(format=_FORMAT, bits=4)
    sizes = dict.fromkeys(("layers", "hidden", "intermediate", "heads", "kv_heads", "vocab"), 1)
    return Model.model_validate({**sizes, "head_dim": 1, "quant": quant})


def one(value: float) -> NDArray[np.float64]:
    """Return the array of a step for a single token."""
    return np.array([value])


@dataclass(frozen=True)
class Streaming:
    """Experts read from flash: equal layers, each of static weights and one group.

    A cost per layer is not fitted: cases of one model cannot tell it from the rate of use.
    """

    device: Profile
    layers: float
    dense: float
    """Bytes of static weights that a token uses."""
    touched: float
    """Bytes of experts that a token uses."""
    missed: float
    """Bytes of experts that come from flash."""
    read: float
    """Bytes of one read request."""
    overlap: Literal["serial", "pipelined"] = "serial"

    @property
    def parameters(self) -> tuple[DeviceParameter, ...]:
        """Fitted parameters; without overlap a run tells nothing about the overlap factor."""
        return (RATE, OVERLAP) if self.overlap == "pipelined" else (RATE,)

    @cached_property
    def _reads(self) -> float:
        """Read requests per layer."""
        return self.missed / self.layers / self.read

    @cached_property
    def _flash(self) -> float:
        """Seconds of flash per layer."""
        cost = FlashCost(self.device.flash)
        per_read = cost.seconds(cost.pages(one(self.read)), max(1, round(self._reads)))
        return self._reads * float(per_read[0])

    def seconds(self, values: Values) -> float:
        """Return the seconds per token at a rate of use and an overlap factor."""
        name, backend = self.device.backend()
        engine, model = using(backend, values[RATE.name] * 1e9)
        rate = rates_of(self.device, name, engine, model, self.overlap)
        per_layer = 1 / self.layers / rate.weights
        nothing = one(0.0)
        static = Step(nothing, one(self.dense * per_layer), nothing, nothing, nothing, static=True)
        group = Step(
            flash=one(self._flash),
            hit=one((self.touched - self.missed) * per_layer),
            miss=one(self.missed * per_layer),
            kv=nothing,
            reads=one(max(1.0, self._reads)),
            sync=backend.sync,
            management=self.missed / self.layers / backend.cache_copy,
        )
        a = values.get(OVERLAP.name, 0.0)
        return self.layers * _latency([static, group], self.overlap, a, rate)


@dataclass(frozen=True)
class Resident:
    """A token with all weights in memory: bytes over the bandwidth that the backend reaches."""

    device: Profile
    size: float
    """Bytes that a token uses."""
    parameters: ClassVar[tuple[DeviceParameter, ...]] = (SHARE,)

    def seconds(self, values: Values) -> float:
        """Return the seconds per token at a share of the peak."""
        name, backend = self.device.backend()
        engine = backend.model_copy(update={"dram_efficiency": values[SHARE.name]})
        rate = rates_of(self.device, name, engine, None, "serial")
        nothing = one(0.0)
        used = one(self.size / rate.weights)
        step = Step(nothing, used, nothing, nothing, nothing, static=True)
        return _latency([step], "serial", 0.0, rate)


@dataclass(frozen=True)
class Faulting:
    """Weights that page faults bring in as they are touched, then used at DRAM's rate."""

    device: Profile
    size: float
    """Bytes that a token uses."""
    faulted: float
    """Bytes that page faults bring in."""
    parameters: ClassVar[tuple[DeviceParameter, ...]] = (FAULT,)

    def seconds(self, values: Values) -> float:
        """Return the seconds per token at a cost of a page fault (microseconds)."""
        name, backend = self.device.backend()
        rate = rates_of(self.device, name, backend, None, "serial")
        faults = self.faulted / PAGE
        waited, used = faults * values[FAULT.name] * 1e-6, self.size / rate.weights
        step = Step(one(waited), one(used), one(0.0), one(0.0), one(faults))
        return _latency([step], "serial", 0.0, rate)


@dataclass(frozen=True)
class SequentialReads:
    """A token that reads all weights from flash in order; nothing is fitted."""

    device: Profile
    size: float
    """Bytes that a token reads."""
    parameters: ClassVar[tuple[DeviceParameter, ...]] = ()

    def seconds(self, values: Values) -> float:
        """Return the seconds per token."""
        return self.size / FlashCost(self.device.flash).sequential_bandwidth


def _latency(
    steps: Sequence[Step], overlap: Literal["serial", "pipelined"], a: float, rate: Rates
) -> float:
    return float(token_times(steps, 1, overlap, a, rate.compute_bound).latency[0])
