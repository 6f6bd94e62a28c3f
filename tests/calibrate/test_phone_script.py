"""The script that measures a phone, run against stubs: order, bounds, pauses, what it leaves."""

import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dipsim.calibrate.benchmarks import read_benchmarks
from dipsim.calibrate.script import phone_script, script_targets
from dipsim.errors import DipsimError
from tools.stub_phone import StubPhone

SIZES, DEPTHS = ("4k", "16k", "64k", "128k", "256k", "512k", "1m", "4m"), ("1", "4", "8")
slow = pytest.mark.slow  # each is some hundred programs
Run = Callable[..., dict[str, str]]


@pytest.fixture
def phone(tmp_path: Path) -> StubPhone:
    return StubPhone(tmp_path, "sh")


@pytest.fixture
def run(phone: StubPhone) -> Run:
    def call(**options: object) -> dict[str, str]:
        """Run the script to its end; return the texts of the archive by name."""
        program = phone.start(phone_script("android"), **options)
        out, err = program.communicate()
        assert (program.returncode, err) == (0, ""), out
        return unpacked(phone.home / "dipsim-phone.tar")

    return call


def unpacked(archive: Path) -> dict[str, str]:
    """Return the texts of an archive by name."""
    with tarfile.open(archive) as tar:
        members = [member for member in tar if member.isfile()]
        assert all("/" not in member.name.removeprefix("./") for member in members)
        files = {member.name.removeprefix("./"): tar.extractfile(member) for member in members}
        return {name: file.read().decode() for name, file in files.items() if file is not None}


def steps(texts: dict[str, str], beginning: str) -> list[str]:
    return [line for line in texts["steps.txt"].splitlines() if line.startswith(beginning)]


def test_all_steps_in_order(phone: StubPhone, run: Run) -> None:
    texts = run()
    names = [call.split()[0] for call in phone.calls if not call.startswith("limit")]
    runs = 3 * 2 * 2  # models, numbers of threads, depths
    assert names == ["dd", *["fio"] * 24, "mbw", "stream", *["llama-bench"] * runs]
    reads = [(size, depth) for depth in DEPTHS for size in SIZES]
    assert [f"--bs={s}" in c and f"--numjobs={d}" in c for c, (s, d) in zip(
        phone.called("fio"), reads, strict=True)] == [True] * 24  # fmt: skip
    benches = phone.called("llama-bench")
    for bench in benches[: runs // 2]:
        assert bench.endswith("-r 3 -o jsonl -p 512 -n 64")
    for bench in benches[runs // 2 :]:
        assert bench.endswith("-r 3 -o jsonl -p 0 -n 64 -d 2048")
    assert [bench.split(" -t ")[1][0] for bench in benches] == [*"444666"] * 2
    assert [bench.split("/")[-1].split(" -t")[0] for bench in benches[:3]] == [
        "a.gguf", "b b.gguf", "c-00001-of-00002.gguf"]  # fmt: skip
    assert set(texts) == {
        "device.txt", "meminfo.txt", "steps.txt", "mbw.txt", "stream.txt",
        *(f"fio-{size}-{depth}.json" for size, depth in reads),
        *(f"llama-bench-{i + 1}.jsonl" for i in range(runs)),
    }  # fmt: skip
    assert texts["fio-4k-8.json"] == '{"fio version": "stub"}\n'
    assert texts["meminfo.txt"].startswith("MemTotal: 12000000 kB")
    assert "ro.soc.model=stub of ro.soc.model" in texts["device.txt"]
    assert "Serial" not in texts["device.txt"]
    assert phone.left == ["dipsim-phone.tar"]


@slow
def test_reads_are_direct_and_bounded(phone: StubPhone, run: Run) -> None:
    run(FILE_MB=77, READ_SECONDS=2)
    (made,) = phone.called("dd")
    assert made.endswith("bs=1048576 count=77")
    for call in phone.called("fio"):
        assert {"--direct=1", "--readonly", "--size=77m", "--runtime=2"} <= set(call.split())
    limits = {call.split()[2]: int(call.split()[1]) for call in phone.called("limit")}
    assert limits == {"dd": 120, "fio": 17, "mbw": 60, "stream_c.exe": 60, "llama-bench": 150}


@slow
def test_what_hangs_is_stopped_and_the_budget_holds(phone: StubPhone, run: Run) -> None:
    phone.state("hangs-llama-bench")
    texts = run(BUDGET=600)
    assert phone.seconds <= 600
    stopped = steps(texts, "stopped after")
    assert stopped[0].startswith("stopped after 150 s: a.gguf, 4 threads, depth 0: 150 s, 31.0 C")
    skipped = steps(texts, "left out: ")
    assert len(stopped) + len(skipped) == 12
    assert all("the budget of 600 s is used up" in line for line in skipped)
    limits = [int(call.split()[1]) for call in phone.called("limit")]
    assert limits[-1] < 150 == limits[-2]  # the last run has what is left


@slow
def test_a_small_budget_leaves_all_out_and_says_so(phone: StubPhone, run: Run) -> None:
    texts = run(BUDGET=0)
    assert set(texts) == {"device.txt", "meminfo.txt", "steps.txt"}
    assert not phone.called("limit")
    assert len(steps(texts, "left out: ")) == 1 + 2 + 12


@slow
def test_a_step_waits_until_the_battery_is_cool(phone: StubPhone, run: Run) -> None:
    phone.temperature.write_text("391\n")
    phone.state("cools")  # a tenth of a degree each second
    texts = run()
    assert phone.calls[:5] == ["sleep 10"] * 4 + ["limit 120 dd"]  # 351 is at most 36 C
    assert steps(texts, "waited")[0] == "waited: 40 s, now 35.1 C"


@slow
def test_a_battery_that_stays_warm_is_waited_for_no_longer_than_said(
    phone: StubPhone, run: Run
) -> None:
    phone.temperature.write_text("400\n")
    texts = run(COOL_WAIT=30, BUDGET=3000)
    assert phone.calls[:4] == ["sleep 10"] * 3 + ["limit 120 dd"]
    assert steps(texts, "waited")[0] == "waited: 30 s, now 40.0 C"
    assert len(steps(texts, "ran: ")) == 1 + 24 + 2 + 12


@slow
def test_pauses_count_in_the_budget(phone: StubPhone, run: Run) -> None:
    phone.temperature.write_text("400\n")
    run(BUDGET=200)
    assert phone.seconds <= 200


@slow
def test_a_hot_phone_is_left_alone(phone: StubPhone, run: Run) -> None:
    phone.state("heats")
    phone.temperature.write_text("360\n")
    texts = run(HOT=45, COOL_WAIT=20)
    assert len(phone.called("llama-bench")) == 1
    skipped = steps(texts, "left out: ")
    assert len(skipped) == 11
    assert all("the battery is at 45.0 C" in line for line in skipped)


@slow
@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("dumpsys", "thermometer: dumpsys, 29.4 C"),
        ("termux", "thermometer: termux, 33.0 C"),
        ("zone", "thermometer: zone, 34.5 C"),
        ("none", "thermometer: none, ? C"),
    ],
)
def test_where_the_temperature_is_read(phone: StubPhone, run: Run, source: str, shown: str) -> None:
    phone.temperature.write_text("unreadable\n")
    if source == "dumpsys":
        phone.program("dumpsys", "echo 'Battery:'; echo '  temperature: 294'; echo '  level: 9'")
    if source == "termux":
        phone.program("termux-battery-status", 'echo \'{ "temperature": 33.2, "percentage": 9 }\'')
    for i, (kind, heat) in enumerate((("cpu-0", 70000), ("skin-therm", 34500))):
        zone = phone.stub / f"sys/class/thermal/thermal_zone{i}"
        zone.mkdir(parents=True)
        (zone / "temp").write_text(f"{heat}\n")
        (zone / "type").write_text(f"{kind if source == 'zone' else 'cpu'}\n")
    texts = run()
    assert steps(texts, "thermometer") == [shown]
    pauses = ["sleep 15"] * 12 if source == "none" else []
    assert phone.called("sleep") == pauses


@slow
def test_missing_tools_are_left_out(phone: StubPhone, run: Run) -> None:
    phone.without("fio", "mbw", "stream_c.exe", "llama-bench", "getprop")
    texts = run()
    assert steps(texts, "left out") == [
        "left out: flash: no fio",
        "left out: mbw: no mbw",
        "left out: STREAM: no stream_c.exe",
        "left out: models: no llama-bench",
    ]
    assert set(texts) == {"device.txt", "meminfo.txt", "steps.txt"}


@slow
def test_a_tool_that_fails_is_named_with_its_last_words(phone: StubPhone, run: Run) -> None:
    phone.program("fio", "echo first >&2; echo 'fio: no direct reads here' >&2; exit 3")
    texts = run()
    failed = steps(texts, "failed: reads of 4k, 1 in flight")
    assert "status 3: fio: no direct reads here" in failed[0]
    assert not [name for name in texts if name.startswith("fio")]
    assert len(phone.called("llama-bench")) == 12


@slow
def test_without_space_nothing_is_written(phone: StubPhone, run: Run) -> None:
    phone.state("free", str(1500 * 1024))
    texts = run(FLASH=phone.home)
    assert not phone.called("dd")
    assert steps(texts, "left out: flash") == [
        f"left out: flash: 1500 MB are free in {phone.home}, 2048 are needed"
    ]
    assert len(phone.called("llama-bench")) == 12


@slow
def test_a_file_that_cannot_be_made_is_removed_and_not_read(phone: StubPhone, run: Run) -> None:
    phone.program("dd", 'for a; do case $a in of=*) echo x >"${a#of=}";; esac; done; exit 1')
    texts = run()
    assert not phone.called("fio")
    assert "flash.bin" not in texts
    assert phone.left == ["dipsim-phone.tar"]


@slow
def test_a_model_larger_than_memory_is_left_out(phone: StubPhone, run: Run) -> None:
    phone.program("du", 'case $2 in */a.gguf) echo "7000000 $2" ;; *) echo "4 $2" ;; esac')
    texts = run()
    assert len(phone.called("llama-bench")) == 8
    assert steps(texts, "left out: a.gguf, 4 threads, depth 0") == [
        "left out: a.gguf, 4 threads, depth 0: takes 7135 MB, 5859 MB of DRAM are available"
    ]


@slow
def test_no_models(phone: StubPhone, run: Run) -> None:
    shutil.rmtree(phone.models)
    assert steps(run(), "left out") == [f"left out: models: no *.gguf in {phone.models}"]


@slow
def test_options_reach_the_programs(phone: StubPhone, run: Run) -> None:
    phone.program("bench 2", 'echo "llama-bench $*" >>"$STUB/calls"')
    bench = phone.bin / "bench 2"
    run(LLAMA_BENCH=bench, LLAMA_OPTIONS="-ngl 99", THREADS="2")
    assert len(phone.called("llama-bench")) == 6
    assert all(call.endswith("-ngl 99") for call in phone.called("llama-bench"))
    assert all(" -t 2 " in call for call in phone.called("llama-bench"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"BUDGET": "15m"}, "BUDGET=15m: give a whole number"),
        ({"COOL": "-1"}, "COOL=-1: give a whole number"),
        ({"FILE_MB": "0"}, "FILE_MB is at least 4"),
        ({"THREADS": "4;x"}, "THREADS=4;x: give numbers"),
        ({"FLASH": "/nowhere/at all"}, "cannot write in /nowhere/at all"),
    ],
)
def test_wrong_options_are_refused(phone: StubPhone, options: dict[str, str], said: str) -> None:
    program = phone.start(phone_script("android"), **options)
    out, err = program.communicate()
    assert (program.returncode, out, phone.calls, phone.left) == (2, "", [], [])
    assert said in err.splitlines()[-1]


def test_without_timeout_nothing_runs(phone: StubPhone) -> None:
    phone.without("timeout")
    program = phone.start(phone_script("android"))
    _, err = program.communicate()
    assert (program.returncode, phone.calls, phone.left) == (2, [], [])
    assert "no timeout" in err


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_and_packs_what_there_is(phone: StubPhone, kind: signal.Signals) -> None:
    os.mkfifo(phone.stub / "gate")
    endless = str(shutil.which("sleep"))
    phone.program("fio", f'echo $$ >"$STUB/pid"; echo >"$STUB/gate"; exec {endless} 600')
    program = phone.start(phone_script("android"))
    (phone.stub / "gate").read_text()  # waits until fio runs
    program.send_signal(kind)
    program.communicate()
    assert program.returncode == 130
    assert phone.left == ["dipsim-phone.tar"]
    texts = unpacked(phone.home / "dipsim-phone.tar")
    assert len(steps(texts, "interrupted")) == 1
    assert "flash.bin" not in texts
    with pytest.raises(ProcessLookupError):
        os.kill(int((phone.stub / "pid").read_text()), 0)


@slow
@pytest.mark.parametrize("shell", ["mksh", "busybox sh"])
def test_other_shells_do_the_same(tmp_path: Path, shell: str) -> None:
    """The shells of Android and of small Linux systems."""
    if shutil.which(shell.split()[0]) is None:
        pytest.skip(f"no {shell} is installed")
    lists = []
    for name in ("sh", shell):
        (tmp_path / name).mkdir()
        phone = StubPhone(tmp_path / name, name)
        program = phone.start(phone_script("android"), THREADS="4")
        out, err = program.communicate()
        assert (program.returncode, err) == (0, ""), out
        lists.append(out)
    assert lists[0] == lists[1]


@slow
@pytest.mark.skipif(not os.environ.get("CI") and shutil.which("fio") is None, reason="needs fio")
def test_what_it_packs_is_read(tmp_path: Path) -> None:
    """With the real fio, on the disk of the tests: one read of every size and number in flight."""
    (tmp_path / "script.sh").write_text(phone_script("android"))
    options = {"FILE_MB": "8", "SPARE_MB": "8", "READ_SECONDS": "1", "REST": "0", "COOL": "999",
               "HOT": "9999", "LLAMA_BENCH": "none", "STREAM": "none"}  # fmt: skip
    subprocess.run(
        ["sh", "script.sh"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], **options},
        check=True,
        capture_output=True,
    )
    texts = unpacked(tmp_path / "dipsim-phone.tar")
    if not os.environ.get("CI") and "O_DIRECT" in texts["steps.txt"]:
        pytest.skip("needs a file system with direct reads")
    found = read_benchmarks([str(tmp_path / "dipsim-phone.tar")])
    points = {(reads.point.size, reads.point.lanes) for reads in found.reads}
    sizes = [2.0**power for power in (12, 14, 16, 17, 18, 19, 20, 22)]
    assert points == {(size, int(depth)) for size in sizes for depth in DEPTHS}
    assert not any(reads.in_order for reads in found.reads)
    assert len(found.memory) == 1


@slow
@pytest.mark.skipif(
    not os.environ.get("CI") and shutil.which("shellcheck") is None, reason="needs shellcheck"
)
@pytest.mark.parametrize("target", script_targets())
def test_shellcheck_has_no_complaint(target: str) -> None:
    checked = subprocess.run(
        ["shellcheck", "-s", "sh", "-"], input=phone_script(target), capture_output=True, text=True
    )
    assert (checked.returncode, checked.stdout) == (0, "")


def test_a_target_without_a_script_is_refused_with_those_that_have_one() -> None:
    assert script_targets() == ["android"]
    for wrong in ("ios", "../android", "", "Android"):
        with pytest.raises(DipsimError, match="android") as refusal:
            phone_script(wrong)
        assert "\n" not in str(refusal.value)
    with pytest.raises(DipsimError, match="of type int"):
        phone_script(1)  # type: ignore[arg-type]
