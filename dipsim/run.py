"""A run worked out, and its replay: `Run` -> `Traffic`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.budget.divide import Budget
from dipsim.flash.cost import Costs, FlashCost, Placement
from dipsim.flash.page_cache import Paging
from dipsim.hardware import Backend, Profile
from dipsim.methods import Method
from dipsim.model import Model, weight_format
from dipsim.policies import Policy
from dipsim.replay.active_sets import ActiveSets
from dipsim.replay.contender import Capacity, Contender, measured_rows
from dipsim.replay.prefetch import Guesses
from dipsim.replay.replay import Progress, replay_policies
from dipsim.replay.traffic import Traffic
from dipsim.replay.whole import WholeCaches, count_whole
from dipsim.settings import KvRead, Settings
from dipsim.systems import NOTHING, Beside
from dipsim.trace import Outline, Tokens, Trace
from dipsim.views import shortened

if TYPE_CHECKING:
    from dipsim.layers.cost import SkipKv
    from dipsim.systems.kv import KvCache
    from dipsim.trace.steps import DecodeSteps


class StaticParts(NamedTuple):
    """Shares of the static bytes of a layer."""

    attention: float
    mlp: float
    projection: float
    """Share of keys and values, which are among attention's."""


@dataclass(frozen=True)
class Run:
    """A run worked out: everything that its replay and its timing need."""

    sets: ActiveSets
    """The sets that are replayed, of a trace under a method and settings."""
    device: Profile
    model: Model | None
    """None where the trace says what a unit takes, and nothing says more."""
    model_given: bool
    """True if it was an option of the run; otherwise the trace named it."""
    policy: Policy
    placement: Placement
    """Bytes of the units, and where they lie in flash."""
    flash: FlashCost
    costs: Costs
    """Per layer and group, what reads cost."""
    guesses: Guesses | None
    """Guesses that are read ahead; None for nothing."""
    profile_uses: Sequence[NDArray[np.int64]] | None
    """Uses on the trace of ``--static-from`` or ``--warm-from``, see `Contender`."""
    budget: Budget
    context: int
    """Tokens the budget holds KV for."""
    page_cache: Paging | None
    """The system's page cache; None with direct reads."""
    unmeasured: tuple[tuple[int, int], ...]
    """Rows (A, B) that are replayed but not measured, since something was learned from them."""
    kv_read: KvRead
    """Positions whose KV a token reads."""
    beside: Beside = NOTHING
    """Systems beside the weights."""
    draft_seconds: float = 0.0
    """Seconds of drafting that every decode step takes."""

    __repr__ = shortened

    @property
    def settings(self) -> Settings:
        """The options, with the method and the backend that their defaults came to."""
        return self.sets.settings

    @property
    def trace(self) -> Outline:
        """The part of the trace that is replayed, or the outline of a model that runs."""
        return self.sets.trace

    @property
    def without_trace(self) -> bool:
        """True for a dense model that runs without a trace."""
        return not self.trace.signals and not (isinstance(self.trace, Trace) and self.trace.arrays)

    @property
    def method(self) -> Method:
        """The method, which decides which units a token needs."""
        return self.sets.method

    @property
    def kv(self) -> "KvCache | None":
        """The KV cache; None where all positions lie in DRAM."""
        return self.beside.kv

    @property
    def steps(self) -> "DecodeSteps | None":
        """Decode steps of several tokens; None where every decode token is a step of its own."""
        return self.sets.steps

    @property
    def tokens(self) -> Tokens:
        """Phases, sequences and positions of the rows that are replayed."""
        return self.sets.tokens

    @property
    def warmup(self) -> int:
        """Decode tokens that are replayed but not measured."""
        return max(self.settings.warmup, self.budget.learned_from)

    @cached_property
    def measured(self) -> NDArray[np.bool_]:
        """[tokens] decode tokens that are measured; of steps of several, the last of each.

        Raises:
            TraceError: there are none.
        """
        name = self.trace.name
        measured = measured_rows(name, self.trace.rows, self.warmup, self.unmeasured)
        return measured if self.steps is None else self.steps.measured(name, measured)

    def given(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the tokens that the steps ending at ``rows`` give, int64[rows]."""
        return np.ones(len(rows), np.int64) if self.steps is None else self.steps.given[rows]

    def tokens_per_step(self, measured: NDArray[np.bool_]) -> float:
        """Return the mean tokens that measured steps give: 1 where each takes one token."""
        return float(self.given(np.flatnonzero(measured)).mean())

    @property
    def unit_bytes(self) -> NDArray[np.float64]:
        """[layers, groups] bytes of a unit."""
        return self.placement.unit_bytes

    @property
    def backend(self) -> Backend:
        """The engine that computes."""
        return self.device.backend(self.settings.backend)[1]

    @property
    def stored_as(self) -> str | None:
        """Format of the weights, by option, model or trace; None where nothing says it."""
        if self.model is not None and self.model.stored_as is not None:
            return self.model.stored_as
        if self.settings.weight_format is not None:
            return weight_format(self.settings.weight_format)
        return self.trace.weight_format

    @property
    def bytes_per_weight(self) -> float:
        """Stored bytes per weight, scales included; without a model those of 4 bits."""
        return 0.5 if self.model is None else self.model.bytes_per_weight

    @property
    def authors(self) -> bool:
        """True if rates and the time to the first token are the DIP authors'."""
        return self.settings.compat == "authors"

    @property
    def capacity(self) -> Capacity:
        """Capacity of the caches: units of each, or in global scope bytes."""
        budget = self.budget
        if budget.growth is not None:
            return budget.growth
        return budget.cache if self.settings.scope == "global" else budget.capacity

    @property
    def other_admission(self) -> Literal["forced", "ranked"] | None:
        """The other way the policy could admit misses; None when it has one way only."""
        policy, settings = self.policy, self.settings
        if not policy.ranks or policy.admit == "never" or settings.access != "atomic":
            return None
        usual = settings.admission or policy.admit
        return "ranked" if usual == "forced" else "forced"

    @cached_property
    def byte_share(self) -> NDArray[np.float64] | None:
        """[tokens, layers] share of their bytes that the units of a layer have for a token; None
        where they have all."""
        layers = self.beside.layers
        return None if layers is None else layers.mlp_share

    def unit_bytes_of(self, counts: NDArray[Any], rows: NDArray[np.bool_]) -> float:
        """Return the bytes of units that were counted.

        Args:
            counts: int[tokens, layers, groups].
            rows: bool[tokens], those that count.
        """
        if self.byte_share is None:
            return float((counts[rows].sum(axis=0) * self.unit_bytes).sum())
        return float(np.einsum("tlg,lg,tl->", counts[rows], self.unit_bytes, self.byte_share[rows]))

    def static_parts(self, skip_kv: "SkipKv") -> StaticParts:
        """Return the shares of a layer's static bytes that attention, MLP, and the keys and values
        of a layer that is skipped take.

        Args:
            skip_kv: `project` makes keys and values of a layer that is skipped all the same.
        """
        static, model = self.budget.static, self.model
        final_norm = static.norms / (2 * self.trace.layers + 1)
        of_attention = static.attention
        of_mlp = static.total - static.head - final_norm - of_attention
        whole = of_attention + of_mlp
        if model is None or not whole:
            return StaticParts(0.0, 1.0, 0.0)
        projection = model.layers * (model.matrix_bytes("k") + model.matrix_bytes("v"))
        return StaticParts(
            attention=of_attention / whole,
            mlp=of_mlp / whole,
            projection=min(projection, of_attention) / whole if skip_kv == "project" else 0.0,
        )

    @property
    def loads(self) -> bool:
        """True if the caches start with units that were used elsewhere."""
        return self.policy.preload or self.settings.warm_from is not None

    @property
    def first_content(self) -> float:
        """Bytes in the caches before the first token."""
        if not self.loads:
            return 0.0
        share = self.policy.loaded_share
        if self.settings.scope == "global":
            return share * self.budget.cache
        return float((np.floor(share * self.budget.capacity + 1e-9) * self.unit_bytes).sum())

    def contender(self, keep_missed: bool = False) -> Contender:
        """Return what takes part in a replay: the run's policy and caches."""
        return Contender(
            policy=self.policy,
            capacities=[self.capacity],
            settings=self.settings,
            measured=self.measured,
            unit_bytes=self.unit_bytes,
            costs=self.costs,
            profile_uses=self.profile_uses,
            warmup=self.warmup,
            guesses=self.guesses,
            keep_missed=keep_missed or self.page_cache is not None,
        )


def replay(
    run: Run,
    progress: Progress | None = None,
    *,
    threads: int | None = None,
    keep_missed: bool = False,
) -> Traffic:
    """Count what a run does: its misses, and what their reads cost.

    Args:
        progress: called with (tokens done, tokens).
        threads: caches replayed at a time; changes no count.
        keep_missed: hand on which units were missed (`Traffic.missed`).

    Raises:
        DipsimError: bad scores, or a policy that cannot do what is asked of it, in one line.
    """
    return replay_beside(run, (), progress, threads=threads, keep_missed=keep_missed)[0]


def replay_beside(
    run: Run,
    others: Sequence[Contender],
    progress: Progress | None = None,
    *,
    most: int | None = None,
    threads: int | None = None,
    keep_missed: bool = False,
) -> tuple[Traffic, list[list[Traffic] | None]]:
    """Count what a run does, and other contenders on the same sets, in one pass over the trace.

    Args:
        most: see `replay_policies`; the other arguments as of `replay`.

    Returns:
        The traffic of the run, and per contender one for each of its capacities.
    """
    if run.without_trace:
        return behind_page_cache(run, count_dense(run, run.measured, loaded=True)), []
    first, *rest = replay_policies(
        run.sets,
        [run.contender(keep_missed), *others],
        plain=True,
        most=most,
        threads=threads,
        progress=progress,
    )
    assert first is not None, "the run itself is not optional"
    beside = [
        None if counts is None else [behind_page_cache(run, traffic) for traffic in counts]
        for counts in rest
    ]
    return behind_page_cache(run, first[0]), beside


def count_dense(run: Run, measured: NDArray[np.bool_], *, loaded: bool = False) -> Traffic:
    """Return the counts of a run of which every token needs every unit.

    Args:
        measured: [tokens] decode tokens that are measured.
        loaded: the caches are full before the first token, unless the policy keeps nothing.
    """
    keeps_missed = run.page_cache is not None
    capacity = run.budget.growth or run.budget.capacity
    if loaded and run.policy.admit == "never" and not run.policy.preload:
        capacity = np.zeros_like(run.budget.capacity)
    caches = WholeCaches(capacity, run.costs, loaded=loaded, keeps_missed=keeps_missed)
    return count_whole(run.sets, caches, measured)


def behind_page_cache(run: Run, traffic: Traffic) -> Traffic:
    """Return the traffic with what the system's page cache makes of its misses, and where layers
    run in part, with the bytes of that part."""
    paging = run.page_cache
    if run.byte_share is not None:
        share = run.byte_share[:, :, None]
        traffic = replace(
            traffic, moved=traffic.moved * share, flash_seconds=traffic.flash_seconds * share
        )
    if paging is None:
        return traffic
    assert traffic.missed is not None, "a replay that keeps what was missed"
    serve = paging.serve_warm if run.without_trace else paging.serve
    served = serve(traffic.missed, *run.sets.rows, run.costs)
    traffic = replace(
        traffic,
        reads=served.requests,
        moved=served.moved,
        flash_seconds=served.seconds,
        missed=None,
    )
    if paging.io == "mmap":  # what is mapped is used where it lies
        return replace(traffic, hits=(traffic.active - served.read).astype(np.int32))
    copied = traffic.misses - served.read
    return replace(
        traffic,
        outside=served.outside,
        flash_seconds=served.seconds + copied * run.unit_bytes / paging.copy,
        copied=copied,
    )
