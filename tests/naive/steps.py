"""Naive twin of decode steps of several tokens: which rows each takes, token after token."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Taken(NamedTuple):
    """Rows of one decode step, or of one token of a prompt, which gives none."""

    rows: list[int]
    given: int


def steps(
    decode: Sequence[bool], sequence: Sequence[int], width: int, gives: Iterator[int]
) -> list[Taken]:
    """Return what is replayed, in order.

    decode, sequence : of each token
    width : tokens of a whole step; at the end of a run of decode tokens a step has those left
    gives : tokens that the next step gives, if it is whole
    """
    taken, t = [], 0
    while t < len(decode):
        if not decode[t]:
            taken.append(Taken([t], 0))
            t += 1
            continue
        rows = [t]
        while len(rows) < width and rows[-1] + 1 < len(decode):
            following = rows[-1] + 1
            if not decode[following] or sequence[following] != sequence[t]:
                break
            rows.append(following)
        given = min(next(gives), len(rows))
        taken.append(Taken(rows, given))
        t += given
    return taken
