"""Retrieval of keys and values: each token attends to the best blocks of positions, not to all.

``top=64:block=16`` reads the best 64 blocks of 16 positions. A block is complete once its last
position is written; the newest, which is not, is always read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

from dipsim.errors import BudgetError, brief, check_text
from dipsim.kv.bits import KvFormat

By = Literal["centroid", "max"]
Per = Literal["layer", "head"]
EXAMPLE = "top=64:block=16"
_MOST = 2**20
"""Most blocks, and positions of a block, that are believed."""


@dataclass(frozen=True)
class Retrieval:
    """Retrieval of the ``top`` best blocks of ``block`` positions; make one with `parse_fetch`."""

    top: int
    block: int
    by: By = "centroid"
    """Score of a block: the query times the mean of its keys, or times each of them, the best of
    which counts (max). Of query heads that share a choice the largest counts."""
    per: Per = "layer"
    """``layer``: its heads read the same blocks; ``head``: each kv head its own."""
    policy: str = "lru"
    """Policy of the caches of blocks, where not all of them fit in DRAM."""

    def __str__(self) -> str:
        named = [f"{each.name}={getattr(self, each.name)}" for each in fields(self)]
        usual = {f"{each.name}={each.default}" for each in fields(self)}
        return ":".join(text for text in named if text not in usual)

    def sets(self, kv_heads: int) -> int:
        """Return how many choices of blocks a layer makes."""
        return kv_heads if self.per == "head" else 1

    def block_bytes(self, format_: KvFormat, width: int) -> "BlockBytes":
        """Return the bytes of a layer's complete block, of all kv heads together.

        Centroids are one key of 16 bits. Keys that are all looked at (``by=max``) stay in DRAM, so
        that a block in flash is its values alone.

        Args:
            format_: storage of keys and values.
            width: keys of one position, kv heads times head dim.
        """
        if self.by == "centroid":
            return BlockBytes(self.block * format_.position_bytes(width), 2.0 * width)
        keys, values = (part.position_bytes(width) for part in (format_.key, format_.value))
        return BlockBytes(self.block * values, self.block * keys)


class BlockBytes(NamedTuple):
    """Bytes of a complete block of a layer."""

    read: float
    """Bytes that a token reads of it once it is chosen, from DRAM or flash."""
    chosen_by: float
    """Bytes that lie in DRAM beside it and that every token reads, to choose by."""


def parse_fetch(text: str) -> Retrieval | None:
    """Read ``top=BLOCKS:block=POSITIONS``, and perhaps ``by``, ``per`` and ``policy``; None for
    ``all``, which reads all positions.

    Raises:
        BudgetError: not of that form, an unknown key, or a number out of range, in one line.
    """
    check_text("--kv-fetch", text, f"a text such as {EXAMPLE}")
    if text == "all":
        return None
    known = [each.name for each in fields(Retrieval)]
    pairs = [tuple(map(str.strip, pair.partition("=")[::2])) for pair in text.split(":")]
    given = {key: value for key, value in pairs if value}
    if len(given) < len(pairs) or not {"top", "block"} <= {*given} <= {*known}:
        raise BudgetError(
            f"--kv-fetch {brief(text)!r}: write all, or {', '.join(known)}, each once, of which "
            f"top and block are needed, as in {EXAMPLE}"
        )
    by, per = _word(given, "by", get_args(By)), _word(given, "per", get_args(Per))
    policy = given.get("policy", Retrieval.policy)
    return Retrieval(_count(given, "top"), _count(given, "block"), by, per, policy)


def _count(given: Mapping[str, str], key: str) -> int:
    text = given[key]
    whole = text.isascii() and text.isdecimal() and len(text) <= len(str(_MOST))
    if not whole or not 1 <= int(text) <= _MOST:
        raise BudgetError(
            f"--kv-fetch {key}={brief(text)}: a whole number from 1 to {_MOST}, as in {EXAMPLE}"
        )
    return int(text)


def _word(given: Mapping[str, str], key: str, known: tuple[Any, ...]) -> Any:
    """Return the value of a key that is a word, by default the first that is known."""
    value = given.get(key, known[0])
    if value not in known:
        raise BudgetError(f"--kv-fetch {key}={brief(value)}: one of {', '.join(known)}")
    return value
