"""Measurements into a profile: what is told, what stays, what is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

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
    assert left_out == ["llama.cpp: 4 threads: the fastest; left out: 2 threads, 8 threads"]
    gpu = [rate(value=v, unit="gpu", settings=text) for text, v in (("", 20.0), ("fa 1", 31.0))]
    kept, left_out = best_setup(rates[:1] + gpu)
    assert [each.settings for each in kept] == ["", "fa 1"]
    assert left_out == ["llama.cpp: fa 1: the fastest; left out: the defaults"]


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
    assert [r.size for r in both.profile.flash.reads] == [4096, 2**20]  # type: ignore[union-attr]
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
