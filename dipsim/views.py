"""Views of a value: a short text, a table, a picture.

Reports know the values that they show, so values cannot import them. A value names its report
instead, and the report is loaded when a view is asked for: the one way down through the rows of
districts (docs/design.md), and the only place that loads pandas.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from dipsim.errors import DipsimError, brief, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

_WIDTH = 160
"""Longest text that stands for a value, in characters."""


class Listed:
    """A value with a report of its own, that lists its rows."""

    report: ClassVar[str]
    """Name of the module of `dipsim.report`."""

    def to_frame(self) -> "DataFrame":
        """Return the rows that ``--csv`` of its command writes as a pandas DataFrame.

        Numbers are in base units (bytes, seconds unless the column says ms), shares from 0 to 1.

        Raises:
            DipsimError: pandas is not installed.
        """
        return frame(report_module(self.report).records(self))


class Viewed(Listed):
    """A value whose report also draws it."""

    def plot(
        self,
        path: str | os.PathLike[str] | None = None,
        size: tuple[float, float] | None = None,
        dpi: int | None = None,
    ) -> "Figure":
        """Draw the picture that ``--plot`` of its command draws.

        Args:
            path: a .png, .svg or .pdf file to write it to; None for none.
            size: width and height in inches; default: what suits the picture.
            dpi: dots per inch of a PNG; default: 120.

        Returns:
            The figure, which a notebook shows.

        Raises:
            DipsimError: nothing to draw, too much for one picture, another suffix, or a file that
                cannot be written.
        """
        files = report_module("files")
        figure: Figure = report_module(self.report).plot(self, files.sheet_of(path, size, dpi))
        return figure


def report_module(name: str) -> Any:
    """Load a module of `dipsim.report`."""
    return import_module(f"dipsim.report.{name}")


def frame(rows: Iterable[Mapping[str, Any]] | Mapping[str, Any]) -> "DataFrame":
    """Return rows, or arrays by column, as a pandas DataFrame.

    Raises:
        DipsimError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ModuleNotFoundError:
        raise DipsimError("a table needs pandas: pip install 'dipsim[pandas]'") from None
    return pd.DataFrame(dict(rows) if isinstance(rows, Mapping) else list(rows))


def shortened(value: Any) -> str:
    """Return a text of one short line for a dataclass or a pydantic model, to be its ``__repr__``.

    Fields stand in their order until the line is full; large values by their kind and size.
    """
    names = (
        [field.name for field in fields(value) if field.repr]
        if is_dataclass(value)
        else list(type(value).model_fields)
    )
    head, parts = type(value).__name__, ""
    for name in names:
        part = f"{', ' * bool(parts)}{name}={_brief(getattr(value, name))}"
        if len(head) + len(parts) + len(part) + 2 > _WIDTH:
            parts += f"{', ' * bool(parts)}..."
            break
        parts += part
    return f"{head}({parts})"


def _brief(value: Any) -> str:
    """Return a text of at most 60 characters for a value."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype}{list(value.shape)}" if value.shape else f"{value!s}"
    if isinstance(value, str | os.PathLike):
        return brief(repr(value), 60)
    if isinstance(value, list | tuple | set | frozenset | dict) and len(value) > 3:
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, dict | Mapping):
        return "{" + brief(", ".join(f"{k}: {_brief(v)}" for k, v in value.items()), 58) + "}"
    if isinstance(value, list | tuple):
        ends = "[]" if isinstance(value, list) else "()"
        return ends[0] + brief(", ".join(map(_brief, value)), 58) + ends[1]
    if callable(value) and hasattr(value, "__name__"):
        return str(value.__name__)
    if is_dataclass(value) or hasattr(type(value), "model_fields"):
        return f"{type(value).__name__}(...)"
    return brief(printable(repr(value)), 60)
