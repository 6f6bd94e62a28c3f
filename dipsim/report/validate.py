"""Report of `dipsim validate`: predictions beside measurements; text, JSON, a picture, a page.

Rows and sentences come first; the terminal and the page (docs/validation.md) show the same ones.
"""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group as Parts
from rich.console import RenderableType

from dipsim.errors import printable
from dipsim.report.pictures import COLOURS, MARKERS, Sheet, label, picture
from dipsim.report.tables import Table, line, number
from dipsim.units import show_number
from dipsim.validate import GroupResult, Judged, RoutesResult, Validation
from dipsim.validate.predictors import PREDICTORS

_ROUTES_TITLE = "A phone's run, token by token"
_NAMES = {
    "peak": "bytes over the peak",
    "share": "bytes over a share of the peak",
    "line": "a straight line in bytes",
    "constant": "a constant",
}
_LEAST_JUDGED = 2
"""Cases from which a trivial predictor that is closer is worth a sentence."""
UNITS = {
    **dict.fromkeys(("correlation", "line_correlation"), "correlation"),
    **dict.fromkeys(("predicted", "measured", "run_prints"), "the unit of the case"),
    **dict.fromkeys(("cases.low", "cases.high"), "the unit of the case"),
    **dict.fromkeys(
        ("bar", "median", "worst", "signed_median", "error", "line", "shipped"), "share"
    ),
    **dict.fromkeys(("coverage", "width"), "share, or high / low"),
    **dict.fromkeys(PREDICTORS, "the unit of the case"),
    "n": "cases",
    "gemv": "B/s",
}
"""Units of figures that `dipsim.report.envelope` does not know."""
Rows = list[list[str]]
"""Names of the columns, then the rows; the first column holds names."""


# Rows ---------------------------------------------------------------------------------------------


def _group_rows(groups: Sequence[GroupResult], brief: bool = False) -> Rows:
    """Return a row for each group of counted cases; beside its own errors those without the devices
    in any fit and those of the trivial predictors, or, if ``brief``, of the best of these alone."""
    heads = ["best trivial"] if brief else ["device out", *PREDICTORS]
    rows = [["group", "n", "median", "signed", "worst", "covered", "width", *heads]]
    for group in groups:
        medians = {name: group.trivial_median(name) for name in PREDICTORS}
        known = {name: each[1] for name, each in medians.items() if each is not None}
        device = group.device_median
        others = ["-" if device is None else f"{device[1]:.0%} ({device[0]})"]
        others += [f"{known[name]:.0%}" if name in known else "-" for name in PREDICTORS]
        if brief:
            best = min(known, key=known.__getitem__, default=None)
            others = ["-" if best is None else f"{best} {known[best]:.0%}"]
        rows.append(
            [
                group.name,
                str(len(group.cases)),
                f"{group.median:.1%}",
                f"{group.signed_median:+.1%}",
                f"{group.worst.error():+.0%}",
                f"{group.coverage:.0%}",
                f"x {group.width:.2f}",
                *others,
            ]
        )
    return rows


def _case_rows(cases: Sequence[Judged]) -> Rows:
    """Return a row for each predicted case; its unit stands where it is not tokens/s."""
    rows = [["case", "predicted", "90% from", "to", "actual", "error", "run"]]
    for case in cases:
        assert case.prediction is not None, "a predicted case"
        figures = [*case.prediction, case.measured]
        value, low, high, measured = ("-" if x is None else show_number(x, 3) for x in figures)
        error = "-" if case.measured is None else f"{case.error():+.0%}"
        error = error if case.counted or case.measured is None else f"({error})"
        prints = "-" if case.prints is None else show_number(case.prints, 3)
        unit = "" if case.case.unit == "tokens/s" else f", {case.case.unit}"
        rows.append([f"{case.case.id}{unit}", value, low, high, measured, error, prints])
    return rows


def _routes_rows(routes: RoutesResult) -> Rows:
    """Return a row for each quantity a phone measured."""
    heads = ["quantity", "fitted", "shipped", "line", "bar", "correlation", "of the line", "met"]
    rows = [heads]
    for quantity in routes.measures:
        errors = (quantity.median, quantity.shipped, quantity.line, quantity.bar)
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
    for group in validation.groups:
        for name in PREDICTORS:
            trivial = group.trivial_median(name)
            if trivial is None or trivial[0] < _LEAST_JUDGED or trivial[0] < len(group.cases):
                continue
            if round(trivial[1], 3) < round(group.median, 3):
                sentences.append(
                    f"{group.name}: {_NAMES[name]} is closer ({trivial[1]:.1%} against "
                    f"{group.median:.1%})."
                )
    for quantity in routes.measures if routes is not None else ():
        if round(quantity.line, 3) < round(quantity.median, 3):
            sentences.append(
                f"A phone's run, {quantity.name}: {_NAMES['line']} is closer "
                f"({quantity.line:.1%} against {quantity.median:.1%})."
            )
    return sentences


def _left_aside(validation: Validation) -> dict[str, list[str]]:
    """Return the ids of the cases that are not counted, by the reason."""
    reasons: dict[str, list[str]] = {}
    for case in validation.cases:
        if not case.counted:
            reasons.setdefault(case.why, []).append(case.case.id)
    return reasons


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
    parts: list[RenderableType] = []
    if validation.counted:
        parts += [_table(_group_rows(validation.groups, brief=True)), line()]
    predicted = [case for case in validation.cases if case.prediction is not None]
    if predicted:
        heading = "cases, in tokens/s unless said; (errors of time) of those not counted"
        parts += [line(heading, style="bold"), _table(_case_rows(predicted)), line()]
    if routes is not None:
        parts += [line(_ROUTES_TITLE, style="bold"), _table(_routes_rows(routes)), line()]
        parts += [line(f"bytes: {_bytes_read(routes)}"), line()]
    parts += map(line, _closer(validation, routes))
    reasons = _left_aside(validation).items()
    parts += [line(f"not counted, {len(ids)}: {why}", style="dim") for why, ids in reasons]
    return Parts(*parts)


def to_dict(validation: Validation, routes: RoutesResult | None) -> dict[str, Any]:
    """Return the object that ``validate --json`` prints."""
    return {
        "cases": [case.to_dict() for case in validation.cases],
        "groups": [group.to_dict() for group in validation.groups],
        "routes": None if routes is None else routes.to_dict(),
        "trivial_is_closer": _closer(validation, routes),
    }


def _table(rows: Rows) -> RenderableType:
    """Return rows as a table whose first column stands left, the others right."""
    shown = Table(*rows[0], right=tuple(range(1, len(rows[0]))))
    for row in rows[1:]:
        shown.add_row(*row)
    return shown


# The picture --------------------------------------------------------------------------------------


def plot(validation: Validation, sheet: Sheet) -> Any:
    """Draw predicted against measured rates of counted decoding cases, by engine, with intervals.

    Returns:
        The matplotlib figure.

    Raises:
        DipsimError: the file cannot be written.
    """
    rates = [
        case
        for case in validation.counted
        if case.case.unit == "tokens/s" and case.case.kind in ("decode", "streaming")
    ]
    engines: dict[str, list[Judged]] = {}
    for case in rates:
        engines.setdefault(_engine(case), []).append(case)
    with picture(sheet, 7.0, 5.4) as figure:
        axes = figure.add_subplot()
        for place, (engine, cases) in enumerate(sorted(engines.items())):
            _draw(axes, cases, engine, place)
        ends = [end for case in rates for end in _drawn(case)] or [1.0, 10.0]
        low, high = min(ends) / 1.2, max(ends) * 1.2
        axes.plot([low, high], [low, high], color="0.6", linewidth=1, zorder=0)
        axes.set(
            xscale="log",
            yscale="log",
            xlim=(low, high),
            ylim=(low, high),
            xlabel="measured, tokens/s",
            ylabel="predicted without the case's model, tokens/s (90 % interval)",
        )
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title("Predicted against measured rates")
        axes.grid(color="0.9", which="both", linewidth=0.5)
        if engines:
            axes.legend(loc="lower right")
    return figure


def _engine(case: Judged) -> str:
    """Return the legend's name for the engine and kind of a case."""
    streams = ", experts streamed" if case.case.kind == "streaming" else ""
    return f"{case.case.engine or case.backend}{streams}"


def _drawn(case: Judged) -> tuple[float, ...]:
    """Return the figures of a case that are drawn."""
    assert case.prediction is not None
    assert case.measured is not None
    return (*case.prediction, case.measured)


def _draw(axes: Any, cases: Sequence[Judged], engine: str, place: int) -> None:
    """Draw the cases of an engine: a mark each, and its interval as a line."""
    figures = [_drawn(case) for case in cases]
    values, lows, highs, measured = zip(*figures, strict=True)
    below = [value - low for value, low in zip(values, lows, strict=True)]
    above = [high - value for value, high in zip(values, highs, strict=True)]
    axes.errorbar(
        measured,
        values,
        yerr=(below, above),
        fmt=MARKERS[place % len(MARKERS)],
        color=COLOURS[place % len(COLOURS)],
        elinewidth=0.8,
        alpha=0.85,
        label=f"{label(engine)} ({len(cases)})",
    )


# The page -----------------------------------------------------------------------------------------

_INTRO = (
    "# Validation\n",
    "How far off are [times](time.md)? One command writes this page; the first file is the route "
    "trace of a phone's runtime, the second what that phone measured (BigMoeOnEdge; neither is "
    "shipped):\n",
    "```sh\n"
    "dipsim validate --routes qwen.route.csv --metrics qwen.metrics \\\n"
    "    --page docs/validation.md\n"
    "```\n",
    "## The rules\n",
    "* A case becomes a run, and what `run` prints is compared: a dense model in memory without a "
    "trace; streamed experts as counts whose bytes are those that the case states.",
    "* A case whose *model* is among those that numbers of its backend were fitted to is predicted "
    "with all of them fitted anew without it. Where no other model is left, its error stands in "
    "brackets and is not counted. `run`, the last column, is with the shipped numbers.",
    "* Errors are of times: predicted / measured - 1; `signed` is their median with its sign, "
    "`worst` the one furthest off as a factor (-52 % is 2.1 times). `covered` is the share of "
    "measurements inside the 90 % [interval](time.md#the-interval), whose widths were set on these "
    "cases, `width` the median of its high / low.",
    "* `device out`: the median error, and the number of cases, when every case of the same device "
    "is left out of the fits instead of the same model.",
    "* Trivial predictors know the same: bytes over the peak bandwidths, over the share of them "
    "that other models on the backend reach, a line in bytes, a mean of other models. Where one is "
    "closer, the page says so.\n",
)
_OWN_CASES = (
    "## Your own cases\n",
    "`dipsim validate --cases mine.yaml` judges anybody's; ids have no meaning, unknown keys are "
    "refused:\n",
    "```yaml\n"
    "models:\n"
    "  my-1b: {layers: 16, hidden: 2048, intermediate: 8192, heads: 32, kv_heads: 8,\n"
    "          head_dim: 64, vocab: 128256, tied_embeddings: true}\n"
    "cases:\n"
    "  - {id: a, device: my phone, profile: snapdragon8gen3, engine: ExecuTorch XNNPACK,\n"
    "     backend: cpu, model: my-1b, weight_format: 8da4w, bits: 4.5, kind: decode, value: 46}\n"
    "  - {id: b, device: OnePlus 15R, model: qwen3-30b-a3b, weight_format: q4_k, kind: streaming,\n"
    "     flash_MiB_per_token: 225, cache_MiB: 4000, overlap: pipelined, value: 4.4}\n"
    "```\n",
    "| key | meaning |\n"
    "|---|---|\n"
    "| `kind` | `decode`, `prefill`, `ttft` (dense, in memory), `streaming`, `mapped` (experts "
    "from flash), `curve` (kept, not predicted) |\n"
    "| `profile` | a shipped name, a file, or a mapping; also `nearest_profile`. `null`: not "
    "predicted. Without it the profile whose name `device` begins with, or that of a shipped case "
    "of the same `device` |\n"
    "| `engine`, `backend` | of the profile: the unit, then the engine with the same words |\n"
    "| `model` | a preset, a name under `models`, or a geometry |\n"
    "| `weight_format`, `bits`, `weight_bytes`, `model_bytes` | how it is stored: bytes read a "
    "token, or of the file, go before bits |\n"
    "| `prompt`, `depth` | tokens of the prompt; those before the one that is timed |\n"
    "| `value`, `unit` | what was measured, in `tokens/s` (default), `s` or `ms` |\n"
    "| `layers`, `experts`, `experts_per_token`, `expert_bytes`, `dense_bytes`, `flash_bytes`, "
    "`cache_bytes`, `lanes`, `overlap` | of streamed cases, per token; sizes also in `..._MiB` |\n"
    "| `not_predicted` | why the case is kept and not predicted |\n",
)
_WIDTH = 110
"""Most characters of a line of the page, but for tables and code."""


def page(validation: Validation, routes: RoutesResult | None) -> str:
    """Return the text of docs/validation.md."""
    predicted = [case for case in validation.cases if case.prediction is not None]
    easier = [f"* {sentence}" for sentence in _closer(validation, routes)]
    reasons = [
        f"* {why}: {', '.join(f'`{name}`' for name in ids)}."
        for why, ids in _left_aside(validation).items()
    ]
    sections = [
        *_INTRO,
        "## In short\n",
        f"Of {len(validation.cases)} cases {len(predicted)} are predicted and "
        f"{len(validation.counted)} count.\n",
        *_markdown(_group_rows(validation.groups)),
        "Trivial predictors that are closer:\n" if easier else "No trivial predictor is closer.",
        *easier,
        "",
        f"## {_ROUTES_TITLE}\n",
        *_routes_section(routes),
        "## Cases\n",
        "In tokens/s unless said; errors are of times, in brackets those that are not counted.\n",
        *_markdown(_case_rows(predicted)),
        "## Not counted\n",
        *reasons,
        "",
        *_OWN_CASES,
    ]
    lines = list(_lines(sections))
    return "\n".join(lines).rstrip("\n") + "\n"


def _lines(sections: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a page: paragraphs folded, tables and code as they are."""
    code = False
    for section in sections:
        for text in section.split("\n"):
            plain = printable(text)
            fence = plain.startswith("```")
            yield plain if code or fence else _wrapped(plain)
            code ^= fence


def _wrapped(text: str) -> str:
    """Return a paragraph or an item of a list in lines of moderate width, a table as it is."""
    if text.startswith(("|", "#", "<", "  <")):
        return text
    indent = "  " if text.startswith("* ") else ""
    return textwrap.fill(
        text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _routes_section(routes: RoutesResult | None) -> Iterator[str]:
    """Yield what is said of a phone's run token by token, or what that needs."""
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
        f"`fitted`: four parameters are fitted on decode tokens 1-{routes.fitted_on}: flash is "
        f"{speeds.flash:.2f} times as fast as the profile's points (`io` is then the time of all "
        f"lanes), copies into the cache run at {speeds.cache_copy / 1e9:.2f} GB/s (`mgmt`), "
        f"weights are used at {speeds.gemv / 1e9:.1f} GB/s (`wall`), and the overlap factor is "
        f"{speeds.overlap_factor:.2f} (`stall`). `shipped`: the profile's own numbers, none of "
        f"them fitted on this run. Judged are tokens {routes.fitted_on + 1}-{routes.tokens}, "
        "beside a straight line in the bytes read. The bars are what runs of this phone in one "
        "configuration differ by: 288 and 248 ms a token reading in turn, 251 and 214 overlapped "
        "(16 %), 2.17 and 2.37 GB/s of reading (9 %).\n"
    )
    yield from _markdown(_routes_rows(routes))
    yield (
        "`io` adds up four lanes. Wall time of one token is predicted by neither: its compute "
        "jitters with the governor, whatever it reads.\n"
    )


def _cell(text: str) -> str:
    """Return a text that stays in its cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def _markdown(rows: Rows) -> Iterator[str]:
    """Yield a table, and the empty line after it."""
    head, *body = rows
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'---:|' * (len(head) - 1)}"
    for row in body:
        yield f"| {' | '.join(map(_cell, row))} |"
    yield ""
