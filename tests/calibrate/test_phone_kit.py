"""What the script that measures a phone packs is read, by its own run and by hand."""

from pathlib import Path

import pytest

from dipsim.calibrate.benchmarks import read_benchmarks
from dipsim.calibrate.device import check_one_device
from dipsim.calibrate.measured import Measurements
from dipsim.calibrate.script import phone_script
from dipsim.errors import DipsimError
from tools.benchmarks import fio_json, llama_bench
from tools.stub_phone import StubPhone

BENCH = llama_bench(
    [
        {"model_type": "llama 1B Q4_0", "model_size": 2**30, "model_n_params": 10**9}
        | {"n_gen": 64, "rate": 40.0, "cpu_info": "Oryon"}
    ],
    "jsonl",
)


def test_what_the_script_packs_is_read(tmp_path: Path) -> None:
    phone = StubPhone(tmp_path, "sh")
    phone.state("fio.json", "note: a line\n" + fio_json([{"size": 4096, "bandwidth": 2e8}]))
    phone.state("bench.jsonl", BENCH)
    phone.program("fio", 'cat "$STUB/fio.json"')
    phone.program("llama-bench", 'cat "$STUB/bench.jsonl"')
    phone.without("mbw")
    out, err = phone.start(phone_script("android")).communicate()
    found = read_benchmarks([str(phone.home / "dipsim-phone.tar")])
    # Every run of a stub prints the same figure, which counts once.
    assert (len(found.reads), len(found.rates), len(found.memory)) == (1, 1, 1), out + err
    assert (out.count("reads of "), out.count("depth ")) == (24, 12)
    assert {name for name, _ in found.devices} == {
        "Oryon",
        "stub of ro.product.manufacturer stub of ro.product.model",
    }
    assert set(found.refused) == {
        "steps.txt: left out: mbw: no mbw",
        "stream.txt: no output of a benchmark that is known",
    }


def kit(folder: Path, model: str) -> Measurements:
    folder.mkdir()
    (folder / "device.txt").write_text(
        f"2026-01-02T03:04:05Z\nLinux 6.1 aarch64\nro.product.manufacturer=Maker\n"
        f"ro.product.model={model}\nro.soc.model=SM8650\n"
    )
    (folder / "steps.txt").write_text(
        "thermometer: battery, 31.0 C\nran: mbw: 4 s, 31.0 C to 31.2 C: mbw -n 5 256\n"
        "failed: flash: 3 s, 31.0 C to 31.0 C: status 1: no room: fio\nstopped after 9 s: x: y\n"
    )
    (folder / "bench.jsonl").write_text(BENCH)
    return read_benchmarks([str(folder)])


def test_the_device_and_what_was_not_run_are_told(tmp_path: Path) -> None:
    found = kit(tmp_path / "one", "Phone 1")
    assert ("Maker Phone 1", "2026-01-02") in {
        (name, origin.date) for name, origin in found.devices
    }
    assert [text.split(": ")[1] for text in found.refused] == ["failed", "stopped after 9 s"]
    check_one_device(found)  # a phone and its processor are no two devices


def test_kits_of_two_phones_are_two_devices(tmp_path: Path) -> None:
    kit(tmp_path / "one", "Phone 1")
    kit(tmp_path / "two", "Phone 2")
    both = read_benchmarks([str(tmp_path / name) for name in ("one", "two")])
    with pytest.raises(DipsimError, match=r"two devices: Maker Phone 1 in device.txt, Maker Phone"):
        check_one_device(both)


def test_facts_alone_are_no_measurement(tmp_path: Path) -> None:
    (tmp_path / "steps.txt").write_text("thermometer: none, not known\n")
    with pytest.raises(DipsimError, match="no figure in what is given"):
        read_benchmarks([str(tmp_path)])
