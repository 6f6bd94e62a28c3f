"""Tables of measured reads, and what `dipsim calibrate` makes of them alone."""

import json
from pathlib import Path

import pytest
import yaml

from dipsim.calibrate.benchmarks import read_benchmarks
from dipsim.calibrate.device import calibrate_device
from dipsim.disk.fit import Measured
from dipsim.errors import DipsimError
from dipsim.hardware import load_profile
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


def table(points: list[Measured], path: Path) -> str:
    rows = [f"{size} B,{lanes},{rate!r} B/s" for size, lanes, rate in points]
    path.write_text("\n".join(["size,lanes,bandwidth", *rows]) + "\n")
    return str(path)


def points_of(path: Path) -> list[tuple[float, int, float]]:
    """Return the points that are read."""
    return [tuple(each.point) for each in read_benchmarks([str(path)]).reads]


def test_quantities_have_their_unit(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text(
        "lanes,size,note,bandwidth,direct\n"
        "2,8 KiB,x,1 GB/s,True\n2,16384 B,y,2e9 B/s,True\n1,4KiB,,500MB/s,True\n"
    )
    expected = [(4096, 1, 5e8), (8192, 2, 1e9), (16384, 2, 2e9)]
    assert points_of(path) == expected
    path.write_text(path.read_text().replace("2e9 B/s,True", "2e9 B/s,False"))
    with pytest.raises(DipsimError, match="not all reads were direct"):
        points_of(path)


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
    assert "(phone.csv): 19 points" in source.origin
    assert "# 19 points, 128 KiB to 4 MiB, 1, 2, 4, 8 in flight" in done.stdout
    assert ("formula: rms log error 2.8%, worst +6.1%" in done.stdout) == bool(fit)


def test_a_profile_is_written_that_extends_another(tmp_path: Path) -> None:
    path, out = table(POINTS, tmp_path / "phone.csv"), tmp_path / "mine.yaml"
    command = ["calibrate", path, "--fit", "--out", str(out)]
    done = invoke(*command, "--extends", "snapdragon8gen3")
    assert done.exit_code == 0
    assert "mine.yaml: 3 numbers measured" in " ".join(done.stdout.split())
    mine, base = load_profile(out), load_profile("snapdragon8gen3")
    assert mine.name == "mine"
    assert mine.dram == base.dram
    assert mine.flash.fit is not None
    assert mine.flash.reads == ()


def test_json_has_the_errors(tmp_path: Path) -> None:
    path = table(POINTS, tmp_path / "phone.csv")
    shown = json.loads(invoke("calibrate", path, "--fit", "--json").stdout)
    assert shown["curve"]["points"] == 19
    assert shown["curve"]["errors"]["rms"] == pytest.approx(0.0277, abs=0.0005)
    assert set(shown["curve"]["flash"]) == {"lanes", "align", "fit"}


@pytest.mark.parametrize("text", ["False", "no", "0"])
def test_reads_through_the_page_cache_are_no_curve(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(f"size,lanes,bandwidth,direct\n4 KiB,1,1 GB/s,{text}\n8 KiB,1,1 GB/s,{text}\n")
    assert "not all reads were direct" in refusal("calibrate", path)


HEAD = "size,lanes,bandwidth\n"
NEXT = "8 KiB,1,1 GB/s\n"
"""A right row, the second."""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no output of a benchmark"),
        (HEAD, "0 points"),
        (HEAD + NEXT, "1 point; a curve needs 2"),
        ("size,lanes\n4 KiB,1\n8 KiB,1\n", "no output of a benchmark"),
        (NEXT + NEXT, "no output of a benchmark"),
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
        read_benchmarks([str(path)])
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
    assert [size for size, _, _ in points_of(path)] == [4096, 8192]


def test_files_that_are_none(tmp_path: Path) -> None:
    binary = tmp_path / "b.csv"
    binary.write_bytes(b"\xff\xfe\x00size")
    for path, told in (
        (tmp_path / "none.csv", "no such file"),
        (binary, "no output of a benchmark"),
    ):
        with pytest.raises(DipsimError, match=told):
            read_benchmarks([str(path)])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--lanes", "0"], "from 1 to 256"),
        (["--out", "x.yaml"], "name the one it --extends"),
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
        calibrate_device(read_benchmarks([path]), fit=True)
