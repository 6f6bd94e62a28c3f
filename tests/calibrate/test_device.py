"""Measurements into a profile: what is told, what stays, what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dipsim.calibrate.benchmarks import read_benchmarks
from dipsim.calibrate.device import CalibratedDevice, calibrate_device
from dipsim.calibrate.evidence import best_setup
from dipsim.calibrate.measured import (
    MeasuredReads,
    Measurements,
    Memory,
    Origin,
    Rate,
    Reads,
    Transfer,
    Writes,
)
from dipsim.errors import DipsimError
from dipsim.hardware import load_profile
from dipsim.model import load_model
from dipsim.report import calibrate as report
from dipsim.validate.cases import Case
from tools.benchmarks import llama_bench
from tools.cli import invoke, refusal

HERE = Origin("bench.json", "llama-bench", "2026-03-14", "build 1")
PHONE = "snapdragon8"
CPU = "backends.cpu-llamacpp."


def rate(
    name: str = "llama-3.2-1b",
    value: float = 30.0,
    *,
    form: str = "q4_0",
    bits: float = 4.5,
    depth: int = 64,
    prompt: int | None = None,
    engine: str = "llama.cpp",
    unit: str = "cpu",
    **more: Any,
) -> Rate:
    """A rate of a preset."""
    parameters = load_model(name).parameters
    case = Case(
        id="x",
        kind="decode" if prompt is None else "prefill",
        model=name,
        weight_format=form,
        model_bytes=parameters * bits / 8,
        depth=depth if prompt is None else 0,
        prompt=prompt,
        engine=engine,
        backend=unit,
    )
    return Rate(case, value, more.pop("origin", HERE), parameters=parameters, **more)


def reads(*points: tuple[int, int, float], **more: Any) -> tuple[Reads, ...]:
    return tuple(
        Reads(MeasuredReads(*point), Origin("fio.json", "fio"), **more) for point in points
    )


def of(found: CalibratedDevice, key: str) -> Any:
    """A number after the calibration; None if nothing told it."""
    return next((n for n in found.numbers if n.key == key), None)


def test_one_rate_moves_one_number_and_the_others_stay() -> None:
    found = calibrate_device(Measurements(rates=(rate(value=12.0),)), PHONE)
    told = [n.key for n in found.numbers if n.source["kind"] == "measured"]
    assert len(told) == 1
    assert [text.split()[0] for text in found.kept] == [
        CPU + key for key in ("gemv.q4_0", "per_layer", "dram_efficiency") if CPU + key not in told
    ]
    assert abs(found.compared[0].error) < 0.1
    assert found.profile is not None
    before = load_profile(PHONE)
    assert found.profile.flash == before.flash
    assert found.profile.backends["gpu"] == before.backends["gpu"]


def test_two_sizes_tell_the_rate_and_the_cost_of_a_layer() -> None:
    # By hand: 2 ms for 30 M weights in 30 layers, 100 ms for 7 B in 28: c is mostly the former's.
    rates = (rate("smollm2-135m", 50.0), rate("qwen2.5-7b", 4.0))
    found = calibrate_device(Measurements(rates=rates), PHONE)
    assert found.profile is not None
    section = found.profile.backends["cpu-llamacpp"]
    for name, value in (("smollm2-135m", 50.0), ("qwen2.5-7b", 4.0)):
        model = load_model(name)
        read = model.parameters - (0 if model.tied_embeddings else model.vocab * model.hidden)
        took = read * 4.5 / 8 / section.gemv["q4_0"] + section.per_layer * (model.layers + 1)
        assert took == pytest.approx(1 / value, rel=0.06)


def test_rates_of_an_engine_that_the_profile_lacks_make_a_new_backend(tmp_path: Path) -> None:
    engine = {"engine": "MLC LLM", "unit": "gpu"}
    rates = tuple(rate(name, v, **engine) for name, v in (("llama-3.2-1b", 40), ("llama-3-8b", 8)))
    found = calibrate_device(Measurements(rates=rates), PHONE)
    report.write(tmp_path / "mine.yaml", found, PHONE)
    mine = load_profile(tmp_path / "mine.yaml")
    name, section = mine.backend()
    assert (name, section.engine) == ("gpu-llm", "MLC LLM")
    assert set(mine.backends) == {*load_profile(PHONE).backends, name}
    for key, _ in mine.numbers():
        assert mine.source(key) is not None, key
    source = mine.source(f"backends.{name}.overlap_factor")
    assert source is not None
    assert (source.kind, source.origin[:11]) == ("estimate", "that of gpu")


def test_a_backend_may_be_named() -> None:
    found = calibrate_device(Measurements(rates=(rate(),)), PHONE, backend="cpu")
    assert all(n.key.startswith("backends.cpu.") for n in found.numbers)
    with pytest.raises(DipsimError, match="no backend 'tpu'"):
        calibrate_device(Measurements(rates=(rate(),)), PHONE, backend="tpu")


def test_a_model_is_known_by_its_weights_by_name_or_told() -> None:
    unknown = rate()._replace(parameters=1.1e9)
    unknown = unknown._replace(case=unknown.case.model_copy(update={"model": "mystery 1B Q4_0"}))
    with pytest.raises(
        DipsimError, match=r"the layers of mystery 1B Q4_0 of 1.1 B weights are not"
    ):
        calibrate_device(Measurements(rates=(unknown,)), PHONE)
    told = {"models": ["mystery 1B=llama-3.2-1b"]}
    assert calibrate_device(Measurements(rates=(unknown,)), PHONE, **told).compared
    by_weights = unknown._replace(parameters=load_model("llama-3.2-1b").parameters)
    assert calibrate_device(Measurements(rates=(by_weights,)), PHONE).compared
    with pytest.raises(DipsimError, match=r"--model other: no benchmark ran a model"):
        calibrate_device(Measurements(rates=(rate(),)), PHONE, models=["other=llama-3-8b"])
    with pytest.raises(DipsimError, match="write NAME=FILE"):
        calibrate_device(Measurements(rates=(rate(),)), PHONE, models=["llama-3-8b"])


def test_a_mixture_reads_the_experts_of_a_token() -> None:
    """A quarter of the weights of Mixtral is read: as a dense model of a quarter of its MLP."""
    mixture = load_model("mixtral-8x7b")
    rates = (rate("mixtral-8x7b", 2.0),)
    found = calibrate_device(
        Measurements(rates=rates), PHONE, overrides=["dram.capacity=64GB", f"{CPU}per_layer=1us"]
    )
    gemv = found.profile and found.profile.backends["cpu-llamacpp"].gemv["q4_0"]
    read = mixture.active_parameters - mixture.vocab * mixture.hidden
    assert gemv == pytest.approx(2.0 * read * 4.5 / 8, rel=0.05)


def test_the_best_threads_and_options_count() -> None:
    rates = [rate(value=value, threads=n) for n, value in ((2, 20.0), (4, 31.0), (8, 25.0))]
    kept, left_out = best_setup(rates)
    assert [each.threads for each in kept] == [4]
    assert left_out == ["llama.cpp: 2 rates with 2 threads, 8 threads: slower than with 4 threads"]
    gpu = [rate(value=v, unit="gpu", settings=text) for text, v in (("", 20.0), ("fa 1", 31.0))]
    kept, left_out = best_setup(rates[:1] + gpu)
    assert [each.settings for each in kept] == ["", "fa 1"]
    assert left_out == ["llama.cpp: 1 rate with the defaults: slower than with fa 1"]


def test_rates_that_cannot_be_used_are_said() -> None:
    narrow = rate(kv_bits=8.5)
    large = rate("mixtral-8x7b", 2.0)
    found = calibrate_device(Measurements(rates=(rate(), narrow, large)), PHONE)
    assert len(found.compared) == 1
    assert [text.partition(": ")[2] for text in found.refused] == [
        "llama-3.2-1b: KV of 8.5 bits; measure with f16",
        "mixtral-8x7b: its weights do not fit in the DRAM of the device",
    ]


def test_flash_writes_and_memory() -> None:
    measured = Measurements(
        reads=reads((4096, 1, 40e6), (2**20, 1, 1e9), (2**20, 1, 1.2e9), (2**20, 8, 2e9)),
        writes=(Writes(0.5e9, Origin("fio.json", "fio")),),
        memory=(Memory(11.37e9, 6.15e9, Origin("meminfo", "meminfo")),),
        transfers=(Transfer(40e9, 4, Origin("mbw.txt", "mbw")),),
    )
    found = calibrate_device(measured, PHONE)
    assert found.profile is not None
    points = [(r.size, r.lanes, r.bandwidth) for r in found.profile.flash.reads]
    assert points == [(4096, 1, 40e6), (2**20, 1, 1.1e9), (2**20, 8, 2e9)]
    assert found.profile.flash.write == 0.5e9
    assert (found.profile.dram.capacity, found.profile.dram.available) == (11.37e9, 6.15e9)
    assert found.profile.backends["cpu"].dram_efficiency == pytest.approx(40 / 76.8, rel=1e-2)
    assert of(found, "dram.bandwidth") is None


def test_reads_of_one_size_are_no_curve() -> None:
    measured = Measurements(rates=(rate(),), reads=reads((4096, 1, 40e6), (4096, 8, 300e6)))
    found = calibrate_device(measured, PHONE)
    assert of(found, "flash.reads") is None
    assert "reads of one size are no curve" in found.refused[0]


def test_in_order_reads_serve_where_there_are_no_others() -> None:
    order = reads((2**17, 1, 1e9), (2**20, 1, 2e9), in_order=True)
    random = reads((4096, 1, 40e6), (2**20, 1, 1.5e9))
    both = calibrate_device(Measurements(reads=order + random), PHONE)
    points = {r.size: r.bandwidth for r in both.profile.flash.reads}  # type: ignore[union-attr]
    assert points == {4096: 40e6, 2**17: 1e9, 2**20: 1.5e9}
    assert "some in order" in str(of(both, "flash.reads").source["from"])
    alone = calibrate_device(Measurements(reads=order), PHONE)
    assert "in order" in str(of(alone, "flash.reads").source["from"])


def test_a_bandwidth_above_the_peak_is_said_and_not_used() -> None:
    transfers = (Transfer(90e9, 4, Origin("mbw.txt", "mbw")),)
    found = calibrate_device(Measurements(rates=(rate(),), transfers=transfers), PHONE)
    assert "90 GB/s was reached, above the 76.8 GB/s" in found.refused[0]
    assert of(found, "backends.cpu.dram_efficiency") is None


def test_a_profile_of_its_own_says_what_it_lacks(tmp_path: Path) -> None:
    measured = Measurements(rates=(rate(),), reads=reads((4096, 1, 4e7), (2**20, 1, 1e9)))
    with pytest.raises(DipsimError, match=r"lacks dram\.capacity, dram\.bandwidth: measure it"):
        calibrate_device(measured)
    stated = ["dram.capacity=12 GB", "dram.bandwidth=60 GB/s"]
    found = calibrate_device(measured, overrides=stated)
    report.write(tmp_path / "alone.yaml", found, None)
    alone = load_profile(tmp_path / "alone.yaml")
    assert alone.backend()[1].engine == "llama.cpp"
    source = alone.source("dram.capacity")
    assert source is not None
    assert (source.kind, source.origin) == ("estimate", "stated to dipsim calibrate: 12 GB")
    assert "extends" not in yaml.safe_load((tmp_path / "alone.yaml").read_text())


def test_two_devices_are_refused() -> None:
    other = HERE._replace(file="other.json")
    devices = (("Chip A", HERE), ("Chip A", other), ("Chip B", other))
    with pytest.raises(DipsimError, match=r"two devices: Chip A in bench.json, Chip B in other"):
        calibrate_device(Measurements(rates=(rate(),), devices=devices), PHONE)


def test_work_that_was_not_measured_with_the_best_options_is_used_as_it_was() -> None:
    fast = rate(value=31.0, settings="fa 1")
    rates = [rate(value=20.0), fast, rate("llama-3.2-3b", 9.0), rate(value=100.0, prompt=512)]
    kept, _ = best_setup(rates)
    assert kept == [fast, *rates[2:]]


def test_a_rate_that_stands_there_twice_counts_once(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    row = {"model_filename": "llama-3.2-1b-q4_0.gguf", "model_type": "llama 1B Q4_0"}
    row |= {"model_size": 695_000_000, "model_n_params": 1_235_814_400, "n_gen": 128, "rate": 30.0}
    (tmp_path / "a.json").write_text(llama_bench([row], "json", 0.05, random))
    (tmp_path / "b.json").write_text((tmp_path / "a.json").read_text())
    paths = [str(tmp_path / name) for name in ("a.json", "b.json")]
    assert len(read_benchmarks(paths).rates) == 1
    once, twice = (
        calibrate_device(read_benchmarks(some), PHONE).numbers for some in (paths[:1], paths)
    )
    assert [n.source["spread"] for n in once] == [n.source["spread"] for n in twice]


def test_calibrating_again_with_the_same_file_tells_nothing_new(tmp_path: Path) -> None:
    rates = tuple(rate(n, v) for n, v in (("llama-3.2-1b", 25.0), ("llama-3.2-3b", 11.0)))
    spreads, base = [], PHONE
    for step in range(3):
        found = calibrate_device(Measurements(rates=rates), base)
        spreads.append(of(found, CPU + "gemv.q4_0").source["spread"])
        base = str(tmp_path / f"{step}.yaml")
        report.write(Path(base), found, PHONE if step == 0 else str(tmp_path / f"{step - 1}.yaml"))
    assert spreads[1:] == pytest.approx(spreads[:-1], rel=0.1)


@pytest.mark.parametrize("value", [5000.0, 0.002])
def test_a_rate_that_no_engine_reaches_is_no_measurement(value: float) -> None:
    with pytest.raises(DipsimError, match="nothing to calibrate with"):
        calibrate_device(Measurements(rates=(rate(value=value),)), PHONE)


def test_models_that_contradict_each_other_tell_nothing() -> None:
    names = ("llama-3.2-1b", "llama-3.2-3b", "llama-3-8b")
    read = [load_model(name).parameters * 4.5 / 8 for name in names]
    speeds = (4e9, 60e9, 12e9)
    rates = tuple(rate(n, b / r) for n, b, r in zip(names, speeds, read, strict=True))
    with pytest.raises(DipsimError, match="do not tell it"):
        calibrate_device(Measurements(rates=rates), PHONE)


def test_one_bad_row_does_not_end_the_others() -> None:
    deep = rate("llama-3-8b", 3.0, depth=9000)
    unknown = rate(value=8.0, form="tq9_7")
    short = rate(value=20.0, prompt=1)
    found = calibrate_device(Measurements(rates=(rate(), deep, unknown, short)), PHONE)
    assert len(found.compared) == 1
    told = " ".join(found.refused)
    for reason in ("reads 8192", "weight format is not known", "too short to tell compute"):
        assert reason in told


def test_a_number_that_the_user_states_is_not_fitted() -> None:
    rates = tuple(rate(n, v) for n, v in (("llama-3.2-1b", 33.0), ("llama-3.2-3b", 14.0)))
    stated = [f"{CPU}gemv.q4_0=30GB/s"]
    found = calibrate_device(Measurements(rates=rates), PHONE, overrides=stated)
    gemv = [n for n in found.numbers if n.key == CPU + "gemv.q4_0"]
    assert [(n.after, n.source["kind"]) for n in gemv] == [("30 GB/s", "estimate")]


def test_the_faster_engine_comes_first_whatever_the_order() -> None:
    names = ("llama-3.2-1b", "llama-3.2-3b")
    cpu = tuple(rate(n, v) for n, v in zip(names, (20.0, 9.0), strict=True))
    gpu = tuple(
        rate(n, v, unit="gpu", engine="llama.cpp OpenCL")
        for n, v in zip(names, (35.0, 14.0), strict=True)
    )
    for rates in (cpu + gpu, gpu + cpu):
        found = calibrate_device(Measurements(rates=rates), PHONE)
        assert found.profile is not None
        assert found.profile.backend()[0] == "gpu"


def test_a_flash_faster_than_dram_is_none() -> None:
    measured = Measurements(rates=(rate(),), reads=reads((4096, 1, 1e11), (2**20, 1, 2e12)))
    found = calibrate_device(measured, PHONE)
    assert of(found, "flash.reads") is None
    assert any("faster than DRAM" in text for text in found.refused)


def test_more_rates_narrow_the_spread() -> None:
    names = ("smollm2-135m", "llama-3.2-1b", "llama-3.2-3b", "qwen2.5-7b")
    values = (60.0, 25.0, 11.0, 4.8)
    spreads = []
    for many in (2, 4):
        rates = tuple(rate(n, v) for n, v in list(zip(names, values, strict=True))[-many:])
        number = of(calibrate_device(Measurements(rates=rates), PHONE), CPU + "gemv.q4_0")
        spreads.append(number.source["spread"])
    assert spreads[1] < spreads[0] < 0.6


def test_a_default_that_another_file_names_first(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nextends: snapdragon8\nfirst: gpu\n")
    mine = load_profile(path)
    assert (next(iter(mine.backends)), mine.default) == ("gpu", "")
    path.write_text("name: mine\nextends: snapdragon8\nfirst: tpu\n")
    with pytest.raises(DipsimError, match="first names the backend tpu"):
        load_profile(path)


# The command --------------------------------------------------------------------------------------

TABLE = "size,lanes,bandwidth\n4 KiB,1,40 MB/s\n1 MiB,1,1 GB/s\n1 MiB,8,2 GB/s\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("", "no FILE"),
        ("t.csv --check", "--check compares the profile that --extends names"),
        ("t.csv --check --extends snapdragon8 --out x.yaml", "--check compares"),
        ("t.csv --out x.txt", ".yaml"),
        ("t.csv --extends nothing", "no profile 'nothing'"),
        ("gone.csv", "gone.csv"),
        ("t.csv --script android", "give it alone"),
        ("--script toaster", "toaster"),
    ],
)
def test_wrong_options_are_one_line(
    options: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text(TABLE)
    assert said in refusal("calibrate", *options.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv"]


def test_check_writes_nothing_and_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text(TABLE)
    out = invoke("calibrate", "t.csv", "--extends", "snapdragon8", "--check").output
    assert "snapdragon8: median error of 3 reads" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv"]
