"""Report of `dipsim plan`: whether a model fits, what a plain run does, and ranked ways."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType

from dipsim.planning import Plan
from dipsim.planning.of_any import ANOTHER, NOT_KNOWN, bits_of
from dipsim.planning.plainly import RESIDENT
from dipsim.planning.question import Figures, Span
from dipsim.planning.way import Way
from dipsim.report.calibrate import advice
from dipsim.report.pictures import COLOURS, FAINT, Sheet, picture, set_heading, short
from dipsim.report.tables import Table, line
from dipsim.units import BYTES, TIME, show_number

UNITS = {
    **dict.fromkeys(("room", "dram"), "B"),
    "target_rate": "tokens/s",
    "ttft": "s",
    "energy": "J/token",
    **dict.fromkeys(("context", "prompt"), "tokens"),
}
"""Units of figures that `dipsim.report.envelope` does not know."""
MOST_WAYS, MOST_OF_A_KIND = 5, 2
"""Ways that are shown, and of these, ways of a kind before other kinds; all are in ``--json``."""
KINDS = ("density", "model", "weight_format", "kv_bits", "context", "backend", "io", "cache")
"""Options that tell what kind a way is of: the first that it has."""
DRAWN = "drawn.npz"
"""Name of a trace that is drawn after another."""
A_FEW_ROWS = 100e3
"""Bytes from flash a token that are rows of an embedding, not worth a word."""


def render(plan: Plan, trace: str | None, words: Sequence[str]) -> RenderableType:
    """Return the answer in a sentence, DRAM part by part, the plain run, and the ways.

    Args:
        trace: name of the trace that was given, if any.
        words: what else was given, as ``dipsim run`` takes it.
    """
    parts: list[RenderableType] = [line(title(plan), style="bold"), _facts(plan)]
    good = useful(plan)
    assumed = plan.question.assumed  # in a note, unless it stands with the plain run
    if good:
        parts.append(_ways(shown(good), assumed))
        left = len(good) - MOST_WAYS
        if left > 0:
            parts.append(line(f"{left} more: --json", style="dim"))
    last = Table("", "", whole=(0,))
    plainly = plan.plain is not None and plan.plain.assumed == assumed
    drawn = not plainly and any(way.figures.assumed == assumed for way in shown(good))
    for note in (*plan.warnings, *([assumed] if assumed and drawn else [])):
        last.add_row("note", note)
    kinds = {kind_of(way): way.name for way in reversed(plan.ways) if way not in good}
    kinds.pop("cache", None)  # a warning tells
    if kinds:
        last.add_row("note", f"no faster than plainly: {', '.join(reversed(kinds.values()))}")
    best = next((way for way in good if plan.plain is None or _faster(way, plan.plain)), None)
    if plan.plain is not None and plan.plain.first:
        key = plan.plain.first[0]
        last.add_row("measure", f"{key.removeprefix('backends.')}: {advice(key)}")
    figures = plan.plain if best is None else best.figures
    if figures is not None and figures.assumed != RESIDENT:  # which a run with a cache is not
        last.add_row("run", command(plan, best, trace, words))
    return Group(*parts, last)


def useful(plan: Plan) -> list[Way]:
    """Return the ways that are faster than a plain run, or take less DRAM."""
    plain = plan.plain
    if plain is None:
        return [*plan.ways]
    return [way for way in plan.ways if _faster(way, plain) or way.figures.dram < plain.dram]


def _faster(way: Way, plain: Figures) -> bool:
    return way.figures.rate.value > plain.rate.value


def kind_of(way: Way) -> str:
    """Return what kind a way is of: the first of `KINDS` that it changes."""
    return next((name for name in KINDS if name in way.options), "")


def shown(ways: Sequence[Way]) -> list[Way]:
    """Return the ways that a report shows, in their order: the fastest, of as many kinds as there
    are."""
    seen: Counter[str] = Counter()
    turns = []
    for way in ways:
        kind = kind_of(way)
        turns.append(seen[kind] // MOST_OF_A_KIND)
        seen[kind] += 1
    first = sorted(range(len(ways)), key=turns.__getitem__)[:MOST_WAYS]
    return [ways[place] for place in sorted(first)]


def title(plan: Plan) -> str:
    """Return in a sentence whether the model fits, and is as fast as wanted."""
    question, room = plan.question, plan.room
    what = f"{question.model.name} on {question.device.name}"
    available = f"the {BYTES.show(room.available)} for an app"
    if room.fits:
        text = f"{what}: fits: {BYTES.show(room.margin)} left of {available}"
    else:
        text = f"{what}: does not fit: {BYTES.show(-room.margin)} over {available}"
    target = question.target
    if target is None or plan.plain is None:
        return text
    verb = "reaches" if plan.plain.rate.value >= target else "misses"
    return f"{text}; {verb} {show_number(target, 3)} tok/s"


def _facts(plan: Plan) -> Table:
    room, question = plan.room, plan.question
    table = Table("", "", whole=(0,))
    parts = [
        f"{BYTES.show(room.weights)} weights of {bits_of(question.model):.3g} bits",
        f"{BYTES.show(room.kv)} KV ({question.context:,})",
    ]
    small = {"runtime": room.overhead, "staging": room.staging}
    parts += [f"{BYTES.show(size)} {name}" for name, size in small.items() if size]
    table.add_row("DRAM", " + ".join(parts))
    if plan.plain is None:
        table.add_row("plainly", f"not at all: {plan.why_not}")
        return table
    table.add_row("plainly", _plainly(plan.plain))
    return table


def _plainly(plain: Figures) -> str:
    texts = [f"{_span(plain.rate)} tok/s"]
    if plain.ttft is not None:
        ttft = plain.ttft
        ends = f"{TIME.show(ttft.low)} - {TIME.show(ttft.high)}"
        after = f"after a prompt of {plain.prompt:,}"
        texts.append(f"first token {TIME.show(ttft.value)} ({ends}) {after}")
    if plain.energy is not None:
        texts.append(f"{_span(plain.energy)} J a token")
    if plain.flash > A_FEW_ROWS:
        texts.append(f"{BYTES.show(plain.flash)} a token from flash")
    if plain.assumed:
        texts.append(plain.assumed)
    return "; ".join(texts)


def _span(span: Span) -> str:
    if span.low == span.high:
        return show_number(span.value, 3)
    ends = f"{show_number(span.low, 3)} - {show_number(span.high, 3)}"
    return f"{show_number(span.value, 3)} ({ends})"


def _ways(ways: Sequence[Way], noted: str) -> Table:
    """Return the table of ways.

    Args:
        noted: an assumption that stands elsewhere.
    """
    table = Table("way", "tok/s", "DRAM", "flash", "why, and what it costs", right=(1, 2, 3))
    for way in ways:
        figures, costs = way.figures, _COSTS.get(way.loss, f"loses {way.loss}")
        flash = BYTES.show(figures.flash) if figures.flash > A_FEW_ROWS else "-"
        own = "" if figures.assumed == noted else figures.assumed
        why = "; ".join(text for text in (way.why, costs, own) if text)
        table.add_row(way.name, _span(figures.rate), BYTES.show(figures.dram), flash, why)
    return table


_COSTS = {"none": "", NOT_KNOWN: "loss not known", ANOTHER: "another model"}
"""What a way costs in accuracy, in words."""


def command(plan: Plan, way: Way | None, trace: str | None, words: Sequence[str]) -> str:
    """Return the command that runs a way, or the model plainly; or what it needs first.

    Args:
        trace: name of the trace that was given, if any.
        words: what else was given, as ``dipsim run`` takes it; the model comes first.
    """
    question = plan.question
    changes: dict[str, Any] = {} if way is None else {**way.options}
    routed = question.of_experts and "model" not in changes  # other models are dense
    trace_of = question.trace if routed or "density" in changes else None
    said, before = [*words], ""
    if trace_of is not None:
        if question.warmup:
            return f"with the model's routes: {shlex.join(['dipsim', 'run', 'ROUTES', *words])}"
        if question.like is not None:
            drawn = ["dipsim", "synth", DRAWN, "--like", question.like, *words[:2]]
            drawn += ["--tokens", str(trace_of.tokens), *(["--signals", "expert"] * routed)]
            before = f"{shlex.join(drawn)} && "
        said = [DRAWN if trace is None else trace, *words]
    options = question.options_of(trace_of, **changes)
    for name, value in options.items():
        if name == "model":
            said = _replaced(said, "--model", str(value))
        elif name == "s":
            said += ["-s", str(value)]
        else:
            said += [f"--{name.replace('_', '-')}", _text(value)]
    return before + shlex.join(["dipsim", "run", *said])


def _replaced(words: Sequence[str], option: str, value: str) -> list[str]:
    """Return words in which an option has another value."""
    place = words.index(option)
    return [*words[: place + 1], value, *words[place + 2 :]]


def _text(value: Any) -> str:
    """Return the value of an option as the command line spells it."""
    if isinstance(value, Mapping):
        return ",".join(f"{key}={_text(each)}" for key, each in value.items())
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def plot(plan: Plan, sheet: Sheet) -> Any:
    """Draw the rates of the plain run and of the ways with their intervals, and the target."""
    rows: list[tuple[str, Span]] = []
    if plan.plain is not None:
        rows.append(("plainly", plan.plain.rate))
    rows += [(way.name, way.figures.rate) for way in plan.ways[:12]]
    with picture(sheet, 7.0, 1.6 + 0.32 * max(2, len(rows))) as figure:
        axes = figure.add_subplot()
        for place, (name, span) in enumerate(reversed(rows)):
            colour = FAINT if name == "plainly" else COLOURS[0]
            axes.plot([span.low, span.high], [place, place], color=colour, lw=3, alpha=0.5)
            axes.plot([span.value], [place], "o", color=colour)
        axes.set_yticks(range(len(rows)), [short(name, 34) for name, _ in reversed(rows)])
        if plan.question.target is not None:
            axes.axvline(plan.question.target, color=COLOURS[1], lw=1, ls="--", label="wanted")
            axes.legend(loc="lower right", frameon=False)
        axes.set_xlim(left=0)
        axes.set_xlabel("tokens per second, with 90 % intervals")
        set_heading(figure, f"{plan.question.model.name} on {plan.question.device.name}")
    return figure


def records(plan: Plan) -> list[dict[str, Any]]:
    """Return a row for the plain run and for each way: rates in tokens/s, sizes in bytes."""
    rows = [] if plan.plain is None else [_record("plainly", plan.plain, "none", "")]
    return rows + [_record(way.name, way.figures, way.loss, way.why) for way in plan.ways]


def _record(name: str, figures: Figures, loss: str, why: str) -> dict[str, Any]:
    rate = figures.rate
    return {
        "way": name,
        "tokens_per_second": rate.value,
        "low": rate.low,
        "high": rate.high,
        "dram_bytes": figures.dram,
        "flash_bytes_per_token": figures.flash,
        "loss": loss,
        "why": why,
    }
