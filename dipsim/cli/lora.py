"""`dipsim lora`: adapters that bring back what masks cost."""

import os
from dataclasses import replace
from typing import Annotated, Any

import typer

from dipsim.cli import completion
from dipsim.cli.app import Json, command
from dipsim.cli.help import OUTPUT
from dipsim.cli.inputs import given_only
from dipsim.cli.options import BOS_HELP, needs, number, stays
from dipsim.cli.output import print_report, say, show
from dipsim.cli.progress import Progress
from dipsim.errors import DipsimError
from dipsim.lists import pairs


@command(
    "Put a model in the loop (needs dipsim[torch])",
    "dipsim lora my-model --text book.txt --out adapter --density .5 --steps 2 --judge-tokens 2048",
)
def lora(
    model: Annotated[
        str,
        typer.Argument(help="a Hugging Face folder, a GGUF file, or org/name", metavar="MODEL"),
    ],
    text: Annotated[str, typer.Option(help="a file to judge and train on, UTF-8", metavar="FILE")],
    out: Annotated[
        str,
        typer.Option(help="folder of the adapter; goes on with one half trained", metavar="FOLDER"),
    ],
    method: Annotated[
        str, needs("see dipsim methods, or file.py:attribute", names=completion.methods)
    ] = "dip",
    density: Annotated[float, needs("share of MLP weights kept", "SHARE")] = 0.5,
    split: Annotated[str | None, needs("of dip: authors or equal [authors]")] = None,
    gamma: Annotated[
        str | None,
        needs("of dip-ca: a number, or mlp_input=.5,glu=.2", "NAME=NUMBER,..."),
    ] = None,
    policy: Annotated[
        str, stays("see dipsim policies", "NAME[:KEY=VALUE,...]", names=completion.policies)
    ] = "lfu",
    cache_fraction: Annotated[float, stays("share of the units cached", "SHARE")] = 0.5,
    rank: Annotated[int, number("of the adapter", min=1)] = 32,
    steps: Annotated[int | None, number("of training [200]", min=1)] = None,
    minutes: Annotated[
        float | None, number("of processor time to train, in place of --steps")
    ] = None,
    rate: Annotated[float, number("highest learning rate")] = 1e-3,
    batch: Annotated[int, number("windows in a step", min=1)] = 1,
    judge_tokens: Annotated[
        int, number("first tokens of the text, which judge and never train", min=1)
    ] = 8192,
    window: Annotated[int, number("tokens of a sequence")] = 512,
    bos: Annotated[
        str,
        typer.Option(help=BOS_HELP, metavar="auto|always|never"),
    ] = "auto",
    seed: Annotated[int, number("of every random draw", min=0, max=2**40)] = 0,
    fuse: Annotated[
        str | None,
        typer.Option(
            help="write the model with the adapter in it: a new folder",
            metavar="FOLDER",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train an adapter that brings back what a method's masks cost MODEL."""
    from pathlib import Path

    from dipsim.lm.extra import need_torch

    if steps is not None and minutes is not None:
        raise DipsimError("give either --steps or --minutes, not both")
    need_torch()
    from dipsim.lm.distil import Recipe, train_adapter
    from dipsim.lm.load import load
    from dipsim.lm.lora import check_new, load_adapter, save_model
    from dipsim.lm.lora import fuse as fused
    from dipsim.lm.text import prefix_of, read_ids
    from dipsim.report import lora as report

    settings: dict[str, Any] = {
        "density": density,
        "split": split,
        "gamma": None if gamma is None else pairs(gamma, "--gamma", alone=True),
        "policy": policy,
        "capacity": cache_fraction,
    }
    recipe = Recipe(
        method=method,
        settings=given_only(settings),
        rank=rank,
        steps=200 if steps is None and minutes is None else steps,
        minutes=minutes,
        rate=rate,
        batch=batch,
        window=window,
        judge_tokens=judge_tokens,
        seed=seed,
    )
    if fuse is not None:
        check_new(Path(fuse))
        if os.path.realpath(fuse) == os.path.realpath(out):
            raise DipsimError(f"--fuse {fuse}: the adapter's own folder; give another")
    with Progress("training", "steps") as progress:
        loaded = load(model)
        ids = read_ids(text, loaded.tokenizer)
        recipe = replace(recipe, prefix=prefix_of(loaded.tokenizer, bos))
        recovery = train_adapter(loaded, ids, out, recipe, progress)
        if fuse is not None:
            save_model(fused(load_adapter(loaded.model, out)), loaded.tokenizer, Path(fuse))
    if fuse is not None:
        say(f"{fuse}: the model with the adapter in it")
    if as_json:
        figures = {**recovery.to_dict(), "adapter": out, "fused": fuse}
        print_report(figures, units=report.UNITS)
    else:
        show(report.render(recovery, out))
