"""Time in closed form: a token is a chain of steps, each with flash, DRAM and compute work.

Per layer: attention weights, KV and dense parts; then each group, whose mask is known only when the
step before has finished; a head step after the last layer (docs/time.md).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.settings import Overlap
from dipsim.views import shortened

RESOURCES = ("flash", "dram", "compute", "sync", "management")
FLASH, DRAM, COMPUTE, SYNC, MANAGEMENT = range(5)
Seconds = NDArray[np.float64]
_COLUMNS = (
    *("flash", "hit", "miss", "kv", "reads", "sync", "management"),
    *("moved", "copied", "arithmetic", "ahead", "ahead_moved", "tail", "tail_moved"),
)
"""Fields of a `Step` that differ from token to token."""
_AT_ONCE = 1024
"""Tokens whose steps stand side by side in closed form."""


def is_paper(overlap: Overlap) -> bool:
    """Return True for the authors' simulator: full DRAM bandwidth, no compute, no overheads."""
    return overlap.startswith("paper-")


class Step(NamedTuple):
    """One dependent piece of work; arrays are [tokens], seconds unless said otherwise."""

    flash: Seconds
    """F: reading what is not in DRAM."""
    hit: Seconds
    """E_hit: using weights that were resident."""
    miss: Seconds
    """E_miss: using weights that were just loaded."""
    kv: Seconds
    """Reading keys and values; part of E_hit, always bound by DRAM."""
    reads: Seconds
    """n: number of flash requests."""
    sync: Seconds | float = 0.0
    """Fixed cost of a layer, or of choosing a mask."""
    management: Seconds | float = 0.0
    """Copying kept misses into the cache."""
    static: bool | NDArray[np.bool_] = False
    """Known before the token starts, so in the paper's modes it does not overlap."""
    moved: Seconds | float = 0.0
    """Bytes that the flash moves in F."""
    copied: Seconds | float = 0.0
    """Bytes that are copied into the cache."""
    arithmetic: Seconds | float = 0.0
    """Part of E_hit and E_miss that arithmetic takes beyond bringing weights from DRAM."""
    ahead: Seconds | float = 0.0
    """Flash time of reads that went out early for this step."""
    ahead_moved: Seconds | float = 0.0
    """Bytes of these reads."""
    tail: Seconds | float = 0.0
    """Flash time of keys and values that are read for ``tail_place`` while this step computes, once
    its own reads are done; at most `idle_seconds`."""
    tail_moved: Seconds | float = 0.0
    """Bytes of these reads."""
    tail_place: str = ""
    """Place of the step that needs them."""
    place: str = ""
    """The place the step works on, e.g. ``"layer 3 glu"``."""
    opens_layer: bool = False
    """True for the first group of a layer: then reads for the next layer may go out."""

    def of_tokens(self, rows: slice) -> "Step":
        """Return the step of some of its tokens."""
        fields = self._asdict().items()
        cut: dict[str, Any] = {
            name: values[rows] for name, values in fields if isinstance(values, np.ndarray)
        }
        return self._replace(**cut)


class Chain(list[Step]):
    """The steps of some tokens, in order; those of a block of tokens also side by side.

    The last block is kept: it is asked for once for each overlap factor.
    """

    def __init__(self, steps: Iterable[Step]) -> None:
        super().__init__(steps)
        self._block: slice | None = None
        self._stacked: Step | None = None
        self._by_token: Step | None = None

    def stacked(self, tokens: slice) -> Any:
        """Return the steps of a block as one `Step`, whose fields are all [steps, tokens]."""
        if self._block != tokens:
            self._block, self._stacked, self._by_token = tokens, _stacked(self, tokens), None
        return self._stacked

    def by_token(self, tokens: slice) -> Any:
        """Return the same with fields [tokens, steps]."""
        stacked = self.stacked(tokens)
        if self._by_token is None:
            self._by_token = Step(*map(_turned, stacked))
        return self._by_token


def _stacked(chain: Sequence[Step], tokens: slice) -> Step:
    """Return steps as one whose fields are all [steps, tokens]."""
    width = len(chain[0].flash[tokens])
    shape = len(chain), width
    fields = dict(zip(Step._fields, zip(*chain, strict=True), strict=True))
    columns: dict[str, Any] = dict.fromkeys(_COLUMNS, np.zeros(shape))
    for name in _COLUMNS:
        values = fields[name]
        if np.ndarray not in set(map(type, values)) and not any(values):
            continue
        equal = {each for each in values if not isinstance(each, np.ndarray)}
        rows = {each: np.full(width, each) for each in equal}
        columns[name] = np.concatenate(
            [each[tokens] if isinstance(each, np.ndarray) else rows[each] for each in values],
            dtype=np.float64,
        ).reshape(shape)
    return Step(**columns, static=np.array(fields["static"])[:, None])


def each_of(stacked: Step) -> Iterator[Step]:
    """Yield the steps that stand side by side in one, whose fields are [steps, tokens] or equal for
    all."""
    fields = (
        values if isinstance(values, np.ndarray) else repeat(values, len(stacked.flash))
        for values in stacked
    )
    return map(Step._make, zip(*fields, strict=True))


def _turned(values: Any) -> Any:
    return np.ascontiguousarray(values.T) if isinstance(values, np.ndarray) else values


class Heat(NamedTuple):
    """A device that throttles: shares of its cold speed that are left, from ``after`` on."""

    after: float
    """Seconds of simulated time."""
    flash: float
    """Share of the flash's speed that is left."""
    compute: float
    """Share of the kernels' speed that is left; a CPU also reads weights that much slower."""


class Machine(NamedTuple):
    """DRAM, kernels and heat: shared by all steps of a token."""

    dram: float
    """Bytes per second for all who read or write DRAM; infinite: they never meet."""
    background: float
    """Bytes per second that other programs take of it, first of all."""
    weights: float
    """Bytes per second at which weights are used."""
    kv: float
    """Bytes per second at which keys and values are read."""
    compute_bound: bool
    """True if the kernel, not DRAM, limits the use of weights."""
    heat: Heat | None = None
    cpu: bool = False
    """True if a CPU uses the weights: its clocks, which heat lowers, also bring them from DRAM."""

    @property
    def throttled(self) -> bool:
        """True if heat slows the use of weights."""
        return self.compute_bound or self.cpu


@dataclass(frozen=True)
class Times:
    """Seconds per token, and exposed seconds per token and resource (they sum to the latency).

    Use of weights counts in full; of the flash only what it adds to that.
    """

    latency: Seconds
    exposed: NDArray[np.float64]
    """[tokens, 5] in the order of `RESOURCES`."""

    __repr__ = shortened


def used_weights(step: Step, overlap: Overlap) -> Seconds:
    """Return seconds of using weights; the paper's modes leave out those that were just loaded."""
    return step.hit if is_paper(overlap) else step.hit + step.miss


def idle_seconds(step: Step, overlap: Overlap) -> Seconds:
    """Return the seconds of a step in which it computes and nothing is read for it."""
    computing = used_weights(step, overlap) + step.kv
    if overlap in ("serial", "paper-serial"):
        return np.zeros_like(computing)
    if not is_paper(overlap):
        computing = computing + step.sync + step.management
    return np.maximum(computing - step.flash - step.ahead, 0.0)


def hidden_seconds(step: Step, overlap: Overlap, a: float | Seconds) -> Seconds:
    """Return the seconds of using a step's weights and KV that hide behind its flash reads.

    Args:
        a: overlap factor, 0 to 1; arrays broadcast against those of the step.
    """
    resident = step.hit + step.kv
    if overlap in ("serial", "paper-serial"):
        return np.zeros_like(resident)
    if overlap == "paper-concurrent":
        return np.where(step.static, 0.0, np.minimum(step.flash, resident))
    behind = step.miss * (1 - 1 / np.maximum(step.reads, 1.0))
    # Without reads only a copy from the page cache is left of the flash time: nothing hides it.
    return np.where(step.reads > 0, a * np.minimum(step.flash, resident + behind), 0.0)


def token_times(
    steps: Iterable[Step], tokens: int, overlap: Overlap, a: float, compute_bound: bool
) -> Times:
    """Add up the steps of every token.

    Args:
        tokens: how many tokens the arrays of each step hold.
        a: overlap factor of `pipelined`, 0 (nothing hidden) to 1 (all that can be).
        compute_bound: whether using weights is limited by the kernel rather than by DRAM.
    """
    chain = steps if isinstance(steps, Chain) else Chain(steps)
    blocks = [slice(first, first + _AT_ONCE) for first in range(0, tokens, _AT_ONCE)]
    spent = [_spent(chain.stacked(block), overlap, a, compute_bound) for block in blocks]
    exposed = np.ascontiguousarray(np.concatenate(spent, axis=1).T)
    return Times(exposed.sum(axis=1), exposed)


def _spent(step: Any, overlap: Overlap, a: float, compute_bound: bool) -> Seconds:
    """Return the exposed seconds of stacked steps, [5, tokens]."""
    paper = is_paper(overlap)
    brought = used_weights(step, overlap) - step.arithmetic
    computed = compute_bound and not paper
    spent = np.zeros((len(RESOURCES), step.flash.shape[1]))
    spent[FLASH] = _one_by_one(step.flash - hidden_seconds(step, overlap, a))
    spent[DRAM] = _one_by_one(step.kv) if computed else _one_by_one(brought, step.kv)
    if computed:
        spent[COMPUTE] = _one_by_one(brought, step.arithmetic)
    else:
        spent[COMPUTE] = _one_by_one(step.arithmetic)
    if not paper:
        spent[SYNC], spent[MANAGEMENT] = _one_by_one(step.sync), _one_by_one(step.management)
    return spent


def _one_by_one(*seconds: Any) -> Any:
    """Return the sums of each token, float64[tokens], added up step by step and in each step in
    the order given.

    Args:
        seconds: float64[steps, tokens] each.
    """
    terms = np.stack(seconds, axis=1).reshape(-1, seconds[0].shape[1])
    if terms.shape[1] > 1:
        return terms.sum(axis=0)
    return np.cumsum(terms, axis=0)[-1]  # of a single column `sum` would add up pairs
