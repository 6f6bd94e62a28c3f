"""Plans: what fits, what a plain run does, and ways whose figures are those of runs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import dipsim
from dipsim.errors import DipsimError
from dipsim.hardware import load_profile
from dipsim.model import load_model
from dipsim.planning.of_any import family_of
from dipsim.planning.plan import Plan, plan
from dipsim.planning.question import Question
from dipsim.planning.uniform import routed_alike
from dipsim.report.plan import MOST_WAYS, kind_of, shown, useful
from tools.cli import invoke, refusal
from tools.paths import shared

PHONE = "snapdragon8gen3"
LONGEST = 64
"""Tokens of a sequence of the shipped trace."""


def small(**more: Any) -> Plan:
    """SmolLM2-135M in less DRAM than it takes."""
    return plan("smollm2-135m", PHONE, dram=250e6, context=512, **more)


def test_a_model_that_fits_has_no_other_ways() -> None:
    answer = plan("llama-3.2-1b", PHONE)
    assert answer.room.fits
    assert answer.meets
    assert answer.ways == ()
    assert answer.plain is not None
    result = dipsim.simulate(
        None, PHONE, model="llama-3.2-1b", method="dense", prompt=128, depth=4096 - 129
    )
    assert answer.plain.rate.value == result.tokens_per_second
    interval = result.interval
    assert interval is not None
    assert (answer.plain.rate.low, answer.plain.rate.high) == (interval.low, interval.high)
    ttft = answer.plain.ttft
    assert ttft is not None
    assert ttft.value == result.timing.ttft
    assert ttft.low < ttft.value < ttft.high


def test_the_margin_is_what_the_parts_leave() -> None:
    room = plan("llama-3.2-1b", PHONE, context=8192).room
    # By hand: 16 layers, 8 heads of 64, keys and values of 16 bits.
    assert room.kv == 2 * 16 * 8 * 64 * 2 * 8192
    assert room.weights == pytest.approx(1_235_814_400 * 4.5 / 8, rel=1e-3)
    assert room.margin == room.available - room.weights - room.kv - room.overhead - room.staging
    assert plan("llama-3.2-1b", PHONE, context=8192, kv_bits=8).room.kv == room.kv / 2


@pytest.mark.slow
def test_ways_are_ranked_and_repeat() -> None:
    answer = small(trace="smollm2-chat")
    assert not answer.room.fits
    rates = [way.figures.rate.value for way in answer.ways]
    assert rates == sorted(rates, reverse=True)
    names = [way.name for way in answer.ways]
    assert {"mmap", "KV of 8 bits", "dip 0.5", "dip-ca 0.5"} <= set(names)
    for way in answer.ways:
        options = dict(way.options)
        form, bits = options.pop("weight_format", None), options.pop("bits", None)
        model = load_model(options.pop("model", "smollm2-135m"))
        if bits is not None:
            model = model.stored_at(bits, form)
        traced = "density" in options
        usual: dict[str, Any] = {"prompt": 128, "context": 512, "depth": 512 - LONGEST}
        if not traced:
            depth = int(options.pop("context", 512)) - 129
            usual = {"prompt": 128, "depth": depth, "method": "dense"}
        again = dipsim.simulate(
            "smollm2-chat" if traced else None,
            load_profile(PHONE, ["dram.available=250MB"]),
            model=model,
            **{**usual, **options},
        )
        assert way.figures.rate.value == again.tokens_per_second, way.name
        assert way.figures.flash == again.flash_bytes_per_token, way.name


def test_more_dram_never_makes_a_plain_run_slower() -> None:
    rates = []
    for dram in (230e6, 260e6, 300e6, 400e6):
        answer = plan("smollm2-135m", PHONE, dram=dram, context=512)
        assert answer.plain is not None
        rates.append(answer.plain.rate.value)
    assert rates == sorted(rates)


def test_more_dram_never_leaves_fewer_ways_that_fit() -> None:
    numbers = []
    for dram in (200e6, 250e6, 300e6):
        ways = plan("smollm2-135m", PHONE, dram=dram, context=512, target_rate=1e6).ways
        numbers.append(sum(way.figures.flash < 1e5 and "io" not in way.options for way in ways))
    assert numbers == sorted(numbers)
    assert numbers[-1] > numbers[0]


def test_a_target_that_is_missed_asks_for_ways() -> None:
    answer = plan("llama-3.2-1b", PHONE, target_rate=1000)
    assert answer.room.fits
    assert not answer.meets
    assert any(way.name.startswith("backend") for way in answer.ways)
    assert not any(way.name == "mmap" for way in answer.ways)
    assert plan("llama-3.2-1b", PHONE, target_rate=1).ways == ()


def test_a_narrower_format_is_tried_on_each_engine_that_has_it() -> None:
    names = [way.name for way in plan("llama-3-8b", PHONE, dram=4e9).ways]
    assert "w2 on cpu-tmac" in names
    assert [name for name in names if name.startswith("llama")] == ["llama-3.2-1b", "llama-3.2-3b"]


@pytest.mark.parametrize(
    ("name", "family"),
    [("Llama-3.2-1B", "llama"), ("qwen3-30b-a3b", "qwen"), ("7b", ""), ("phi-3-mini", "phi")],
)
def test_the_family_of_a_model(name: str, family: str) -> None:
    assert family_of(name) == family


@pytest.mark.slow
def test_a_loss_that_is_allowed_bounds_the_density() -> None:
    most = 0.01
    pruned = [w for w in small(trace="smollm2-chat", max_loss=most).ways if "density" in w.options]
    assert pruned
    loose = [w for w in small(trace="smollm2-chat").ways if "density" in w.options]
    densities = [float(way.options["density"]) for way in pruned]
    assert min(densities) > min(float(way.options["density"]) for way in loose)


def test_a_trace_too_short_to_learn_an_order_from_is_no_end() -> None:
    short = dipsim.load_trace("smollm2-chat").window(0, 4)
    answer = small(trace=short)
    assert any("permuted" in warning for warning in answer.warnings)
    assert any("density" in way.options for way in answer.ways)


@pytest.mark.slow
def test_a_drawn_trace_is_said() -> None:
    answer = small(like="smollm2-chat")
    drawn = [way for way in answer.ways if "density" in way.options]
    assert drawn
    assert {way.figures.assumed for way in drawn} == {"scores drawn like smollm2-chat"}


# Mixtures -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_cache_that_the_phones_author_found() -> None:
    """They run a global LRU of 4000 MiB, of 6.15 GB that the system leaves: the largest that is
    safe. The plan counts 0.4 GB of KV and 0.2 GB of runtime, and comes to 10 % more."""
    answer = plan("qwen3-30b-a3b", "oneplus15r", trace=str(shared("validation/qwen.route.csv")))
    best = next(way for way in answer.ways if "cache" in way.options)
    assert best.options["policy"] == "lru"
    assert best.options["scope"] == "global"
    assert float(str(best.options["cache"]).removesuffix("MiB")) == pytest.approx(4000, rel=0.15)
    assert "the largest cache is not the fastest" in answer.warnings[0]
    paged = min(answer.ways, key=lambda way: way.figures.rate.value)
    assert "paged" in paged.figures.marks


@pytest.mark.slow
def test_ways_of_a_mixture_repeat() -> None:
    routes = str(shared("validation/qwen.route.csv"))
    answer = plan("qwen3-30b-a3b", PHONE, trace=routes, target_rate=15)
    names = {way.name for way in answer.ways}
    assert {"w2 on cpu-tmac", "backend gpu", "mmap", "qwen2.5-7b"} <= names
    for way in answer.ways:
        if "model" in way.options:
            continue  # dense: as above
        options = {"context": 4096, "depth": 4096 - 156, **way.options}
        options["depth"] -= 4096 - options["context"]
        changed = [options.pop("s")] if "s" in options else []
        again = dipsim.simulate(
            routes, load_profile(PHONE, changed), model="qwen3-30b-a3b", **options
        )
        assert way.figures.rate.value == again.tokens_per_second, way.name
        assert way.figures.flash == again.flash_bytes_per_token, way.name


def test_a_mixture_that_fits_keeps_no_cache() -> None:
    """Without a cache its rate is that of the weights which a token uses, as of a dense model."""
    routes = str(shared("validation/qwen.route.csv"))
    plain = plan("qwen3-30b-a3b", "m1max", trace=routes).plain
    assert plain is not None
    assert plain.flash < 1e5  # a row of the embedding
    used = load_model("qwen3-30b-a3b").as_read()
    result = dipsim.simulate(
        None, "m1max", model=used, method="dense", prompt=128, depth=4096 - 129
    )
    assert plain.rate.value == result.tokens_per_second
    unrouted = plan("qwen3-30b-a3b", "m1max").plain
    assert unrouted is not None
    assert unrouted.rate == plain.rate


def test_a_mixture_without_routes_says_what_it_assumes() -> None:
    answer = plan("qwen3-30b-a3b", "oneplus15r")
    assert answer.plain is not None
    assert answer.plain.assumed == "experts used all alike"
    assert answer.plain.ttft is None
    none, every = map(float, re.findall(r"([\d.]+)(?: tok/s with no| if all)", answer.warnings[0]))
    assert none < answer.plain.rate.value < every


def test_experts_used_all_alike_hit_as_often_as_they_are_in_dram() -> None:
    """By the experts alone: of any policy that looks at nothing but past uses."""
    model = load_model("qwen3-30b-a3b")
    asked = Question(model, load_profile("oneplus15r"), None, context=4096, prompt=128)
    question = routed_alike(asked)
    for policy in ("lru", "lfu"):
        result = question.run(question.trace, policy=policy)
        share = result.budget.capacity.sum() / result.layer_units.sum()
        assert result.hit_rate == pytest.approx(share, abs=0.02)


@pytest.mark.slow
def test_a_long_context_slows_a_mixture_without_routes() -> None:
    rates = []
    for context in (1024, 32768):
        answer = plan("qwen3-30b-a3b", "m1max", dram=10e9, context=context)
        assert answer.plain is not None
        rates.append(answer.plain.rate.value)
    assert rates[1] < rates[0]


def test_experts_copied_for_few_hits_are_better_not_kept() -> None:
    answer = plan("qwen3-30b-a3b", "oneplus15r", dram=2.5e9)
    assert answer.plain is not None
    way = next(way for way in answer.ways if way.name == "no cache")
    assert way.figures.rate.value > answer.plain.rate.value


@pytest.mark.slow
def test_more_dram_hits_more_of_a_mixture() -> None:
    rates = []
    for available in ("3GB", "9GB", "12GB"):
        answer = plan("qwen3-30b-a3b", "oneplus15r", overrides=[f"dram.available={available}"])
        assert answer.plain is not None
        rates.append(answer.plain.rate.value)
    assert rates == sorted(rates)


def test_routes_drawn_after_those_of_another_mixture() -> None:
    routes = str(shared("validation/qwen.route.csv"))
    answer = plan("olmoe-1b-7b", "oneplus15r", like=routes, dram=3e9)
    assert answer.plain is not None
    assert answer.plain.assumed == f"routes drawn like {routes}"
    assert any("cache" in way.options for way in answer.ways)


# What is wrong ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target_rate": 0}, "--target-rate 0"),
        ({"target_rate": float("nan")}, "--target-rate nan"),
        ({"max_loss": 0.1}, "--max-loss is for leaving weights out"),
        ({"max_loss": -1, "trace": "smollm2-chat"}, "--max-loss -1"),
        ({"max_loss": 0.1, "like": "smollm2-chat", "model": "olmoe-1b-7b"}, "--max-loss is for"),
        ({"like": "smollm2-chat", "model": "olmoe-1b-7b"}, "olmoe-1b-7b needs routes of experts"),
        ({"context": 0}, "--context 0"),
        ({"prompt": 5000}, "--prompt 5000"),
        ({"context": 10000}, "--context 10000: model smollm2-135m reads 8192"),
        ({"dram": 1e12}, "at most the 16 GB"),
        ({"backend": "tpu"}, "no backend 'tpu'"),
        ({"weight_format": "q3_x"}, "--weight-format q3_x"),
        ({"trace": "smollm2-chat", "like": "smollm2-chat"}, "--trace and --like"),
        (
            {"trace": "smollm2-chat", "model": "llama-3-8b"},
            "of smollm2-135m, of 30 layers, not of llama-3-8b",
        ),
    ],
    ids=str,
)
def test_wrong_input_is_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DipsimError) as refused:
        plan(options.pop("model", "smollm2-135m"), PHONE, **options)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.slow  # transformers is asked, too
def test_a_config_that_nobody_knows(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "nobody-knows", "hidden_size": 64}))
    assert "nobody-knows" in refusal("plan", path, "-p", PHONE)


def test_where_nothing_runs_no_command_is_printed() -> None:
    words = f"smollm2-135m -p {PHONE} --dram 70MB --context 512"
    out = invoke("plan", *words.split()).output
    assert "not at all" in out
    assert "no way to run it is known" in out
    assert "dipsim run" not in out


def test_a_target_that_no_way_reaches_is_said() -> None:
    assert "no way reaches 1000 tok/s" in plan("llama-3.2-1b", PHONE, target_rate=1000).warnings


def test_a_longer_prompt_waits_longer() -> None:
    words = f"llama-3.2-1b -p {PHONE} --json --prompt".split()
    short, long = (json.loads(invoke("plan", *words, n).stdout)["plain"] for n in ("64", "512"))
    assert (short["prompt"], long["prompt"]) == (64, 512)
    assert short["ttft"]["value"] < long["ttft"]["value"]


def test_ways_of_many_kinds_are_shown() -> None:
    answer = small(trace="smollm2-chat")
    ways = shown(useful(answer))
    assert len(ways) == MOST_WAYS
    kinds = [kind_of(way) for way in ways]
    assert {"weight_format", "backend", "kv_bits", "context"} <= set(kinds)
    assert kinds.count("backend") == 2
    assert answer.plain is not None
    assert all(way.figures.rate.value > answer.plain.rate.value for way in ways)
    rates = [way.figures.rate.value for way in ways]
    assert rates == sorted(rates, reverse=True)


def test_kv_that_does_not_fit_at_all_still_has_ways() -> None:
    answer = plan("llama-3-8b", PHONE, dram=1.2e9, context=8192)
    assert answer.plain is None
    assert "cannot hold KV" in answer.why_not
    assert any("context" in way.options for way in answer.ways)


# The command --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "llama-3.2-1b -p snapdragon8gen3",
        "llama-3-8b -p snapdragon8gen3 --dram 4GB",
        "qwen3-30b-a3b -p oneplus15r",
        "llama-3-8b -p snapdragon8gen3 --dram 4GB --target-rate 5",
        "smollm2-135m -p paper-a18 --dram 60MB --context 512 --like smollm2-chat --target-rate 999",
        "smollm2-135m -p snapdragon8gen3 --dram 250MB --context 512 --trace smollm2-chat",
    ],
)
def test_an_answer_takes_at_most_25_lines(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = invoke("plan", *words.split()).output
    assert len(out.splitlines()) <= 25, out


@pytest.mark.parametrize(
    ("words", "way"),
    [
        (f"llama-3-8b -p {PHONE} --dram 4GB", "llama-3.2-1b"),
        ("qwen3-30b-a3b -p tensor-g4", "qwen2.5-7b"),
        (f"llama-3-8b -p {PHONE} --bits 8.5 --target-rate 9", "llama-3.2-1b"),
        (
            f"llama-3.2-1b -p {PHONE} --kv-bits 8 --context 1000 --bits 4 --target-rate 99",
            "w2 on cpu-tmac",
        ),
        ("smollm2-135m -p paper-a18 --dram 60MB --context 512 --trace smollm2-chat", "dip"),
        pytest.param(
            "qwen3-30b-a3b -p oneplus15r --trace ROUTES", "context", marks=pytest.mark.slow
        ),
    ],
)
def test_the_command_that_is_printed_gives_the_rate_of_the_best_way(
    words: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    asked = words.replace("ROUTES", str(shared("validation/qwen.route.csv"))).split()
    out = invoke("plan", *asked).output
    command = next(line for line in out.splitlines() if line.startswith("run "))
    figures = json.loads(invoke(*command.split()[2:], "--json").stdout)
    best = json.loads(invoke("plan", *asked, "--json").stdout)["ways"][0]
    assert way in best["name"]
    assert figures["tokens_per_second"] == pytest.approx(best["rate"]["value"], rel=1e-9)


@pytest.mark.slow
def test_a_drawn_trace_is_drawn_again_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.chdir(tmp_path)
    given = [
        "smollm2-135m",
        "-p",
        "paper-a18",
        "--dram",
        "60MB",
        "--context",
        "512",
        "--like",
        "smollm2-chat",
    ]
    out = invoke("plan", *given).output
    command = next(line for line in out.splitlines() if line.startswith("run "))
    draws, runs = command.removeprefix("run").strip().split(" && ")
    invoke(*draws.split()[1:])
    again = json.loads(invoke(*runs.split()[1:], "--json").stdout)
    best = json.loads(invoke("plan", *given, "--json").stdout)["ways"][0]
    assert again["tokens_per_second"] == pytest.approx(best["rate"]["value"], rel=1e-5)


@pytest.mark.slow
def test_a_picture_of_the_ways(tmp_path: Path) -> None:
    words = f"llama-3-8b -p {PHONE} --dram 4GB --target-rate 5 --plot {tmp_path}/plan.svg"
    invoke("plan", *words.split())
    assert "llama-3.2-1b" in (tmp_path / "plan.svg").read_text()
