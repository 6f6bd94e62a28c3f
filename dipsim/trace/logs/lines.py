"""Lines and rows of text files, plain or gzipped, that nobody vouches for."""

import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import TraceError, brief
from dipsim.trace.logs.contract import MOST_PER_TOKEN, Ints

LONGEST_LINE = 8 * 2**20
LARGEST_TEXT = 64 * 2**20
"""Bytes of a text that is read whole."""
BATCH = 2**15
"""Rows that are passed on together."""
_PARSED = 256  # lines that are parsed together
_WHOLE = re.compile(r"-?\d{1,18}", re.ASCII)


def gzipped(path: Path) -> bool:
    """Return whether a file is gzipped.

    Raises:
        TraceError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"\x1f\x8b"
    except OSError as problem:
        raise TraceError(f"{path}: cannot be read ({brief(problem.strerror)})") from None


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file's bytes, inflated where it is gzipped.

    Raises:
        TraceError: no regular file, one that cannot be read, or damaged data.
    """
    if not os.path.isfile(path):
        raise TraceError(f"{path}: not a regular file; give a log")
    try:
        file: IO[bytes]
        with cast("IO[bytes]", gzip.open(path)) if gzipped(path) else open(path, "rb") as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise TraceError(f"{path}: damaged ({brief(problem)}); copy it again") from None
    except OSError as problem:
        raise TraceError(f"{path}: cannot be read ({brief(problem.strerror)})") from None


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number, from 1, and the text of every line that is not empty.

    Raises:
        TraceError: a line beyond 8 MiB, or bytes that are no text.
    """
    for number, data in _raw_lines(path):
        try:
            yield number, data.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise wrong(path, number, "holds bytes that are no text") from None


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the bytes of every line that is not empty, without a byte order mark."""
    with opened(path) as file:
        number = 0
        while data := file.readline(LONGEST_LINE):
            number += 1
            if len(data) == LONGEST_LINE:
                raise wrong(path, number, f"longer than {LONGEST_LINE} bytes: no routing log")
            if number == 1:
                data = data.removeprefix(b"\xef\xbb\xbf")
            if not data.isspace() and data:
                yield number, data


def whole_json(path: Path) -> Any:
    """Return the contents of a JSON file.

    Raises:
        TraceError: no JSON, or more than 64 MiB of it.
    """
    with opened(path) as file:
        data = file.read(LARGEST_TEXT + 1)
    if len(data) > LARGEST_TEXT:
        raise TraceError(
            f"{path}: more than {LARGEST_TEXT // 2**20} MiB of JSON in one piece: write a line of "
            "JSON per token, or an array (np.save)"
        )
    return parsed(path, None, data)


def parsed(path: Path, number: int | None, text: str | bytes) -> Any:
    """Return what a JSON text holds.

    Raises:
        TraceError: it is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as problem:
        reason = brief(str(problem) or "nested too deeply")
        raise wrong(path, number, f"no JSON ({reason})") from None


def objects(path: Path, notes: list[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the number and the contents of every line of a file of JSON objects.

    Args:
        notes: gets a sentence where the file ends within a line, which is left out.

    Raises:
        TraceError: names the line that is none.
    """
    for held in batches(_raw_lines(path), list, _PARSED):
        values = _parsed_lines(path, held, notes)
        yield from zip((number for number, _ in held[: len(values)]), values, strict=True)


def _parsed_lines(
    path: Path, held: list[tuple[int, bytes]], notes: list[str]
) -> list[dict[str, Any]]:
    """Return the objects on some lines: parsed at once, which is faster, and where that fails one
    by one, so that the line can be named."""
    try:
        values: list[dict[str, Any]] = json.loads(b"[" + b",".join(data for _, data in held) + b"]")
    except (ValueError, RecursionError):
        values = []
    if len(values) == len(held) and all(type(value) is dict for value in values):
        return values
    values = [parsed(path, number, data) for number, data in held[:-1]]
    number, last = held[-1]
    try:
        values.append(parsed(path, number, last))
    except TraceError:
        if last.endswith(b"\n") or number == 1:
            raise
        notes.append("the last line is left out: the log ends within it")
        held = held[:-1]
    for (number, data), value in zip(held, values, strict=True):
        if not isinstance(value, dict):
            raise wrong(path, number, f"{brief(data[:60], 40)} is no JSON object")
    return values


def wrong(path: Path, number: int | None, what: str) -> TraceError:
    """Return the error on a line, or with None on the file."""
    return TraceError(f"{path}: {what}" if number is None else f"{path}: line {number}: {what}")


def whole(path: Path, number: int | None, value: Any, what: str) -> int:
    """Return a whole number >= 0, given as a number or as its digits.

    Raises:
        TraceError: it is none.
    """
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise wrong(path, number, f"{what} {brief(repr(value), 40)}: a whole number from 0 on")
    return value


def field_of(path: Path, number: int | None, row: Mapping[str, Any], key: str) -> Any:
    """Return an entry of a row.

    Raises:
        TraceError: it is missing.
    """
    if key not in row:
        raise wrong(path, number, f"has no {key!r} (has {brief(', '.join(row))})")
    return row[key]


def batches(
    items: Iterator[Any], make: Callable[[list[Any]], Any], size: int = BATCH
) -> Iterator[Any]:
    """Yield what ``make`` makes of ``size`` items each, and of the rest."""
    held: list[Any] = []
    for item in items:
        held.append(item)
        if len(held) == size:
            yield make(held)
            held = []
    if held:
        yield make(held)


def id_array(path: Path, lists: Sequence[Any], numbers: Sequence[int] | None = None) -> Ints:
    """Return lists of ids as int64[n, k]; shorter ones end with -1.

    Args:
        numbers: the lines that the lists are from, for the message.

    Raises:
        TraceError: something else than whole numbers from 0 on, or too many of them.
    """
    try:
        array = np.array(lists)
    except ValueError:
        array = np.empty(0, object)  # of unequal lengths
    if array.ndim == 2 and array.dtype.kind == "i" and array.shape[1] <= MOST_PER_TOKEN:
        if array.size and array.min() < 0:
            row = int(np.flatnonzero((array < 0).any(axis=1))[0])
            raise _no_ids(path, lists, numbers, row)
        for row in np.flatnonzero((array < 2).any(axis=1)).tolist():
            if bool in map(type, lists[row]):  # which numpy takes for 0 and 1
                raise _no_ids(path, lists, numbers, row)
        return array.astype(np.int64, copy=False)
    for row, ids in enumerate(lists):
        good = isinstance(ids, list) and len(ids) <= MOST_PER_TOKEN
        if not good or not all(type(i) is int and 0 <= i < 2**31 for i in ids):
            raise _no_ids(path, lists, numbers, row)
    longest = max(map(len, lists), default=0)
    padded = np.full((len(lists), longest), -1, np.int64)
    for row, ids in enumerate(lists):
        padded[row, : len(ids)] = ids
    return padded


def _no_ids(
    path: Path, lists: Sequence[Any], numbers: Sequence[int] | None, row: int
) -> TraceError:
    return wrong(
        path,
        None if numbers is None else numbers[row],
        f"experts {brief(repr(lists[row]), 60)}: a list of at most {MOST_PER_TOKEN} whole numbers "
        "from 0 on",
    )


def weight_array(
    path: Path, lists: Sequence[Any], ids: Ints, numbers: Sequence[int] | None = None
) -> NDArray[np.float32]:
    """Return lists of weights as float32[n, k], as long as those of the ids.

    Raises:
        TraceError: no numbers, or more or fewer of them than ids.
    """
    weights = np.zeros(ids.shape, np.float32)
    try:
        array = np.array(lists)
        if array.shape == ids.shape and array.dtype.kind in "if":
            weights[:] = narrow(array)
            return weights
    except ValueError:
        pass  # of unequal lengths
    counts = (ids >= 0).sum(axis=1)
    for row, values in enumerate(lists):
        good = isinstance(values, list) and len(values) == counts[row]
        if not good or not all(type(value) in (int, float) for value in values):
            raise wrong(
                path,
                None if numbers is None else numbers[row],
                f"weights {brief(repr(values), 60)}: a number for each of {counts[row]} experts",
            )
        weights[row, : counts[row]] = narrow(np.array(values, np.float64))
    return weights


def narrow(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return numbers as float32; what is too large for it becomes infinite, which is refused."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def json_rows(head: str, *keys: str) -> bool:
    """Return whether a text begins with a line that is a JSON object with these keys."""
    line = head.partition("\n")[0].strip()
    if not line.startswith("{"):
        return False
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return all(f'"{key}"' in line for key in keys) and len(line) > 2**15  # a line cut short
    return isinstance(value, dict) and set(keys) <= set(value)
