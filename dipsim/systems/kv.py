"""The KV cache of a run: what each token holds, reads and writes of it (kv/plan.py), sequence by
sequence, as their prompts differ."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import BudgetError, ModelError, brief
from dipsim.kv.bits import KvFormat, parse_format, plain
from dipsim.kv.eviction import Eviction, plan_eviction
from dipsim.kv.plan import KvPlan, KvStep
from dipsim.kv.retrieval import parse_fetch
from dipsim.kv.retrieval_plan import RetrievalPlan
from dipsim.kv.rules import load_rule
from dipsim.kv.share import mean_budget
from dipsim.kv.split import Recompute
from dipsim.model import Model
from dipsim.option import flag
from dipsim.settings import Settings
from dipsim.systems.blocks import MissedBlocks, check_fetch, check_room, miss_blocks
from dipsim.systems.layers import SkippedLayers
from dipsim.systems.speeds import Speeds
from dipsim.systems.tokens import PrunedTokens
from dipsim.trace import Outline, Tokens
from dipsim.units import BYTES, parse_share

ALL_IN_DRAM = ("100%", "all")
"""Texts of ``--kv-dram`` that leave nothing to flash."""
Plan = TypeVar("Plan", bound=KvPlan)


@dataclass(frozen=True)
class KvCache:
    """The KV cache of a run that is more than all positions in DRAM."""

    tokens: Tokens
    plans: tuple[KvPlan, ...]
    """One for each length of a prompt."""
    of_row: NDArray[np.int64]
    """[tokens] the plan of each row's sequence."""
    eviction: Eviction | None
    """The rule of the longest prompt; None where nothing is evicted."""
    context: int
    """Tokens the budget holds KV for."""
    present: NDArray[np.int64] | None = None
    """[tokens, layers] positions that a token may read, where tokens or layers are left out."""
    most_bytes: float = np.inf
    """Most bytes of keys and values there are in DRAM, where tokens are left out."""
    written: NDArray[np.int64] | None = None
    """[tokens, layers] positions that a token writes; None for one."""
    missing: NDArray[np.int64] | None = None
    """[tokens, layers] positions, up to a token's own, that a layer lacks; None for none."""
    asked: str | None = None
    """The budget as it was asked for."""
    missed: MissedBlocks | None = None
    """Blocks that tokens read from flash, where they read the best blocks only; None where no block
    lies there alone."""

    @property
    def plan(self) -> KvPlan:
        """The plan of the longest prompt."""
        return self.plans[-1]

    @property
    def fetching(self) -> RetrievalPlan | None:
        """The plan where tokens read the best blocks only; None where they read all positions."""
        return self.plan if isinstance(self.plan, RetrievalPlan) else None

    @property
    def format(self) -> KvFormat:
        """Storage of keys and values."""
        return self.plan.format

    @property
    def why_no_recompute(self) -> str | None:
        """Sentence on why nothing is computed again although that was asked for; None elsewhere."""
        recompute = self.plan.recompute
        return recompute.why_none if isinstance(recompute, Recompute) else None

    @cached_property
    def dram_bytes(self) -> float:
        """Most bytes of DRAM that keys and values take: at the context, or while a prompt runs."""
        most = max(self._most(number, plan) for number, plan in enumerate(self.plans))
        return min(most, self.most_bytes)

    def _most(self, number: int, plan: KvPlan) -> float:
        if self.missing is None:
            grown = plan.most_dram_bytes(self.context)
        else:
            ends = np.flatnonzero(np.append(self.tokens.begins_sequence()[1:], True))
            ends = ends[self.of_row[ends] == number]
            lengths = np.maximum(self.tokens.position[ends] + 1, self.context)
            present = lengths[:, None] - self.missing[ends]
            grown = max(plan.most_dram_bytes(self.context, each) for each in present)
        prompt = min(plan.prompt, self.context)
        return max(grown, plan.prefill_peak_bytes(prompt)) if self._cuts(plan) else grown

    def _cuts(self, plan: KvPlan) -> bool:
        """Return whether a prompt is cut in one go, so that it is whole before."""
        return self.eviction is not None and plan.when != "token" and plan.prompt > 0

    @cached_property
    def buffer_bytes(self) -> float:
        """Bytes that two layers' reads from flash go through."""
        return max(float(plan.buffer_bytes(self.context)[0]) for plan in self.plans)

    @property
    def clairvoyant(self) -> bool:
        """True if blocks stay in DRAM by what later tokens will read."""
        return self.missed is not None and self.missed.clairvoyant

    @property
    def index_bytes(self) -> float:
        """Bytes of DRAM of what blocks are chosen by."""
        return 0.0 if self.fetching is None else self.fetching.index_bytes(self.context)

    def block_figures(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """Return the blocks that a token of these rows reads beside the newest, a layer and choice,
        and the share of them that is in DRAM; None where it reads all positions, or no block."""
        plan = self.fetching
        if plan is None:
            return {"fetch": None, "blocks": None, "block_hit_rate": None}
        chosen = plan.chosen(self.tokens.position[rows])
        total = int(chosen.sum()) * plan.model.layers * plan.sets
        misses = 0 if self.missed is None else int(self.missed.counts(rows).sum())
        return {
            "fetch": str(plan.retrieval),
            "blocks": float(chosen.mean()),
            "block_hit_rate": 1 - misses / total if total else None,
        }

    def held_bytes(self, rows: NDArray[np.int64], before: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the bytes of DRAM that hold keys and values of a sequence, float64[rows].

        Args:
            rows: int64[rows], rows of the trace.
            before: int64[rows], tokens of each row's sequence that are held or were evicted.
        """
        held, present = np.empty(len(before)), None
        if self.missing is not None:
            present = (
                np.maximum(before, self.tokens.position[rows] + 1)[:, None] - self.missing[rows]
            )
        for number, plan in enumerate(self.plans):
            own = self.of_row[rows] == number
            held[own] = plan.dram_bytes(before[own], None if present is None else present[own])
            if self._cuts(plan):
                prompt = own & (before <= plan.prompt)
                peak = plan.prefill_peak_bytes(min(plan.prompt, self.context))
                held[prompt] = np.maximum(held[prompt], peak)
        return np.minimum(held, self.most_bytes)

    def step(self, rows: NDArray[np.int64], before: NDArray[np.int64]) -> KvStep:
        """Return what tokens move, arrays [rows, layers].

        Args:
            rows: int64[rows], rows of the trace.
            before: int64[rows], tokens before each.
        """
        plan_of = self.of_row[rows]
        present = None if self.present is None else self.present[rows]
        steps = [plan.step(before, present) for plan in self.plans]
        if len(steps) > 1:
            picked = [
                np.stack(field)[plan_of, np.arange(len(rows))] for field in zip(*steps, strict=True)
            ]
            steps = [KvStep(*picked)]
        (step,) = steps
        if self.missed is not None and self.fetching is not None:
            blocks, plan = self.missed.counts(rows), self.fetching
            positions: Any = blocks * (plan.retrieval.block / plan.sets)
            moved: Any = blocks * self.missed.unit_bytes
            step = step._replace(in_flash=positions, flash_read=moved)
        if self.written is None:
            return step
        written = self.written[rows]  # each pushes one out of what stays in DRAM
        return step._replace(
            written=step.written * written, flash_written=step.flash_written * written
        )


def plan_kv(
    trace: Outline,
    model: Model | None,
    settings: Settings,
    context: int,
    speeds: Speeds,
    tokens: PrunedTokens | None,
    layers: SkippedLayers | None,
    running: bool = False,
) -> KvCache | None:
    """Work out the KV cache that the settings ask for; None for all positions in DRAM.

    Args:
        context: tokens the budget holds KV for.
        speeds: of the device; what is computed again saves reading it.
        tokens: token pruning, or None.
        layers: layer skipping, or None.
        running: whether a model that runs chooses what it reads.

    Raises:
        BudgetError: a rule, budget or size that no KV cache can have.
        ModelError: no model says how large keys and values are.
    """
    asked = [name for name, usual in _USUAL.items() if getattr(settings, name) not in usual]
    if not asked and settings.kv_budget is None:
        return None
    if model is None:
        raise ModelError(
            f"{flag((*asked, 'kv_budget')[0])}: {trace.name} does not say which model it is "
            "from, so the size of its KV is not known; pass --model NAME or FILE"
        )
    number, prompts = _prompts(trace.rows)
    lengths, of_sequence = np.unique(prompts, return_inverse=True)
    format_ = (
        plain(settings.kv_bits) if settings.kv_quant is None else parse_format(settings.kv_quant)
    )
    evictions = [_eviction(settings, trace, model, context, int(prompt)) for prompt in lengths]
    retrieval = None if settings.kv_fetch is None else parse_fetch(settings.kv_fetch)
    if retrieval is not None:
        check_fetch(retrieval, settings, model, format_, context)
        fetched = RetrievalPlan(model=model, format=format_, retrieval=retrieval)
        fetched = _split(fetched, settings, context, speeds)
        check_room(fetched, settings)
        if fetched.resident is not None and (fetched.resident >= fetched.held(context)).all():
            fetched = replace(fetched, resident=None)
        missed = None if running else miss_blocks(trace, fetched, settings.seed)
        everywhere = np.zeros(len(trace.rows), np.int64)
        return KvCache(trace.rows, (fetched,), everywhere, None, context, missed=missed)
    plans = []
    for prompt, eviction in zip(lengths, evictions, strict=True):
        plan = KvPlan(
            model=model,
            format=format_,
            budget=None if eviction is None else eviction.budgets,
            when="token" if eviction is None else eviction.when,
            prompt=int(prompt),
            every=1 if eviction is None else eviction.rule.every,
            value_reads=1 + (eviction is not None and eviction.rule.reads_values_twice),
        )
        plans.append(_split(plan, settings, context, speeds))
    present = [each.positions for each in (layers,) if each is not None]
    if tokens is not None:
        present.append(tokens.positions(np.arange(len(trace.rows))))
    written = None if tokens is None else tokens.computed
    if layers is not None and layers.skip_kv == "hole":
        runs = layers.attention_runs.astype(np.int64)
        written = runs if written is None else written * runs
    all_in_dram = all(plan.resident is None for plan in plans)
    return KvCache(
        tokens=trace.rows,
        plans=tuple(plans),
        of_row=of_sequence[number],
        eviction=evictions[-1],
        context=context,
        present=np.minimum.reduce(present) if present else None,
        most_bytes=tokens.kv_bytes if tokens is not None and all_in_dram else np.inf,
        written=written,
        missing=layers.missing if layers is not None and layers.skip_kv == "hole" else None,
        asked=settings.kv_budget,
    )


_USUAL: dict[str, tuple[str | None, ...]] = {
    "kv_policy": (None, "full"),
    "kv_fetch": (None, "all"),
    "kv_quant": (None, "fp16"),
    "kv_dram": (None, *ALL_IN_DRAM),
    "kv_recompute": (None, "none"),
    "prune_tokens": (None,),
    "skip_layers": (None,),
}
"""Settings with which all positions lie in DRAM."""


def _prompts(tokens: Tokens) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of each row's sequence, int64[tokens], and the tokens before the first that
    each sequence decodes, int64[sequences]."""
    number = np.cumsum(tokens.begins_sequence()) - 1
    ends = np.flatnonzero(np.append(tokens.begins_sequence()[1:], True))
    prompts = tokens.position[ends] + 1  # of sequences of which nothing is decoded
    decoded = np.flatnonzero(tokens.decode)
    of_decoded = number[decoded]
    first = np.flatnonzero(np.diff(of_decoded, prepend=-1))
    prompts[of_decoded[first]] = tokens.position[decoded[first]]
    return number, prompts


def _eviction(
    settings: Settings, trace: Outline, model: Model, context: int, prompt: int
) -> Eviction | None:
    """Return the rule and the budgets of sequences with one length of prompt."""
    if settings.kv_policy is None:
        return None
    rule = load_rule(settings.kv_policy)
    if not rule.evicts:
        if settings.kv_budget is not None:
            raise BudgetError(
                f"--kv-budget {settings.kv_budget} and --kv-policy {rule.label}, which keeps all "
                "positions: drop one of them"
            )
        return None
    if settings.kv_budget is None:
        raise BudgetError(
            f"--kv-policy {rule.label} needs --kv-budget: positions per layer and kv head, e.g. "
            "1024, or a share such as 25%"
        )
    when = settings.kv_when or rule.when
    if when != "token" and not prompt:
        raise BudgetError(
            f"--kv-policy {rule.label} cuts a prompt, and a sequence of {trace.name} has none: "
            "give --depth, or --kv-when token"
        )
    positions = max(context, prompt)
    if mean_budget(settings.kv_budget, prompt or positions) > positions:
        raise BudgetError(
            f"--kv-budget {settings.kv_budget}: the context has {positions} positions; give at "
            "most so many, or a share such as 25%"
        )
    return plan_eviction(
        rule,
        settings.kv_budget,
        positions,
        model.layers,
        when=when,
        prompt=prompt or None,
    )


def _split(plan: Plan, settings: Settings, context: int, speeds: Speeds) -> Plan:
    """Return the plan with what lies in flash, and what of that is computed again."""
    resident = None
    if settings.kv_dram is not None and settings.kv_dram not in ALL_IN_DRAM:
        resident = _resident(settings.kv_dram, plan, context)
    if settings.kv_recompute in (None, "none"):
        return replace(plan, resident=resident)
    if resident is None:
        raise BudgetError(
            f"--kv-recompute {settings.kv_recompute}: all KV lies in DRAM, so nothing is read that "
            "computing could save; give --kv-dram, e.g. 25%"
        )
    recompute = _recompute(settings, plan.model, speeds)
    return replace(plan, resident=resident, recompute=recompute)


def _resident(text: str, plan: KvPlan, context: int) -> NDArray[np.int64]:
    """Return the positions that a size or share leaves in DRAM, int64[layers]."""
    if text == "auto":
        raise BudgetError("--kv-dram auto is of dipsim run: give a share here, e.g. 50%")
    most, newest = plan.held(context)[0], plan.format.newest
    no_share = f"{brief(text)}: a share of the KV is from 0% to 100%"
    try:
        share = parse_share(text)
        size = None if share is not None else BYTES.parse(text)
    except ValueError as problem:
        reason = f"{problem}, or a share such as '50%'" if "%" not in text else no_share
        raise BudgetError(f"--kv-dram {reason}") from None
    if size is not None:
        position = plan.format.position_bytes(plan.width) * plan.model.layers
        left = np.minimum(int(size / position), most)
        return _at_least(left, newest)
    assert share is not None, "neither a size nor a share was refused"
    if share > 1:
        raise BudgetError(f"--kv-dram {no_share}")
    left = (share * most + 1e-9).astype(np.int64)
    return _at_least(left, newest)


def _at_least(positions: NDArray[np.int64], newest: int) -> NDArray[np.int64]:
    enough: NDArray[np.int64] = np.maximum(positions, newest)
    return enough


def _recompute(settings: Settings, model: Model, speeds: Speeds) -> Recompute | int:
    """Return what is computed again rather than read.

    Raises:
        BudgetError: neither auto nor a number of positions.
    """
    text = settings.kv_recompute or ""
    if text == "auto":
        return Recompute.of(model, speeds.link, speeds.compute)
    number = text.removeprefix("l=")
    if not (number.isascii() and number.isdecimal()) or len(number) > 12:
        raise BudgetError(
            f"--kv-recompute {brief(text)!r}: write none, auto, or l=POSITIONS, e.g. l=256"
        )
    return int(number)
