"""waste dump: lines ``pos layer``, K ids, K weights, and perhaps K experts that were guessed."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dipsim.trace.logs.contract import Ask, Format, Head, Log, Rows
from dipsim.trace.logs.lines import batches, id_array, lines, weight_array, whole, wrong


def _recognises(head: Head) -> bool:
    words = head.line.split()
    return _k(words) is not None


def _k(words: list[str]) -> int | None:
    """Return the experts of a row: the whole numbers between its place and its first weight."""
    if len(words) < 4 or not all(word.isdecimal() for word in words[:3]):
        return None
    rest = words[2:]
    k = next((i for i, word in enumerate(rest) if not word.isdecimal()), None)
    if k is None or len(rest) not in (2 * k, 3 * k) or not all(map(_number, rest[k : 2 * k])):
        return None
    return k if all(word.isdecimal() for word in rest[2 * k :]) else None


def _number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _read(path: Path, ask: Ask) -> Log:
    return Log(_rows(path))


def _rows(path: Path) -> Iterator[Rows]:
    k = length = 0

    def make(held: list[tuple[int, list[str]]]) -> Rows:
        numbers = [number for number, _ in held]
        ids = id_array(path, [_ids(path, n, words[2 : 2 + k]) for n, words in held], numbers)
        weights = [[float(word) for word in words[2 + k : 2 + 2 * k]] for _, words in held]
        guesses = None
        if length == 2 + 3 * k:
            listed = [_ids(path, n, words[2 + 2 * k :]) for n, words in held]
            guesses = id_array(path, listed, numbers)
        return Rows(
            np.array([whole(path, n, words[0], "pos") for n, words in held], np.int64),
            np.array([whole(path, n, words[1], "layer") for n, words in held], np.int64),
            ids,
            weights=weight_array(path, weights, ids, numbers),
            guesses=guesses,
        )

    def rows() -> Iterator[tuple[int, list[str]]]:
        nonlocal k, length
        for number, line in lines(path):
            words = line.split()
            if not length:
                k, length = _k(words) or 0, len(words)
            weights = words[2 + k : 2 + 2 * k]
            if not k or len(words) != length or not all(map(_number, weights)):
                raise wrong(path, number, "a row is: pos layer ids weights, as many of each")
            yield number, words

    yield from batches(rows(), make)


def _ids(path: Path, number: int, words: list[str]) -> list[int]:
    return [whole(path, number, word, "expert") for word in words]


WASTE_DUMP = Format(
    "waste_dump", "waste dump", "text: pos layer ids weights guesses", _recognises, _read
)
