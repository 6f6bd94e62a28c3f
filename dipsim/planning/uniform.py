"""A mixture of experts whose routes nobody recorded: every expert is as likely as any other.

Real routes use some experts more than others, and hit more.
"""

import math
from dataclasses import replace

import numpy as np

from dipsim.errors import DipsimError
from dipsim.model import Model
from dipsim.planning.plainly import resident
from dipsim.planning.question import Question, figures_of
from dipsim.planning.room import Room
from dipsim.trace import DECODE, Trace, load_trace

ASSUMED = "experts used all alike"
TIMED = 32
"""Tokens whose hits are counted."""
_FILLS = 3.0
"""Tokens that fill a cache, times experts used / experts: 95 % of the experts were used by then."""


def routed_alike(question: Question) -> Question:
    """Return the question with routes in which every expert is as likely as any other."""
    model = question.model
    assert model.experts is not None, "checked by who asks"
    assert model.experts_per_token is not None, "as every mixture has"
    warmup = math.ceil(_FILLS * model.experts / model.experts_per_token)
    trace = uniform_routes(model, warmup + TIMED)
    return replace(question, trace=trace.kept(), assumed=ASSUMED, warmup=warmup)


def uniform_routes(model: Model, tokens: int, seed: int = 0) -> Trace:
    """Return routes of a mixture, drawn alike and independently, of decode tokens alone."""
    layers, experts = int(model.layers_with(["expert"]).sum()), model.experts or 0
    order = np.random.default_rng(seed).random((tokens, layers, experts)).argsort(axis=2)
    used = np.zeros(order.shape, np.bool_)
    np.put_along_axis(used, order[:, :, : model.experts_per_token], True, axis=2)
    return load_trace({"expert": used, "phase": np.full(tokens, DECODE, np.uint8)})


def bounds(question: Question, room: Room) -> tuple[float, float] | None:
    """Return the rates of a mixture with no expert in DRAM, and with all of them, on a device
    whose DRAM held them; None where it cannot be run so."""
    large = 2 * max(room.taken, question.device.dram.capacity)
    try:
        none = figures_of(question.run(question.trace, policy="none"))
        every = resident(question.on(capacity=large, available=large), room)
    except DipsimError:
        return None
    return none.rate.value, every.rate.value
