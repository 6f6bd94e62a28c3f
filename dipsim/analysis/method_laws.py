"""Laws that every method of a user's own must obey: `dipsim methods --check` tests them on a file.

They compare the masks that a method makes of small random scores and of what is resident. A fault
is one sentence that says what the method did and what the contract asks for.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.errors import MethodError
from dipsim.methods import Group, Method, PruningMethod, build_method
from dipsim.methods.contract import InfeasibleError
from dipsim.methods.hooks import choose_rows, states_of
from dipsim.settings import Settings
from dipsim.trace import Trace, load_trace
from dipsim.trace.encoding import pack_sets, unpack_sets, words_for

TOKENS, LAYERS, HIDDEN, INTERMEDIATE = 40, 2, 70, 130
DENSITIES = (0.75, 0.9, 1.0)
RESIDENT = (0.0, 0.3, 0.7, 1.0)
"""Shares of the units that are resident."""
_SPARE = 4
"""Rows of zeros behind the scores, so that reading too far fails in the same way every time."""
_UNITS = {"attn_input": HIDDEN, "attn_output": HIDDEN, "mlp_input": HIDDEN}
Law = Callable[[PruningMethod], Iterator[str]]
Scores = dict[str, NDArray[np.float32]]
"""[tokens, layers, units] of each signal."""
Masks = list[NDArray[np.bool_]]
"""Per group bool[tokens, layers, units]."""


def check_method(method: str | PruningMethod) -> list[str]:
    """Test all laws on small random scores from a fixed seed; return the faults, a sentence each.

    The first broken law ends the check, as does a fault that stops the replay: another number of
    units than k, a key that is none, memory out of range, a function that does not compile.

    Raises:
        MethodError: a built-in method, which has no contract to keep.
    """
    if isinstance(method, str):
        raise MethodError(f"method {method} is built in: give a file.py:attribute to check")
    try:
        for law in LAWS:
            faults = list(law(method))
            if faults:
                return faults
    except MethodError as problem:
        return [_sentence(str(problem))]
    return []


def _sentence(problem: str) -> str:
    """Return an error of the replay as a fault of the method."""
    if "IndexError" in problem or "out of bounds" in problem:
        return f"touches memory out of range: {problem}"
    return problem


# Scores and masks --------------------------------------------------------------------------------


def _scores(method: PruningMethod, seed: int = 1) -> Scores:
    """Draw scores: some units are mostly large, successive tokens are alike, some scores are 0 and
    some are tied."""
    rng, scores = np.random.default_rng(seed), {}
    for signal in method.signals:
        units = _UNITS.get(signal, INTERMEDIATE)
        lasting = rng.lognormal(0, 1, (1, LAYERS, units))
        rows = (lasting * rng.lognormal(0, 0.7, (TOKENS, LAYERS, units))).astype(np.float32)
        rows[rng.random(rows.shape) < 0.05] = 0
        rows[:, :, :8] = np.round(rows[:, :, :8])
        scores[signal] = rows
    return scores


def _ready(method: PruningMethod, trace: Trace, density: float) -> Method | None:
    """Return the method made ready; None where it cannot have the density."""
    try:
        return build_method(trace, Settings(density=density), given=method)
    except InfeasibleError:
        return None


def _masks(
    method: PruningMethod,
    scores: Scores,
    share: float = 0.5,
    density: float = DENSITIES[0],
    step: int = TOKENS,
) -> Masks:
    """Return the masks that the method makes.

    Args:
        share: of the units that are resident; which they are is drawn, and lasts some tokens.
        step: tokens of a block.
    """
    ready = _ready(method, load_trace(dict(scores)), density)
    return [] if ready is None else [_mask(g, scores[g.signal], share, step) for g in ready.groups]


def _mask(group: Group, scores: NDArray[np.float32], share: float, step: int) -> NDArray[np.bool_]:
    """Return the masks of one group, bool[tokens, layers, units]."""
    custom = group.custom
    assert custom is not None
    states = states_of(custom, group.units, group.kept, group.signal, range(LAYERS))
    choosing = kernels.new_choosing(words_for(group.units), LAYERS, states)
    resident = pack_sets(_resident(scores.shape, share if custom.cache_aware else 0.0))
    decode, no_resets = np.full(TOKENS, kernels.DECODE, np.uint8), np.zeros(TOKENS, np.bool_)
    room = np.zeros((TOKENS + _SPARE, *scores.shape[1:]), np.float32)
    room[:TOKENS] = scores
    sets, kept = np.empty_like(resident), np.empty((TOKENS, LAYERS, 2), np.float32)
    for start in range(0, TOKENS, step):
        rows = slice(start, start + step)
        choose_rows(
            group,
            choosing,
            room[rows.start : min(rows.stop, TOKENS)],
            decode[rows],
            no_resets[rows],
            sets[rows],
            kept[rows],
            resident[rows],
        )
    return unpack_sets(sets, group.units)


def _resident(shape: tuple[int, ...], share: float) -> NDArray[np.bool_]:
    """Draw what is resident before each token; a fifth of it changes from token to token."""
    rng = np.random.default_rng(3)
    resident = np.empty(shape, np.bool_)
    now = rng.random(shape[1:]) < share
    for token in range(shape[0]):
        now = np.where(rng.random(shape[1:]) < 0.8, now, rng.random(shape[1:]) < share)
        resident[token] = now
    return resident


def _first_difference(one: Masks, other: Masks) -> str | None:
    """Say where masks differ first; None where they do not."""
    for i, (a, b) in enumerate(zip(one, other, strict=True)):
        tokens = np.flatnonzero((a != b).any(axis=(1, 2)))
        if len(tokens):
            return f"from token {tokens[0]} on in group {i}"
    return None


# The laws ----------------------------------------------------------------------------------------


def _state_is_fresh(method: PruningMethod) -> Iterator[str]:
    """`state` depends on its arguments alone and returns a new array each time."""
    for signal in method.signals:
        first, second = (method.new_state(INTERMEDIATE, 60, 7, signal) for _ in range(2))
        if first.shape != second.shape or not np.array_equal(first, second, equal_nan=True):
            yield "is not deterministic: `state` returns something else when it is called again"
            return
        if np.shares_memory(first, second):
            yield "`state` returns the same array twice: make a new one for every layer and group"
            return


def _keeps_k(method: PruningMethod) -> Iterator[str]:
    """Whatever the density and what is resident, as many units are kept as the density says.

    The replay stops at another number, at keys that are none, and at memory out of range.
    """
    scores = _scores(method)
    before = {signal: rows.copy() for signal, rows in scores.items()}
    ran = 0
    for density in DENSITIES:
        for share in RESIDENT:
            ran += bool(_masks(method, scores, share, density))
    if not ran:
        yield f"cannot have any of the densities {', '.join(map(str, DENSITIES))}"
    if any((scores[signal] != before[signal]).any() for signal in scores):
        yield "changes its inputs: scores can only be read"


def _deterministic(method: PruningMethod) -> Iterator[str]:
    """The same scores and seed give the same masks."""
    scores = _scores(method)
    where = _first_difference(_masks(method, scores), _masks(method, scores))
    if where:
        yield (
            f"is not deterministic: two runs with the same seed differ {where}; draw "
            "from numbers that `state` makes of its `seed`"
        )


def _future_is_unknown(method: PruningMethod) -> Iterator[str]:
    """The masks of the first tokens do not depend on those that follow."""
    scores, half = _scores(method), TOKENS // 2
    first = _masks(method, scores)
    changed = {signal: rows.copy() for signal, rows in scores.items()}
    for signal, rows in _scores(method, seed=2).items():
        changed[signal][half:] = rows[half:]
    where = _first_difference(*([m[:half] for m in ms] for ms in (first, _masks(method, changed))))
    if where:
        yield f"reads the future: with other scores after token {half - 1} masks differ {where}"


def _layers_are_apart(method: PruningMethod) -> Iterator[str]:
    """The masks of a layer do not depend on the scores of another."""
    scores = _scores(method)
    first = _masks(method, scores)
    changed = {signal: rows.copy() for signal, rows in scores.items()}
    for signal, rows in _scores(method, seed=2).items():
        changed[signal][:, 1:] = rows[:, 1:]
    where = _first_difference(*([m[:, :1] for m in ms] for ms in (first, _masks(method, changed))))
    if where:
        yield f"reads another layer: with other scores of layer 1 those of layer 0 differ {where}"


def _blocks_do_not_matter(method: PruningMethod) -> Iterator[str]:
    """Replayed in blocks of other sizes, the masks are the same."""
    scores = _scores(method)
    first = _masks(method, scores)
    for step in (1, 7):
        where = _first_difference(first, _masks(method, scores, step=step))
        if where:
            yield f"depends on how a trace is read: in blocks of {step} tokens masks differ {where}"
            return


def _says_what_it_looks_at(method: PruningMethod) -> Iterator[str]:
    """`cache_aware` is true, and only then do masks depend on what is resident."""
    scores = _scores(method)
    aware = replace(method, cache_aware=True)
    empty = _masks(aware, scores, share=0.0)
    looks = any(_first_difference(empty, _masks(aware, scores, share)) for share in RESIDENT[1:])
    if looks and not method.cache_aware:
        yield "looks at `resident`, of which it is shown nothing: declare cache_aware=True"
    if method.cache_aware and not looks:
        yield (
            "is `cache_aware`, yet its masks are the same whatever is resident: declare "
            "cache_aware=False, so that opt and belady can be asked"
        )


def _says_whether_it_varies(method: PruningMethod) -> Iterator[str]:
    """A method that `varies` does not always keep k units."""
    if not method.varies:
        return
    scores = _scores(method)
    for density in DENSITIES[:-1]:
        ready = _ready(method, load_trace(dict(scores)), density)
        if ready is None:
            continue
        masks = _masks(method, scores, density=density)
        counts = [mask.sum(axis=2) for mask in masks]
        kept = [group.kept for group in ready.groups]
        if any((count != k).any() for count, k in zip(counts, kept, strict=True)):
            return
    yield "`varies`, yet always keeps k units: declare varies=False"


def _keeps_something(method: PruningMethod) -> Iterator[str]:
    """A method that `varies` keeps some unit at density 1."""
    if not method.varies:
        return
    scores = _scores(method)
    masks = _masks(method, scores, density=1.0)
    for group, mask in zip(method.unit_groups, masks, strict=False):
        if not mask.any():
            yield f"keeps no unit of {group.signal}, whatever its scores, at density 1"
            return


LAWS: tuple[Law, ...] = (
    _state_is_fresh,
    _keeps_k,
    _deterministic,
    _layers_are_apart,
    _future_is_unknown,
    _blocks_do_not_matter,
    _says_what_it_looks_at,
    _says_whether_it_varies,
    _keeps_something,
)
"""All laws in the order of testing; the first that is broken ends the check."""
