"""Division of DRAM: static weights, KV, staging and overhead first; what remains is cache.

``even`` shares the cache so that every group of every layer holds an equal fraction of its units
(the division of the DIP paper), ``equal`` so that each has as many bytes. allocate.py finds the
fastest division.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import BudgetError
from dipsim.replay.contender import CapacityByRow
from dipsim.units import BYTES
from dipsim.views import shortened


class GroupSize(NamedTuple):
    """Units of a group, and their bytes in every layer."""

    units: NDArray[np.int64]
    """[layers]"""
    unit_bytes: NDArray[np.float64]
    """[layers]"""

    @property
    def whole(self) -> float:
        """Bytes of all units of all layers."""
        first = self.units[0]
        if (self.units == first).all():  # one product rounds once
            return float(first * self.unit_bytes.sum())
        return float((self.units * self.unit_bytes).sum())


class Static(NamedTuple):
    """Weights every token reads, in bytes of the whole model."""

    attention: float = 0.0
    norms: float = 0.0
    head: float = 0.0
    dense_parts: float = 0.0
    scales: float = 0.0
    predictors: float = 0.0

    @property
    def total(self) -> float:
        """Bytes of all static weights."""
        return float(sum(self))


@dataclass(frozen=True)
class Budget:
    """A division of DRAM, in bytes; capacities in units."""

    dram: float | None
    """Bytes that weights, KV and buffers may take; None when the cache was given directly."""
    static: Static
    shares: NDArray[np.float64] | None
    """Share of their static weights that each layer has, float64[layers]; None: all alike."""
    streamed: float
    """Static weights that do not fit and are read from flash for every token."""
    kv: float
    staging: float
    overhead: float
    buffer: float
    """For reads ahead; taken from the cache."""
    kv_buffer: float
    """For keys and values that come from flash."""
    kv_index: float
    """For what blocks of keys and values are chosen by."""
    aux: float
    """For hidden states of tokens that wait."""
    cache: float
    """Bytes offered to the caches; at most what the units take."""
    units_bytes: float
    """Bytes of all units of all groups."""
    capacity: NDArray[np.int64]
    """[layers, groups]"""
    start: tuple[float, float] | None = None
    """KV and cache before KV grew; None where it does not (``--kv fixed``). All else is of the time
    when it is largest."""
    beside: float = 0.0
    """Overhead and staging that come on top of ``total``: of DRAM or a cache given directly."""
    growth: CapacityByRow | None = None
    """Capacities at every row, where KV takes from the caches (``--kv grow``)."""
    learned_from: int = 0
    """Decode tokens that an optimal division was learned from: they are not measured."""

    __repr__ = shortened

    @property
    def fraction(self) -> float:
        """Share of the units' bytes that fits."""
        return self.cache / self.units_bytes if self.units_bytes else 1.0

    @property
    def total(self) -> float:
        """Bytes that weights, KV and buffers may take; of a cache given directly, those they take
        with it."""
        if self.dram is not None:
            return self.dram
        return self.static.total + self.kv_in_all + self.buffer + self.cache

    @property
    def kv_in_all(self) -> float:
        """Bytes of KV, of its index, of what it is read through from flash, and of states that
        wait."""
        return self.kv + self.kv_buffer + self.kv_index + self.aux

    def by_layer(self, size: float, layers: int) -> NDArray[np.float64]:
        """Return the bytes of each of the layers, float64[layers], whose static weights take
        ``size`` bytes in all."""
        return np.full(layers, size / layers) if self.shares is None else size * self.shares

    @property
    def fits(self) -> bool:
        """True if everything stays in DRAM once it was loaded."""
        return self.fraction >= 1 and self.streamed == 0


def divide(
    static: Static,
    groups: list[GroupSize],
    *,
    shares: NDArray[np.float64] | None = None,
    dram: float | None = None,
    cache: float | None = None,
    fraction: float | None = None,
    kv: float = 0.0,
    staging: float = 0.0,
    overhead: float = 0.0,
    equal: bool = False,
    buffer: float = 0.0,
    kv_buffer: float = 0.0,
    kv_index: float = 0.0,
    aux: float = 0.0,
) -> Budget:
    """Divide DRAM. Give one of ``dram`` (bytes for everything), ``cache`` (bytes for the caches;
    static weights are taken as resident) and ``fraction`` (of the units; likewise). ``shares`` are
    those of the layers in static weights, float64[layers]; None: all alike.

    Raises:
        BudgetError: KV and buffers alone exceed DRAM, the buffer of reads ahead the cache, or the
            fraction is not in 0..1.
    """
    units_bytes = sum(group.whole for group in groups)
    streamed = 0.0
    if fraction is not None:
        if not 0 <= fraction <= 1:
            raise BudgetError(f"cache fraction {fraction:g}: a share of the units, from 0 to 1")
        cache = fraction * units_bytes
    elif cache is None:
        assert dram is not None, "one of dram, cache and fraction"
        fixed = kv + kv_buffer + kv_index + aux + staging + overhead
        if fixed > dram:
            raise BudgetError(
                f"{BYTES.show(dram)} of DRAM cannot hold KV ({BYTES.show(kv)}), staging "
                f"({BYTES.show(staging)}) and overhead ({BYTES.show(overhead)}): "
                "give more --dram or a smaller --context"
            )
        room = dram - fixed
        streamed = max(0.0, static.total - room)
        cache = max(0.0, room - static.total)
    if buffer > cache:
        raise BudgetError(
            f"reads ahead need a buffer of {BYTES.show(buffer)}, more than the "
            f"{BYTES.show(cache)} for caches: give more, or do not --prefetch"
        )
    if buffer:
        cache, fraction = cache - buffer, None
    share = fraction if fraction is not None else cache / units_bytes if units_bytes else 1.0
    share = min(share, 1.0)
    capacity = _equal(cache, groups) if equal else _even(share, groups)
    return Budget(
        dram=dram,
        static=static,
        shares=shares,
        streamed=streamed,
        kv=kv,
        staging=staging,
        overhead=overhead,
        buffer=buffer,
        kv_buffer=kv_buffer,
        kv_index=kv_index,
        aux=aux,
        cache=min(cache, units_bytes),
        units_bytes=units_bytes,
        capacity=capacity,
    )


def _even(share: float, groups: list[GroupSize]) -> NDArray[np.int64]:
    """[layers, groups] the same fraction of every group, in whole units."""
    units = np.stack([group.units for group in groups], axis=1)
    capacity: NDArray[np.int64] = np.minimum(units, np.floor(share * units + 1e-9).astype(np.int64))
    return capacity


def _equal(cache: float, groups: list[GroupSize]) -> NDArray[np.int64]:
    """[layers, groups] as many bytes for each; what one cannot use goes to the others."""
    size = np.stack([group.unit_bytes for group in groups], axis=1)
    units = np.stack([group.units for group in groups], axis=1)
    whole = np.sort((units * size).ravel())
    # With the smallest filled, the rest share what is left of the cache.
    for filled, smallest in enumerate(whole):
        share = cache / (len(whole) - filled)
        if smallest > share:
            break
        cache -= smallest
    else:
        share = float(whole[-1])
    with np.errstate(divide="ignore", invalid="ignore"):  # layers without units take no bytes
        fill = np.where(units > 0, np.floor(share / size + 1e-9), 0)
    capacity: NDArray[np.int64] = np.minimum(fill, units).astype(np.int64)
    return capacity
