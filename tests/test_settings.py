"""Options are declared once: what the command line, ``--config`` and the methods read off them."""

from typing import get_args

import pytest
import typer

from dipsim.cli.app import app
from dipsim.cli.options import BUDGET, HOW, KV, METHOD, POLICY, PROMPT, WHAT, WHERE
from dipsim.methods import BUILTIN
from dipsim.option import Concern
from dipsim.settings import CURVE_CONCERNS, OPTIONS, TAKES, Settings, concerning, discarded

PRUNING = ("glu", "glu-oracle", "gate", "up", "cats", "predictor", "teal", "dip", "dip-ca")
METHODS_THAT_TAKE = {
    "gamma": ("dip-ca",),
    "masking": ("dip-ca",),
    "split": ("dip", "dip-ca", "teal"),
    "selection": ("glu", "glu-oracle", "gate", "up", "dip"),
    "recall": ("predictor",),
    "predictor_rank": ("predictor",),
    "routing": ("moe",),
    "top_k": ("moe",),
}
WITH_CHECKS_OF_THEIR_OWN = {
    "density": (*PRUNING, "file.py:attribute"),
    "group_density": (*PRUNING, "file.py:attribute"),
    "calibrate_tokens": ("glu", "glu-oracle", "gate", "up", "dip", "cats", "teal"),
    "weights": ("dense",),
}
DISCARDS = (
    ({"dram", "cache", "cache_fraction"}, {"dram", "cache", "cache_fraction"}),
    ({"density", "group_density", "split"}, {"density", "group_density", "split"}),
    (
        {"method"},
        {
            *("density", "group_density", "split", "gamma", "masking", "routing", "top_k"),
            *("selection", "calibrate_tokens", "recall", "predictor_rank", "weights", "cluster"),
        },
    ),
    ({"policy"}, {"static_from", "admission"}),
    ({"selection", "calibrate_tokens"}, {"selection", "calibrate_tokens"}),
    ({"layout"}, {"order_from"}),
    (
        {"overlap", "prefetch"},
        {
            *("overlap", "prefetch", "prefetch_into", "prefetch_guard", "prefetch_depth"),
            "prefetch_cut",
        },
    ),
    ({"kv_policy"}, {"kv_budget", "kv_when"}),
    ({"kv_quant", "kv_bits"}, {"kv_quant", "kv_bits"}),
    ({"batch", "speculate"}, {"batch", "speculate"}),
)
"""Giving any option of the first set discards the saved values of the second."""
CURVE = {
    *("method", "density", "group_density", "split", "gamma", "masking", "selection"),
    *("calibrate_tokens", "recall", "predictor_rank", "routing", "top_k", "cluster"),
    *("admission", "access", "warmup", "reset", "prefill", "tokens", "layers", "sequence", "seed"),
}
PICTURE = {"plot", "size", "dpi"}
OWN = {
    "run": {
        *("trace", "profile", "model", "override", "config", "calibration", "attribution"),
        *("timeline", "timeline_tokens", "trust_files", "details", "as_json", "csv"),
        *PICTURE,
    },
    "compare": {
        *("trace", "profile", "model", "override", "csv", "as_json"),
        *PICTURE,
        *("method", "density", "policy", "dram", "cache", "cache_fraction", "details"),
    },
    "mrc": {"trace", "policy", "cache_fraction", "csv", "as_json", *PICTURE},
    "search": {
        *("trace", "profile", "model", "method", "max_loss", "calibration", "target_rate"),
        *("least", "axes", "points", "override", "csv", "as_json"),
        *PICTURE,
    },
    "study": {
        *("name", "trace", "profile", "model", "method", "policy", "override"),
        *("change", "store", "workers", "dask", "output", "csv", "as_json"),
        *PICTURE,
    },
    "validate": PICTURE
    | {
        *("file", "cases", "routes", "metrics", "page", "replay", "scale_to"),
        *("file_size", "lanes", "fit", "bench_seconds", "profile", "model", "as_json"),
    },
}
"""Options that a command declares itself; all its others are those of the settings."""


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_field_has_a_help_text_and_a_subject(name: str) -> None:
    option = OPTIONS[name]
    assert option.name == name
    assert option.flag == "--" + name.replace("_", "-")
    assert option.help
    assert option.concerns in get_args(Concern)
    assert option.kind in (int, float, str, dict)


def test_every_subject_has_an_option() -> None:
    subjects = get_args(Concern)
    assert all(concerning(subject) for subject in subjects)
    assert set(concerning(*subjects)) == set(OPTIONS)


@pytest.mark.parametrize("name", [name for name, entry in OPTIONS.items() if entry.default])
def test_a_help_text_names_the_default(name: str) -> None:
    text, default = OPTIONS[name].help, str(OPTIONS[name].default)
    assert text.endswith(f"[{default}]") or (name == "reset" and default in text)


@pytest.mark.parametrize("command", OWN)
def test_a_command_has_the_options_of_the_settings_beside_its_own(command: str) -> None:
    root = typer.main.get_command(app)
    parameters = {entry.name: entry for entry in root.commands[command].params}  # type: ignore[attr-defined]
    assert OWN[command] <= set(parameters)
    shared = set(parameters) - OWN[command]
    assert shared <= set(OPTIONS)
    for name in shared:
        option, parameter = OPTIONS[name], parameters[name]
        assert parameter.opts == [option.flag]
        assert getattr(parameter, "help", None) == option.help
        assert parameter.default is None


def test_the_command_line_reads_numbers_texts_and_pairs() -> None:
    kinds = {
        int: {
            *("top_k", "predictor_rank", "cluster", "warmup", "seed"),
            *("context", "depth", "prompt", "batch", "prefetch_depth"),
        },
        float: {
            *("density", "recall", "cache_fraction", "bits", "kv_bits", "partial_bits"),
            *("prefetch_guard", "prefetch_cut"),
        },
        dict: {"group_density", "gamma"},
    }
    for kind, names in kinds.items():
        assert {name for name, entry in OPTIONS.items() if entry.kind is kind} == names
    groups = (METHOD, POLICY, BUDGET, KV, PROMPT, WHAT, HOW, WHERE)
    annotations = [item for group in groups for item in group.items()]
    assert sorted(name for name, _ in annotations) == sorted(OPTIONS)  # each in one group
    for name, annotation in annotations:
        kind = OPTIONS[name].kind
        assert annotation.__origin__ == ((str if kind is dict else kind) | None)


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("run", set()),
        ("compare", {"kv", "prompt"}),
        ("search", {"kv", "prompt"}),
        ("study", {"kv", "prompt"}),
        ("mrc", set(OPTIONS) - CURVE - {"policy", "cache_fraction"}),
    ],
)
def test_what_a_command_leaves_out(command: str, missing: set[str]) -> None:
    root = typer.main.get_command(app)
    parameters = {entry.name for entry in root.commands[command].params}  # type: ignore[attr-defined]
    assert set(OPTIONS) - parameters == missing


def test_methods_that_take_an_option() -> None:
    assert {**METHODS_THAT_TAKE, **WITH_CHECKS_OF_THEIR_OWN} == TAKES
    assert {name for name in TAKES if OPTIONS[name].own_check} == set(WITH_CHECKS_OF_THEIR_OWN)
    takers = {method for methods in TAKES.values() for method in methods}
    assert takers - set(BUILTIN) == {"file.py:attribute"}  # those of a user's own


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_discards_the_saved_values_it_makes_meaningless(name: str) -> None:
    expected = {other for first, second in DISCARDS if name in first for other in second}
    assert discarded({name}) == expected


def test_several_options_discard_what_each_of_them_does() -> None:
    assert discarded({"policy", "layout"}) == {"static_from", "admission", "order_from"}
    assert discarded(()) == set()


def test_a_curve_needs_no_device() -> None:
    assert set(concerning(*CURVE_CONCERNS)) == CURVE
