"""What `dipsim validate` prints, and the page docs/validation.md."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Group as Parts
from rich.console import RenderableType
from rich.text import Text

from dipsim.analysis.validate import GroupResult, Judged, RoutesResult, Validation, error_bars
from dipsim.analysis.validate.setups import explanation_of
from dipsim.errors import DipsimError
from dipsim.files import whole_file
from dipsim.report.terminal import table

ROUTES_TITLE = "## A phone's run, token by token"
_NAMES = {"dipsim": "dipsim", "constant": "a constant", "line": "a straight line in bytes"}
_INTRO = """# Validation

How far off is dipsim? This page is written by one command; the first file is the route trace of a
phone's runtime, the second what that phone measured (BigMoeOnEdge; neither is shipped):

```sh
dipsim validate --routes qwen.route.csv --metrics qwen.metrics --page docs/validation.md --bars dipsim/validation/bars.json
```

The cases are published measurements, with their sources in `dipsim/validation/cases.json`. The rules of
the game:

* A prediction is made from numbers of the device and of the work. What was measured of a case is
  never an input of its own prediction.
* What no source states (how fast an engine uses weights, how much of the reads it hides) is a
  parameter of a device, a backend and a weight format. It is fitted on the *other* cases of the same
  device, backend and format, one case left out at a time.
* A case that only its own measurement could fit is printed as `fitted`. It shows nothing and is not
  counted.
* Beside every median stand two trivial predictors, fitted on the same other cases: a constant, and a
  straight line in bytes. Where they are closer, the page says so.
* The times come from the rules of every run: `rates`, the cost of flash reads and the closed form.
  No cost per layer is fitted to streamed cases: runs of one model cannot tell it from the rate of use.
"""


def render(found: Validation, routes: RoutesResult | None) -> RenderableType:
    """Tables for a terminal: groups, cases, routes."""
    parts: list[RenderableType] = [_groups(found), Text()]
    for result in found.groups:
        parts += [Text(result.group.title, style="bold"), _cases(result), Text()]
    if routes is not None:
        parts += [Text(ROUTES_TITLE.removeprefix("## "), style="bold"), _routes(routes), Text()]
        parts += [Text(f"bytes: {_bytes(routes)}"), Text()]
    parts += [Text(line) for line in _closer(found, routes)]
    parts += [Text(f"{case.case}: {_explained(case)}") for case in _misses(found)]
    left = f"{len(found.not_applicable)} cases are not predicted; --page or --json says why"
    return Parts(*parts, Text(left, style="dim"))


def to_dict(found: Validation, routes: RoutesResult | None) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "groups": [result.to_dict() for result in found.groups],
        "routes": None if routes is None else routes.to_dict(),
        "not_applicable": dict(found.not_applicable),
        "trivial_is_closer": _closer(found, routes),
        "error_bars": [bar.to_dict() for bar in error_bars(found)],
    }


def page(found: Validation, routes: RoutesResult | None) -> str:
    """docs/validation.md."""
    counted = sum(len(result.counted) for result in found.groups)
    fitted = sum(len(result.cases) for result in found.groups) - counted
    there = counted + fitted + len(found.not_applicable)
    closer = [f"* {line}" for line in _closer(found, routes)]
    sections = [
        _INTRO,
        "## In short\n",
        f"Of {there} cases {counted} are predicted and counted, {fitted} are fitted, and "
        f"{len(found.not_applicable)} cannot be predicted. Errors are medians of "
        "\\|predicted / measured - 1\\|, for memory-mapped runs of a phone the factor between the "
        "two.\n",
        *_markdown(_group_rows(found)),
        "Trivial predictors that are closer:\n" if closer else "No trivial predictor is closer.",
        *closer,
        "",
        ROUTES_TITLE + "\n",
        *_routes_section(routes),
        *_case_sections(found),
        "## Outside the bar\n",
        "Every counted case outside the bar of its group.\n",
        *[f"* `{case.case}` ({_off(_group_of(found, case), case)}): {_explained(case)}"
          for case in _misses(found)],
        "",
        "## Not predicted\n",
        *_not_applicable(found),
        "",
        "## Error bars\n",
        "`dipsim run` prints the bar of its kind of run beside its rate (`error_bar` in `--json`). "
        "It is the median error on these measured runs, on these devices, and no bound. A run of "
        "another kind has none.\n",
        *_markdown(_bar_rows(found)),
    ]  # fmt: skip
    return "\n".join(sections).rstrip("\n") + "\n"


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


# Rows, for both ------------------------------------------------------------------------------------

Rows = list[list[str]]
"""The first one holds the names of the columns; all but the first column hold numbers or words."""


def _group_rows(found: Validation) -> Rows:
    rows = [["group", "counted", "fitted", "dipsim", "constant", "line", "bar", "met"]]
    for result in found.groups:
        medians = [_size(result, result.median(name)) for name in ("dipsim", "constant", "line")]
        off, bar = result.median(), result.group.bar
        met = "-" if not result.group.target or off is None else "yes" if off <= bar else "no"
        shown = _size(result, bar) if result.group.target else "-"
        fitted = len(result.cases) - len(result.counted)
        rows.append(
            [result.group.title, str(len(result.counted)), str(fitted), *medians, shown, met]
        )
    return rows


def _case_rows(result: GroupResult) -> Rows:
    rows = [["case", "predicted ms", "measured ms", "error", "constant", "line", ""]]
    for case in result.cases:
        note = "fitted" if case.fitted else "outside" if case in result.misses else ""
        trivial = [
            f"{case.error(name):+.1%}" if name in case.seconds else "-"
            for name in ("constant", "line")
        ]
        error = "-" if case.fitted else f"{case.error():+.1%}"
        times = [f"{1e3 * seconds:.4g}" for seconds in (case.seconds["dipsim"], case.measured)]
        rows.append([case.case, *times, error, *trivial, note])
    return rows


def _routes_rows(routes: RoutesResult) -> Rows:
    rows = [["quantity", "dipsim", "line", "bar", "correlation", "of the line", "met"]]
    names = {"wall": "wall, windows of 16 tokens", "io": "io (lane-seconds)"}
    for at in routes.measures:
        both = (at.correlation, at.line_correlation)
        rows.append(
            [
                names.get(at.name, at.name),
                *(f"{value:.1%}" for value in (at.median, at.line, at.bar)),
                *("-" if value is None else f"{value:.3f}" for value in both),
                "yes" if at.met else "no",
            ]
        )
    return rows


def _bar_rows(found: Validation) -> Rows:
    rows = [["class", "error bar", "runs", "measured on"]]
    rows += [[bar.name, bar.size, str(bar.cases), bar.measured_on] for bar in error_bars(found)]
    return rows


# Sentences -----------------------------------------------------------------------------------------


def _closer(found: Validation, routes: RoutesResult | None) -> list[str]:
    """Where a trivial predictor beats dipsim, a sentence each."""
    said = []
    for result in found.groups:
        ours = result.median()
        for name in ("constant", "line"):
            theirs = result.median(name)
            if ours is not None and theirs is not None and theirs < ours:
                said.append(
                    f"{result.group.title}: {_NAMES[name]} is closer "
                    f"({_size(result, theirs)} against {_size(result, ours)})."
                )
    for at in routes.measures if routes is not None else ():
        if at.line < at.median:
            said.append(
                f"A phone's run, {at.name}: {_NAMES['line']} is closer "
                f"({at.line:.1%} against {at.median:.1%})."
            )
    return said


def _misses(found: Validation) -> list[Judged]:
    return [case for result in found.groups for case in result.misses]


def _group_of(found: Validation, case: Judged) -> GroupResult:
    return next(result for result in found.groups if case in result.cases)


def _off(result: GroupResult, case: Judged) -> str:
    return f"x {case.factor():.2f}" if result.group.factor else f"{case.error():+.1%}"


def _explained(case: Judged) -> str:
    return explanation_of(case.case) or "No explanation is known."


def _size(result: GroupResult, value: float | None) -> str:
    if value is None:
        return "-"
    return f"x {value:.2f}" if result.group.factor else f"{value:.1%}"


def _bytes(routes: RoutesResult) -> str:
    return (
        f"of {routes.tokens} tokens {routes.exact} read what the phone recorded to the byte; all "
        f"together are {routes.bytes_error:+.2%} off, the worst token {routes.worst_bytes:.1%}; "
        f"{routes.hit_pct:.2f} % of the look-ups hit, recorded are {routes.recorded_hit_pct:.2f} %"
    )


# The page ------------------------------------------------------------------------------------------


def _routes_section(routes: RoutesResult | None) -> Iterator[str]:
    if routes is None:
        yield "Not part of this page: it needs `--routes` and `--metrics`.\n"
        return
    speeds = routes.speeds
    yield (
        "The phone's expert routes (Qwen3-30B-A3B, 6 experts a layer) are replayed with its own policy, "
        "one LRU over all layers, and timed with the profile `oneplus15r`. Bytes are the replay's, not "
        f"the phone's: {_bytes(routes)}. (An expert is three tensors, and direct reads take whole "
        "pages: one page more than each tensor fills.)\n"
    )
    yield (
        f"Four parameters are fitted on decode tokens 1-{routes.fitted_on}: flash is "
        f"{speeds.flash:.2f} times as fast as the profile's points (`io` is then the time of all "
        f"lanes), copies into the cache run at {speeds.cache_copy / 1e9:.2f} GB/s (`mgmt`), weights "
        f"are used at {speeds.gemv / 1e9:.1f} GB/s (`wall`), and the overlap factor is "
        f"{speeds.overlap_factor:.2f} (`stall`). The sync of a layer is the profile's. Copies are made "
        "while further reads are under way, so reads hide behind them as behind the use of weights. "
        f"Judged are tokens {routes.fitted_on + 1}-{routes.tokens}, beside a straight line in the "
        "bytes read that was fitted on the same tokens (two parameters for each quantity):\n"
    )
    yield from _markdown(_routes_rows(routes))
    yield (
        "Wall time of single tokens is not predicted by anyone: compute jitters with the governor and "
        "has nothing to do with bytes. Over 16 tokens that averages out.\n"
    )


def _case_sections(found: Validation) -> Iterator[str]:
    for result in found.groups:
        yield f"## {result.group.title}\n"
        for key, cases in groupby(sorted(result.cases, key=lambda at: at.key), lambda at: at.key):
            listed = tuple(cases)
            yield f"{key}{_parameters(listed)}\n"
            yield from _markdown(_case_rows(GroupResult(result.group, listed)))


def _parameters(cases: Sequence[Judged]) -> str:
    """``: name 1.2 to 3.4, ...`` of the fits."""
    said = []
    for name in dict.fromkeys(name for case in cases for name in case.parameters):
        values = [case.parameters[name] for case in cases if name in case.parameters]
        low, high = f"{min(values):.3g}", f"{max(values):.3g}"
        unit = {"gemv": " GB/s", "page fault": " us"}.get(name, "")
        said.append(f"{name} {low}{f' to {high}' if high != low else ''}{unit}")
    return f" ({', '.join(said)}):" if said else " (nothing is fitted):"


def _not_applicable(found: Validation) -> Iterator[str]:
    reasons = dict.fromkeys(found.not_applicable.values())
    for reason in reasons:
        names = [f"`{case}`" for case, why in found.not_applicable.items() if why == reason]
        yield f"* {', '.join(names)}: {reason}."


def _markdown(rows: Rows) -> Iterator[str]:
    """A table, and the empty line after it."""
    head, *body = rows
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'---:|' * (len(head) - 1)}"
    for row in body:
        yield f"| {' | '.join(row)} |"
    yield ""


# The terminal --------------------------------------------------------------------------------------


def _table(rows: Rows) -> RenderableType:
    made = table(*rows[0], right=tuple(range(1, len(rows[0]))))
    for row in rows[1:]:
        made.add_row(*row)
    return made


def _groups(found: Validation) -> RenderableType:
    return _table(_group_rows(found))


def _cases(result: GroupResult) -> RenderableType:
    return _table(_case_rows(result))


def _routes(routes: RoutesResult) -> RenderableType:
    return _table(_routes_rows(routes))
