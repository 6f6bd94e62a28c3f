"""docs/validation.md: what was predicted, what was measured, and what is known about the rest."""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

from dipsim.report import validate as tables
from dipsim.validate import GroupResult, Judged, RoutesResult, Validation
from dipsim.validate.setups import remark_on

_INTRO = (
    "# Validation\n",
    "How far off is dipsim? This page is written by one command; the first file is the route trace "
    "of a phone's runtime, the second what that phone measured (BigMoeOnEdge; neither is "
    "shipped):\n",
    "```sh\n"
    "dipsim validate --routes qwen.route.csv --metrics qwen.metrics \\\n"
    "    --page docs/validation.md --bars dipsim/validate/data/bars.json\n"
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


def page(found: Validation, routes: RoutesResult | None) -> str:
    """docs/validation.md."""
    counted = sum(len(result.counted) for result in found.groups)
    fitted = sum(len(result.cases) for result in found.groups) - counted
    there = counted + fitted + len(found.not_applicable)
    easier = [f"* {line}" for line in tables.closer(found, routes)]
    sections = [
        *_INTRO,
        "## In short\n",
        f"Of {there} cases {counted} are predicted and counted, {fitted} are fitted, and "
        f"{len(found.not_applicable)} cannot be predicted. Errors are medians of "
        "\\|predicted / measured - 1\\|, for memory-mapped runs of a phone the factor between the "
        "two. Times below are milliseconds a token.\n",
        *_markdown(tables.group_rows(found)),
        "Trivial predictors that are closer:\n" if easier else "No trivial predictor is closer.",
        *easier,
        "",
        f"## {tables.ROUTES_TITLE}\n",
        *_routes_section(routes),
        *_case_sections(found),
        "## Outside the bar\n",
        "Every counted case outside the bar of its group; where none is promised, more than 25% "
        "off.\n",
        *[f"* `{case.case}` ({case.error():+.1%}): {tables.explained(case)}"
          for case in tables.misses(found)],
        "",
        "## Not predicted\n",
        *_not_applicable(found),
        "",
        "## Error bars\n",
        "`dipsim run` prints the bar of its kind of run beside its rate (`error_bar` in `--json`). "
        "It is the median error on these measured runs, on these devices, and no bound. A run of "
        "another kind has none.\n",
        *_markdown(tables.bar_table(found)),
    ]  # fmt: skip
    lines = [*(_wrapped(line) for part in sections for line in part.split("\n"))]
    return "\n".join(lines).rstrip("\n") + "\n"


def _wrapped(line: str) -> str:
    """A paragraph or an item of a list in lines of moderate width; tables stay as they are."""
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
        f"replay's, not the phone's: {tables.bytes_read(routes)}. (An expert is three tensors, and "
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
    yield from _markdown(tables.routes_rows(routes))
    yield (
        "`io` adds up four lanes. Wall time of one token is predicted by neither: its compute "
        "jitters "
        "with the governor, whatever it reads.\n"
    )


def _case_sections(found: Validation) -> Iterator[str]:
    for result in found.groups:
        yield f"## {result.group.title}\n"
        remark = remark_on(result.group.name)
        if remark is not None:
            yield f"{remark}\n"
        for key, cases in groupby(sorted(result.cases, key=lambda at: at.key), lambda at: at.key):
            listed = tuple(cases)
            yield f"{key}{_parameters(listed)}\n"
            yield from _markdown(tables.case_rows(GroupResult(result.group, listed)))


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


def _markdown(rows: tables.Rows) -> Iterator[str]:
    """A table, and the empty line after it."""
    head, *body = rows
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'---:|' * (len(head) - 1)}"
    for row in body:
        yield f"| {' | '.join(row)} |"
    yield ""
