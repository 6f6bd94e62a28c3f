"""A plain run: everything in DRAM where that fits; where a mixture does not, experts are cached."""

from dataclasses import replace
from typing import Any

from dipsim.planning.question import Figures, Question, figures_of
from dipsim.planning.room import Room, room_of

RESIDENT = "all experts in DRAM"


def plainly(question: Question, **options: Any) -> Figures:
    """Return the figures of a plain run with other options.

    Raises:
        DipsimError: it cannot be run so.
    """
    return measured(question.changed(**options))[1]


def measured(question: Question) -> tuple[Room, Figures]:
    """Return what a model takes, and the figures of a plain run.

    Raises:
        DipsimError: it cannot be run so.
    """
    trace = question.trace if question.of_experts else None
    result = question.run(trace)
    room = room_of(question, result.budget.staging)
    if trace is None:
        return room, figures_of(result)
    if room.fits:
        return room, resident(question, room)
    return room, replace(figures_of(result), assumed=question.assumed)


def resident(question: Question, room: Room) -> Figures:
    """Return the figures of a mixture with all experts in DRAM, of which a token uses some.

    There are none of the first token: a prompt uses more experts than a token.
    """
    result = question.run(model=question.model.as_read())
    return replace(figures_of(result), ttft=None, prompt=0, dram=room.taken, assumed=RESIDENT)
