"""What stands beside the weights, asked for wrongly: exit code 2, one line that says what to do."""

from pathlib import Path

import pytest

from dipsim.trace import save_trace
from tools import three_layers
from tools.cli import Dipsim, done, refused

RUN = "run smollm2-kv -p snapdragon8 --tokens 0:140"
HUGE = "1" + 30 * "0"
REFUSED: dict[str, tuple[str, ...]] = {
    # Budgets
    "--kv-policy tova --kv-budget 0": ("KV budget 0", "at least 1 position"),
    "--kv-policy tova --kv-budget -5": ("KV budget -5", "at least 1 position"),
    "--kv-policy tova --kv-budget 2.5": ("a whole number, or a share",),
    "--kv-policy tova --kv-budget 0%": ("a share above 0% and at most 100%",),
    "--kv-policy tova --kv-budget 101%": ("a share above 0% and at most 100%",),
    "--kv-policy tova --kv-budget 141": ("has 140 positions; give at most so many",),
    f"--kv-policy tova --kv-budget {HUGE}": ("has 140 positions; give at most so many",),
    "--kv-policy tova --kv-budget 1e400": ("give a number of positions, or a share",),
    "--kv-policy tova --kv-budget nan": ("give a number of positions, or a share",),
    "--kv-policy tova --kv-budget ''": ("give a number of positions, or a share",),
    "--kv-policy tova": ("needs --kv-budget", "e.g. 1024"),
    "--kv-budget 16": ("is for a --kv-policy: add one",),
    "--kv-policy streaming --kv-budget 4": ("never evicts its 4 first", "give at least 5"),
    "--kv-policy pyramidkv:window=16 --kv-budget 20": ("hold 1 positions", "a larger budget"),
    "--kv-policy pyramidkv --kv-budget 100": ("give a budget of at most 64",),
    "--kv-policy pyramidkv --kv-budget 64 --kv-when token": ("cuts prompts only",),
    # Rules and their parameters
    "--kv-policy h3o --kv-budget 16": ("no KV policy 'h3o': use one of full, window",),
    "--kv-policy h2o:recent --kv-budget 16": ("write parameters as h2o:key=value",),
    "--kv-policy h2o:most=1 --kv-budget 16": ("no parameter 'most'; its parameters are recent",),
    "--kv-policy h2o:recent=.5,recent=.6 --kv-budget 16": ("given twice; give it once",),
    "--kv-policy obcache:score=key,score=key --kv-budget 16": ("given twice; give it once",),
    "--kv-policy h2o:recent=1.5 --kv-budget 16": ("recent=1.5: from 0 to 1",),
    "--kv-policy h2o:recent=nan --kv-budget 16": ("parameters are key=number",),
    f"--kv-policy h2o:window={HUGE} --kv-budget 16": ("window=1e+30: from 0 to 1048576",),
    "--kv-policy snapkv:kernel=1e400 --kv-budget 16": ("parameters are key=number",),
    "--kv-policy streaming:rerotate=1 --kv-budget 16": ("rerotate=1: one of no, yes",),
    "--kv-policy tova:rerotate=yes --kv-budget 16": (
        "KV policy tova: no parameter 'rerotate'; its parameters are heads",
    ),
    "--kv-policy snapkv:rerotate=yes --kv-budget 16": ("no parameter 'rerotate'; its parameters",),
    "--kv-policy tova --kv-budget 16 --kv-when never": ("'token', 'prompt' or 'both'",),
    # Formats, and what lies in flash
    "--kv-quant q9": ("no KV format 'q9': use one of fp16", "KEYS/VALUES"),
    "--kv-quant kivi:bits=2,bits=4": ("given twice; give it once",),
    "--kv-quant kivi:bits=1e400": ("parameters are key=number",),
    f"--kv-quant kivi:residual={HUGE}": ("a residual 0 to 1048576 positions",),
    "--kv-dram 101%": ("from 0% to 100%",),
    "--kv-dram -1%": ("from 0% to 100%",),
    "--kv-dram nan%": ("from 0% to 100%",),
    "--kv-dram 5": ("has no unit: write a size such as '8 GiB', or a share",),
    "--kv-dram 1e400GB": ("is out of range", "or a share"),
    "--kv-recompute l=-1 --kv-dram 25%": ("write none, auto, or l=POSITIONS",),
    f"--kv-recompute l={HUGE} --kv-dram 25%": ("write none, auto, or l=POSITIONS",),
    # Tokens
    "--prune-tokens eager": ("no token pruning 'eager': use lazy, static, random",),
    "--prune-tokens lazy:rate=1": ("a rate is a share from 0 to below 1",),
    "--prune-tokens lazy:rate=-.1": ("a rate is a share from 0 to below 1",),
    "--prune-tokens lazy:rate=1e400": ("'1e400' is no list of numbers",),
    "--prune-tokens lazy:at=30": ("30 layers cuts behind layers 30", "from 1 to 29"),
    f"--prune-tokens lazy:at={HUGE}": ("give places that differ, from 1 to 29",),
    "--prune-tokens lazy:at=.3,at=.4": ("at is given twice; give it once",),
    "--prune-tokens lazy:seed=1": ("lazy takes at, rate",),
    # Layers
    "--skip-layers most": ("no layer rule 'most': use one of drop",),
    "--skip-layers drop:layers=31": ("the model has 30: give at most so many",),
    "--skip-layers drop:layers=25-30": ("layers are 0 to 29",),
    "--skip-layers drop:layers=5-3": ("layers are 0 to 29, the lower first",),
    "--skip-layers drop:layers=3+3": ("a layer is given twice",),
    f"--skip-layers drop:layers=0-{HUGE}": ("give a number of layers, or for drop",),
    "--skip-layers unified:share=1.5": ("share=1.5 is outside 0..1",),
    "--skip-layers unified:share=nan": ("share=nan is outside 0..1",),
    "--skip-layers unified:share=.1,share=.2": ("'share' is given twice",),
    "--skip-layers unified:rate=.1": ("parameters of unified are share, layers, full",),
    "--skip-layers unified --partial-bits 0": ("greater than 0",),
    "--skip-layers unified --partial-bits 1e400": ("less than or equal to 32",),
    "--skip-layers unified --skip-kv void": ("'project', 'hole' or 'copy'",),
    # What excludes each other
    "--kv-policy full --kv-budget 16": ("drop one of them",),
    "--kv-quant q8_0 --kv-bits 8": ("give one of them",),
    "--kv-recompute auto": ("all KV lies in DRAM", "give --kv-dram"),
    "--skip-layers unified --scope global": ("drop one of them",),
    "--skip-kv hole": ("is for a --skip-layers: add one",),
    "--prune-tokens lazy --depth 100": ("drop one of them",),
    "--kv-policy tova --kv-budget 16 --compat authors": ("drop one of them",),
    "--kv-policy tova --kv-policy h2o --kv-budget 16": ("--kv-policy given twice",),
}


@pytest.mark.parametrize("options", REFUSED)
def test_what_cannot_be_is_refused(dipsim: Dipsim, options: str) -> None:
    refused(dipsim(f"{RUN} {options}"), *REFUSED[options])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("smollm2-chat --skip-layers similarity", "dipsim record MODEL t.npz --signals layer_io"),
        ("smollm2-chat --skip-layers recorded", "holds no layer_mode"),
        ("smollm2-chat --prune-tokens lazy", "has none: record one with a prompt"),
        ("smollm2-chat --kv-policy snapkv --kv-budget 70", "give --depth, or --kv-when token"),
        ("prompt.npz --prune-tokens lazy", "dipsim record --signals query,key, or use static"),
        (
            "--model smollm2-135m --method dense --prune-tokens lazy --prompt 64",
            "a trace recorded with dipsim record --signals query,key, or use static",
        ),
        ("--model smollm2-135m --method dense --skip-layers unified", "dipsim run TRACE"),
    ],
)
def test_signals_that_are_missing_are_named_with_the_command(
    dipsim: Dipsim, line: str, said: str
) -> None:
    save_trace("prompt.npz", three_layers.scores(0, 12))
    refused(dipsim(f"run {line} -p snapdragon8"), said)


def test_a_grouped_model_computes_nothing_again_and_says_why(dipsim: Dipsim) -> None:
    outcome = done(dipsim(f"{RUN} --kv-dram 25% --kv-recompute auto --json"))
    assert outcome.json["kv"]["recomputed"] == 0
    (warning,) = [text for text in outcome.err if "--kv-recompute auto" in text]
    assert "the input of a position takes 1152 B a layer, its keys and values 768 B" in warning
    assert "more than half as wide as the hidden state" in warning


def test_a_context_that_is_too_short_for_what_is_read_is_told(dipsim: Dipsim) -> None:
    line = f"{RUN} --kv-policy tova --kv-budget 16"
    assert done(dipsim(line)).err == done(dipsim(f"{line} --context 16")).err == []
    (warning,) = done(dipsim(f"{line} --context 10")).err
    assert "--context 140 holds all of it" in warning


def test_nothing_is_left_of_a_run_that_is_refused(dipsim: Dipsim) -> None:
    refused(dipsim(f"{RUN} --kv-policy tova --kv-budget 0 --csv out.csv --timeline out.json"))
    assert not Path("out.csv").exists()
    assert not Path("out.json").exists()
