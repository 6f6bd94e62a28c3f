"""What is too large, or not believable, is refused in one line before anything is replayed."""

import json
from typing import Any

import numpy as np
import pytest

import dipsim as api
from dipsim.errors import DipsimError
from dipsim.hardware import profile_schema
from dipsim.model import Model
from tools.cli import Dipsim, refused
from tools.folder import MODEL

RUN = "run t.npz --profile snapdragon8 --cache-fraction .5"
MANY_DIGITS = "9" * 5000
BEYOND = {
    f"{RUN} -s flash.lanes=1000000000": "less than or equal to 256",
    f"{RUN} -s flash.lanes={MANY_DIGITS}": "valid integer",
    f"{RUN} -s dram.bandwidth={MANY_DIGITS}GB/s": "0.001 B/s to 1 PB/s",
    f"{RUN} -s flash.bandwidth=5e-324B/s": "0.001 B/s to 1 PB/s",
    f"{RUN} -s backends.cpu.per_layer=1e308s": "0.001 ns to 1000000000 s",
    f"{RUN} -s backends.cpu.dram_efficiency=5e-324": "greater than or equal to 0.001",
    f"{RUN} --bits 5e-324": "greater than or equal to 0.01",
    f"{RUN} --kv-bits 5e-324": "greater than or equal to 0.01",
    f"{RUN} --density 5e-324": "at least 1e-09",
    f"{RUN} --policy lfu-decay:half_life=1e-300": "from 0.001 to 1e+09",
    "run t.npz --profile snapdragon8 --cache 1e30GB": "1 B to 1 PB",
    "run t.npz --profile snapdragon8 --dram 1e-5B": "1 B to 1 PB",
    "search t.npz --profile snapdragon8 --target-rate 1e300": "from 1e-9 to 1e15",
    "synth s.npz --like t.npz --tokens 1000000000": "less than or equal to 4194304",
    f"synth s.npz --like t.npz --tokens 2 --seed {MANY_DIGITS[:19]}": "equal to 1099511627776",
}
SLOWEST: dict[str, Any] = {
    "name": "slowest",
    "dram": {"capacity": "1 PB", "bandwidth": "0.001 B/s"},
    "flash": {"bandwidth": "0.001 B/s", "align": "1 GiB"},
    "backends": {
        "cpu": {
            "compute": "0.001 FLOP/s",
            "per_layer": "1000000000 s",
            "per_mask": "1000000000 s",
            "per_score": "1000000000 s",
            "cache_copy": "0.001 B/s",
            "dram_efficiency": 0.001,
            "active_power": "1000000 W",
        }
    },
    "energy": {"dram": "1000 J/B", "flash": "1000 J/B", "idle": "1000000 W"},
    "thermal": {"after": "1000000000 s", "flash": 0.001, "compute": 0.001},
}
FASTEST: dict[str, Any] = {
    "name": "fastest",
    "dram": {"capacity": "1 PB", "bandwidth": "1 PB/s"},
    "flash": {"lanes": 256, "reads": [{"size": "4 KiB", "lanes": 256, "bandwidth": "1 PB/s"}]},
    "backends": {"cpu": {"compute": "1000000 PFLOP/s"}},
}
SETS = np.random.default_rng(0).random((6, 2, 32)) < 0.5


def allocate(*_: object, **__: object) -> Any:
    return np.empty(2**50)


def allocate_in_torch(*_: object, **__: object) -> Any:
    raise RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
    )


@pytest.mark.parametrize(
    ("fails", "said"), [(allocate, "8.00 PiB"), (allocate_in_torch, "DefaultCPUAllocator")]
)
def test_what_does_not_fit_in_memory(
    dipsim: Dipsim, monkeypatch: pytest.MonkeyPatch, fails: Any, said: str
) -> None:
    monkeypatch.setattr("dipsim.cli.run._prepared", fails)
    refused(dipsim(RUN), "not enough memory", said, "--tokens")


@pytest.mark.parametrize("line", BEYOND, ids=lambda line: line[:60])
def test_a_number_that_no_device_or_model_has(dipsim: Dipsim, line: str) -> None:
    refused(dipsim(line), BEYOND[line])


def test_a_config_is_held_to_the_same_bounds(dipsim: Dipsim) -> None:
    config = json.loads(dipsim(f"{RUN} --json").out)
    config["config"]["profile"]["flash"]["lanes"] = 10**9
    with open("config.json", "w") as file:
        json.dump(config, file)
    refused(dipsim("run --config config.json"), "flash.lanes", "256")


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (2**49, "unit_bytes of glu"),
        (5e-324, "unit_bytes of glu"),
        (10**400, "unit_bytes of glu"),
        (2**40, "its units take 70.4 TB"),
    ],
    ids=["2**49", "5e-324", "10**400", "in all"],
)
def test_units_larger_than_any_model(declared: float, said: str) -> None:
    arrays = {"glu": SETS, "meta": {"signals": {"glu": {"unit_bytes": declared}}}}
    with pytest.raises(DipsimError, match=said):
        api.simulate(arrays, "snapdragon8")


def test_more_reads_than_are_counted() -> None:
    tiny = {**FASTEST, "flash": {"reads": [{"size": "1 B", "lanes": 1, "bandwidth": "1 GB/s"}]}}
    arrays = {"glu": SETS, "meta": {"signals": {"glu": {"unit_bytes": 2.0**37}}}}
    with pytest.raises(DipsimError, match="reads of 1 B, at most 1073741824 are counted"):
        api.simulate(arrays, tiny)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"layers": 2**17}, "layers: input should"),
        ({"hidden": 2**27}, "hidden: input should"),
        ({"vocab": 10**400}, "vocab: input should"),
        ({"experts": 2**17, "experts_per_token": 2}, "experts: input should"),
        ({"layers": 64, "hidden": 2**20, "intermediate": 2**20}, "takes 106 TB, at most 8.8 TB"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_model_larger_than_any(sizes: dict[str, int], said: str) -> None:
    model = {**MODEL, "head_dim": 64, **sizes}
    with pytest.raises(DipsimError, match=said):
        api.simulate({"glu": SETS, "meta": {"model": model}}, "snapdragon8")


@pytest.mark.parametrize("device", [SLOWEST, FASTEST], ids=lambda device: device["name"])
@pytest.mark.parametrize("engine", ["closed", "events"])
@pytest.mark.parametrize("unit_bytes", [2.0**-10, 2.0**35])
def test_the_ends_of_the_ranges_give_figures(device: Any, engine: str, unit_bytes: float) -> None:
    meta = {"model": MODEL, "signals": {"glu": {"unit_bytes": unit_bytes}}}
    options = {"cache_fraction": 0.5, "context": 2**40, "kv_bits": 32, "engine": engine}
    phase = np.array([0, 0, 1, 1, 1, 1], np.uint8)
    result = api.simulate({"glu": SETS, "phase": phase, "meta": meta}, device, **options).to_dict()
    figures = {key: value for key, value in result.items() if key != "config"}
    json.dumps(figures, allow_nan=False)
    assert figures["tokens_per_second"] > 0
    assert figures["flash_reads_per_token"] > 0


def test_ranges_stand_in_the_schema() -> None:
    lanes = profile_schema()["$defs"]["Flash"]["properties"]["lanes"]
    assert (lanes["minimum"], lanes["maximum"]) == (1, 256)
    bandwidth = profile_schema()["$defs"]["Dram"]["properties"]["bandwidth"]
    assert bandwidth["$comment"] == "0, or from 0.001 B/s to 1 PB/s"
    assert Model.model_json_schema()["properties"]["hidden"]["maximum"] == 2**26
