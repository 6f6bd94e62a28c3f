"""Draw the picture of README.md: rate against DRAM, of three methods and of the best cache.

    python docs/tables/rate_against_dram.py [FOLDER]     writes rate-against-dram-{light,dark}.svg

They go to docs/pictures unless a folder is given. Every point is a run: SmolLM2-135M on paper-a18,
density .7, lfu. What is drawn also stands, as text, in the description of both files, and a test
compares that with new runs.
"""

import json
import sys
from pathlib import Path
from typing import Any

import dipsim

PICTURES = Path(__file__).resolve().parents[1] / "pictures"
SHARES = range(40, 101, 5)
BEST = "dip, best cache"
LINES: dict[str, dict[str, Any]] = {
    "dip-ca": {"method": "dip-ca"},
    "dip": {"method": "dip"},
    "dense": {"method": "dense"},
    BEST: {"method": "dip", "policy": "opt"},
}
BESIDE = {BEST: 630, "dip-ca": 495, "dip": 388, "dense": 304}
"""Where each name stands beside the end of its line, in tokens per second, so that none overlap."""
INK = "ink"
COLOURS = {
    "light": {
        INK: "#1f2328", "dip-ca": "#00795a", "dip": "#c24f00", "dense": "#0067a8", BEST: "#6e7781"
    },
    "dark": {
        INK: "#f0f6fc", "dip-ca": "#2fcf9f", "dip": "#ff9a52", "dense": "#62b5f2", BEST: "#9198a1"
    },
}  # fmt: skip
"""For pages with a light and with a dark background, as GitHub's."""


def rates() -> dict[str, list[float]]:
    """Return tokens per second of every line, at each share of the model's bytes."""
    trace = dipsim.load_trace("smollm2-chat")
    return {
        name: [
            dipsim.simulate(trace, "paper-a18", dram=f"{share}%", **options).tokens_per_second
            for share in SHARES
        ]
        for name, options in LINES.items()
    }


def draw(drawn: dict[str, list[float]], theme: str, path: Path) -> None:
    """Write one picture, transparent, with text as outlines: no font is needed to see it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, NullLocator

    colours = COLOURS[theme]
    parts = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    with mpl.rc_context({**dict.fromkeys(parts, colours[INK]), "svg.hashsalt": "dipsim"}):
        figure = Figure(figsize=(7.2, 3.5), layout="constrained")
        axes = figure.subplots()
        for name in LINES:
            style = {"linestyle": ":"} if name == BEST else {"marker": "o", "markersize": 4}
            axes.plot(SHARES, drawn[name], color=colours[name], **style)
            axes.text(102, BESIDE[name], name, color=colours[name], va="center")
        ticks = [20, 50, 100, 200, 500]
        axes.set(yscale="log", xlim=(39, 101), ylim=(16, 700))
        axes.set_yticks(ticks, [str(tick) for tick in ticks])
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks(range(40, 101, 10), [f"{share} %" for share in range(40, 101, 10)])
        axes.set(xlabel="DRAM for weights and KV, share of the model", ylabel="tokens per second")
        axes.grid(color=colours[INK], alpha=0.15, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        about = {"Date": None, "Description": json.dumps({"dram": list(SHARES), **drawn})}
        figure.savefig(path, transparent=True, metadata=about)


def write(folder: Path) -> None:
    """Write both pictures."""
    drawn = rates()
    for theme in COLOURS:
        draw(drawn, theme, folder / f"rate-against-dram-{theme}.svg")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES)
