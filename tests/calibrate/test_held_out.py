"""Half of the models of a published device calibrate it; the other half is predicted."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import yaml

from dipsim.calibrate.device import calibrate_device
from dipsim.calibrate.evidence import as_evidence
from dipsim.calibrate.geometry import Geometries
from dipsim.calibrate.measured import Measurements, Origin, Rate
from dipsim.errors import DipsimError
from dipsim.validate.cases import load_cases
from dipsim.validate.runs import with_all_dram

DEVICES = {"OnePlus 12": "76.8 GB/s", "Pixel 10": "68 GB/s"}
MODELS = load_cases().models


def published(device: str) -> list[Rate]:
    """Decode rates of a device with one engine, of the shipped cases (facts of resident.json)."""
    cases = load_cases()
    return [
        Rate(case, cases.measured[case.id], Origin("cases.yaml", "app"))
        for case in cases.facts
        if case.id.startswith("rn-") and case.device.startswith(device) and case.kind == "decode"
    ]


def neutral(folder: Path, device: str) -> str:
    """A device of which nothing but the size and peak of DRAM, and some flash, is known."""
    data = {
        "name": "neutral",
        "dram": {"capacity": "16 GB", "bandwidth": DEVICES[device]},
        "flash": {"bandwidth": "2 GB/s"},
        "backends": {"cpu": {}},
        "sources": {"dram": {"kind": "vendor", "from": "data sheet"}},
    }
    path = folder / "neutral.yaml"
    path.write_text(yaml.safe_dump(data))
    return str(path)


def predicted(rates: list[Rate], half: set[str], base: str) -> list[tuple[float, bool]]:
    """Errors of the times of models outside ``half``, and whether their intervals hold."""
    train = tuple(rate for rate in rates if str(rate.case.model) in half)
    found = calibrate_device(Measurements(rates=train, models=MODELS), base)
    assert found.profile is not None
    device, geometries = with_all_dram(found.profile), Geometries((), MODELS)
    answers = []
    for rate in rates:
        if str(rate.case.model) not in half:
            evidence = as_evidence(rate, device, "cpu", geometries)
            assert not isinstance(evidence, str)
            said = evidence.run.predict()
            answers.append((rate.value / said.value - 1, said.low <= rate.value <= said.high))
    return answers


def halves(device: str, folder: Path, every: bool) -> list[tuple[float, bool]]:
    rates, base = published(device), neutral(folder, device)
    names = list(dict.fromkeys(str(rate.case.model) for rate in rates))
    splits = [names[::2], names[1::2]]
    if every:
        splits = [list(some) for some in itertools.combinations(names, len(names) // 2)]
    answers = []
    for some in splits:
        try:
            answers += predicted(rates, set(some), base)
        except DipsimError as refused:  # models that contradict each other
            if not every or "do not tell it" not in str(refused):
                raise
    assert len(answers) >= 0.9 * len(splits) * len(rates) / 2
    return answers


def median_and_coverage(answers: list[tuple[float, bool]]) -> tuple[float, float]:
    errors, held = zip(*answers, strict=True)
    return float(np.median(np.abs(errors))), float(np.mean(held))


def test_one_half_of_the_models_predicts_the_other(tmp_path: Path) -> None:
    answers = {device: halves(device, tmp_path, every=False) for device in DEVICES}
    assert [len(some) for some in answers.values()] == [16, 6]
    error, coverage = median_and_coverage([*answers["OnePlus 12"], *answers["Pixel 10"]])
    assert error <= 0.22
    assert coverage >= 0.8
    error, coverage = median_and_coverage(answers["OnePlus 12"])
    assert error <= 0.22
    assert coverage >= 0.8


@pytest.mark.slow
def test_any_half_of_the_models_predicts_the_other(tmp_path: Path) -> None:
    answers = [pair for device in DEVICES for pair in halves(device, tmp_path, every=True)]
    error, coverage = median_and_coverage(answers)
    assert error <= 0.22
    assert coverage >= 0.8
