"""Perplexity against rate of all that dipsim can leave out: weights, KV, layers; table and picture.

    python docs/tables/beside_frontier.py [FOLDER]     writes beside-frontier-{light,dark}.svg

They go to docs/pictures unless a folder is given. Every point is a row of beside.json; what is
drawn also stands, as text, in the description of both files.
"""

import json
import sys
from pathlib import Path
from typing import Any

import beside_rows
from beside_rows import DEVICES, PAPER, PHONES, Row

from dipsim.analysis.evaluate import frontier, judged
from rate_against_dram import INK, PICTURES

NAME = "beside-frontier"
DRAWN = (PHONES[0], PAPER)
HIGHEST = 19.0
"""Perplexity above which nothing is drawn."""
NAMES_APART, CROWDED = 0.3, 15.0
"""Perplexity between names that do not overlap, and below which their left sides have no room."""
KINDS = ("weights", "KV", "layers", "together", "dense")
COLOURS = {
    "light": {
        INK: "#1f2328", "weights": "#c24f00", "KV": "#00795a", "layers": "#0067a8",
        "together": "#8250df", "dense": "#1f2328",
    },
    "dark": {
        INK: "#f0f6fc", "weights": "#ff9a52", "KV": "#2fcf9f", "layers": "#62b5f2",
        "together": "#c297ff", "dense": "#f0f6fc",
    },
}  # fmt: skip
MARKERS = {"weights": "s", "KV": "o", "layers": "^", "together": "D", "dense": "*"}


def kind(row: Row) -> str:
    """Return what a row leaves out; KV in fewer bits counts as KV."""
    settings = row["settings"]
    kinds = [
        name
        for name, acts in (
            ("weights", row["method"] != "dense"),
            ("KV", "kv_policy" in settings or "kv_quant" in settings),
            ("layers", "skip_layers" in settings),
        )
        if acts
    ]
    return "dense" if not kinds else kinds[0] if len(kinds) == 1 else "together"


def name(row: Row) -> str:
    """Return what a row is called: ``dip 0.9 + q8_0``, ``tova 128``, ``snapkv:window=16 10% of the
    prompt``."""
    settings = row["settings"]
    parts = []
    if row["method"] != "dense":
        gamma = settings.get("gamma")
        masks = f"{row['method']} {settings['density']:g}"
        parts.append(
            masks + (f", gamma {gamma['mlp_input']:g} / {gamma['glu']:g}" if gamma else "")
        )
    if "kv_policy" in settings:
        prompt = " of the prompt" if settings.get("kv_when") == "prompt" else ""
        parts.append(f"{settings['kv_policy']} {settings['kv_budget']}{prompt}")
    if "kv_quant" in settings:
        parts.append(settings["kv_quant"])
    if "skip_layers" in settings:
        parts.append(settings["skip_layers"].removesuffix(",full=4"))
    return " + ".join(parts) or "dense"


def rate(row: Row, device: str) -> str:
    """Return tokens per second and their interval on a device; nothing where it was not timed."""
    timed = row["devices"].get(device)
    if timed is None:
        return ""
    low, high = timed["interval"]
    return f"{timed['rate']:.3g} ({low:.3g}..{high:.3g})"


def best(rows: list[Row], device: str) -> list[Row]:
    """Return the rows that no other beats in both perplexity and rate, the fastest first."""
    cells = [
        judged(
            row["method"],
            {},
            perplexity=row["perplexity"],
            tokens_per_second=row["devices"][device]["rate"],
        )
        for row in rows
    ]
    return [rows[i] for i in frontier(cells)]


def table() -> str:
    """Return the table of the rows that are best on some device, and of all that mask weights."""
    rows = beside_rows.load()["long"]
    fronts = {device: [id(row) for row in best(rows, device)] for device in DEVICES}
    shown = [
        row
        for row in rows
        if kind(row) in ("weights", "dense") or any(id(row) in front for front in fronts.values())
    ]
    lines = [
        f"| what | perplexity | KV held, MB | flash, MB/token | {' | '.join(DEVICES)} |",
        "|---|--:|--:|--:|" + "--:|" * len(DEVICES),
    ]
    for row in sorted(shown, key=lambda row: float(row["perplexity"])):
        first = row["devices"][PHONES[0]]
        rates = [
            f"**{rate(row, device)}**" if id(row) in fronts[device] else rate(row, device)
            for device in DEVICES
        ]
        lines.append(
            f"| {name(row)} | {row['perplexity']:.2f} | {first['kv_held'] / 1e6:.1f} "
            f"| {first['flash'] / 1e6:.1f} | {' | '.join(rates)} |"
        )
    return "\n".join(lines)


def points() -> dict[str, Any]:
    """Return what is drawn: by device, (tokens per second, perplexity) of each row by its name."""
    rows = [row for row in beside_rows.load()["long"] if row["perplexity"] <= HIGHEST]
    return {
        device: {name(row): [row["devices"][device]["rate"], row["perplexity"]] for row in rows}
        for device in DRAWN
    }


def sides(front: list[Row]) -> list[str | None]:
    """Return where the name of each row stands: at its left edge or its right one, so that none
    leaves the picture; None where it would lie on the one before."""
    chosen: list[str | None] = []
    labelled = float("inf")
    for row in front:
        apart = labelled - row["perplexity"] >= NAMES_APART
        chosen.append(None if not apart else "right" if row["perplexity"] > CROWDED else "left")
        if apart:
            labelled = row["perplexity"]
    return chosen


def draw(theme: str, path: Path) -> None:
    """Write one picture, transparent, with text as outlines: no font is needed to see it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    colours = COLOURS[theme]
    rows = [row for row in beside_rows.load()["long"] if row["perplexity"] <= HIGHEST]
    parts = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    with mpl.rc_context({**dict.fromkeys(parts, colours[INK]), "svg.hashsalt": "dipsim"}):
        figure = Figure(figsize=(7.2, 4), layout="constrained")
        panels = figure.subplots(1, len(DRAWN), sharey=True)
        for axes, device in zip(panels, DRAWN, strict=True):
            front = best(rows, device)
            axes.step(
                [row["devices"][device]["rate"] for row in front],
                [row["perplexity"] for row in front],
                color=colours[INK],
                alpha=0.4,
                linewidth=1,
                where="pre",
            )
            for each in KINDS:
                own = [row for row in rows if kind(row) == each]
                axes.scatter(
                    [row["devices"][device]["rate"] for row in own],
                    [row["perplexity"] for row in own],
                    color=colours[each],
                    marker=MARKERS[each],
                    s=90 if each == "dense" else 26,
                    label=each,
                )
            for row, side in zip(front, sides(front), strict=True):
                if side is not None:
                    axes.annotate(
                        name(row),
                        (row["devices"][device]["rate"], row["perplexity"]),
                        xytext=(6 if side == "left" else -6, 4),
                        textcoords="offset points",
                        ha=side,
                        fontsize=7,
                    )
            axes.set(xlabel="tokens per second", title=device)
            axes.grid(color=colours[INK], alpha=0.15, linewidth=0.8)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("perplexity")
        panels[0].legend(frameon=False, fontsize=8)
        about = {"Date": None, "Description": json.dumps(points())}
        figure.savefig(path, transparent=True, metadata=about)


def write(folder: Path = PICTURES) -> None:
    """Write both pictures."""
    for theme in COLOURS:
        draw(theme, folder / f"{NAME}-{theme}.svg")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES)
