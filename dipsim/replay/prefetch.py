"""Reading ahead: which units are guessed before it is known what a token needs.

A guess that is not resident is read (*issued*); if it is needed the read was of *use*, if not,
flash time was wasted. Guesses go into a buffer, which takes its bytes from the caches but leaves
them as they are; or they enter the caches, as far as these have room (kernels/guesses.py).
"""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import MethodError, TraceError
from dipsim.kernels.draws import draw_guesses
from dipsim.methods import Group
from dipsim.replay.active_sets import ActiveSets, every_set
from dipsim.replay.sets import Sets
from dipsim.trace import load_trace
from dipsim.trace.encoding import pack_sets
from dipsim.trace.signal import Signal

Bits = NDArray[np.uint64]
_AT_ONCE = 256
"""Tokens whose scores are read at a time."""
GUARD = 0.25
"""Share of a cache that guesses may take where nobody says it."""
_OF_THE_RESIDUAL = ("mlp_input", "attn_input")
"""Signals that all layers take from one residual stream, so that unit u means the same in each."""


class Guesses(NamedTuple):
    """A way to guess which units a token will need, one of the first four; when the guesses go out,
    and where they go."""

    previous: bool = False
    """Guess what the token before needed of the same group."""
    next_layer: bool = False
    """Guess what the first group of the same token needed in the layer before."""
    right: float | None = None
    """Guess as many units as are needed, this share of them rightly, drawn at random."""
    recorded: Sequence[Bits] | None = None
    """Per group uint64[tokens, layers, words]."""

    depth: int = 1
    """Guesses go out as the layer so many before begins."""
    guard: float | None = None
    """Share of a cache that guesses may take before their layer has come; None where they go into
    a buffer."""

    def until(self, places: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
        """Return when guesses for the parts of a cache go out: int64[parts + 1], of `new_cache`.

        Guesses for a layer go out behind the first group of the layer so many before; those of the
        first layers of a token between two tokens.

        Args:
            places: (layer, group) of each part, in order.
        """
        if len(places) == 1:
            return np.array([1, 1])
        _, layers = np.unique([layer for layer, _ in places], return_inverse=True)
        return np.searchsorted(layers, [self.depth, *(layers + self.depth + 1)])

    def room(self, unit_bytes: NDArray[np.float64]) -> float:
        """Bytes of the most that is guessed for one layer; 0 where that is never more than a token
        may need.

        Args:
            unit_bytes: float64[layers, groups].
        """
        if self.recorded is None:
            return 0.0
        counts = [np.bitwise_count(sets).sum(axis=2, dtype=np.int64) for sets in self.recorded]
        return float((np.stack(counts, axis=2) * unit_bytes).sum(axis=2).max())

    def of(
        self,
        block: Sets,
        group: Group,
        i: int,
        layer: int,
        needed: Bits,
        before: Bits,
        seed: int,
    ) -> Bits:
        """Return the guesses for group ``i`` of a layer: uint64[n, words].

        Args:
            needed: uint64[n, words] the masks of the rows.
            before: uint64[words] the mask of the row before the first one.
        """
        if group.choice == "all":  # no guess: known beforehand
            return needed
        if self.previous:
            shifted: Bits = np.vstack([before[None], needed[:-1]])
            return shifted
        if self.next_layer:
            if group.signal not in _OF_THE_RESIDUAL or layer < self.depth or i > 0:
                return np.zeros_like(needed)  # when guesses go out, no other mask is known
            below: Bits = block.sets[i][:, layer - self.depth, : needed.shape[1]]
            return below
        if self.recorded is not None:
            return self.recorded[i][block.start : block.stop, layer, : needed.shape[1]]
        guesses = np.empty_like(needed)
        own = np.ascontiguousarray(needed)
        draw_guesses(own, group.units, self.right, seed, block.start, guesses)
        return guesses


def find_guesses(sets: ActiveSets) -> Guesses | None:
    """Return the guesses of a run; None where nothing is read ahead.

    The option is ``previous``, ``next-layer``, ``right=SHARE``, or a trace file: its masks by the
    same method are the guesses.

    Raises:
        MethodError: a share outside 0 to 1, or units that mean something else in each layer.
        TraceError: a trace that cannot be read, or is of another shape.
    """
    settings = sets.settings
    guesses = _way_to_guess(sets)
    if guesses is None:
        return None
    guard = None
    if settings.prefetch_into == "cache":
        guard = GUARD if settings.prefetch_guard is None else settings.prefetch_guard
    return guesses._replace(depth=settings.prefetch_depth or 1, guard=guard)


def _way_to_guess(sets: ActiveSets) -> Guesses | None:
    method, text, cut = sets.method, sets.settings.prefetch, sets.settings.prefetch_cut
    if text is None:
        return None
    if cut is not None and (text in ("previous", "next-layer") or text.startswith("right=")):
        raise MethodError(
            f"--prefetch-cut {cut:g} with --prefetch {text}: only recorded scores tell how sure a "
            "guess is; give a trace of predictions with scores"
        )
    if text == "previous":
        return Guesses(previous=True)
    if text == "next-layer":
        first = method.groups[0]  # reads go out as its step begins
        if first.signal not in _OF_THE_RESIDUAL:
            raise MethodError(
                f"--prefetch next-layer: units of {first.signal} mean something else in every "
                "layer; use --prefetch previous, or a trace of predictions"
            )
        return Guesses(next_layer=True)
    name, equals, share = text.partition("=")
    if name == "right" and equals:
        try:
            right = float(share)
        except ValueError:
            right = math.nan
        if not 0 <= right <= 1:
            raise MethodError(f"--prefetch {text}: right=SHARE, a share from 0 to 1")
        return Guesses(right=right)
    if not os.path.exists(text) and not text.endswith(".npz"):
        raise MethodError(
            f"--prefetch {text!r}: use previous, next-layer, right=SHARE, or a trace file whose "
            "masks are the predictions"
        )
    return Guesses(recorded=_recorded(text, sets))


def _recorded(path: str, sets: ActiveSets) -> Sequence[Bits]:
    """Per group uint64[tokens, layers, words]: the masks of a trace of predictions, the same part
    of it as the run has of its own trace."""
    trace, method, cluster = sets.trace, sets.method, sets.settings.cluster
    cut = sets.settings.prefetch_cut
    predicted = load_trace(path).clustered(cluster)
    if (predicted.tokens, predicted.layers) != (trace.tokens, trace.layers):
        needed = trace.first + trace.tokens, trace.first_layer + trace.layers
        if predicted.tokens < needed[0] or predicted.layers < needed[1]:
            raise TraceError(
                f"--prefetch {path}: predictions of {predicted.tokens} tokens in "
                f"{predicted.layers} layers, the run has {trace.tokens} in {trace.layers}: record "
                "them of the same trace"
            )
        predicted = predicted.window(trace.first, trace.first + trace.tokens)
        predicted = predicted.layer_window(trace.first_layer, trace.first_layer + trace.layers)
    groups = []
    for group in method.groups:
        signal = predicted.signals.get(group.signal)
        if group.choice != "all" and (signal is None or signal.units != group.units):
            has = "none" if signal is None else str(signal.units)
            raise TraceError(
                f"--prefetch {path}: {has} of the {group.units} units of {group.signal} that "
                "are to be guessed; give the signals of the trace itself"
            )
        if cut is not None and signal is not None and not signal.scored:
            raise TraceError(
                f"--prefetch-cut {cut:g}: the guesses of {path} are sets, which do not say how "
                "sure they are; give predictions with scores"
            )
        if signal is None or signal.scored:
            if group.choice == "sets" and signal is not None:
                raise TraceError(
                    f"--prefetch {path}: scores of {group.signal}, where {method.name} needs sets"
                )
            groups.append(replace(group, rule=None, custom=None if group.aware else group.custom))
        else:
            groups.append(replace(group, choice="sets", rule=None, custom=None))
    guesses = every_set(predicted, replace(method, groups=tuple(groups)))
    if cut is not None:
        for group, sets_ in zip(groups, guesses, strict=True):
            if group.choice != "all":
                _leave_out_unsure(predicted.signals[group.signal], group, sets_, cut)
    return guesses


def _leave_out_unsure(signal: Signal, group: Group, guesses: Bits, cut: float) -> None:
    """Leave out guesses that are less sure than ``cut`` of the surest of their token and layer.

    Sureness is the score without its sign; of experts, whose scores are logits, the share that
    softmax gives them.

    Args:
        guesses: uint64[tokens, layers, words], updated.
    """
    start = 0
    for scores in signal.blocks(0, len(guesses), _AT_ONCE, "scores"):
        stop = start + len(scores)
        if group.of_experts:
            sure = scores >= scores.max(axis=-1, keepdims=True) + (
                math.log(cut) if cut > 0 else -math.inf
            )
        else:
            sure = np.abs(scores) >= cut * np.abs(scores).max(axis=-1, keepdims=True)
        guesses[start:stop] &= pack_sets(sure)
        start = stop
