"""Make docs/beside-results.md: what stands beside the weights, measured and timed.

``python docs/tables/beside.py`` judges every row that beside.json does not hold yet (about two
hours for all of them on one core: beside_rows.py), writes the tables of the page and draws its
picture. With all rows there it takes some seconds and needs no model.
"""

from collections.abc import Callable
from pathlib import Path

import beside_frontier
import beside_headlines
import beside_rows
import independent
import kv_eviction
import layer_skipping
from accuracy import filled
from beside_rows import AT, DENSE, PHONES, Choice, Row, evicted, find

import token_pruning

PAGE = Path(__file__).parents[1] / "beside-results.md"
HELD = (2, 6, 12, 24)
"""Megabytes of KV, at each of which the best row is named."""

WHOLE = {"prefill": 1.0, "computed": 1.0, "revived": 0.0, "read": 1.0}
"""Shares of `dipsim.lm.PrunedPerplexity` where no token is pruned."""
Cells = Callable[[Row], list[str]]
"""Cells of a row that are of its kind."""


def megabytes(count: float) -> str:
    """Return bytes in MB, with as many digits as a table has room for."""
    return f"{count / 1e6:.1f}"


def timed(row: Row) -> list[str]:
    """Return what is held and moved, and tokens per second with their interval on two phones."""
    first = row["devices"][PHONES[0]]
    bytes_ = (megabytes(first[name]) for name in ("kv_held", "dram", "flash"))
    return [*bytes_, *(beside_frontier.rate(row, phone) for phone in PHONES)]


def made(names: tuple[str, ...], rows: list[Row], own: Cells) -> str:
    """Return a table: cells of each row's kind, its bytes and its rates."""
    header = [*names, "KV held, MB", "DRAM, MB/token", "flash, MB/token", *PHONES]
    lines = [f"| {' | '.join(header)} |", "|---|" + "--:|" * (len(header) - 1)]
    lines += [f"| {' | '.join([*own(row), *timed(row)])} |" for row in rows]
    return "\n".join(lines)


def measured(name: str, choices: list[Choice]) -> list[Row]:
    """Return the rows of these choices that were measured on a text."""
    rows = beside_rows.load()[name]
    return [row for choice in choices if (row := find(rows, choice)) is not None]


def kv() -> str:
    """Return the table of eviction."""
    choices = [DENSE]
    choices += [evicted(rule, AT) for rule in beside_rows.EVERY_TOKEN]
    choices += [
        evicted(rule, budget)
        for budget in beside_rows.OTHER_BUDGETS
        for rule in beside_rows.BUDGETED
    ]
    choices += [evicted(rule, AT, "prompt") for rule in beside_rows.CUT]

    def own(row: Row) -> list[str]:
        settings = row["settings"]
        if not settings:
            return ["`full`", "", "", *lost(row)]
        return [
            f"`{settings['kv_policy']}`",
            settings["kv_when"],
            settings["kv_budget"],
            *lost(row),
        ]

    names = ("rule", "when", "positions", "perplexity", "mass kept", "output error")
    return made(names, measured("long", choices), own)


def lost(row: Row) -> list[str]:
    """Return perplexity, mass kept and error of the output."""
    mass, error = row.get("mass"), row.get("error")
    shown = ["" if mass is None else f"{mass:.2f}", "" if error is None else f"{error:.4f}"]
    return [f"{row['perplexity']:.2f}", *shown]


def formats() -> str:
    """Return the table of formats."""
    choices: list[Choice] = [("dense", {"kv_quant": name}) for name in beside_rows.FORMATS]

    def own(row: Row) -> list[str]:
        perplexity, _, error = lost(row)
        return [f"`{row['settings'].get('kv_quant', 'fp16')}`", perplexity, error]

    names = ("format", "perplexity", "output error")
    return made(names, measured("long", [DENSE, *choices]), own)


def equal_bytes() -> str:
    """Return the table of the best perplexity in so much KV, of all rows that run all weights."""
    rows = [row for row in beside_rows.load()["long"] if beside_frontier.kind(row) == "KV"]
    rows.append(measured("long", [DENSE])[0])
    lines = ["| KV held, at most | best | perplexity | held, MB |", "|--:|---|--:|--:|"]
    for limit in HELD:
        held = {id(row): row["devices"][PHONES[0]]["kv_held"] for row in rows}
        least = [row for row in rows if held[id(row)] <= limit * 1e6]
        if least:
            best = min(least, key=lambda row: float(row["perplexity"]))
            lines.append(
                f"| {limit} MB | {beside_frontier.name(best)} | {best['perplexity']:.2f} "
                f"| {megabytes(held[id(best)])} |"
            )
    return "\n".join(lines)


def shares() -> str:
    """Return the table of budgets that are shares of the prompt: perplexity of each rule."""
    lines = [
        "| rule | " + " | ".join(beside_rows.PROMPT_SHARES) + " |",
        "|---|" + "--:|" * len(beside_rows.PROMPT_SHARES),
    ]
    for rule in beside_rows.OF_PROMPTS:
        cells = []
        for share in beside_rows.PROMPT_SHARES:
            row = measured("long", [evicted(rule, share, "prompt")])
            cells.append(f"{row[0]['perplexity']:.2f}" if row else "-")
        lines.append(f"| `{rule}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def layers() -> str:
    """Return the table of skipped layers."""
    rows = measured("short", [DENSE, *map(beside_rows.skipped, beside_rows.LAYERS)])

    def own(row: Row) -> list[str]:
        rule = row["settings"].get("skip_layers", "none").removesuffix(",full=4")
        return [f"`{rule}`", f"{row.get('skipped', 0):.2f}", f"{row['perplexity']:.2f}"]

    return made(("rule", "skipped", "perplexity"), rows, own)


def tokens() -> str:
    """Return the table of pruned tokens, with the time to the first token."""
    schedules = sorted(beside_rows.SCHEDULES)
    choices: list[Choice] = [DENSE, *(("dense", {"prune_tokens": name}) for name in schedules)]

    def own(row: Row) -> list[str]:
        shares = (f"{row.get(name, whole):.3f}" for name, whole in WHOLE.items())
        firsts = (f"{1e3 * row['devices'][phone]['first_token']:.0f}" for phone in PHONES)
        schedule = f"`{row['settings'].get('prune_tokens', 'none')}`"
        return [schedule, f"{row['perplexity']:.2f}", *shares, *firsts]

    shares_of = ("prefill", "in the end", "revived", "KV read")
    firsts = tuple(f"first token, {phone}, ms" for phone in PHONES)
    names = ("schedule", "perplexity", *shares_of, *firsts)
    return made(names, measured("prompts", choices), own)


def against_others() -> str:
    """Return the table of what independent programs measured, on the texts that they had."""
    pairs: list[tuple[str, float, float]] = []
    for (rule, when), figure in independent.KV.items():
        row = kv_eviction.find(kv_eviction.load(), rule, when)
        assert row is not None, rule
        pairs.append((f"`{rule}`, {when}", figure, row["perplexity"]))
    skipping = {(row["rule"], row["factors"]): row for row in layer_skipping.load()}
    for (rule, factors), figure in independent.LAYERS.items():
        name = f"`{rule}`" + ("" if factors else ", without factors")
        pairs.append((name, figure, skipping[rule, factors]["perplexity"]))
    pruned = {row["schedule"]: row["value"] for row in token_pruning.load()}
    pairs += [(f"`{name}`", own[0], pruned[name]) for name, own in independent.TOKENS.items()]
    lines = ["| what | independent | dipsim | apart |", "|---|--:|--:|--:|"]
    for name, figure, own in pairs:
        apart = own / figure - 1
        shown = f"{apart:+.1%}" if abs(apart) <= independent.NEAR else f"**{apart:+.0%}**"
        lines.append(f"| {name} | {figure:g} | {own:.4g} | {shown} |")
    return "\n".join(lines)


def tables() -> dict[str, str]:
    """Return the tables of the page, in Markdown."""
    return {
        "independent": against_others(),
        "kv": kv(),
        "formats": formats(),
        "equal bytes": equal_bytes(),
        "layers": layers(),
        "tokens": tokens(),
        "frontier": beside_frontier.table(),
        "shares": shares(),
        **beside_headlines.tables(),
    }


def main() -> None:
    """Measure what is missing, write the tables, and draw the picture."""
    for name in beside_rows.TEXTS:
        beside_rows.measure(name)
    PAGE.write_text(filled(PAGE.read_text(), tables()))
    beside_frontier.write()


if __name__ == "__main__":
    main()
