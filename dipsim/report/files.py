"""Files that reports are written to: checked before the work, written whole after it."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from io import TextIOWrapper
from numbers import Real
from pathlib import Path
from typing import Any

from dipsim.errors import DipsimError, printable
from dipsim.files import check_destination, path_of, unwritable, whole_file
from dipsim.report.pictures import Sheet, check_size

PICTURES = (".png", ".svg", ".pdf")
MOST_SERIES = 8
"""Series in one picture."""
MOST_TOKENS = 1000
"""Tokens in one timeline, each of some hundreds of bars."""


def check_plot(
    path: str | os.PathLike[str] | None,
    size: tuple[float, float] | None = None,
    dpi: int | None = None,
) -> Sheet | None:
    """Return what a picture can be drawn on; None without a file.

    Args:
        path: given file, or None.
        size: inches; None for those that suit what is drawn.
        dpi: dots per inch; None for the default.

    Raises:
        DipsimError: another suffix, no such folder, or an impossible size.
    """
    check_size(size, dpi)
    if path is None:
        return None
    if path_of(path).suffix not in PICTURES:
        raise DipsimError(f"--plot {path}: give a file that ends in {', '.join(PICTURES)}")
    file = check_file(path, "--plot")
    return Sheet(file, size) if dpi is None else Sheet(file, size, dpi)


def sheet_of(
    path: str | os.PathLike[str] | None,
    size: tuple[float, float] | None = None,
    dpi: int | None = None,
) -> Sheet:
    """Return what a picture can be drawn on, for those who want the figure itself too.

    Args:
        path: file, or None for the figure alone.
        size: inches; None for those that suit what is drawn.
        dpi: dots per inch; None for the default.

    Raises:
        DipsimError: as `check_plot`, or a size that is not two numbers.
    """
    pair = isinstance(size, tuple | list) and len(size) == 2
    if size is not None and not (pair and all(isinstance(side, Real) for side in size)):
        raise DipsimError(f"size {size}: give width and height in inches, e.g. (8, 4)")
    sheet = check_plot(path, size, dpi)
    if sheet is not None:
        return sheet
    return Sheet(size=size) if dpi is None else Sheet(size=size, dpi=dpi)


def check_series(option: str, names: Sequence[object]) -> None:
    """Refuse more series than a picture can hold.

    Args:
        option: what the series are, in the plural.
        names: the series.

    Raises:
        DipsimError: more than `MOST_SERIES`.
    """
    if len(names) > MOST_SERIES:
        raise DipsimError(
            f"--plot shows {MOST_SERIES} {option} at most, not {len(names)}: name fewer"
        )


def check_csv(path: str | os.PathLike[str] | None) -> Path | None:
    """Return a path a table can be written to; None without one.

    Raises:
        DipsimError: another suffix, or no such folder.
    """
    return check_text("--csv", path, ".csv")


def check_text(option: str, path: str | os.PathLike[str] | None, suffix: str) -> Path | None:
    """Return a path a text can be written to; None without one.

    Args:
        option: as the user wrote it, for the error.
        path: given file, or None.
        suffix: the only one allowed.

    Raises:
        DipsimError: another suffix, or no such folder.
    """
    if path is None:
        return None
    if Path(path).suffix != suffix:
        raise DipsimError(f"{option} {path}: give a file that ends in {suffix}")
    return check_file(path, option)


def check_timeline(path: str | os.PathLike[str] | None, tokens: int | None) -> Path | None:
    """Return a path a timeline can be written to; None without one.

    Args:
        path: given file, or None.
        tokens: number of tokens in the timeline; None for the default.

    Raises:
        DipsimError: another suffix, no such folder, too many tokens, or tokens of no timeline.
    """
    if tokens is not None and not 1 <= tokens <= MOST_TOKENS:
        raise DipsimError(
            f"--timeline-tokens {tokens}: 1 to {MOST_TOKENS}, each of hundreds of bars; for those "
            "in the middle of a trace add --warmup, for all tokens --plot"
        )
    if path is None:
        if tokens is not None:
            raise DipsimError(f"--timeline-tokens {tokens}: of which --timeline FILE.json?")
        return None
    return check_text("--timeline", path, ".json")


def check_file(path: str | os.PathLike[str], option: str = "") -> Path:
    """Return a path that a file of any kind can be written to.

    Args:
        path: the file to be written.
        option: as the user wrote it, for the error; empty for an argument.

    Raises:
        DipsimError: a folder, no such folder, a name that leads nowhere, a file that must stay.
    """
    target = Path(path)
    what = f"{option} {target}".lstrip()
    if os.path.isdir(target):
        raise DipsimError(f"{what}: is a folder; give a file")
    try:
        check_destination(target)
    except OSError as problem:
        raise unwritable(what, problem) from None
    return target


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of plain values.

    A mapping becomes a column for each key, a band two columns for its ends, a list of texts one
    text.
    """
    columns: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            columns |= {f"{name}.{key}": inner for key, inner in value.items()}
        elif name == "tokens_per_second_range":
            columns["tokens_per_second_slow"], columns["tokens_per_second_fast"] = value
        else:
            columns[name] = " ".join(value) if isinstance(value, list | tuple) else value
    return columns


def flat_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of plain values that all have the same columns, None where one has no value."""
    listed = [_flat(row) for row in rows]
    columns = dict.fromkeys(name for row in listed for name in row)
    return [{name: row.get(name) for name in columns} for row in listed]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV of plain values, numbers in base units; the first row names the columns.

    Texts are made harmless, as someone may print the file on a terminal.

    Raises:
        DipsimError: the file cannot be written.
    """
    listed = [
        {name: printable(value) if isinstance(value, str) else value for name, value in row.items()}
        for row in rows
    ]
    try:
        with whole_file(path) as handle:
            text = TextIOWrapper(handle, "utf-8", newline="", write_through=True)
            writer = csv.DictWriter(text, list(listed[0]) if listed else [], lineterminator="\n")
            writer.writeheader()
            writer.writerows(listed)
            text.detach()
    except OSError as problem:
        raise unwritable(f"--csv {path}", problem) from None


def write_text(option: str, path: Path, text: str) -> None:
    """Write a text, whole or not at all.

    Args:
        option: as the user wrote it, for the error.
        path: the file.
        text: its content.

    Raises:
        DipsimError: the file cannot be written.
    """
    try:
        with whole_file(path) as handle:
            handle.write(text.encode())
    except OSError as problem:
        raise unwritable(f"{option} {path}", problem) from None
