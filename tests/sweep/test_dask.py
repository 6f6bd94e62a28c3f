"""Sweeps on Dask's workers: equal figures, lost workers, refusals, and jobs of Slurm."""

import signal
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

import dipsim as package
from dipsim import extras
from dipsim.errors import DipsimError
from dipsim.sweep import remote
from dipsim.sweep.chunk import run_chunk
from dipsim.sweep.execute import Ran, Watch
from dipsim.sweep.file import load_sweep
from dipsim.sweep.inputs import Inputs
from dipsim.sweep.plan import Planned, make_plan
from dipsim.sweep.remote import here, run_here
from dipsim.sweep.slurm import SlurmJobs, read_slurm
from dipsim.sweep.sweep import SweepResult
from dipsim.threads import most_threads
from tools.cli import PROGRAM, Dipsim, refused
from tools.dask_cluster import REFUSING, Cluster, stand_for_slurm
from tools.deadly import deadly

GRID = {
    "trace": "t.npz",
    "profile": "phone.yaml",
    "method": ["dip", "dip-ca"],
    "policy": ["lru", "arc", "opt", "lfu"],
    "cache_fraction": [0.3, 0.6],
}
SMALL = {"trace": "t.npz", "profile": "phone.yaml", "policy": ["lru", "lfu", "arc"]}
JOBS = {"jobs": 2, "cores": 1, "memory": "1GB"}


@pytest.fixture(autouse=True)
def _there(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with the files of the sweeps."""
    for name in ("t.npz", "phone.yaml", "mine.py"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    monkeypatch.chdir(tmp_path)


def sweep(given: Any, store: str, **more: Any) -> SweepResult:
    return package.sweep(given, store, trust_files=True, **more)


def table(result: SweepResult) -> list[Any]:
    """Return all that a sweep tells, without the time it took."""
    return [(cell.place, cell.options, cell.figures, cell.why, cell.marks) for cell in result.cells]


def planned(given: Any) -> tuple[Planned, ...]:
    return make_plan(load_sweep(given), Inputs(), limit=99, trust_files=True).cells


# What a worker does -------------------------------------------------------------------------------


def test_a_worker_finds_the_keys_that_were_planned(tmp_path: Path) -> None:
    more = {"overrides": ["flash.bandwidth=1GB/s"], "prefetch": [None, "previous", "t.npz"]}
    cells = planned({**GRID, **more, "policy": ["lru", "mine.py:policy"], "warmup": 2})
    answer = run_here("a", here(), lambda chunk, inputs: [], cells)
    assert (answer.kind, answer.said) == ("done", "")


def test_a_worker_uses_one_thread_for_a_chunk() -> None:
    threads: list[int] = []
    run_here(
        "a", here(), lambda chunk, inputs: threads.append(most_threads()) or [], planned(SMALL)
    )
    assert threads == [1]


def test_the_threads_of_a_worker_judge_models_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "_check_files", lambda cell, keys: None)

    def held(chunk: Any, inputs: Any) -> Any:
        return [remote._MODEL.locked()]

    for options, expected in (({"text": "a.txt"}, True), ({"trace": "t.npz"}, False)):
        cells = [Planned("key", {}, options)]
        assert run_here("a", here(), held, cells).outcomes == [expected]
    assert not remote._MODEL.locked()


@pytest.mark.parametrize("file", ["t.npz", "phone.yaml", "mine.py"])
def test_a_worker_refuses_other_files_than_those_of_the_plan(
    folder: Path, tmp_path: Path, file: str
) -> None:
    cells = planned({**SMALL, "policy": "mine.py:policy", "cache_fraction": 0.5})
    assert run_here("a", here(), run_chunk, cells).kind == "done"
    changed = {
        "t.npz": (folder / "marked.npz").read_bytes(),
        "phone.yaml": (tmp_path / "phone.yaml").read_bytes().replace(b"60 GB/s", b"61 GB/s"),
        "mine.py": (tmp_path / "mine.py").read_bytes() + b"# changed\n",
    }
    (tmp_path / file).write_bytes(changed[file])
    other = run_here("b", here(), run_chunk, cells)
    (tmp_path / file).unlink()
    gone = run_here("c", here(), run_chunk, cells)
    assert (other.kind, other.outcomes, gone.kind) == ("refused", (), "refused")
    assert "hold something else there" in other.said
    assert "cannot be read there" in gone.said
    assert str(tmp_path / file) in other.said


def test_a_worker_refuses_what_another_version_planned() -> None:
    answer = run_here("a", "dipsim 9 (semantics 9)", run_chunk, planned(SMALL))
    assert answer.kind == "refused"
    assert f"has {here()}, this is dipsim 9 (semantics 9): install the same there" in answer.said


def test_a_worker_reports_a_bug_and_a_lack_of_memory() -> None:
    def fails(chunk: Any, inputs: Any) -> Any:
        raise [MemoryError, ZeroDivisionError][len(chunk) - 1]

    cells = planned(SMALL)
    assert run_here("a", here(), fails, cells[:1]).kind == "no memory"
    bug = run_here("a", here(), fails, cells[:2])
    assert (bug.kind, bug.said.splitlines()[-1]) == ("bug", "ZeroDivisionError")


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--dask tcp://a:1 --workers 2", "--workers 2 and --dask: give one of them"),
        ("--dask here", "--dask here: give the address of a scheduler, tcp://host:8786, or slurm:"),
        ("--dask tcp://host", "--dask tcp://host: give the address"),
        ("--dask slurm:none.yaml", "none.yaml"),
        ("--dask slurm:jobs.yaml", "jobs.yaml: unknown key 'memroy': did you mean memory?"),
    ],
)
def test_what_is_no_scheduler_is_refused(
    dipsim: Dipsim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(yaml.safe_dump(SMALL))
    Path("jobs.yaml").write_text("jobs: 2\ncores: 1\nmemroy: 1GB\n")
    refused(dipsim(f"sweep study.yaml {line}"), said)
    assert not Path("study.db").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"jobs": None}, "give jobs, or maximum_jobs"),
        ({"maximum_jobs": 3}, "give jobs, or maximum_jobs"),
        ({"jobs": None, "maximum_jobs": 3, "minimum_jobs": 4}, "more than maximum_jobs"),
        ({"cores": 8, "processes": 3}, "must divide the cores, 8"),
        ({"cores": 0}, "cores"),
        ({"memory": 4}, "memory"),
    ],
)
def test_impossible_jobs_are_refused(more: dict[str, Any], said: str) -> None:
    Path("jobs.yaml").write_text(yaml.safe_dump({**JOBS, **more}))
    with pytest.raises(DipsimError, match=said):
        read_slurm(Path("jobs.yaml"))


def test_a_missing_extra_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(DipsimError, match="--dask needs dask, distributed: pip install 'dipsim"):
        sweep(SMALL, "a.db", dask="tcp://127.0.0.1:8786")


@pytest.mark.parametrize("given", [8786, True, b"tcp://a:1"])
def test_what_is_no_text_is_refused(given: Any) -> None:
    with pytest.raises(DipsimError, match="dask: what is given is of type"):
        sweep(SMALL, "a.db", dask=given)


# Workers ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two workers, the second with two threads; a chunk that two lost is given up."""
    with Cluster(allowed_failures=1) as started:
        started.start()
        started.start(threads=2)
        yield started


@pytest.mark.slow
def test_figures_do_not_depend_on_where_they_are_worked_out(cluster: Cluster) -> None:
    serial = table(sweep(GRID, "serial.db"))
    assert table(sweep(GRID, "dask.db", dask=cluster.address)) == serial
    assert sweep(GRID, "dask.db", dask=cluster.address).known == len(serial) == 16


@pytest.mark.slow
def test_a_chunk_whose_worker_is_killed_is_run_again(cluster: Cluster, tmp_path: Path) -> None:
    Path("deadly.py").write_text(deadly(tmp_path, 2))  # given up, then run alone
    given = {**GRID, "policy": ["lru", "deadly.py:policy"], "method": "dip"}
    result = sweep(given, "dask.db", dask=cluster.address)
    assert Path("deadly.losses").read_text() == "xx"
    assert (len(result.cells), result.failed, result.lost) == (4, 0, [])
    assert table(result) == table(sweep(given, "serial.db"))


@pytest.mark.slow
def test_a_chunk_that_kills_every_worker_fails_alone(cluster: Cluster, tmp_path: Path) -> None:
    Path("deadly.py").write_text(deadly(tmp_path, 99))
    others = [f"lfu-decay:half_life={n}" for n in range(1, 12)]
    given = {**SMALL, "policy": [*others, "deadly.py:policy"]}
    result = sweep(given, "dask.db", dask=cluster.address)
    (lost,) = result.lost
    assert [cell.place["policy"] for cell in lost.chunk] == ["deadly.py:policy"]
    assert "was lost 2 times" in str(lost.lost)
    assert (result.failed, len(result.cells)) == (1, 11)
    assert len(Path("deadly.losses").read_text()) > 2  # among others, then alone


class Does(Watch):
    """Does something when a sweep is planned, after some chunks, or when it waits for workers."""

    def __init__(self, planned: Any = None, ran: Any = None, waiting: Any = None) -> None:
        self._planned, self._ran, self._waiting = planned, ran, waiting
        self.waited: list[bool] = []

    def planned(self, *_: Any) -> None:
        if self._planned:
            self._planned()

    def ran(self, ran: Ran) -> None:
        if self._ran:
            self._ran()

    def waiting(self, for_workers: bool) -> None:
        self.waited.append(for_workers)
        if for_workers and self._waiting and self.waited.count(True) == 1:
            self._waiting()


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interruption_cancels_what_is_outstanding(cluster: Cluster) -> None:
    from distributed import Client

    with pytest.raises(KeyboardInterrupt):
        sweep(GRID, "dask.db", dask=cluster.address, watch=Does(ran=interrupt))
    with Client(cluster.address, set_as_default=False) as client:
        while client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
            pass
    result = sweep(GRID, "dask.db", dask=cluster.address)
    assert 0 < result.known < 16
    assert table(result) == table(sweep(GRID, "serial.db"))


@pytest.mark.slow
def test_files_that_change_behind_the_plan_are_noticed(cluster: Cluster) -> None:
    def change() -> None:
        text = Path("phone.yaml").read_text()
        Path("phone.yaml").write_text(text.replace("60 GB/s", "61 GB/s"))

    with pytest.raises(DipsimError, match="files of a cell hold something else there"):
        sweep(SMALL, "dask.db", dask=cluster.address, watch=Does(planned=change))


@pytest.mark.slow
def test_workers_of_another_version_are_refused_before_anything_runs(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "SEMANTICS", 9)
    ran: list[int] = []
    with pytest.raises(
        DipsimError, match=r"worker tcp://\S+ has .*semantics \d+\), this .*semantics 9"
    ):
        sweep(SMALL, "dask.db", dask=cluster.address, watch=Does(ran=lambda: ran.append(1)))
    assert ran == []


@pytest.mark.slow
def test_it_waits_for_workers_and_says_when_the_scheduler_goes_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Cluster() as cluster:
        watch = Does(waiting=cluster.start, ran=cluster.scheduler.kill)
        with pytest.raises(DipsimError, match="the scheduler went away: what is done is in the"):
            sweep(GRID, "dask.db", dask=cluster.address, watch=watch)
    assert (watch.waited[0], False in watch.waited) == (True, True)
    assert 0 < sweep(GRID, "dask.db").known < 16


@pytest.mark.slow
def test_no_scheduler_is_one_line(dipsim: Dipsim, tmp_path: Path) -> None:
    import dask.config

    Path(tmp_path / "study.yaml").write_text(yaml.safe_dump(SMALL))
    with dask.config.set({"distributed.comm.timeouts.connect": "100ms"}):
        refused(
            dipsim(f"sweep {tmp_path}/study.yaml --dask tcp://127.0.0.1:1"),
            "--dask tcp://127.0.0.1:1: no scheduler answers",
        )


# Slurm --------------------------------------------------------------------------------------------


def test_a_job_has_a_worker_for_each_core() -> None:
    jobs = SlurmJobs(cores=8, memory="32GB", maximum_jobs=3, queue="short")
    assert jobs.workers == 24
    given = jobs.arguments()
    assert (given["processes"], given["cores"], given["queue"]) == (8, 8, "short")
    assert "maximum_jobs" not in given


@pytest.mark.slow
def test_the_script_of_a_job_is_what_the_file_asks_for() -> None:
    from dask_jobqueue import SLURMCluster

    more = {"queue": "short", "account": "us", "walltime": "02:00:00", "interface": "lo"}
    jobs = SlurmJobs(cores=4, memory="8GB", jobs=1, job_extra_directives=["--qos=low"], **more)
    with SLURMCluster(**jobs.arguments()) as cluster:
        script = cluster.job_script().splitlines()
    asked = [line.removeprefix("#SBATCH ") for line in script if line.startswith("#SBATCH")]
    assert asked == [
        *("-J dipsim", "-p short", "-A us", "-n 1", "--cpus-per-task=4"),
        *("--mem=8G", "-t 02:00:00", "--qos=low"),
    ]
    assert {"--nthreads 1", "--nworkers 4"} <= {
        " ".join(pair) for pair in pairwise(script[-1].split())
    }


@pytest.mark.slow
def test_jobs_of_slurm_run_cells_and_are_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", stand_for_slurm(tmp_path))
    Path("jobs.yaml").write_text(yaml.safe_dump({**JOBS, "interface": "lo"}))
    result = sweep(GRID, "slurm.db", dask="slurm:jobs.yaml")
    assert table(result) == table(sweep(GRID, "serial.db"))
    submitted = Path("submitted").read_text().splitlines()
    assert len(submitted) == len(Path("cancelled").read_text().splitlines()) == 2
    assert sweep(GRID, "slurm.db", dask="slurm:jobs.yaml").known == 16
    assert Path("submitted").read_text().splitlines() == submitted  # nothing to do, no job


@pytest.mark.slow
def test_an_interrupted_program_cancels_its_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", stand_for_slurm(tmp_path))
    Path("study.yaml").write_text(yaml.safe_dump({**GRID, "seeds": 100}))
    adaptive = {"jobs": None, "maximum_jobs": 1, "interface": "lo"}
    Path("jobs.yaml").write_text(yaml.safe_dump({**JOBS, **adaptive}))
    line = "sweep study.yaml --dask slurm:jobs.yaml --log jsonl"
    with subprocess.Popen([*PROGRAM, *line.split()], stderr=subprocess.PIPE, text=True) as program:
        assert program.stderr is not None
        assert program.stderr.readline().startswith("{")
        program.send_signal(signal.SIGINT)
        last = program.stderr.read().splitlines()[-1]
    assert (program.returncode, last) == (130, "dipsim: interrupted")
    assert len(Path("cancelled").read_text().splitlines()) == 1


@pytest.mark.slow
def test_a_refusal_of_slurm_is_one_line(
    dipsim: Dipsim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", stand_for_slurm(tmp_path, REFUSING))
    Path("study.yaml").write_text(yaml.safe_dump(SMALL))
    Path("jobs.yaml").write_text(yaml.safe_dump({**JOBS, "interface": "lo"}))
    refused(dipsim("sweep study.yaml --dask slurm:jobs.yaml"), "invalid partition specified")
    monkeypatch.setenv("PATH", "/bin")
    refused(dipsim("sweep study.yaml --dask slurm:jobs.yaml"), "no sbatch here")
