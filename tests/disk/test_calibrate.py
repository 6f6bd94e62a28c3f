"""From measured reads to a flash section: the fit, its errors, the file, what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dipsim.disk import fit as flash_fit
from dipsim.disk.fit import Measured, calibrate, fit_points, read_points
from dipsim.errors import DipsimError
from dipsim.flash.read_time import speed_of
from dipsim.hardware import Flash, load_profile
from tools.cli import invoke, refusal
from tools.paths import shared

MIB = 2**20
# OnePlus 15R, BigMoeOnEdge: MiB/s by size, with 2, 4 and 8 in flight; one point with one.
PHONE = {
    2**17: (953.6, 1486.1, 1858.8),
    2**18: (1536.4, 2099.4, 2144.2),
    2**19: (1882.4, 2114.0, 2108.2),
    2**20: (2084.8, 2235.3, 2251.4),
    2**21: (2043.7, 2155.4, 2063.5),
    2**22: (2172.0, 2205.7, 2263.0),
}
POINTS = [Measured(2**22, 1, 1809.9 * MIB)] + [
    Measured(size, lanes, rates[i] * MIB)
    for i, lanes in enumerate((2, 4, 8))
    for size, rates in PHONE.items()
]
TRUE = {"t0": "80 us", "bandwidth": "1500 MB/s", "cap": "1200 MB/s", "iops": "40 kIOPS", "p": 3.0,
        "sizes": ["4 KiB", "4 MiB"], "lanes": [1, 8]}  # fmt: skip


def table(points: list[Measured], path: Path) -> str:
    rows = [f"{size} B,{lanes},{rate!r} B/s" for size, lanes, rate in points]
    path.write_text("\n".join(["size,lanes,bandwidth", *rows]) + "\n")
    return str(path)


def drawn(fit: dict[str, Any], noise: float = 0.0) -> list[Measured]:
    """Points of a known formula."""
    rng = np.random.default_rng(1)
    found = []
    for lanes in (1, 2, 4, 8):
        speed = speed_of(Flash.model_validate({"lanes": lanes, "fit": fit}))
        for size in (4096 * 4**i for i in range(6)):
            seconds = speed.seconds(np.array([float(size)]), lanes)[0]
            found.append(
                Measured(size, lanes, float(size / seconds * np.exp(noise * rng.normal())))
            )
    return found


def test_the_phone_is_fitted_as_well_as_published(tmp_path: Path) -> None:
    found = calibrate(table(POINTS, tmp_path / "p.csv"), fit=True)
    assert len(found.points) == 19
    assert found.errors is not None
    assert found.left_out is not None
    assert found.errors.rms <= 0.044
    assert found.errors.rms == pytest.approx(0.0277, abs=0.0005)
    assert abs(found.errors.worst) <= 0.11
    assert found.left_out.rms > found.errors.rms
    fit = found.flash["fit"]
    assert (fit["sizes"], fit["lanes"]) == (["128 KiB", "4 MiB"], [1, 8])


def test_the_errors_are_those_of_the_profile_it_makes(tmp_path: Path) -> None:
    found = calibrate(table(POINTS, tmp_path / "p.csv"), fit=True)
    wrong = []
    for point in POINTS:
        speed = speed_of(Flash.model_validate({**found.flash, "lanes": point.lanes}))
        seconds = float(speed.seconds(np.array([point.size]), point.lanes)[0])
        wrong.append(math.log(point.size / seconds / point.bandwidth))
    assert found.errors is not None
    assert found.errors.rms == pytest.approx(math.sqrt(np.mean(np.square(wrong))))
    worst = max(wrong, key=abs)
    assert found.errors.worst == pytest.approx(math.exp(worst) - 1)
    assert found.errors.at == POINTS[wrong.index(worst)]


def test_a_known_formula_is_found_again() -> None:
    t0, bandwidth, cap, iops, p = np.exp(fit_points(drawn(TRUE)))
    assert [t0, bandwidth, cap, iops, p] == pytest.approx([80e-6, 1.5e9, 1.2e9, 4e4, 3], rel=1e-4)


def test_a_limit_of_iops_that_is_not_there_is_left_out(tmp_path: Path) -> None:
    points = drawn({**TRUE, "iops": "unlimited"}, noise=0.03)
    found = calibrate(table(points, tmp_path / "p.csv"), fit=True)
    assert found.flash["fit"]["iops"] == "unlimited"
    assert found.errors is not None
    assert found.errors.rms < 0.03


def test_no_nearby_formula_is_better() -> None:
    logs = fit_points(POINTS)
    points = np.array(POINTS, np.float64)

    def error(at: Any) -> float:
        return float(np.square(flash_fit._residual(at, points)[0]).sum())

    rng = np.random.default_rng(2)
    least = error(logs)
    assert all(error(logs + rng.normal(size=5) * 10.0**-k) > least for k in range(1, 5))


def test_the_points_stay_what_they_are(tmp_path: Path) -> None:
    found = calibrate(table(POINTS, tmp_path / "p.csv"), lanes=4)
    flash = Flash.model_validate(found.flash)
    assert flash.lanes == 4
    assert [(read.size, read.lanes) for read in flash.reads] == [at[:2] for at in POINTS]
    rates = [read.bandwidth for read in flash.reads]
    assert rates == pytest.approx([at.bandwidth for at in POINTS], rel=5e-4)


def test_a_point_left_out_by_hand(tmp_path: Path) -> None:
    # 8 kB between 4 kB in 1 s and 16 kB in 4 s would take 2 s, and takes 2.5
    points = [Measured(4000, 1, 4000), Measured(8000, 1, 8000 / 2.5), Measured(16000, 1, 4000)]
    left = calibrate(table([*points, Measured(4000, 2, 9e3)], tmp_path / "p.csv")).left_out
    assert left is not None
    assert (left.rms, left.worst) == pytest.approx((math.log(1.25), 0.25), rel=1e-3)
    assert left.at == points[1]
    assert calibrate(table(points[:2], tmp_path / "p.csv")).left_out is None


def test_quantities_have_their_unit(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text(
        "lanes,size,note,bandwidth,direct\n"
        "2,8 KiB,x,1 GB/s,True\n2,16384 B,y,2e9 B/s,True\n1,4KiB,,500MB/s,True\n"
    )
    expected = [(4096, 1, 5e8), (8192, 2, 1e9), (16384, 2, 2e9)]
    assert read_points(str(path)) == (expected, True)
    path.write_text(path.read_text().replace("2e9 B/s,True", "2e9 B/s,False"))
    assert read_points(str(path)) == (expected, False)


@pytest.mark.parametrize("fit", [[], ["--fit"]])
def test_what_is_printed_can_be_pasted(tmp_path: Path, fit: list[str]) -> None:
    path = table(POINTS, tmp_path / "phone.csv")
    done = invoke("calibrate", path, *fit)
    pasted = {"extends": "oneplus15r", "name": "mine", **yaml.safe_load(done.stdout)}
    profile = load_profile(pasted)
    key = "flash.fit" if fit else "flash.reads"
    source = profile.source(key)
    assert source is not None
    assert source.kind == "measured"
    assert "19 points of phone.csv" in source.origin
    assert "# 19 points, 128 KiB to 4 MiB, 1, 2, 4, 8 in flight" in done.stdout
    assert ("formula: rms log error 2.8%, worst +6.1%" in done.stdout) == bool(fit)


def test_a_profile_is_written_that_extends_another(tmp_path: Path) -> None:
    path, out = table(POINTS, tmp_path / "phone.csv"), tmp_path / "mine.yaml"
    command = ["calibrate", path, "--fit", "--out", str(out)]
    done = invoke(*command, "--extends", "snapdragon8gen3")
    assert (done.exit_code, done.stdout) == (0, "")
    mine, base = load_profile(out), load_profile("snapdragon8gen3")
    assert mine.name == "mine"
    assert mine.dram == base.dram
    assert mine.flash.fit is not None
    assert mine.flash.reads == ()


def test_json_has_the_errors(tmp_path: Path) -> None:
    path = table(POINTS, tmp_path / "phone.csv")
    shown = json.loads(invoke("calibrate", path, "--fit", "--json").stdout)
    assert shown["points"] == 19
    assert shown["errors"]["rms"] == pytest.approx(0.0277, abs=0.0005)
    assert set(shown["flash"]) == {"lanes", "align", "fit"}


def test_reads_through_the_page_cache_are_estimates(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("size,lanes,bandwidth,direct\n4 KiB,1,1 GB/s,False\n8 KiB,1,1 GB/s,False\n")
    done = invoke("calibrate", path)
    assert yaml.safe_load(done.stdout)["sources"]["flash.reads"]["kind"] == "estimate"
    assert "warning: not all of these were direct reads" in done.stderr


HEAD = "size,lanes,bandwidth\n"
NEXT = "8 KiB,1,1 GB/s\n"
"""A right row, the second."""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no column size"),
        (HEAD, "0 points"),
        (HEAD + NEXT, "1 point; a curve needs 2"),
        ("size,lanes\n4 KiB,1\n8 KiB,1\n", "no column bandwidth"),
        (NEXT + NEXT, "no column size"),
        (HEAD + NEXT + "4 KiB,1,1 GB/s\n", "line 3: size 4 KiB after 8 KiB with 1 lanes"),
        (HEAD + NEXT + "8 KiB,1,2 GB/s\n", "sizes must ascend, each once"),
        (HEAD + NEXT + "8 KiB,2,2 GB/s\n", "one size only"),
        (HEAD + "4 KiB,1,0 MB/s\n" + NEXT, "line 2: bandwidth 0 MB/s: a bandwidth from 0.001 B/s"),
        (HEAD + "4 KiB,1,-5 MB/s\n" + NEXT, "line 2: bandwidth '-5 MB/s' is out of range"),
        (HEAD + "4 KiB,1,5e-324 B/s\n" + NEXT, "line 2: bandwidth '5e-324 B/s' is out of range"),
        (HEAD + "4 KiB,1,1e300 B/s\n" + NEXT, "line 2: bandwidth '1e300 B/s' is out of range"),
        (HEAD + "4 KiB,1,60 Gb/s\n" + NEXT, "counts bits"),
        (HEAD + "4 KiB,1\n" + NEXT, "bandwidth ''"),
        (HEAD + "-4 KiB,1,1 GB/s\n" + NEXT, "line 2: size '-4 KiB' is out of range"),
        (HEAD + "0.001 B,1,1 GB/s\n" + NEXT, "line 2: size '0.001 B' is out of range"),
        (HEAD + "4 KiB,0,1 GB/s\n" + NEXT, "lanes '0'"),
        (HEAD + "4 KiB,1.5,1 GB/s\n" + NEXT, "lanes '1.5'"),
        (HEAD + "4 KiB,²,1 GB/s\n" + NEXT, "lanes '²'"),
        (HEAD + NEXT * 3000, "2000 are the most"),
        (HEAD + '"' + "x" * 200_000, "not readable as CSV"),
        # numbers without a unit
        (HEAD + "4096,1,1 GB/s\n" + NEXT, "line 2: size '4096' has no unit: write a size such as"),
        (
            HEAD + NEXT + "16 KiB,1,146.4\n",
            "line 3: bandwidth '146.4' has no unit: write a bandwidth",
        ),
        (HEAD + "4 KiB,1,nan\n" + NEXT, "bandwidth 'nan' is not a bandwidth"),
        (HEAD + "4 KiB,1,inf\n" + NEXT, "bandwidth 'inf' is not a bandwidth"),
        # units, and figures that no disk has
        (HEAD + "4 KiB,1,28 ms\n" + NEXT, "unknown unit 'ms'"),
        (
            HEAD + "4 KiB,1,146.4 B/s\n" + NEXT,
            "4.1 kB, 1 in flight, would take 28 s; no disk takes",
        ),
        (HEAD + NEXT + "4 MiB,8,1.5 MB/s\n", "line 3: bandwidth 1.5 MB/s: a read of 4.19 MB, 8 in"),
        (
            HEAD + "4 KiB,1,1500 GB/s\n" + NEXT,
            "would take 0.00273 us; no disk takes less than 10 ns",
        ),
        (HEAD + "4 B,1,1 GB/s\n" + NEXT, "line 2: bandwidth 1 GB/s: a read of 4 B, 1 in flight"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DipsimError) as problem:
        calibrate(str(path))
    assert told in str(problem.value)
    assert "\n" not in str(problem.value)


def test_a_column_of_megabytes_without_a_unit_is_refused() -> None:
    assert "f25-bare-mb.csv, line 2: size '4096' has no unit" in refusal(
        "calibrate", str(shared("cases/f25-bare-mb.csv"))
    )


def test_a_table_out_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    path = tmp_path / "io.csv"
    path.write_text(
        "\ufeffsize,lanes,bandwidth\n4 KiB,1,0.1 GB/s\n8 KiB,1,150 MB/s\n", encoding="utf-8"
    )
    assert [point.size for point in read_points(str(path))[0]] == [4096, 8192]


def test_files_that_are_none(tmp_path: Path) -> None:
    binary = tmp_path / "b.csv"
    binary.write_bytes(b"\xff\xfe\x00size")
    for path, told in (
        (tmp_path, "not a regular file"),
        (tmp_path / "none.csv", "no such file"),
        (binary, "cannot be read"),
    ):
        with pytest.raises(DipsimError, match=told):
            calibrate(str(path))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--lanes", "0"], "from 1 to 256"),
        (["--out", "x.yaml"], "name the one it --extends"),
        (["--extends", "oneplus15r"], "goes with --out"),
        (["--out", "x.json", "--extends", "oneplus15r"], "ends in .yaml"),
        (["--out", "no/x.yaml", "--extends", "oneplus15r"], "no such folder"),
        (["--out", "x.yaml", "--extends", "nobody"], "no profile 'nobody'"),
        (["--out", "./x.yaml", "--extends", "x.yaml"], "give another name"),
    ],
)
def test_options_that_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = table(POINTS, tmp_path / "phone.csv")
    assert told in refusal("calibrate", path, *options)
    assert [at.name for at in tmp_path.iterdir()] == ["phone.csv"]


def test_too_few_points_for_the_formula(tmp_path: Path) -> None:
    path = table(POINTS[1:6], tmp_path / "p.csv")
    with pytest.raises(DipsimError, match="5 points; --fit needs 6"):
        calibrate(path, fit=True)
    assert calibrate(table(POINTS[1:7], tmp_path / "p.csv"), fit=True).left_out is None
