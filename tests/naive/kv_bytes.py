"""Naive twin of formats and plans of keys and values: positions in lists, moved one at a time.

* `Store`: the keys or the values of one layer; positions are appended, and quantised as they age.
* `Layer`: positions of one layer, of which old ones lie in flash, and what each token moves.
"""

from dataclasses import dataclass, field


@dataclass
class Store:
    """Numbers of ``width`` channels per position; ``along`` tokens, a group is ``group`` positions
    of one channel, else ``group`` channels of one position."""

    width: int
    bits: float
    group: int
    shared: float
    along: str
    window: int
    block: int
    fresh: list[int] = field(default_factory=list)
    old: list[int] = field(default_factory=list)

    def append(self, position: int) -> float:
        """Add a position; return the bytes written, in fp16 and as quantised."""
        before = len(self.old)
        self.fresh.append(position)
        while len(self.fresh) >= self.window + self.block:
            self.old += self.fresh[: self.block]
            del self.fresh[: self.block]
        born = 2.0 * self.width if self.window + self.block > 1 else 0.0
        return born + self._quantised(len(self.old) - before)

    def bytes(self) -> float:
        return self._quantised(len(self.old)) + 2.0 * self.width * len(self.fresh)

    def bytes_of(self, kept: set[int]) -> float:
        """Bytes once only these positions are held."""
        if self.along == "tokens":
            first = range(0, len(self.old), self.group)
            groups = [self.old[i : i + self.group] for i in first]
            many = sum(len(group) for group in groups if kept & set(group))
        else:
            many = len(kept & set(self.old))
        return self._quantised(many) + 2.0 * self.width * len(kept & set(self.fresh))

    def _quantised(self, positions: int) -> float:
        payload = positions * self.width * self.bits / 8
        if self.along == "tokens":
            scales = positions * self.width / self.group
        else:
            scales = positions * sum(1 for _ in range(0, self.width, self.group))
        return payload + scales * self.shared


@dataclass
class Layer:
    """Keys and values in fp16; ``dram`` newest positions stay, ``inputs`` oldest of flash are kept
    as inputs of attention instead."""

    width: int
    hidden: int
    budget: int | None
    dram: int | None
    inputs: int
    positions: list[int] = field(default_factory=list)
    flash: list[int] = field(default_factory=list)

    def prompt(self, tokens: int, cut: bool) -> None:
        for position in range(tokens):
            self.positions.append(position)
        if cut and self.budget is not None:
            del self.positions[: -self.budget]
        self._spill()

    def token(self, position: int, evict: bool) -> dict[str, float]:
        """Decode one token; return what it moves, counted position by position."""
        kv, inputs = 4.0 * self.width, 2.0 * self.hidden
        moved = dict.fromkeys(("read", "flash_read", "written", "flash_written", "flops"), 0.0)
        again = self.flash[: self.inputs]
        for held in self.positions:
            moved["read"] += kv
            if held in again:
                moved["read"] += inputs
                moved["flash_read"] += inputs
                moved["written"] += kv
                moved["flops"] += 2 * 2 * self.hidden * self.width
            elif held in self.flash:
                moved["flash_read"] += kv
        moved["held"] = len(self.positions)
        self.positions.append(position)
        moved["written"] += kv
        if evict and self.budget is not None and len(self.positions) > self.budget:
            del self.positions[0]
        place = self._spill()
        if place is not None:
            moved["flash_written"] = inputs if place < self.inputs else kv
        return moved

    def _spill(self) -> int | None:
        """Move the oldest positions to flash; return the place of the last one there."""
        keep = len(self.positions) if self.dram is None else self.dram
        self.flash = self.positions[: max(0, len(self.positions) - keep)]
        return len(self.flash) - 1 if self.flash else None
