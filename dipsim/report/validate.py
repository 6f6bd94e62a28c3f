"""Report of `dipsim validate`: predictions beside measurements, as text, JSON and a page of docs/.

Rows and sentences come first; the terminal and the page (docs/validation.md) show the same ones.
"""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from rich.console import Group as Parts
from rich.console import RenderableType

from dipsim.errors import printable
from dipsim.report.tables import Table, line, number
from dipsim.units import show_number
from dipsim.validate import GroupResult, Judged, RoutesResult, Validation
from dipsim.validate.setups import explanation_of, remark_on

_ROUTES_TITLE = "A phone's run, token by token"
_NAMES = {"constant": "a constant", "line": "a straight line in bytes"}


UNITS = {
    **dict.fromkeys(("bar", "median"), "share, or a factor"),
    **dict.fromkeys(("counted", "fitted"), "cases"),
    **dict.fromkeys(("measured_s", "predicted_s"), "s"),
    **dict.fromkeys(("correlation", "line_correlation"), "correlation"),
    "error": "share",
    "line": "share",
    "gemv": "GB/s",
    "page fault": "us",
    "parameters": "factor",
}
"""Units of figures that `dipsim.report.envelope` does not know."""


# Rows ---------------------------------------------------------------------------------------------

Rows = list[list[str]]
"""Names of the columns, then the rows; the first column holds names."""


def _group_rows(validation: Validation) -> Rows:
    """Return a row for each group."""
    rows = [["group", "counted", "fitted", "dipsim", "constant", "line", "bar", "met"]]
    for result in validation.groups:
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
    """Return a row for each case of a group."""
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


def _routes_rows(routes: RoutesResult) -> Rows:
    """Return a row for each quantity a phone measured."""
    rows = [["quantity", "dipsim", "line", "bar", "correlation", "of the line", "met"]]
    for quantity in routes.measures:
        errors = (quantity.median, quantity.line, quantity.bar)
        correlations = (quantity.correlation, quantity.line_correlation)
        rows.append(
            [
                quantity.name,
                *(number(error, "{:.1%}") for error in errors),
                *(number(correlation, "{:.3f}") for correlation in correlations),
                "-" if quantity.met is None else "yes" if quantity.met else "no",
            ]
        )
    return rows


# Sentences ----------------------------------------------------------------------------------------


def _closer(validation: Validation, routes: RoutesResult | None) -> list[str]:
    """Return where a trivial predictor beats dipsim, a sentence each."""
    sentences = []
    for result in validation.groups:
        ours = result.median()
        for name in ("constant", "line"):
            theirs = result.median(name)
            if ours is not None and theirs is not None and round(theirs, 3) < round(ours, 3):
                sentences.append(
                    f"{result.group.title}: {_NAMES[name]} is closer "
                    f"({_size(result, theirs)} against {_size(result, ours)})."
                )
    for quantity in routes.measures if routes is not None else ():
        if round(quantity.line, 3) < round(quantity.median, 3):
            sentences.append(
                f"A phone's run, {quantity.name}: {_NAMES['line']} is closer "
                f"({quantity.line:.1%} against {quantity.median:.1%})."
            )
    return sentences


def _misses(validation: Validation) -> list[Judged]:
    """Return counted cases outside the bar of their group."""
    return [case for result in validation.groups for case in result.misses]


def _explained(case: Judged) -> str:
    """Return what is known about a bad prediction, in a sentence."""
    return explanation_of(case.case) or "No explanation is known."


def _size(result: GroupResult, value: float | None) -> str:
    """Return an error or a factor as text; a dash for none."""
    return number(value, "x {:.2f}" if result.group.factor else "{:.1%}")


def _ms(seconds: float) -> str:
    """Return milliseconds with four figures, or with all before the point."""
    ms = 1e3 * seconds
    return f"{ms:.0f}" if ms >= 1000 else show_number(ms)


def _bytes_read(routes: RoutesResult) -> str:
    """Return how well the bytes and hits of the replay agree with those of the phone."""
    return (
        f"of {routes.tokens} tokens {routes.exact} read what the phone recorded to the byte; all "
        f"together are {routes.bytes_error:+.2%} off, the worst token {routes.worst_bytes:.1%}; "
        f"{routes.hit_pct:.2f} % of the look-ups hit, recorded are {routes.recorded_hit_pct:.2f} %"
    )


# Text and JSON ------------------------------------------------------------------------------------


def render(validation: Validation, routes: RoutesResult | None) -> RenderableType:
    """Return tables of groups, cases and routes, then what is to be said of them."""
    parts: list[RenderableType] = [_table(_group_rows(validation)), line()]
    for result in validation.groups:
        parts += [
            line(f"{result.group.title} (ms a token)", style="bold"),
            _table(_case_rows(result)),
            line(),
        ]
    if routes is not None:
        parts += [line(_ROUTES_TITLE, style="bold"), _table(_routes_rows(routes)), line()]
        parts += [line(f"bytes: {_bytes_read(routes)}"), line()]
    parts += map(line, _closer(validation, routes))
    parts += [line(f"{case.case}: {_explained(case)}") for case in _misses(validation)]
    left = f"{len(validation.not_applicable)} cases are not predicted; --page or --json says why"
    return Parts(*parts, line(left, style="dim"))


def to_dict(validation: Validation, routes: RoutesResult | None) -> dict[str, Any]:
    """Return the object that ``validate --json`` prints."""
    return {
        "groups": [result.to_dict() for result in validation.groups],
        "routes": None if routes is None else routes.to_dict(),
        "not_applicable": dict(validation.not_applicable),
        "trivial_is_closer": _closer(validation, routes),
    }


def _table(rows: Rows) -> RenderableType:
    shown = Table(*rows[0], right=tuple(range(1, len(rows[0]))))
    for row in rows[1:]:
        shown.add_row(*row)
    return shown


# The page -----------------------------------------------------------------------------------------

_INTRO = (
    "# Validation\n",
    "How far off is dipsim? This page is written by one command; the first file is the route trace "
    "of a phone's runtime, the second what that phone measured (BigMoeOnEdge; neither is "
    "shipped):\n",
    "```sh\n"
    "dipsim validate --routes qwen.route.csv --metrics qwen.metrics \\\n"
    "    --page docs/validation.md\n"
    "```\n",
    "The cases are published measurements; `dipsim/validate/data/cases.json` names their sources. "
    "The rules of the game:\n",
    "* A prediction is made from numbers of the device and of the work. What was measured of a "
    "case is never an input of its own prediction.",
    "* What no source states (how fast an engine uses weights, how much of the reads it hides) is "
    "a parameter of a device, a backend and a weight format. It is fitted on the *other* cases of "
    "the same device, backend and format, leaving one out at a time.",
    "* A case that only its own measurement could fit is printed as `fitted`. It shows nothing and "
    "is not counted.",
    "* Beside every median stand two trivial predictors, fitted on the same other cases: a "
    "constant, and a straight line in bytes. Where they are closer, the page says so.",
    "* The times come from the rules of every run: the rates of a backend, the cost of flash reads "
    "and the closed form. No cost per layer is fitted to streamed cases: runs of one model cannot "
    "tell it from the rate of use.\n",
)
_WIDTH = 110


def page(validation: Validation, routes: RoutesResult | None) -> str:
    """Return the text of docs/validation.md."""
    counted = sum(len(result.counted) for result in validation.groups)
    fitted = sum(len(result.cases) for result in validation.groups) - counted
    total = counted + fitted + len(validation.not_applicable)
    easier = [f"* {line}" for line in _closer(validation, routes)]
    sections = [
        *_INTRO,
        "## In short\n",
        f"Of {total} cases {counted} are predicted and counted, {fitted} are fitted, and "
        f"{len(validation.not_applicable)} cannot be predicted. Errors are medians of "
        "\\|predicted / measured - 1\\|, for memory-mapped runs of a phone the factor between the "
        "two. Times below are milliseconds a token.\n",
        *_markdown(_group_rows(validation)),
        "Trivial predictors that are closer:\n" if easier else "No trivial predictor is closer.",
        *easier,
        "",
        f"## {_ROUTES_TITLE}\n",
        *_routes_section(routes),
        *_case_sections(validation),
        "## Outside the bar\n",
        "Every counted case outside the bar of its group; where none is promised, more than 25% "
        "off.\n",
        *[f"* `{case.case}` ({case.error():+.1%}): {_explained(case)}"
          for case in _misses(validation)],
        "",
        "## Not predicted\n",
        *_not_applicable(validation),
    ]  # fmt: skip
    lines = [_wrapped(printable(text)) for part in sections for text in part.split("\n")]
    return "\n".join(lines).rstrip("\n") + "\n"


def _wrapped(line: str) -> str:
    """Return a paragraph or an item of a list in lines of moderate width, a table as it is."""
    if line.startswith(("|", "#")):
        return line
    indent = "  " if line.startswith("* ") else ""
    return textwrap.fill(
        line, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _routes_section(routes: RoutesResult | None) -> Iterator[str]:
    if routes is None:
        yield "Not part of this page: it needs `--routes` and `--metrics`.\n"
        return
    speeds = routes.speeds
    yield (
        "The phone's expert routes (Qwen3-30B-A3B, 6 experts a layer) are replayed with its own "
        "policy, one LRU over all layers, and timed with the profile `oneplus15r`. Bytes are the "
        f"replay's, not the phone's: {_bytes_read(routes)}. (An expert is three tensors, and "
        "direct reads take whole pages: one page more than each tensor fills.)\n"
    )
    yield (
        f"Four parameters are fitted on decode tokens 1-{routes.fitted_on}: flash is "
        f"{speeds.flash:.2f} times as fast as the profile's points (`io` is then the time of all "
        f"lanes), copies into the cache run at {speeds.cache_copy / 1e9:.2f} GB/s (`mgmt`), "
        f"weights are used at {speeds.gemv / 1e9:.1f} GB/s (`wall`), and the overlap factor is "
        f"{speeds.overlap_factor:.2f} (`stall`). The sync of a layer is the profile's (0.6 ms, "
        "fitted on other runs of the phone). Copies are made while further reads are under way, so "
        "reads hide behind them as behind the use of "
        f"weights. Judged are tokens {routes.fitted_on + 1}-{routes.tokens}, beside a straight "
        "line in the bytes read that was fitted on the same tokens (two parameters for each "
        "quantity):\n"
    )
    yield from _markdown(_routes_rows(routes))
    yield (
        "`io` adds up four lanes. Wall time of one token is predicted by neither: its compute "
        "jitters "
        "with the governor, whatever it reads.\n"
    )


def _case_sections(validation: Validation) -> Iterator[str]:
    for result in validation.groups:
        yield f"## {result.group.title}\n"
        remark = remark_on(result.group.name)
        if remark is not None:
            yield f"{remark}\n"
        for key, cases in groupby(sorted(result.cases, key=_key), _key):
            listed = tuple(cases)
            yield f"{key}{_parameters(listed)}\n"
            yield from _markdown(_case_rows(GroupResult(result.group, listed)))


def _key(case: Judged) -> str:
    return case.key


def _parameters(cases: Sequence[Judged]) -> str:
    """Return the fitted parameters as ``(name 1.2 to 3.4, ...):``."""
    texts = []
    for name in dict.fromkeys(name for case in cases for name in case.parameters):
        values = [case.parameters[name] for case in cases if name in case.parameters]
        low, high = show_number(min(values), 3), show_number(max(values), 3)
        unit = {"gemv": " GB/s", "page fault": " us"}.get(name, "")
        texts.append(f"{name} {low}{f' to {high}' if high != low else ''}{unit}")
    return f" ({', '.join(texts)}):" if texts else " (nothing is fitted):"


def _not_applicable(validation: Validation) -> Iterator[str]:
    reasons = dict.fromkeys(validation.not_applicable.values())
    for reason in reasons:
        names = [f"`{case}`" for case, why in validation.not_applicable.items() if why == reason]
        yield f"* {', '.join(names)}: {reason}."


def _markdown(rows: Rows) -> Iterator[str]:
    """Yield a table, and the empty line after it."""
    head, *body = rows
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'---:|' * (len(head) - 1)}"
    for row in body:
        yield f"| {' | '.join(row)} |"
    yield ""
