"""The work of the tokens of a run, worked out for a block of tokens at a time."""

from dipsim.settings import Overlap
from dipsim.timeline.closed import Chain, Machine
from dipsim.timeline.passing import passing
from dipsim.timeline.work import Work, work_of, works_of

SIZE = 256
"""Tokens whose work is at hand."""


class Blocks:
    """The work of each token, to be asked for in order."""

    def __init__(
        self, chain: Chain, tokens: int, overlap: Overlap, a: float, machine: Machine
    ) -> None:
        self.chain, self.tokens, self.machine = chain, tokens, machine
        self.how = (overlap, a, machine)
        self.first = -SIZE
        """The first token of the block at hand."""
        self.plain: dict[int, list[Work[float]]] = {}
        self.passed: dict[bool, list[tuple[list[float], list[float]]]] = {}

    def works(self, token: int) -> list[Work[float]]:
        """Return the work of a token, step by step in plain numbers; two tokens' are kept."""
        if token not in self.plain:
            self._reach(token)
            before = {key: works for key, works in self.plain.items() if key == token - 1}
            self.plain = {**before, token: works_of(self.work, token - self.first)}
        return self.plain[token]

    def passing(self, token: int, is_hot: bool) -> tuple[list[float], list[float]]:
        """Return `Passing` of a token, cold or hot throughout: its seconds and its bytes."""
        self._reach(token)
        if is_hot not in self.passed:
            exposed, moved = passing(self.work, self.machine, is_hot)
            self.passed[is_hot] = list(zip(exposed.tolist(), moved.tolist(), strict=True))
        return self.passed[is_hot][token - self.first]

    def _reach(self, token: int) -> None:
        """Have the block of a token at hand."""
        if token >= self.first + SIZE:
            self.first = token - token % SIZE
            rows = slice(self.first, min(self.first + SIZE, self.tokens))
            self.work = work_of(self.chain, rows, *self.how)
            self.passed = {}
