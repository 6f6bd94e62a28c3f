"""Page of a sweep: the answer, the charts, a row for each run, caveats, and what repeats it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from dipsim.errors import brief
from dipsim.report.page import sweep_charts
from dipsim.report.page.axes import Axis, value_text
from dipsim.report.page.caveats import caveats
from dipsim.report.page.configuration import codes, command_line
from dipsim.report.page.entry import Entry
from dipsim.report.page.model import Cell, Page, Section, Table, Tile
from dipsim.report.page.runs import Runs
from dipsim.report.page.texts import interval_text, rate_text, sentence, share_text
from dipsim.units import BYTES, show_number

_FIGURES = ("tokens/s", "from", "to", "hits", "flash", "reads")
_CHOOSABLE = 30
"""Values of an axis up to which a reader chooses among them."""
_MOST_REASONS = 5
_REASON = 40
"""Characters of a reason in the table; the caveats have it whole."""


def page_of_sweep(name: str, entries: Sequence[Entry], asked: int, version: str) -> Page:
    """Return the page of a sweep.

    Args:
        name: of the sweep.
        entries: its finished cells, at least one.
        asked: number of its cells, finished or not.
        version: of dipsim.
    """
    runs = Runs(entries, asked)
    counts = [f"{count} of {len(runs.known)}" for count in runs.marks.values()]
    sections = [
        sweep_charts.against(runs),
        sweep_charts.frontier(runs),
        sweep_charts.maps(runs),
        sweep_charts.time(runs),
        sweep_charts.budgets(runs),
        _every_run(runs),
        caveats(list(runs.marks), _caveats(runs), counts),
        _configuration(runs.best),
    ]
    return Page(
        f"{name}: {len(entries)} runs",
        _answer(runs),
        _tiles(runs),
        [section for section in sections if not section.empty],
        f"dipsim {version}" + (f"; all runs: {runs.fixed}" if runs.fixed else ""),
        list(runs.marks),
    )


def _answer(runs: Runs) -> str:
    best = runs.best
    if not runs.known:
        return "No run was possible: the table says why."
    if best is None:
        return "No policy ran that a device can run: all knew the future, or kept nothing."
    all_runs, failed = len(runs.entries), len(runs.entries) - len(runs.known)
    answer = (
        f"Fastest of {all_runs} {'run' if all_runs == 1 else 'runs'}"
        f"{f', {failed} failed' if failed else ''}: "
        f"{rate_text(best.rate)} tokens/s with "
        f"{share_text(best.hit_rate)} of the active bytes in DRAM{_apart(runs.named(best))}."
    )
    ahead = max(runs.known, key=lambda entry: entry.speed)
    if ahead.speed > best.speed:
        others = [axis for axis in runs.axes if _differ(axis, ahead, best)]
        answer += (
            f" The fastest that no device can run gives {rate_text(ahead.rate)}"
            f"{_apart(runs.named(ahead, others))}."
        )
    return answer


def _differ(axis: Axis, one: Entry, other: Entry) -> bool:
    return bool(one.place.get(axis.name) != other.place.get(axis.name))


def _apart(name: str) -> str:
    return f" ({name})" if name else ""


def _tiles(runs: Runs) -> list[Tile]:
    failed, best = len(runs.entries) - len(runs.known), runs.best
    missing = runs.asked - len(runs.entries)
    notes = {"impossible": failed, "not finished": missing}
    about = ", ".join(f"{count} {what}" for what, count in notes.items() if count > 0)
    count = Tile("runs", str(len(runs.entries)), about or "all ran")
    if best is None:
        return [count]
    ends, about = runs.ends(best), ""
    if ends is not None and runs.level is not None:
        about = interval_text(*ends, runs.level)
    elif ends is not None:
        about = f"{show_number(ends.low, 3)} to {show_number(ends.high, 3)} by overlap"
    return [
        Tile("tokens/s, fastest", rate_text(best.rate), about),
        Tile("its hit rate", share_text(best.hit_rate), "of bytes"),
        Tile("its flash a token", _bytes(best.number("flash_bytes_per_token"))),
        count,
    ]


def _bytes(size: float | None) -> str:
    return "-" if size is None else BYTES.show(size)


def _every_run(runs: Runs) -> Section:
    """Return a row for each run, those that were impossible with their reason."""
    axes = runs.axes
    rows = [
        [*(_place(axis, entry.place.get(axis.name)) for axis in axes), *_figures(runs, entry)]
        for entry in runs.entries
    ]
    heads = [*(axis.name for axis in axes), *_FIGURES, "marks"]
    numbers = frozenset(range(len(axes), len(axes) + len(_FIGURES)))
    choices = [i for i, axis in enumerate(axes) if len(axis.values) <= _CHOOSABLE]
    commands = [command_line(entry.options) for entry in runs.entries]
    text = f"Flash and reads are of a token; from and to are the ends of {runs.ends_meaning}."
    shared = [mark for mark, count in runs.marks.items() if count == len(runs.known)]
    texts = [text] + ([f"All runs have the marks {', '.join(shared)}."] if shared else [])
    return Section("Every run", texts, tables=[Table("", heads, rows, numbers, choices, commands)])


def _place(axis: Axis, value: Any) -> Cell:
    """Return a value of an axis as a cell that is sorted as the axis is."""
    text = value_text(value)
    return Cell(text, axis.positions[axis.values.index(value)] if axis.positions else None)


def _figures(runs: Runs, entry: Entry) -> list[Cell]:
    if not entry.ran:
        return [*(Cell("-") for _ in _FIGURES), Cell(f"impossible: {brief(entry.why, _REASON)}")]
    ends = runs.ends(entry) or (None, None)
    flash, reads = (entry.number(f"flash_{name}_per_token") for name in ("bytes", "reads"))
    return [
        Cell(rate_text(entry.rate), 1e300 if entry.rate is None else entry.rate),
        *(Cell("-" if end is None else show_number(end, 3), end) for end in ends),
        Cell(share_text(entry.hit_rate), entry.hit_rate),
        Cell(_bytes(flash), flash),
        Cell("-" if reads is None else show_number(reads, 3), reads),
        Cell(" ".join(runs.own_marks(entry))),
    ]


def _caveats(runs: Runs) -> list[str]:
    sentences = []
    if runs.asked > len(runs.entries):
        sentences.append(
            f"{len(runs.entries)} of {runs.asked} runs are finished; what the others would change "
            "is not known."
        )
    sentences += list(dict.fromkeys(sentence(e.unmeasured) for e in runs.known if e.unmeasured))
    estimates = dict.fromkeys(key for entry in runs.known for key in entry.estimates)
    if estimates:
        sentences.append(f"Estimates that the times rest on: {brief(', '.join(estimates), 1000)}.")
    if runs.known and runs.level is None:
        sentences.append(
            "Not every run has an interval of its rate: dipsim run prints it, by what the numbers "
            "of the profile are worth."
        )
    reasons = Counter(entry.why for entry in runs.entries if not entry.ran)
    sentences += [f"Impossible ({n}): {why}." for why, n in reasons.most_common(_MOST_REASONS)]
    if len({entry.semantics for entry in runs.entries}) > 1:
        sentences.append(
            "The runs are of versions of dipsim that do not mean the same by a run: do not compare "
            "them."
        )
    options = [
        (value_text(entry.options.get("method")), value_text(entry.options.get("density")))
        for entry in runs.known
    ]
    if len(set(options)) > 1:
        sentences.append(
            "Methods and densities differ in what they lose, which no rate shows: see dipsim "
            "search --max-loss."
        )
    return sentences


def _configuration(best: Entry | None) -> Section:
    if best is None:
        return Section("Repeat it")
    text = "The fastest run; the table copies the command line of every one."
    return Section("Repeat it", [text], codes=codes(best.options))
