"""`dipsim eval`: a model under methods, judged on a text."""

import itertools
import json
from typing import Annotated, Any

import typer

from dipsim.cli import completion
from dipsim.cli.app import Json, command
from dipsim.cli.help import OUTPUT
from dipsim.cli.inputs import load_device
from dipsim.cli.options import (
    EACH_BESIDE,
    Csv,
    Override,
    ProfileOption,
    draws,
    needs,
    stays,
    takes,
)
from dipsim.cli.output import print_report, say, show
from dipsim.cli.progress import Progress
from dipsim.errors import DipsimError
from dipsim.lists import pairs, split_names, split_numbers


@command(
    "Put a model in the loop (needs dipsim[torch])",
    "dipsim eval my-model --text book.txt --tokens 2048 --method dense,dip,dip-ca --density .5,.7",
    "dipsim eval my-model --text book.txt --tokens 2048 -p paper-a18 --plot methods.png",
    "dipsim eval my-model --text book.txt --kv-policy full,h2o,tova --kv-budget 128 --prompt 256",
    name="eval",
)
@draws
@takes(EACH_BESIDE)
def evaluate(
    model: Annotated[
        str, typer.Argument(help="a Hugging Face folder, a GGUF file, or org/name", metavar="MODEL")
    ],
    text: Annotated[str, typer.Option(help="a file to judge on, UTF-8", metavar="FILE")],
    method: Annotated[
        list[str] | None,
        needs(
            "see dipsim methods, or file.py:attribute; several with commas [dip; dense with "
            "options on KV, tokens and layers]",
            names=completion.methods,
        ),
    ] = None,
    density: Annotated[
        list[str] | None, needs("shares of MLP weights kept, with commas [0.7]", "SHARE")
    ] = None,
    gamma: Annotated[
        list[str] | None,
        needs("of dip-ca: a number, or mlp_input=.5,glu=.2", "NAME=NUMBER,..."),
    ] = None,
    split: Annotated[
        list[str] | None, needs("of dip: authors or equal, or both, with a comma")
    ] = None,
    selection: Annotated[str | None, needs("top-k or threshold [top-k]")] = None,
    masking: Annotated[
        list[str] | None,
        needs(
            "of dip-ca: gamma, blend or approximate:top_m=.9, with commas [gamma]",
            "NAME[:KEY=VALUE,...]",
        ),
    ] = None,
    recall: Annotated[
        float | None, needs("of predictor: right neurons it finds [0.9]", "SHARE")
    ] = None,
    routing: Annotated[
        list[str] | None,
        needs(
            "of moe: cache-prior, max-rank, drop-cold or reuse-distance, with commas",
            "NAME[:KEY=VALUE,...]",
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        stays(
            "see dipsim policies; several with commas [lfu]",
            "NAME[:KEY=VALUE,...]",
            names=completion.policies,
        ),
    ] = None,
    cache_fraction: Annotated[
        list[str] | None, stays("shares of the units cached, with commas [0.5]", "SHARE")
    ] = None,
    dram: Annotated[
        list[str] | None,
        stays("for weights and KV: 3.5GB, or 50% of the model, with commas", "BYTES|SHARE"),
    ] = None,
    profile: ProfileOption = None,
    override: Override = None,
    window: Annotated[
        int, typer.Option(help="tokens of a sequence", metavar="NUMBER", min=2, max=2**22)
    ] = 512,
    tokens: Annotated[
        int | None,
        typer.Option(help="judged, at most [all]", metavar="NUMBER", min=1, max=2**32),
    ] = None,
    prompt: Annotated[
        int,
        typer.Option(
            help="tokens of each window, computed whole and not judged [0]",
            metavar="NUMBER",
            min=0,
            max=2**22,
        ),
    ] = 0,
    calibrate_tokens: Annotated[
        str | None, needs("tokens A:B for thresholds and skipped layers; not judged", "A:B")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="a folder that dipsim lora wrote", metavar="FOLDER")
    ] = None,
    requantise: Annotated[
        str | None,
        typer.Option(help="MLP weights by column first, e.g. 4:32", metavar="BITS:GROUP"),
    ] = None,
    both_loops: Annotated[
        bool, typer.Option("--open-loop", help="replay a trace of the dense model beside")
    ] = False,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="write a calibration for dipsim search: a .json file",
            metavar="FILE",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    geometry: Annotated[
        str | None,
        typer.Option(
            help="sizes of a model dipsim does not know, as run --model",
            metavar="NAME|FILE",
            autocompletion=completion.models,
        ),
    ] = None,
    csv: Csv = None,
    as_json: Json = False,
    picture: Any = None,
    **beside: list[str] | None,
) -> None:
    """Judge MODEL on a text, in closed loop: perplexity, hits, bytes, and on a device tokens/s."""
    from dipsim.lm.extra import need_torch
    from dipsim.report import files

    table = files.check_csv(csv)
    calibration_file = files.check_text("--calibration", calibration, ".json")
    systems = {name: split_names(values) for name, values in beside.items() if values}
    methods = split_names(method or ["dense" if systems else "dip"])
    if dram and cache_fraction:
        raise DipsimError("give either --dram or --cache-fraction, not both")
    if profile is None:
        _refuse_without_device(dram, override)
    fitted = selection or "skip_layers" in systems
    _refuse_without_method(methods, calibrate_tokens and not fitted, calibration)
    bits = _bits(requantise)
    need_torch()
    from dipsim.analysis.evaluate import calibration_of, grid
    from dipsim.report import evaluate as report

    device = None if profile is None else load_device(profile, override)
    with Progress("judging", "rows", log=True) as progress:
        loaded = _loaded(model, geometry, adapter, bits)
        windows, calibrate = _judged(loaded, text, window, tokens, calibrate_tokens)
        cells = grid(
            methods,
            {
                "density": split_numbers(density or (), "--density"),
                "split": split_names(split or ()),
                "selection": [selection] if selection else [],
                "gamma": [pairs(each, "--gamma", alone=True) for each in gamma or []],
                "masking": split_names(masking or ()),
                "recall": [] if recall is None else [recall],
                "routing": split_names(routing or ()),
                "policy": split_names(policy or ()),
                "cache_fraction": split_numbers(cache_fraction or (), "--cache-fraction")
                or ([] if dram or device else [0.5]),
                "dram": split_names(dram or ()),
                **systems,
            },
        )
        judging = {"profile": device, "calibrate": calibrate, "prompt": prompt}
        judging["both_loops"] = both_loops
        evaluation = _judge(loaded, windows, cells, bits, progress, **judging)
    if calibration_file is not None:
        points = json.dumps(calibration_of(evaluation), indent=1)
        files.write_text("--calibration", calibration_file, points)
    if table is not None:
        report.write_csv(evaluation, table)
    if picture is not None:
        report.plot(evaluation, picture)
    if as_json:
        print_report(
            evaluation.to_dict(),
            profiles=[] if device is None else [device],
            units=report.UNITS,
        )
    else:
        show(report.render(evaluation))


def _refuse_without_device(dram: list[str] | None, override: list[str] | None) -> None:
    if dram:
        raise DipsimError("--dram is of a device: add --profile")
    if override:
        raise DipsimError("-s overrides a profile: add --profile")


def _refuse_without_method(methods: list[str], calibrated: Any, calibration: str | None) -> None:
    """Refuse options for methods of which none is judged."""
    if calibrated and not {"cats", "teal", "predictor"} & set(methods):
        raise DipsimError(
            "--calibrate-tokens is for cats, teal, predictor, --selection threshold or "
            "--skip-layers: drop it"
        )
    if calibration is not None and set(methods) == {"dense"}:
        raise DipsimError("--calibration is of methods that prune: add one, e.g. --method dip-ca")


def _bits(text: str | None) -> tuple[int, int] | None:
    """Read ``"4:32"`` as (bits per weight, weights of a group); None stays None."""
    if text is None:
        return None
    bits, colon, group = text.partition(":")
    if not (colon and bits.isdecimal() and group.isdecimal() and 1 <= int(bits) <= 8):
        raise DipsimError(f"--requantise {text!r}: write BITS:GROUP, e.g. 4:32, of 1 to 8 bits")
    if not 1 <= int(group) <= 2**16:
        raise DipsimError(f"--requantise {text!r}: a group has 1 to 65536 weights")
    return int(bits), int(group)


def _loaded(
    model: str, geometry: str | None, adapter: str | None, bits: tuple[int, int] | None
) -> Any:
    """Return the model, with the sizes and the storage that it, the user or ``bits`` names."""
    from dataclasses import replace

    from dipsim.lm.load import load
    from dipsim.lm.requantise import stored_by_column
    from dipsim.model import load_model

    loaded = load(model)
    if geometry is not None:
        sizes = load_model(geometry).model_dump(mode="json", exclude_unset=True)
        loaded = replace(loaded, geometry=sizes)
    elif bits is not None and loaded.geometry is not None:
        loaded = replace(loaded, geometry=stored_by_column(loaded.geometry, *bits))
    if adapter is not None:
        from dipsim.lm.lora import load_adapter

        loaded = replace(loaded, model=load_adapter(loaded.model, adapter))
    return loaded


def _judged(
    loaded: Any, text: str, window: int, tokens: int | None, calibrate: str | None
) -> tuple[Any, Any]:
    """Return the windows that are judged, and the tokens that are calibrated on.

    No window reaches across the tokens that are taken out for calibration.
    """
    import numpy as np

    from dipsim.lm.text import read_ids, windows_of

    ids = read_ids(text, loaded.tokenizer)
    apart = None
    if calibrate is not None:
        start, stop = _rows(calibrate, len(ids))
        apart, sides = ids[start:stop], (ids[:start], ids[stop:])
        ids = np.concatenate([side[: len(side) // window * window] for side in sides])
        text = f"{text}, less the tokens that calibrate,"
    return windows_of(ids, window, tokens, text), apart


def _rows(text: str, tokens: int) -> tuple[int, int]:
    """Read ``"A:B"`` as the first token and the one behind the last, of a text of ``tokens``."""
    first, colon, last = text.partition(":")
    try:
        start, stop = int(first or 0), int(last or tokens)
    except ValueError:
        start, stop = 0, -1
    if not colon or not 0 <= start < stop <= tokens:
        raise DipsimError(f"--calibrate-tokens {text}: write A:B within the text's {tokens} tokens")
    return start, stop


def _judge(
    loaded: Any,
    windows: Any,
    cells: Any,
    bits: tuple[int, int] | None,
    progress: Progress,
    **judging: Any,
) -> Any:
    """Return the evaluation of all cells, with weights stored by column where that is asked for.

    Args:
        judging: arguments of `dipsim.lm.evaluate`.
    """
    from contextlib import nullcontext

    from dipsim.lm.evaluate import evaluate as judge
    from dipsim.lm.perplexity import perplexity
    from dipsim.lm.requantise import requantised
    from dipsim.lm.structure import find_structure

    judged = itertools.count(1)
    stored: Any = nullcontext()
    if bits is not None:
        before = perplexity(loaded.model, windows).value
        stored = requantised(find_structure(loaded.model), *bits)
    with stored:
        evaluation = judge(
            loaded,
            windows,
            cells,
            **judging,
            done=lambda row: progress(next(judged), len(cells) + 1),
        )
    if bits is not None:
        from dipsim.units import show_number

        say(
            f"MLP weights in {bits[0]} bits by column, groups of {bits[1]}: the dense model's "
            f"perplexity goes from {show_number(before)} to {show_number(evaluation.dense)}"
        )
    return evaluation
