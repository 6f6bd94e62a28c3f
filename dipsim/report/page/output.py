"""Files of a report: HTML, Markdown, or its charts as a picture."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dipsim.analysis.baseline import hold
from dipsim.errors import DipsimError
from dipsim.files import path_of
from dipsim.report import run as run_report
from dipsim.report.files import check_file, write_text
from dipsim.report.page import drawing, html, markdown
from dipsim.report.page.model import Page
from dipsim.report.page.source import page_of
from dipsim.report.pictures import Sheet
from dipsim.result import Result

FORMATS = ("html", "md", "png", "svg")
_TEXTS = {"html": html.render, "md": markdown.render}


def check_output(path: str | os.PathLike[str] | None, kind: str | None = None) -> tuple[Path, str]:
    """Return the file of a report, and its format.

    Args:
        path: where to write it; default: ``report`` with the suffix of the format.
        kind: one of `FORMATS`; default: what the suffix of the file says, else HTML.

    Raises:
        DipsimError: another format, one that the suffix belies, or no file that can be written.
    """
    if kind is not None and kind not in FORMATS:
        raise DipsimError(f"--format {kind}: use one of {', '.join(FORMATS)}")
    if path is None:
        path = f"report.{kind or 'html'}"
    suffix = path_of(path, "--output").suffix[1:]
    if suffix not in FORMATS:
        endings = ", ".join(f".{each}" for each in FORMATS)
        raise DipsimError(f"--output {path}: give a file that ends in {endings}")
    if kind not in (None, suffix):
        raise DipsimError(f"--format {kind}: {path} ends in .{suffix}; drop one of them")
    return check_file(path, "--output"), suffix


def write(page: Page, path: Path, kind: str) -> None:
    """Write a page, whole or not at all.

    Args:
        page: what it says.
        path: the file, see `check_output`.
        kind: one of `FORMATS`.

    Raises:
        DipsimError: a package is missing, a picture of no chart, or the file cannot be written.
    """
    if kind in _TEXTS:
        write_text("--output", path, _TEXTS[kind](page))
    else:
        drawing.draw(page, Sheet(path))


def write_result(result: Result, path: str | os.PathLike[str]) -> None:
    """Write the report of a run; see `Result.write_report`."""
    target, kind = check_output(path)
    write(page_of(figures_of(result)), target, kind)


def figures_of(result: Result) -> Mapping[str, Any]:
    """Return what ``dipsim run --details --json`` prints of a run."""
    return run_report.to_dict(result, hold(result), layers=True)
