"""The command line: what it prints, what it repeats, and the one line it refuses bad input with."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipsim.cli.output import say
from tools.cli import PROGRAM, STABLE_KEYS, Dipsim, done, lines_of, program, refused
from tools.folder import HIDDEN, RECENCY, TOKENS

GROUP_KEYS = {"name", "layers", "units", "unit_bytes", "capacity", "active", "accesses", "hits"}


# The headline -------------------------------------------------------------------------------------


def test_the_shipped_trace_fits_and_the_run_says_what_to_try(dipsim: Dipsim) -> None:
    _, out, err = done(dipsim("run smollm2-chat --profile snapdragon8"))
    assert err == []
    assert out.startswith("dense is faster, ")  # masks cost a small model more than they gain
    assert "tokens/s: everything fits in DRAM" in out
    assert "--method dense" not in out  # the first line says so
    assert re.search("^marks +open-loop, estimate", out, re.MULTILINE)
    dense = done(dipsim("run smollm2-chat --profile snapdragon8 --method dense")).out
    assert re.search(r"hint: .*--dram 50% or --cache-fraction 0.6", dense)


@pytest.mark.parametrize("option", ["--cache-fraction 0.6", "--dram 80%"])
def test_less_dram_shows_flash_traffic(dipsim: Dipsim, option: str) -> None:
    line = f"run smollm2-chat --profile snapdragon8 --tokens 0:48 {option}"
    text = " ".join(done(dipsim(line)).out.split())
    assert re.search(r"MB a token come from flash", text)
    less, all_ = (done(dipsim(f"{each} --json")).json for each in (line, line.replace(option, "")))
    assert less["flash_bytes_per_token"] > 5 * all_["flash_bytes_per_token"] > 0
    assert less["tokens_per_second"] < all_["tokens_per_second"]
    assert less["time_share"]["flash"] > 0.05


# JSON ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "run t.npz --profile snapdragon8 --cache-fraction 0.5",
        "run t.npz --profile paper-a18 --dram 70% --method dip-ca --warmup 3",
        "run marked.npz --profile oneplus15r --cache 1kB --overlap serial",
        "run sized.npz --profile phone.yaml --dram 500MB --policy lru",
        "run sets.npz --profile snapdragon8 --overlap paper-concurrent",
    ],
)
def test_json_is_one_object_with_the_stable_keys(dipsim: Dipsim, line: str) -> None:
    result = done(dipsim(f"{line} --json")).json
    assert set(result) >= STABLE_KEYS
    counts = [result[key] for key in ("tokens", "accesses", "hits")]
    for group in result["groups"]:
        assert set(group) >= GROUP_KEYS
        counts += [group[key] for key in ("layers", "units", "capacity", "accesses", "hits")]
    assert {type(count) for count in counts} == {int}
    assert set(result["latency_ms"]) == {"mean", "p50", "p95", "p99"}
    assert set(result["time_share"]) == {"flash", "dram", "compute", "sync", "management"}
    assert sum(result["time_share"].values()) == pytest.approx(1, abs=1e-9)
    slow, fast = result["tokens_per_second_range"]
    assert 0 < slow <= result["tokens_per_second"] * (1 + 1e-9) <= fast * (1 + 2e-9)
    assert result["accesses"] == sum(group["accesses"] for group in result["groups"])
    assert result["hits"] == sum(group["hits"] for group in result["groups"]) <= result["accesses"]
    assert result["unit_hit_rate"] == result["hits"] / result["accesses"]
    assert len(result["config"]["trace"]["hash"]) == 64


@pytest.mark.parametrize(("gamma", "warned"), [("mlp_input=.5,glu=.2", False), (".1", True)])
def test_a_strong_gamma_on_the_input_is_warned_about(
    dipsim: Dipsim, gamma: str, warned: bool
) -> None:
    line = "run smollm2-chat --profile snapdragon8 --method dip-ca --cache-fraction .6"
    found = done(dipsim(f"{line} --gamma {gamma} --json"))
    assert any("mlp_input keeps" in text for text in found.err) is warned
    into = found.json["groups"][0]
    assert into["energy_kept_plain"] == pytest.approx(0.9953, abs=1e-4)
    assert (into["energy_kept"] / into["energy_kept_plain"] < 0.997) is warned


def test_prefill_is_told_apart(dipsim: Dipsim) -> None:
    result = done(dipsim("run marked.npz --profile phone.yaml --prefill cache --json")).json
    assert result["tokens"] == 6
    assert result["prefill"]["tokens"] == 6
    assert {type(result["prefill"][key]) for key in ("tokens", "accesses", "hits")} == {int}
    assert result["ttft_ms"] > result["latency_ms"]["mean"]
    without = done(dipsim("run t.npz --profile phone.yaml --json")).json
    assert (without["prefill"], without["ttft_ms"]) == (None, None)


def test_a_run_without_a_single_access_is_still_json(dipsim: Dipsim) -> None:
    result = dipsim("run idle.npz --profile paper-a18 --json")
    assert result.code == 0
    assert (result.json["accesses"], result.json["hits"]) == (0, 0)


# Repeating a run ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        "t.npz --profile snapdragon8",
        "t.npz --profile paper-a18",
        "t.npz --profile oneplus15r --backend cpu",
        "t.npz --profile phone.yaml --cache-fraction 0.4",
        "t.npz --profile snapdragon8 -s flash.bandwidth=2GB/s -s backends.cpu.per_layer=1ms",
        "t.npz --profile snapdragon8 -s 'dram.available = 1 GB' --context 3",
        "t.npz --profile snapdragon8 --dram 70% --kv-bits 8",
        "t.npz --profile snapdragon8 --cache 700B --policy random --seed 3",
        "no-model.npz --profile snapdragon8 --model model.yaml --cache-fraction 0.5",
        "t.npz --profile snapdragon8 --model model.yaml --bits 6",
        "t.npz --profile snapdragon8 --method dip-ca --gamma 0.3 --cache-fraction 0.5",
        "t.npz --profile snapdragon8 --method dip-ca --gamma mlp_input=.5,glu=.2 --density 0.5",
        "t.npz --profile snapdragon8 --group-density mlp_input=.5,glu=.4 --tokens 2:9 --warmup 2",
        "t.npz --profile snapdragon8 --split equal --overlap serial",
        "t.npz --profile snapdragon8 --method glu --policy static --static-from glu.npz",
        "marked.npz --profile snapdragon8 --prefill cache --reset sequence",
        "sized.npz --profile snapdragon8 --cache-fraction 0.5 --policy opt",
    ],
)
def test_a_result_repeats_its_run_byte_for_byte(
    dipsim: Dipsim, options: str, tmp_path: Path
) -> None:
    first = done(dipsim(f"run {options} --json"))
    result = tmp_path / "result.json"
    result.write_text(first.out)
    assert done(dipsim(f"run --config {result} --json")).out == first.out


@pytest.fixture
def saved(dipsim: Dipsim, tmp_path: Path) -> Callable[[str], Path]:
    """Run with options and keep the result."""

    def save(options: str) -> Path:
        file = tmp_path / "result.json"
        file.write_text(done(dipsim(f"run t.npz --profile snapdragon8 {options} --json")).out)
        return file

    return save


@pytest.mark.parametrize(
    ("before", "after", "settings"),
    [
        ("--policy lfu", "--policy lru", {"policy": "lru"}),
        ("--cache-fraction 0.5", "--dram 1GB", {"dram": "1GB", "cache_fraction": None}),
        ("--dram 1GB", "--cache 1kB", {"cache": "1kB", "dram": None}),
        ("--density 0.5", "--density 0.6", {"density": 0.6}),
        (
            "--density 0.5",
            "--group-density mlp_input=.5,glu=.4",
            {"density": None, "group_density": {"mlp_input": 0.5, "glu": 0.4}},
        ),
        (
            "--group-density mlp_input=.5,glu=.4",
            "--density 0.5",
            {"density": 0.5, "group_density": {}},
        ),
        (
            "--split equal",
            "--group-density mlp_input=.5,glu=.4",
            {"split": None, "group_density": {"mlp_input": 0.5, "glu": 0.4}},
        ),
        ("--warmup 2", "--warmup 0 --tokens 0:5", {"warmup": 0, "tokens": "0:5"}),
        ("--method dip-ca --gamma 0.5", "--gamma glu=.3", {"gamma": {"glu": 0.3}}),
        ("--policy lru", "--io mmap", {"policy": "none", "overlap": "serial"}),
        (
            "--admission ranked --prefetch right=1",
            "--io mmap",
            {"admission": None, "prefetch": None},
        ),
        ("--io mmap", "--io direct", {"policy": "lfu", "overlap": "pipelined"}),
        ("--io mmap", "--warmup 1", {"policy": "none", "io": "mmap"}),
        ("--policy lru", "--io buffered", {"policy": "lru", "io": "buffered"}),
    ],
)
def test_options_win_over_the_config(
    dipsim: Dipsim,
    saved: Callable[[str], Path],
    before: str,
    after: str,
    settings: dict[str, Any],
) -> None:
    result = done(dipsim(f"run --config {saved(before)} {after} --json")).json
    found = result["config"]["settings"]
    assert {key: found.get(key, {} if key == "group_density" else None) for key in settings} == (
        settings
    )


def test_trace_profile_and_model_win_over_the_config(
    dipsim: Dipsim, saved: Callable[[str], Path]
) -> None:
    result = done(
        dipsim(
            f"run sets.npz --config {saved('--method dip --tokens 0:6')} --method recorded --json"
        )
    ).json
    assert (Path(result["config"]["trace"]["name"]).name, result["tokens"]) == ("sets.npz", 6)
    result = done(dipsim(f"run --config {saved('')} --profile oneplus15r --json")).json
    assert result["config"]["profile"]["name"] == "oneplus15r"
    result = done(
        dipsim(f"run --config {saved('')} -s flash.bandwidth=5GB/s --model model.yaml --json")
    ).json
    assert result["config"]["profile"]["flash"]["bandwidth"] == "5 GB/s"
    assert "bits" not in result["config"]["model"]


def test_a_changed_trace_is_refused(dipsim: Dipsim, tmp_path: Path) -> None:
    trace, result = tmp_path / "t.npz", tmp_path / "result.json"
    arrays = dict(np.load("t.npz"))
    np.savez(trace, **arrays)
    result.write_text(done(dipsim(f"run {trace} --profile snapdragon8 --json")).out)
    np.savez_compressed(trace, **arrays)  # the same contents
    assert done(dipsim(f"run --config {result} --json")).out == result.read_text()
    arrays["glu"][3, 1, 2] *= 2
    np.savez(trace, **arrays)
    refused(dipsim(f"run --config {result}"), f"{trace} is not the one of that run")
    assert done(dipsim(f"run {trace} --config {result} --json")).json["tokens"] == TOKENS


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trace", []),
        ("trace.name", "gone.npz"),
        ("trace.name", None),
        ("profile.colour", "red"),
        ("profile.sources", None),
        ("profile.dram", {}),
        ("settings", []),
        ("settings.colour", "red"),
        ("settings.policy", 5),
        ("settings.density", "high"),
        ("settings.gamma", [1]),
        ("settings.cache_fraction", 7),
        ("settings.tokens", 5),
        ("settings.model", "llama-3-8b"),
        ("settings.trace", "t.npz"),
        ("settings.progress", 1),
    ],
)
def test_a_config_of_nonsense_is_refused(
    dipsim: Dipsim, saved: Callable[[str], Path], key: str, value: Any
) -> None:
    result = saved("")
    whole = json.loads(result.read_text())
    *sections, last = key.split(".")
    at = whole["config"]
    for section in sections:
        at = at[section]
    at[last] = value
    result.write_text(json.dumps(whole))
    refused(dipsim(f"run --config {result}"))


# What is printed ----------------------------------------------------------------------------------

PRINTING = [
    "--help",
    "run --help",
    "run t.npz --profile snapdragon8",
    "run marked.npz --profile oneplus15r --cache-fraction 0.5 --policy lru",
    "run smollm2-chat --profile oneplus15r --tokens 0:16 --dram 60% --method dip-ca",
    "run sized.npz --profile phone.yaml",
    "inspect smollm2-chat",
    "inspect marked.npz",
    "inspect sized.npz",
    "profiles",
    "profiles oneplus15r",
    "profiles phone.yaml",
    "models",
    "models llama-3-8b",
    "models model.yaml",
    "policies",
    "methods",
    "systems",
]


@pytest.mark.parametrize("line", PRINTING)
def test_what_is_printed_fits_80_columns_without_escape_codes(dipsim: Dipsim, line: str) -> None:
    out = done(dipsim(line)).out
    assert out.strip()
    assert [row for row in out.splitlines() if len(row) > 80] == []
    assert "\x1b" not in out


@pytest.mark.parametrize(
    "line",
    [
        "inspect smollm2-chat --json",
        "inspect sized.npz --json",
        "profiles --json",
        "profiles paper-a18 --json",
        "profiles --schema",
        "models --json",
        "models mistral-7b --json",
    ],
)
def test_json_is_one_object(dipsim: Dipsim, line: str) -> None:
    found = done(dipsim(line)).json
    assert isinstance(found, dict)
    assert found


def test_lists_name_all_there_is(dipsim: Dipsim) -> None:
    from dipsim.hardware import profile_names
    from dipsim.methods import BUILTIN as METHODS
    from dipsim.model import model_names
    from dipsim.policies import BUILTIN as POLICIES

    for command, names in (
        ("profiles", profile_names()),
        ("models", model_names()),
        ("policies", POLICIES),
        ("methods", METHODS),
    ):
        out = done(dipsim(command)).out
        assert [name for name in names if not re.search(rf"(?m)^{name} ", out)] == []


def test_one_profile_shows_the_kind_of_every_number(dipsim: Dipsim) -> None:
    out = done(dipsim("profiles snapdragon8")).out
    assert re.search(r"dram.bandwidth +76.8 GB/s +vendor", out)
    assert re.search(r"per_layer +[\d.]+ us +\w", out)
    assert "no source" not in out
    assert "stated by phone.yaml" in done(dipsim("profiles phone.yaml")).out


def test_colour_is_left_out_when_asked(dipsim: Dipsim, monkeypatch: pytest.MonkeyPatch) -> None:
    colour = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert colour.search(done(dipsim("run t.npz --profile snapdragon8")).out)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colour.search(done(dipsim("run t.npz --profile snapdragon8")).out)


def test_text_out_of_a_trace_cannot_steer_the_terminal(dipsim: Dipsim) -> None:
    out = done(dipsim("inspect escapes.npz")).out
    assert "red" in out
    assert "\x1b" not in out
    assert "\a" not in out


@pytest.mark.parametrize("option", ["--cache-fraction 0", "--cache 0B"])
def test_an_empty_cache_is_warned_about(dipsim: Dipsim, option: str) -> None:
    outcome = dipsim(f"run t.npz --profile snapdragon8 {option} --json")
    assert outcome.code == 0
    assert outcome.json["hits"] == 0
    assert len(outcome.err) == 1
    assert outcome.err[0].startswith("dipsim: warning: ")
    assert "C = 0" in outcome.err[0]


def test_version_and_help(dipsim: Dipsim) -> None:
    from importlib.metadata import version

    assert done(dipsim("--version")).out == f"dipsim {version('dipsim')}\n"
    commands = {
        "run",
        "inspect",
        "import",
        "export",
        "synth",
        "profiles",
        "models",
        "policies",
        "methods",
    }
    shown = done(dipsim("--help")).out
    assert commands <= set(re.findall(r"(?m)^ +(\w+) ", shown))


# What runs ----------------------------------------------------------------------------------------


def test_bare_scores_of_a_known_model_run(dipsim: Dipsim, tmp_path: Path) -> None:
    glu = np.random.default_rng(1).random((4, 32, 14336)).astype(np.float16)
    np.savez(tmp_path / "t.npz", glu=glu)
    line = f"run {tmp_path / 't.npz'} --model llama-3-8b --profile snapdragon8 --json"
    result = done(dipsim(line)).json
    assert result["config"]["settings"]["method"] == "glu"
    (group,) = result["groups"]
    assert (group["name"], group["layers"], group["units"]) == ("glu", 32, 14336)
    assert group["active"] == int(0.1 * 14336 + 1e-9)  # density 0.7: the group keeps 3 D - 2
    assert group["unit_bytes"] == 4096 * 4.5 / 8


@pytest.mark.parametrize(
    ("trace", "method"),
    [("t.npz", "dip"), ("glu.npz", "glu"), ("sets.npz", "recorded"), ("sized.npz", "recorded")],
)
def test_the_method_follows_from_the_signals(dipsim: Dipsim, trace: str, method: str) -> None:
    result = done(dipsim(f"run {trace} --profile snapdragon8 --json")).json
    assert result["config"]["settings"]["method"] == method
    assert ("open-loop" in result["marks"]) == (method != "recorded")


def test_declared_bytes_stand_in_for_a_model(dipsim: Dipsim) -> None:
    result = done(dipsim("run sized.npz --profile snapdragon8 --cache-fraction 0.5 --json")).json
    assert "no-model" in result["marks"]
    assert result["config"]["model"] is None
    assert result["groups"][0]["unit_bytes"] == 3e6
    assert "no-model" not in done(dipsim("run sets.npz --profile snapdragon8 --json")).json["marks"]


def test_an_option_outranks_the_declared_bytes(dipsim: Dipsim) -> None:
    result = done(dipsim("run sized.npz --profile snapdragon8 --model model.yaml --json")).json
    assert result["groups"][0]["unit_bytes"] == 3 * HIDDEN * 4.5 / 8
    assert "no-model" not in result["marks"]


def test_a_policy_of_the_users_own_runs_as_its_twin_does_and_repeats(
    dipsim: Dipsim, tmp_path: Path
) -> None:
    assert len(RECENCY.splitlines()) <= 15
    line = "run smollm2-chat --profile snapdragon8 --tokens 0:24 --cache-fraction 0.9 --json"
    mine, lru = (done(dipsim(f"{line} --policy {name}")) for name in ("mine.py:policy", "lru"))
    assert mine.json["hits"] == lru.json["hits"] > 0
    result = tmp_path / "result.json"
    result.write_text(mine.out)
    assert done(dipsim(f"run --config {result} --trust-policy --json")).out == mine.out


def test_a_config_runs_a_file_only_when_asked_to(dipsim: Dipsim, tmp_path: Path) -> None:
    policy = tmp_path / "marking.py"
    policy.write_text(RECENCY + "open('executed', 'a').close()\n")
    line = f"--admission ranked --policy {policy}:policy --json"
    first = done(dipsim(f"run t.npz --profile snapdragon8 --dram 90% {line}"))
    result = tmp_path / "result.json"
    result.write_text(first.out)
    Path("executed").unlink()
    refused(dipsim(f"run --config {result}"), "marking.py:policy", "--trust-files")
    done(dipsim(f"run --config {result} --policy lru"))
    assert not Path("executed").exists()
    policy.write_text(policy.read_text() + "# a process runs a file once, until it changes\n")
    again = done(dipsim(f"run --config {result} --policy {policy}:policy --json"))
    assert again.out == first.out  # ranked admission is kept: no other policy was given
    assert Path("executed").exists()
    refused(dipsim("run t.npz --profile snapdragon8 --trust-policy"), "--config")


# What is refused ----------------------------------------------------------------------------------

BAD_TRACES = {
    "gone.npz": "no trace 'gone.npz'",
    "text.npz": "a text, no trace",
    "cut.npz": "not a readable .npz",
    "objects.npz": "never unpickles",
    "nan.npz": "score nan at token 3, layer 1, unit 2",
    "negative.npz": "score -1.0 at token 3, layer 1, unit 2",
    "shapes.npz": "disagree on tokens x layers: mlp_input 11 x 2, glu 12 x 2",
    ".": "a folder, no trace: of arrays make one with dipsim import",
    "/dev/zero": "not a regular file",
    "phone.yaml": "a profile, no trace: give it as --profile",
}


@pytest.mark.parametrize(
    "command", ["run --profile snapdragon8", "run --profile snapdragon8 --json", "inspect"]
)
@pytest.mark.parametrize("trace", BAD_TRACES)
def test_a_bad_trace_is_refused(dipsim: Dipsim, command: str, trace: str) -> None:
    refused(dipsim(f"{command} {trace}"), trace, BAD_TRACES[trace])


LONG = "x" * 5000
BAD_LINES = {
    "run": ["no trace"],
    "run t.npz": ["no profile", "snapdragon8", "paper-a18"],
    "run --profile snapdragon8": ["no trace"],
    "run t.npz --profile snapdragon9": ["'snapdragon9'", "snapdragon8"],
    f"run t.npz --profile {LONG}": ["no profile"],
    "run t.npz --profile typo.yaml": ["unknown key 'dramm'"],
    "run t.npz --profile model.yaml": ["model.yaml", "a model, no profile: give it as --model"],
    "run t.npz --profile snapdragon8 --backend tpu": ["no backend 'tpu'", "cpu"],
    "run t.npz --profile snapdragon8 -s flash.bandwidth=60": ["has no unit", "60 GB/s"],
    "run t.npz --profile snapdragon8 -s 'flash.bandwidth=60 Gb/s'": ["counts bits"],
    "run t.npz --profile snapdragon8 -s flash.speed=2GB/s": ["unknown key 'flash.speed'"],
    "run t.npz --profile snapdragon8 -s flash.bandwidth": ["key=value"],
    "run t.npz other.npz --profile snapdragon8": ["other.npz"],
    "run t.npz --profile snapdragon8 --colour red": ["no such option", "--colour"],
    "run t.npz --profile snapdragon8 --density": ["--density"],
    "run t.npz --profile snapdragon8 --density high": ["--density", "number"],
    "run t.npz --profile snapdragon8 --density 1.5": ["density 1.5", "from 0 to 1"],
    "run t.npz --profile snapdragon8 --density nan": ["density nan", "from 0 to 1"],
    "run t.npz --profile snapdragon8 --method glu --density 0.5": ["0.5", "--density 0.667"],
    "run t.npz --profile snapdragon8 --method dense --density 0.5": ["dense", "0.5"],
    "run t.npz --profile snapdragon8 --method moe2": ["'moe2'", "dip-ca"],
    "run glu.npz --profile snapdragon8 --method dip": [
        "mlp_input",
        "glu.npz",
        "abs(x) of the MLP input",
        "[tokens, layers, units]",
    ],
    "run t.npz --profile snapdragon8 --method recorded": ["recorded", "active sets"],
    "run sets.npz --profile snapdragon8 --density 0.5": ["--density"],
    "run t.npz --profile snapdragon8 --split thirds": ["'thirds'", "authors or equal"],
    "run t.npz --profile snapdragon8 --group-density glu=.5": ["--group-density", "mlp_input"],
    "run t.npz --profile snapdragon8 --group-density .5": ["--group-density", "mlp_input"],
    "run t.npz --profile snapdragon8 --density .5 --group-density mlp_input=.5,glu=.5": [
        "--density or --group-density"
    ],
    "run t.npz --profile snapdragon8 --gamma .5": ["--gamma", "dip-ca"],
    "run t.npz --profile snapdragon8 --method dip-ca --gamma 2": ["gamma", "from 0 to 1"],
    "run t.npz --profile snapdragon8 --method dip-ca --gamma nan": ["gamma", "from 0 to 1"],
    "run t.npz --profile snapdragon8 --method dip-ca --gamma gul=.5": ["'gul'", "mlp_input, glu"],
    "run t.npz --profile snapdragon8 --method dip-ca --gamma glu=.5,glu=.2": ["--gamma"],
    "run t.npz --profile snapdragon8 --method dip-ca --gamma strong": ["--gamma", "'strong'"],
    "run t.npz --profile snapdragon8 --dram 1GB --cache 1MB": ["--dram and --cache exclude"],
    "run t.npz --profile snapdragon8 --dram 1GB --cache-fraction 0.5": ["exclude each other"],
    "run t.npz --profile snapdragon8 --dram 5": ["--dram", "no unit"],
    "run t.npz --profile snapdragon8 --dram 1500%": ["--dram", "1500%", "1000%"],
    "run t.npz --profile snapdragon8 --dram 10B": ["10 B of DRAM cannot hold KV", "--context"],
    "run t.npz --profile snapdragon8 --cache '5 Gbit'": ["--cache", "counts bits"],
    "run t.npz --profile snapdragon8 --cache-fraction 1.5": ["--cache-fraction", "1.5"],
    "run t.npz --profile snapdragon8 --cache-fraction nan": ["--cache-fraction", "nan"],
    "run sized.npz --profile snapdragon8 --dram 50%": ["--dram 50%", "--model"],
    "run t.npz --profile snapdragon8 --bits 0": ["--bits"],
    "run t.npz --profile snapdragon8 --kv-bits 64": ["--kv-bits"],
    "run t.npz --profile snapdragon8 --context -1": ["--context"],
    "run t.npz --profile snapdragon8 --seed 99999999999999999999": ["--seed"],
    "run t.npz --profile snapdragon8 --admission sometimes": [
        "--admission",
        "'forced'",
        "'ranked'",
    ],
    "run t.npz --profile snapdragon8 --overlap wishful": ["--overlap", "'pipelined'", "'serial'"],
    "run t.npz --profile snapdragon8 --layout spiral": ["--layout", "'column'", "'bundle'"],
    "run t.npz --profile snapdragon8 --layout bundle": ["bundle", "--layout column"],
    "run t.npz --profile snapdragon8 --reset daily": ["--reset", "'never'", "'sequence'"],
    "run t.npz --profile snapdragon8 --prefill maybe": ["--prefill", "'stream'", "'cache'"],
    "run t.npz --profile snapdragon8 --warmup 12": ["12", "--warmup 0 to 11"],
    "run t.npz --profile snapdragon8 --warmup -1": ["--warmup"],
    "run infinite.npz --profile snapdragon8": ["infinite.npz", "JSON"],
    "run prompt.npz --profile snapdragon8": ["prompt.npz", "decode"],
    "run t.npz --profile snapdragon8 --tokens 5": ["--tokens", "A:B"],
    "run t.npz --profile snapdragon8 --tokens 5:2": ["5:2", "12"],
    "run t.npz --profile snapdragon8 --tokens 0:13": ["0:13", "12"],
    "run t.npz --profile snapdragon8 --tokens ²:5": ["--tokens", "A:B"],
    "run t.npz --profile snapdragon8 --model llama-3-8b": ["llama-3-8b", "32 layers", "t.npz"],
    "run t.npz --profile snapdragon8 --model llama-4": ["'llama-4'", "llama-3-8b"],
    "run t.npz --profile snapdragon8 --model phone.yaml": ["phone.yaml"],
    "run no-model.npz --profile snapdragon8": ["no-model.npz", "--model"],
    "run t.npz --profile snapdragon8 --policy gru": ["'gru'", "lfu", "file.py:attribute"],
    "run t.npz --profile snapdragon8 --policy lru:half_life=2": ["lru", "half_life", "no param"],
    "run t.npz --profile snapdragon8 --policy gone.py:policy": ["gone.py"],
    "run t.npz --profile snapdragon8 --policy mine.py:other": ["mine.py", "'other'"],
    "run t.npz --profile snapdragon8 --policy broken.py:number": ["broken.py", "'number'"],
    "run t.npz --profile snapdragon8 --policy fails.py:policy": ["fails.py", "no_such_module"],
    "run t.npz --profile snapdragon8 --policy syntax.py:policy": ["syntax.py", "SyntaxError"],
    f"run t.npz --profile snapdragon8 --policy {LONG}.py:policy": ["policy"],
    "run t.npz --profile snapdragon8 --policy broken.py:stateless": ["stateless", "ZeroDivision"],
    "run t.npz --profile snapdragon8 --cache-fraction 0.6 --policy broken.py:evicts_anything": [
        "careless",
        "not resident",
        "evictable[v]",
    ],
    "run t.npz --profile snapdragon8 --method dip-ca --policy belady": ["belady", "dip-ca"],
    "run t.npz --profile snapdragon8 --method dip-ca --policy opt": ["opt", "dip-ca"],
    "run t.npz --profile snapdragon8 --policy none --admission ranked": ["none", "--admission"],
    "run t.npz --profile snapdragon8 --static-from t.npz": ["--static-from", "static", "lfu"],
    "run t.npz --profile snapdragon8 --policy static --static-from gone.npz": ["'gone.npz'"],
    "run t.npz --profile snapdragon8 --policy static --static-from smollm2-chat": [
        "--static-from",
        "smollm2-chat",
    ],
    "run --config gone.json": ["--config", "gone.json"],
    "run --config text.json": ["text.json", "JSON"],
    "run --config other.json": ["other.json", "dipsim run --json"],
    "run --config t.npz": ["t.npz"],
    "run --config .": ["not a regular file"],
    f"run --config {LONG}": ["--config"],
    "inspect": ["no TRACE", "dipsim inspect --help"],
    "profiles snapdragon9": ["'snapdragon9'", "snapdragon8"],
    "models llama-4": ["'llama-4'", "llama-3-8b"],
    "policies lru": ["lru"],
    "simulate t.npz": ["no such command", "simulate"],
}


@pytest.mark.parametrize("line", BAD_LINES, ids=lambda line: line[:80])
def test_a_bad_line_is_refused_with_what_is_allowed(dipsim: Dipsim, line: str) -> None:
    refused(dipsim(line), *BAD_LINES[line])


# As a program -------------------------------------------------------------------------------------


def test_the_script_runs(folder: Path) -> None:
    script = Path(sys.executable).with_name("dipsim")
    if not script.exists():
        pytest.skip("needs dipsim to be installed beside the interpreter")
    line = [str(script), "run", "t.npz", "--profile", "snapdragon8", "--json"]
    ran = subprocess.run(line, capture_output=True, text=True, cwd=folder)
    assert ran.returncode == 0
    assert json.loads(ran.stdout)["tokens"] == TOKENS


def test_the_program_fails_with_two_and_one_line(folder: Path) -> None:
    ran = program("run", "nan.npz", "--profile", "snapdragon8", cwd=folder)
    assert (ran.returncode, ran.stdout) == (2, "")
    errors = lines_of(ran.stderr)
    assert len(errors) == 1
    assert errors[0].startswith("dipsim: ")


def test_any_text_of_a_trace_can_be_printed(folder: Path) -> None:
    ran = program("inspect", "surrogate.npz", cwd=folder, env={**os.environ, "LC_ALL": "C.UTF-8"})
    errors = lines_of(ran.stderr)
    assert (ran.returncode, errors) == (0, [])
    assert "half" in ran.stdout


@pytest.mark.parametrize("line", ["profiles --schema", "policies"])
def test_a_reader_that_leaves_is_no_error(line: str, folder: Path) -> None:
    with subprocess.Popen(
        [*PROGRAM, *line.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        errors = running.stderr.read()
        code = running.wait()
    assert (code, errors) == (0, "")


def test_a_line_on_standard_error_is_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what another program prints on the same terminal comes into it."""
    pieces: list[str] = []

    class Stream:
        write, isatty = pieces.append, staticmethod(lambda: False)

        def flush(self) -> None: ...

    monkeypatch.setattr(sys, "stderr", Stream())
    say("two\nlines")
    assert pieces == ["dipsim: two lines\n"]
