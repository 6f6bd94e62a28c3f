"""A page as one HTML file that asks for nothing: styles, script, figures and plotly inside."""

import base64
import gzip
import hashlib
import json
import re
from functools import cache
from typing import Any, NamedTuple

from dipsim.errors import DipsimError, printable
from dipsim.report.page import FOLDER
from dipsim.report.page.model import Bars, Chart, Heat, Page, Panel, Table
from dipsim.report.page.plots import MISSING, plotted

_DIGITS = bytes.maketrans(b"<>&", b",/.")
"""Digits of base 85 that HTML would take for its own, and others in their place."""
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%.()*+-;,=/?@^_`{|}~"
_HARMLESS = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}
"""Characters of JSON that could end the script it stands in, as escapes of the same strings."""


class Bundle(NamedTuple):
    """The script of plotly, packed: 4.8 MB as gzip in base 85, 1.8 MB of ASCII."""

    text: str
    alphabet: str
    size: int
    """Bytes of the gzip."""
    digest: str
    """SHA-256 of the script itself, as a policy for contents names it."""


def render(page: Page) -> str:
    """Return the page as HTML.

    Whatever texts it holds, none becomes a tag or a script: all are escaped, and only the two
    scripts whose digests the page states may run.

    Raises:
        DipsimError: plotly or Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader
        from markupsafe import Markup
    except ModuleNotFoundError:
        raise DipsimError(MISSING) from None
    own = "".join((FOLDER / name).read_text("utf-8") for name in ("shared.js", "page.js"))
    packed = bundle()
    environment = Environment(
        loader=FileSystemLoader(FOLDER, encoding="utf-8"),
        autoescape=True,
        finalize=_harmless,
        keep_trailing_newline=True,
    )
    return environment.get_template("template.html.j2").render(
        page=page,
        anchor=anchor,
        described=described,
        values=_values,
        plotted=lambda panel: Markup(_plotted(panel)),  # noqa: S704 - no character of HTML is in it
        style=Markup((FOLDER / "style.css").read_text("utf-8")),  # noqa: S704
        script=Markup(own),  # noqa: S704
        hashes=Markup(f"'{_digest(own)}' '{packed.digest}'"),  # noqa: S704
        bundle=packed,
    )


@cache
def bundle() -> Bundle:
    """Return plotly's script, packed.

    Raises:
        DipsimError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError:
        raise DipsimError(MISSING) from None
    script = get_plotlyjs()
    packed = gzip.compress(script.encode(), 9, mtime=0)
    text = base64.b85encode(packed, pad=True).translate(_DIGITS).decode()
    return Bundle(text, _ALPHABET, len(packed), _digest(script))


def anchor(heading: str) -> str:
    """Return the name of a section in addresses."""
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


def described(chart: Chart) -> str:
    """Return what a chart shows, in words."""
    if isinstance(chart, Heat):
        return f"{chart.meaning} by {chart.across} and {chart.down}"
    if isinstance(chart, Bars):
        return f"{chart.across}, divided into {', '.join(chart.parts)}"
    names = ", ".join(series.name for series in chart.series)
    return f"{chart.up} against {chart.across or 'what is compared'}; {names}"


def _plotted(panel: Panel) -> str:
    """Return the charts of a panel as JSON by their names, without a character of HTML."""
    charts = {name: plotted(chart) for name, chart in panel.charts.items()}
    return json.dumps(charts, separators=(",", ":"), allow_nan=False).translate(_HARMLESS)


def _values(table: Table, column: int) -> list[str]:
    """Return the different texts of a column, in their order."""
    rows = sorted((row[column] for row in table.rows), key=lambda cell: _order(cell.value))
    return list(dict.fromkeys(cell.text for cell in rows))


def _order(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _digest(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _harmless(value: Any) -> Any:
    """Make a text of anybody's harmless, line by line; what is HTML already stays."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "\n".join(map(printable, value.split("\n")))
