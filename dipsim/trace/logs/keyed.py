"""Lines of JSON with a row each: a token, a layer, the experts, and perhaps weights and more."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dipsim.errors import brief
from dipsim.trace.logs.contract import Log, Rows
from dipsim.trace.logs.lines import batches, field_of, id_array, objects, weight_array, whole, wrong
from dipsim.trace.tokens import DECODE, PREFILL

PHASES = {"prefill": PREFILL, "prompt": PREFILL, "decode": DECODE, "generate": DECODE}
"""Phases by the words that logs have for them."""


def keyed_log(
    path: Path,
    token: str,
    layer: str,
    ids: str,
    *,
    weights: str | None = None,
    guesses: str | None = None,
    phase: str | None = None,
) -> Log:
    """Open lines of JSON whose rows have these keys; weights, guesses and phases may be absent."""

    def make(held: list[tuple[int, Mapping[str, Any]]]) -> Rows:
        numbers = [number for number, _ in held]
        used = id_array(path, [field_of(path, n, row, ids) for n, row in held], numbers)
        weighed = [row.get(weights or "") for _, row in held]
        guessed = [row.get(guesses or "") for _, row in held]
        return Rows(
            _wholes(path, held, token),
            _wholes(path, held, layer),
            used,
            weights=None if None in weighed else weight_array(path, weighed, used, numbers),
            guesses=id_array(path, guessed, numbers) if all(map(_is_list, guessed)) else None,
            phase=DECODE if phase is None else _phases(path, held, phase),
        )

    notes: list[str] = []

    def read() -> Iterator[Rows]:
        yield from batches(objects(path, notes), make)

    return Log(read(), notes=notes)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _wholes(path: Path, held: list[tuple[int, Mapping[str, Any]]], key: str) -> Any:
    values = [whole(path, number, field_of(path, number, row, key), key) for number, row in held]
    return np.array(values, np.int64)


def _phases(path: Path, held: list[tuple[int, Mapping[str, Any]]], key: str) -> Any:
    return np.array([phase_of(path, n, row.get(key, DECODE)) for n, row in held], np.uint8)


def phase_of(path: Path, number: int, value: Any) -> int:
    """Return the phase that a log names: a word, or 0 for prefill and 1 for decode.

    Raises:
        TraceError: it names none.
    """
    if isinstance(value, str) and value.lower() in PHASES:
        return PHASES[value.lower()]
    if value in (PREFILL, DECODE) and not isinstance(value, bool):
        return int(value)
    raise wrong(path, number, f"phase {brief(repr(value), 40)}: prefill or decode")
