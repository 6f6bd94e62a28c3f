"""`dipsim run` without a trace: its outputs, how it repeats, and what it refuses in one line."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tools.cli import STABLE_KEYS, Dipsim, done, refused

DENSE = "run --model llama-3.2-1b -p snapdragon8 --method dense"


def test_the_screen_says_what_fits_and_how_fast_it_is(dipsim: Dipsim) -> None:
    _, out, err = done(dipsim(f"{DENSE} --depth 512 --prompt 128"))
    assert err == []
    assert "tokens/s: everything fits in DRAM" in out
    assert "prefill  128 tokens in " in out
    assert "compare" not in done(dipsim(f"{DENSE} --dram 50%")).out  # needs a trace
    details = done(dipsim(f"{DENSE} --details")).out
    assert "1 tokens, dense" in details


def test_the_json_is_one_object_that_repeats_the_run(dipsim: Dipsim, tmp_path: Path) -> None:
    for i, more in enumerate(("", "--depth 300 --prompt 20 --weight-format q4_0", "--dram 60%")):
        first = done(dipsim(f"{DENSE} {more} --json"))
        assert set(first.json) >= STABLE_KEYS
        assert (first.json["prefill"] is None) == ("--prompt" not in more)
        saved = tmp_path / f"{i}.json"
        saved.write_text(first.out)
        assert done(dipsim(f"run --config {saved} --json")).json == first.json
        deeper = done(dipsim(f"run --config {saved} --depth 1000 --json")).json
        assert deeper["dram_bytes_per_token"] > first.json["dram_bytes_per_token"]


def test_a_weight_format_takes_its_rate(dipsim: Dipsim) -> None:
    def rate(more: str) -> dict[str, Any]:
        return done(dipsim(f"{DENSE} {more} -s backends.cpu.gemv.q8_0=10GB/s --json")).json

    fast, slow, plain = rate("--weight-format q4_0"), rate("--weight-format Q8_0"), rate("--bits 8")
    assert slow["dram_bytes_per_token"] > 1.8 * fast["dram_bytes_per_token"]
    assert slow["tokens_per_second"] < 0.6 * fast["tokens_per_second"]
    assert plain["dram_bytes_per_token"] < slow["dram_bytes_per_token"]


def test_files_that_are_written(dipsim: Dipsim, tmp_path: Path) -> None:
    timeline, table, picture = (tmp_path / name for name in ("t.json", "t.csv", "p.svg"))
    line = f"{DENSE} --dram 50% --attribution"
    out = done(dipsim(f"{line} --timeline {timeline} --csv {table} --plot {picture}")).out
    assert "what would be faster" in out
    assert json.loads(timeline.read_text())["traceEvents"]
    assert len(list(csv.DictReader(table.read_text().splitlines()))) == 1
    assert picture.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run --model llama-3.2-1b -p snapdragon8", "no trace: give one"),
        ("run --model llama-3.2-1b -p snapdragon8 --method dip", "no trace: give one"),
        ("run -p snapdragon8 --method dense", "no trace: dipsim run TRACE"),
        ("run --method dense --model llama-3.2-1b", "no profile"),
        (f"{DENSE} --prompt 1048577", "at most 1048576 tokens"),
        (f"{DENSE} --prompt -1", "greater than or equal to 0"),
        (f"{DENSE} --depth -1", "greater than or equal to 0"),
        (f"{DENSE} --depth {'9' * 30}", "--depth"),
        (f"{DENSE} --depth 1.5", "--depth"),
        (f"{DENSE} --weight-format x4", "--weight-format x4: its bits are not known: add --bits"),
        (f"{DENSE} --calibration none.json", "no such file"),
        (f"{DENSE} --static-from t.npz --policy static", "--static-from"),
        (f"{DENSE} --density .5", "keeps everything"),
        ("run --model qwen3-30b-a3b -p snapdragon8 --method dense", "need a trace of their routes"),
    ],
)
def test_what_is_refused_in_one_line(dipsim: Dipsim, line: str, said: str) -> None:
    refused(dipsim(line), said)


# Context ------------------------------------------------------------------------------------------


def test_a_context_that_no_token_reads_is_told(dipsim: Dipsim) -> None:
    (warning,) = done(dipsim(f"{DENSE} --context 8192 --depth 10")).err
    assert "KV of 8192 tokens is in the budget, tokens read at most 10: --depth 8191" in warning
    assert done(dipsim(f"{DENSE} --context 8192 --depth 8191")).err == []
    assert done(dipsim(f"{DENSE} --context 12 --depth 10")).err == []
    assert done(dipsim(f"{DENSE} --depth 10")).err == []
    paper = done(dipsim(f"{DENSE} --context 8192 --overlap paper-serial")).err
    assert paper == []  # it reads the KV of all of them


def test_kv_that_the_budget_does_not_hold_is_told(dipsim: Dipsim) -> None:
    (warning,) = done(dipsim(f"{DENSE} --context 8 --depth 10")).err
    assert "tokens read up to " in warning
    assert "--context 11 holds all of it" in warning
    traced = "run smollm2-chat -p snapdragon8 --tokens 0:16"
    (warning,) = done(dipsim(f"{traced} --context 2048 --details")).err
    assert "tokens read at most 15: --depth 2032 reads more" in warning
    assert done(dipsim(f"{traced} --context 2048 --depth 2032")).err == []


# Profiles of earlier versions ---------------------------------------------------------------------

OLD = """name: old
dram: {capacity: 8 GB, bandwidth: 60 GB/s}
flash: {bandwidth: 1 GB/s}
backends: {cpu: {sync: 0.1 ms}}
sources: {backends.cpu.sync: {kind: measured, from: "a test"}}
"""


def test_a_sync_is_read_as_the_cost_of_a_layer_and_told_in_one_line(
    dipsim: Dipsim, tmp_path: Path
) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(OLD)
    new.write_text(OLD.replace("sync", "per_layer"))
    line = "run --model llama-3.2-1b --method dense --json -p"
    before, after = done(dipsim(f"{line} {old}")), done(dipsim(f"{line} {new}"))
    (warning,) = before.err
    assert "backends.cpu.sync is deprecated and read as per_layer" in warning
    assert after.err == []
    assert before.json["tokens_per_second"] == after.json["tokens_per_second"]
    for command in (f"profiles {old}", f"compare smollm2-chat -p {old} --tokens 0:4 --policy lru"):
        err = done(dipsim(command)).err
        assert [text for text in err if "deprecated" in text] == err[:1]
    assert "measured  a test" in done(dipsim(f"profiles {old}")).out
    (warning,) = done(dipsim(f"{line} snapdragon8 -s backends.cpu.sync=1ms")).err
    assert "deprecated" in warning
    # A result of an earlier version repeats.
    saved = after.json
    backend = saved["config"]["profile"]["backends"]["cpu"]
    backend["sync"] = backend.pop("per_layer")
    sources = saved["config"]["profile"]["sources"]
    sources["backends.cpu.sync"] = sources.pop("backends.cpu.per_layer")
    (tmp_path / "r.json").write_text(json.dumps(saved))
    again = done(dipsim(f"run --config {tmp_path / 'r.json'} --json"))
    assert again.json["tokens_per_second"] == after.json["tokens_per_second"]
    assert len(again.err) == 1
