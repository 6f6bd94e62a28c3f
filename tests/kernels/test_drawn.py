"""Seconds under draws of a device's numbers: the same to the last bit as the closed form's, one
draw after another."""

import numpy as np

from dipsim.kernels.drawn import Scales, Sums, Taken, drawn_seconds
from dipsim.timeline.closed import Step, hidden_seconds

STEPS, TOKENS, DRAWS = 5, 7, 11


def test_draws_side_by_side_are_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    seconds = rng.random((5, STEPS, TOKENS))
    taken = Taken(*seconds, reads=rng.integers(0, 4, (STEPS, TOKENS)).astype(float))
    sums = Sums(*rng.random((len(Sums._fields), STEPS)))
    scales = Scales(*rng.random((len(Scales._fields), DRAWS)))
    overlap = rng.random(DRAWS)
    found = drawn_seconds(taken, sums, scales, overlap, TOKENS)
    serial = drawn_seconds(None, sums, scales, overlap, TOKENS)
    for draw in range(DRAWS):
        scale = Scales(*(factors[draw] for factors in scales))
        total = bare = 0.0
        for number in range(STEPS):
            reading, copied, hit, miss, kv, reads = (each[number] for each in taken)
            step = Step(
                flash=reading * scale.flash + copied * scale.copies,
                hit=hit * scale.weights,
                miss=miss * scale.weights,
                kv=kv * scale.kv,
                reads=reads,
            )
            s = Sums(*(each[number] for each in sums))
            terms = (
                s.reading * scale.flash + s.faults * scale.faults + s.copied * scale.copies,
                s.weights * scale.weights + s.kv * scale.kv,
                s.arithmetic * scale.arithmetic,
                s.management * scale.management,
                TOKENS
                * (
                    s.per_layer * scale.per_layer
                    + s.per_mask * scale.per_mask
                    + s.per_score * scale.per_score
                ),
            )
            for term in terms:
                total, bare = total + term, bare + term
            hidden = 0.0
            for each in hidden_seconds(step, "pipelined", overlap[draw]):
                hidden += each
            total -= hidden
        assert (found[draw], serial[draw]) == (total, bare)
