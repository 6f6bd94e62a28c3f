"""What `dipsim validate` prints: predictions beside measurements."""

from pathlib import Path
from typing import Any

from rich.console import Group as Parts
from rich.console import RenderableType
from rich.text import Text

from dipsim.errors import DipsimError
from dipsim.files import whole_file
from dipsim.report.run import table
from dipsim.validate import GroupResult, Judged, RoutesResult, Validation, bars_of
from dipsim.validate.setups import explanation_of

ROUTES_TITLE = "A phone's run, token by token"
_NAMES = {"constant": "a constant", "line": "a straight line in bytes"}


def render(found: Validation, routes: RoutesResult | None) -> RenderableType:
    """Tables for a terminal: groups, cases, routes."""
    parts: list[RenderableType] = [_table(group_rows(found)), Text()]
    for result in found.groups:
        parts += [
            Text(f"{result.group.title} (ms a token)", style="bold"),
            _table(case_rows(result)),
            Text(),
        ]
    if routes is not None:
        parts += [Text(ROUTES_TITLE, style="bold"), _table(routes_rows(routes)), Text()]
        parts += [Text(f"bytes: {bytes_read(routes)}"), Text()]
    parts += [Text(line) for line in closer(found, routes)]
    parts += [Text(f"{case.case}: {explained(case)}") for case in misses(found)]
    left = f"{len(found.not_applicable)} cases are not predicted; --page or --json says why"
    return Parts(*parts, Text(left, style="dim"))


def to_dict(found: Validation, routes: RoutesResult | None) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "groups": [result.to_dict() for result in found.groups],
        "routes": None if routes is None else routes.to_dict(),
        "not_applicable": dict(found.not_applicable),
        "trivial_is_closer": closer(found, routes),
        "error_bars": [bar.to_dict() for bar in bars_of(found)],
    }


def write_text(option: str, path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        DipsimError: it cannot be written.
    """
    try:
        with whole_file(path) as handle:
            handle.write(text.encode())
    except OSError as problem:
        raise DipsimError(f"{option} {path}: cannot be written ({problem.strerror})") from None


# Rows, for both -----------------------------------------------------------------------------------

Rows = list[list[str]]
"""The first one holds the names of the columns; all but the first column hold numbers or words."""


def group_rows(found: Validation) -> Rows:
    """A row for each group."""
    rows = [["group", "counted", "fitted", "dipsim", "constant", "line", "bar", "met"]]
    for result in found.groups:
        medians = [size(result, result.median(name)) for name in ("dipsim", "constant", "line")]
        off, bar = result.median(), result.group.bar
        met = "-" if not result.group.target or off is None else "yes" if off <= bar else "no"
        shown = size(result, bar) if result.group.target else "-"
        fitted = len(result.cases) - len(result.counted)
        rows.append(
            [result.group.title, str(len(result.counted)), str(fitted), *medians, shown, met]
        )
    return rows


def case_rows(result: GroupResult) -> Rows:
    """A row for each case of a group."""
    rows = [["case", "predicted", "measured", "error", "constant", "line", ""]]
    for case in result.cases:
        note = "fitted" if case.fitted else "outside" if case in result.misses else ""
        trivial = [
            f"{case.error(name):+.1%}" if name in case.seconds else "-"
            for name in ("constant", "line")
        ]
        error = "-" if case.fitted else f"{case.error():+.1%}"
        times = [_ms(seconds) for seconds in (case.seconds["dipsim"], case.measured)]
        rows.append([case.case, *times, error, *trivial, note])
    return rows


def routes_rows(routes: RoutesResult) -> Rows:
    """A row for each quantity a phone measured."""
    rows = [["quantity", "dipsim", "line", "bar", "correlation", "of the line", "met"]]
    for at in routes.measures:
        both = (at.correlation, at.line_correlation)
        rows.append(
            [
                at.name,
                *(
                    "-" if value is None else f"{value:.1%}"
                    for value in (at.median, at.line, at.bar)
                ),
                *("-" if value is None else f"{value:.3f}" for value in both),
                "-" if at.met is None else "yes" if at.met else "no",
            ]
        )
    return rows


def bar_table(found: Validation) -> Rows:
    """A row for each error bar."""
    rows = [["class", "error bar", "runs", "measured on"]]
    rows += [[bar.name, bar.size, str(bar.cases), bar.measured_on] for bar in bars_of(found)]
    return rows


# Sentences ----------------------------------------------------------------------------------------


def closer(found: Validation, routes: RoutesResult | None) -> list[str]:
    """Where a trivial predictor beats dipsim, a sentence each."""
    said = []
    for result in found.groups:
        ours = result.median()
        for name in ("constant", "line"):
            theirs = result.median(name)
            if ours is not None and theirs is not None and round(theirs, 3) < round(ours, 3):
                said.append(
                    f"{result.group.title}: {_NAMES[name]} is closer "
                    f"({size(result, theirs)} against {size(result, ours)})."
                )
    for at in routes.measures if routes is not None else ():
        if round(at.line, 3) < round(at.median, 3):
            said.append(
                f"A phone's run, {at.name}: {_NAMES['line']} is closer "
                f"({at.line:.1%} against {at.median:.1%})."
            )
    return said


def misses(found: Validation) -> list[Judged]:
    """Counted cases outside the bar of their group."""
    return [case for result in found.groups for case in result.misses]


def explained(case: Judged) -> str:
    """What is known about a bad prediction, in a sentence."""
    return explanation_of(case.case) or "No explanation is known."


def size(result: GroupResult, value: float | None) -> str:
    """An error or a factor; a dash for none."""
    if value is None:
        return "-"
    return f"x {value:.2f}" if result.group.factor else f"{value:.1%}"


def _ms(seconds: float) -> str:
    """Milliseconds, four figures or all before the point."""
    ms = 1e3 * seconds
    return f"{ms:.0f}" if ms >= 1000 else f"{ms:.4g}"


def bytes_read(routes: RoutesResult) -> str:
    """How well the replay's bytes and hits agree with the phone's."""
    return (
        f"of {routes.tokens} tokens {routes.exact} read what the phone recorded to the byte; all "
        f"together are {routes.bytes_error:+.2%} off, the worst token {routes.worst_bytes:.1%}; "
        f"{routes.hit_pct:.2f} % of the look-ups hit, recorded are {routes.recorded_hit_pct:.2f} %"
    )


# The terminal -------------------------------------------------------------------------------------


def _table(rows: Rows) -> RenderableType:
    made = table(*rows[0], right=tuple(range(1, len(rows[0]))))
    for row in rows[1:]:
        made.add_row(*row)
    return made
