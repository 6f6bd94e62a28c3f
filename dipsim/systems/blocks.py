"""Blocks of keys and values that tokens read, replayed through caches: which of them come from
flash.

A block is a unit that is born when its last position is written. It is in DRAM then, and lies in
flash from then on; whether it stays in DRAM is its cache's policy's choice.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.errors import BudgetError, PolicyError, TraceError, brief
from dipsim.flash.cost import FlashCost
from dipsim.kernels.draws import seed_of
from dipsim.kv.attention import rows_of_layer
from dipsim.kv.bits import KvFormat
from dipsim.kv.blocks import choose_blocks
from dipsim.kv.retrieval import Retrieval
from dipsim.kv.retrieval_plan import RetrievalPlan
from dipsim.kv.rules import load_rule
from dipsim.model import Model
from dipsim.policies import BUILTIN, Policy
from dipsim.replay.given import replay_given
from dipsim.replay.price import Reads
from dipsim.settings import Settings
from dipsim.threads import most_threads
from dipsim.trace import Outline, Trace
from dipsim.trace.encoding import pack_sets, unpack_sets, words_for
from dipsim.units import BYTES

_MOST_BYTES = 2**31
"""Most bytes of queries and keys of one sequence that are read at once."""
_MOST_SETS = 2**27
"""Most bytes that the blocks take which a layer's tokens choose, as truth values, and most that
those of all layers take, as bits."""


@dataclass(frozen=True)
class MissedBlocks:
    """Blocks that tokens read from flash.

    The blocks of a layer lie in the order in which they were born, keys and values together; those
    of its kv heads, where each has its own, side by side.
    """

    units: int
    """Blocks of a layer at most, those of each kv head counted."""
    unit_bytes: float
    missed: NDArray[np.uint64]
    """[tokens, layers, words] as bits."""
    clairvoyant: bool
    """True if the policy of the caches knew what later tokens read."""

    def counts(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many blocks tokens miss, int64[rows, layers]."""
        counts: NDArray[np.int64] = np.bitwise_count(self.missed[rows]).sum(-1, dtype=np.int64)
        return counts

    def reads(self, rows: NDArray[np.int64], flash: FlashCost) -> Reads:
        """Return what reading them costs, arrays [rows, layers]: one read each, or one of several
        neighbours where that takes less time."""
        table = flash.requests(self.units, self.unit_bytes, self.unit_bytes)
        table = table._replace(whole=np.array([0, 0, np.inf]))  # not all of them are born yet
        layers = range(self.missed.shape[1])
        words = self.missed.shape[2]
        missed = (np.ascontiguousarray(self.missed[rows, layer]) for layer in layers)
        priced = [kernels.price(each, 0, words, self.units, table) for each in missed]
        counts, costs = (np.stack(each, axis=1) for each in zip(*priced, strict=True))
        return Reads(
            requests=counts[..., kernels.READS],
            outside=counts[..., kernels.OUTSIDE].astype(np.bool_),
            moved=costs[..., kernels.MOVED],
            seconds=costs[..., kernels.SECONDS],
        )


def check_fetch(
    retrieval: Retrieval, settings: Settings, model: Model, format_: KvFormat, context: int
) -> None:
    """Refuse retrieval that a run cannot have, or not beside its other options.

    Raises:
        BudgetError: blocks longer than the context, or options that leave no whole blocks.
        PolicyError: no policy that a cache of blocks can have.
    """
    _policy(retrieval)
    given, rule = f"--kv-fetch {retrieval}", settings.kv_policy or "full"
    if retrieval.block > context:
        raise BudgetError(
            f"{given}: the context has {context} positions; give a block of at most so many"
        )
    if model.layer_windows.min() < context:
        raise BudgetError(
            f"{given}: {model.name} has layers that see a window of their own; drop it, or take a "
            "model whose layers all see every position"
        )
    partly = "blocks are made of all positions"
    others = {
        f"--kv-policy {rule}": (load_rule(rule).evicts, partly),
        f"--kv-recompute {settings.kv_recompute}": (
            settings.kv_recompute not in (None, "none"),
            "what is read is not known beforehand",
        ),
        f"--prune-tokens {settings.prune_tokens}": (settings.prune_tokens is not None, partly),
        f"--skip-layers {settings.skip_layers}": (
            settings.skip_layers is not None,
            "later queries would not be those of the trace",
        ),
        f"--batch {settings.batch}": (
            (settings.batch or 1) > 1,
            "the sequences of a batch would choose blocks of their own",
        ),
        f"--speculate {settings.speculate}": (
            settings.speculate is not None,
            "the blocks of rejected drafts are not known",
        ),
        f"--kv-quant {format_.name}": (
            format_.newest > 0,
            "it keeps the newest positions in fp16, where q8_0 stores all alike",
        ),
    }
    for other, (asked, why) in others.items():
        if asked:
            raise BudgetError(f"{given} and {other}: {why}; drop one of them")


def check_room(plan: RetrievalPlan, settings: Settings) -> None:
    """Refuse a share of DRAM that the newest block alone exceeds; with none at all it stays there.

    Raises:
        BudgetError: such a share.
    """
    block = plan.retrieval.block
    room = block if plan.resident is None else int(np.min(plan.resident))
    if 0 < room < block:
        raise BudgetError(
            f"--kv-dram {settings.kv_dram}: room for {room} positions of a layer, and the newest "
            f"block of --kv-fetch, which stays in DRAM, has {block}: give more, 0%, or a smaller "
            "block"
        )


def miss_blocks(trace: Outline, plan: RetrievalPlan, seed: int) -> MissedBlocks | None:
    """Choose the blocks that the tokens of a trace read, and replay them; None where all are in
    DRAM.

    Args:
        seed: of the policy's draws.

    Raises:
        PolicyError: no policy that a cache of blocks can have.
        TraceError: a trace without queries and keys, or one of which more must be known.
    """
    policy = _policy(plan.retrieval)
    trace = _with_vectors(trace, plan)
    starts = np.flatnonzero(trace.rows.begins_sequence()).tolist()
    sequences = list(pairwise([*starts, trace.tokens]))
    longest = max(stop - start for start, stop in sequences)
    units = longest // plan.retrieval.block * plan.sets
    size = max(longest * units, 8 * trace.tokens * trace.layers * words_for(units))
    if size > _MOST_SETS:
        raise BudgetError(
            f"--kv-fetch {plan.retrieval}: the blocks of all tokens take {BYTES.show(size)}, at "
            f"most {BYTES.show(_MOST_SETS)} are replayed: give a larger block, or fewer --tokens"
        )
    if plan.resident is None:
        return None
    missed = np.zeros((trace.tokens, trace.layers, words_for(units)), np.uint64)
    for start, stop in sequences:
        own = _missed_of(trace.window(start, stop), plan, policy, seed)
        missed[start:stop, :, : own.shape[2]] = own
    return MissedBlocks(units, plan.sizes.read / plan.sets, missed, policy.future)


def _policy(retrieval: Retrieval) -> Policy:
    """Return the policy of the caches of blocks.

    Raises:
        PolicyError: no such policy, or one that starts with blocks that are not there yet.
    """
    policy = BUILTIN.get(retrieval.policy)
    if policy is None or policy.preload:
        known = ", ".join(name for name, each in BUILTIN.items() if not each.preload)
        given = brief(retrieval.policy)
        raise PolicyError(f"--kv-fetch policy={given}: blocks of KV are kept by one of {known}")
    return policy


def _with_vectors(trace: Outline, plan: RetrievalPlan) -> Trace:
    """Return the trace, which holds queries and keys of whole sequences.

    Raises:
        TraceError: it does not.
    """
    given = f"--kv-fetch {plan.retrieval}"
    recorded = trace.arrays if isinstance(trace, Trace) else {}
    missing = [name for name in ("query", "key") if name not in recorded]
    if missing or not isinstance(trace, Trace):
        name = trace.name if isinstance(trace, Trace) else "a run without a trace"
        raise TraceError(
            f"{given}: which blocks a token reads follows from attention, and {name} has no "
            f"{' and no '.join(missing)}: record them with dipsim record MODEL t.npz --signals "
            "query,key,value"
        )
    begins, decode = trace.rows.begins_sequence(), trace.rows.decode
    if trace.rows.position[begins].any():
        raise TraceError(
            f"{given}: nothing is known of the tokens before the first; drop --depth, or begin "
            "--tokens where a sequence begins"
        )
    if (~decode[1:] & decode[:-1] & ~begins[1:]).any():
        raise TraceError(
            f"{given} takes one prompt for each sequence, and {trace.name} has a sequence with "
            "several: give --sequence or --tokens with one"
        )
    query, key = (trace.vectors(name) for name in ("query", "key"))
    if (query.width, key.width) != (plan.model.heads * plan.model.head_dim, plan.width):
        raise TraceError(
            f"{trace.name}: queries and keys of {query.width} and {key.width} numbers are not "
            f"those of {plan.model.name}: pass the --model that was recorded"
        )
    return trace


def _missed_of(part: Trace, plan: RetrievalPlan, policy: Policy, seed: int) -> NDArray[np.uint64]:
    """Return the blocks that the tokens of one sequence miss, uint64[tokens, layers, words]."""
    vectors = [part.vectors(name) for name in ("query", "key")]
    size = part.tokens * sum(each.row_bytes for each in vectors)
    if size > _MOST_BYTES:
        raise TraceError(
            f"--kv-fetch: queries and keys of a sequence take {BYTES.show(size)}, at most "
            f"{BYTES.show(_MOST_BYTES)} are replayed: give fewer --tokens"
        )
    query, key = (each.read() for each in vectors)
    prompt = int((~part.rows.decode).sum())
    retrieval, dim = plan.retrieval, plan.model.head_dim
    blocks = part.tokens // retrieval.block
    born = np.zeros((part.tokens, blocks), np.bool_)
    born[np.arange(1, blocks + 1) * retrieval.block - 1, np.arange(blocks)] = True

    def run(layer: int) -> NDArray[np.uint64]:
        queries, keys = (rows_of_layer(each, layer, dim) for each in (query, key))
        chosen = choose_blocks(retrieval, queries, keys, prompt)
        missed = np.zeros((part.tokens, blocks, plan.sets), np.bool_)
        for each in range(plan.sets if blocks else 0):
            used = pack_sets(chosen[:, each] | born)
            room, drawn = int(plan.capacity[layer]), seed_of(seed, layer, each)
            counts = replay_given("KV block", used, blocks, policy, room, drawn)
            assert counts.missed is not None, "it was asked for"
            missed[:, :, each] = unpack_sets(counts.missed, blocks) & ~born
        return pack_sets(missed.reshape(part.tokens, -1))

    with ThreadPoolExecutor(most_threads()) as pool:
        return np.stack(list(pool.map(run, range(part.layers))), axis=1)
