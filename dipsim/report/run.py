"""A result as tables for an 80-column terminal."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dipsim.analysis.verdict import Verdict
from dipsim.budget.divide import Budget
from dipsim.report.hints import hints
from dipsim.result import Result
from dipsim.units import BYTES
from dipsim.validate.error_bars import bar_of, bar_rows


def table(*columns: str, right: tuple[int, ...] = ()) -> Table:
    """A plain table; ``right`` are the columns of numbers."""
    made = Table(
        box=None,
        header_style="dim",
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for i, name in enumerate(columns):
        made.add_column(name, justify="right" if i in right else "left", overflow="fold")
    return made


def render(
    result: Result, judged: Verdict | None = None, more: Sequence[tuple[str, str]] = ()
) -> RenderableType:
    """The run in a sentence, a verdict on its misses, rates, budget, groups, time, marks, hints.

    Args:
        more: further rows of (label, text), below the rates.
    """
    parts: list[RenderableType] = [Text(result.verdict, style="bold"), Text()]
    if judged is not None and judged.misses and not result.fits:
        parts += [Text(f"{result.policy}: {judged.sentence}."), Text()]
    budget = "budget"
    if result.budget.dram is not None:
        budget += f" of {BYTES.show(result.budget.dram)} DRAM"
    sections = {
        "rates": _rates(result, more),
        budget: _budget(result),
        "groups (per layer)": _groups(result),
        "time (exposed)": _time(result),
    }
    for title, section in sections.items():
        parts += [Text(title, style="bold"), section, Text()]
    if result.marks:
        parts.append(Text(f"marks: {', '.join(result.marks)}"))
    if result.estimates:
        parts.append(Text(f"estimated: {', '.join(result.estimates)}", style="dim"))
    for hint in hints(result)[:2]:
        parts.append(Text(f"hint: {hint}", style="cyan"))
    return Group(*parts)


def _rates(result: Result, more: Sequence[tuple[str, str]]) -> Table:
    made = table("", "")
    made.show_header = False
    rate, *others = result.summary()
    for label, text in [rate, *bar_rows(result, bar_of(result)), *others, *more]:
        made.add_row(label, text)
    return made


def _budget(result: Result) -> Table:
    budget = result.budget
    made = table("", "", "", right=(1,))
    made.show_header = False
    lines = [
        ("attention", budget.static.attention),
        ("norms", budget.static.norms),
        ("lm_head", budget.static.head),
        ("dense parts", budget.static.dense_parts),
        ("scales", budget.static.scales),
        ("predictors", budget.static.predictors),
        ("- streamed from flash", -budget.streamed),
        ("KV", budget.kv),
        ("staging", budget.staging),
        ("runtime overhead", budget.overhead),
        ("read-ahead buffer", budget.buffer),
    ]
    for label, size in lines:
        if size:
            grown = label == "KV" and budget.start is not None
            made.add_row(label, BYTES.show(size), _start(budget, 0) if grown else "")
    share = f"{budget.fraction:.1%} of {BYTES.show(budget.units_bytes)} of units"
    if budget.start is not None:
        share += f"; {_start(budget, 1)}"
    made.add_row("cache", BYTES.show(budget.cache), share)
    return made


def _start(budget: Budget, which: int) -> str:
    assert budget.start is not None, "KV grows"
    return f"at first {BYTES.show(budget.start[which])}"


def _groups(result: Result) -> Table:
    made = table(
        "group", "units", "bytes", "active", "C", "C/|A|", "hits", "mass", "energy", "q*",
        right=tuple(range(1, 10)),
    )  # fmt: skip
    for group in result.groups():
        shared = group["capacity"] is None
        capacity = 0.0 if shared else _mean(group["capacity"])
        hits = group["hits"] / group["accesses"] if group["accesses"] else 0.0
        made.add_row(
            group["name"],
            str(group["units"]),
            f"{_mean(group['unit_bytes']):.6g}",
            f"{group['active']:.6g}",
            "all" if shared else f"{capacity:.6g}",
            f"{capacity / group['active']:.2f}" if group["active"] and not shared else "-",
            f"{hits:.1%}",
            f"{group['mass_kept']:.3f}",
            f"{group['energy_kept']:.4f}",
            f"{_mean(group['break_even_miss_density']):.2f}",
        )
    return made


def _time(result: Result) -> Table:
    shares = {name: share for name, share in result.time_share.items() if share > 0}
    made = table(*shares, right=tuple(range(len(shares))))
    made.add_row(*(f"{share:.1%}" for share in shares.values()))
    return made


def _mean(value: float | list[float]) -> float:
    return sum(value) / len(value) if isinstance(value, list) else float(value)
