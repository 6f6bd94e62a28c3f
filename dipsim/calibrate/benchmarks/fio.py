"""Reader of the JSON of fio (``--output-format=json`` and ``json+``).

An entry is a job, a thread of it, or with ``group_reporting`` all jobs of a group. Those of one
group run at the same time: their reads in flight and their bandwidths are added up.
"""

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from dipsim.calibrate.benchmarks.points import Points
from dipsim.calibrate.benchmarks.reading import (
    BANDWIDTHS,
    Format,
    documents,
    number,
    one_device,
    shown,
    whole,
    words,
)
from dipsim.calibrate.benchmarks.source import Source
from dipsim.calibrate.measured import Measurements, Origin
from dipsim.errors import DipsimError, brief

MOST_JOBS = 10_000
_START = re.compile(r"(?m)^\{")
_QUEUED = {
    *("libaio", "io_uring", "io_uring_cmd", "posixaio", "windowsaio", "solarisaio"),
    *("sg", "libblkio", "xnvme"),
}
"""Engines that keep ``iodepth`` requests in flight; all others wait for each."""
_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class _Work(NamedTuple):
    """Work that the jobs of a group do, all alike."""

    way: str
    size: int
    depth: int
    direct: bool


class _Entry(NamedTuple):
    """An entry of the list of jobs."""

    work: _Work
    threads: int
    told: Mapping[str, Any]
    """Report of fio on it: the part ``read`` or ``write``."""


def read(source: Source) -> Measurements:
    """Read the bandwidths of a device.

    Raises:
        DipsimError: damaged as a whole, no jobs, or jobs of several hosts.
    """
    points = Points(source.name)
    hosts: dict[str, None] = {}
    origin = Origin(source.name, "fio")
    for data in documents(source.text, source.name, _START):
        if not isinstance(data, dict):
            raise DipsimError(f"{source.name}: expected a JSON object of fio")
        origin = _origin(data, source.name)
        shared = data.get("global options")
        groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
        for job in _jobs(data, source.name):
            host = words(job.get("hostname"))
            if host:
                hosts[host] = None
            group = job.get("groupid")
            groups.setdefault((host, group if isinstance(group, int) else 0), []).append(job)
        for jobs in groups.values():
            place = f"job {words(jobs[0].get('jobname'), 40) or '?'}"
            try:
                _add(points, place, jobs, shared if isinstance(shared, dict) else {}, origin)
            except ValueError as problem:
                points.refuse(place, str(problem))
    return points.measurements(one_device(hosts, origin))


def _jobs(data: Mapping[str, Any], file: str) -> Iterator[Mapping[str, Any]]:
    jobs = data.get("jobs") or data.get("client_stats")
    if not isinstance(jobs, list) or not jobs:
        raise DipsimError(f"{file}: no jobs: give the JSON of a fio that ran to its end")
    if len(jobs) > MOST_JOBS:
        raise DipsimError(f"{file}: more than {MOST_JOBS} jobs")
    for job in jobs:
        if not isinstance(job, dict):
            raise DipsimError(f"{file}: a job must be an object, given {shown(job)}")
        if job.get("jobname") != "All clients":
            yield job


def _origin(data: Mapping[str, Any], file: str) -> Origin:
    stamp = data.get("timestamp")
    date = ""
    if isinstance(stamp, int) and not isinstance(stamp, bool) and 0 < stamp < 2**33:
        date = datetime.fromtimestamp(stamp, UTC).date().isoformat()
    return Origin(file, "fio", date, words(data.get("fio version"), 60))


# A group ------------------------------------------------------------------------------------------


def _add(
    points: Points,
    place: str,
    jobs: list[Mapping[str, Any]],
    shared: Mapping[str, Any],
    origin: Origin,
) -> None:
    """Add what the jobs of a group reach together.

    Raises:
        ValueError: they tell no bandwidth, in a sentence.
    """
    entries = [_entry(job, shared, len(jobs)) for job in jobs]
    work = entries[0].work
    if any(entry.work != work for entry in entries):
        raise ValueError("jobs of several kinds ran at the same time: put --stonewall between them")
    points.add(
        place,
        origin,
        size=work.size,
        lanes=work.depth * sum(entry.threads for entry in entries),
        bandwidth=math.fsum(_bandwidth(entry.told) for entry in entries),
        direct=work.direct,
        in_order=not work.way.startswith("rand"),
        written=work.way.endswith("write"),
    )


def _entry(job: Mapping[str, Any], shared: Mapping[str, Any], in_group: int) -> _Entry:
    own = job.get("job options")
    if not isinstance(own, dict):
        raise ValueError("no job options, so no block size is known: use a fio of 2018 or later")
    options = {
        key: str(value)
        for key, value in {**shared, **own}.items()
        if isinstance(value, str | int | float)
    }
    if job.get("error") not in (0, None):
        raise ValueError(f"fio reports error {shown(job['error'])}")
    way = options.get("rw", options.get("readwrite", "read")).partition(":")[0]
    if way not in ("read", "randread", "write", "randwrite"):
        raise ValueError(f"rw={brief(way, 20)}: reads and writes in turn tell the speed of neither")
    told = job.get("write" if way.endswith("write") else "read")
    if not isinstance(told, dict):
        raise ValueError("no figures of its reads or writes")
    jobs = whole(_count(options.get("numjobs", "1")), "numjobs", 1, 4096)
    work = _Work(way, _block(options, way), _depth(options), _is_direct(options))
    # one entry for each thread, or with group_reporting one for all
    threads = jobs if in_group == 1 else 1
    _check_alone(job, told, threads)
    return _Entry(work, threads, told)


def _check_alone(job: Mapping[str, Any], told: Mapping[str, Any], threads: int) -> None:
    """Refuse a group whose entry holds more threads than its first job has."""
    total, longest = job.get("job_runtime"), told.get("runtime")
    if not isinstance(total, int | float) or not isinstance(longest, int | float):
        return
    if longest > 0 and total > (threads + 0.7) * longest:
        raise ValueError(
            "several jobs ran at the same time under one report: put --stonewall between them"
        )


def _depth(options: Mapping[str, str]) -> int:
    depth = whole(_count(options.get("iodepth", "1")), "iodepth", 1, 2**16)
    return depth if options.get("ioengine", "psync") in _QUEUED else 1


def _count(text: str) -> int | str:
    return int(text) if re.fullmatch(r"\d{1,9}", text, re.ASCII) else text


_NO_DISK = ("null", "cpuio", "exec", "filecreate", "filestat", "filedelete", "net", "rdma")
"""Engines of fio that read no disk."""


def _is_direct(options: Mapping[str, str]) -> bool:
    if options.get("ioengine") == "mmap":
        return False
    if "direct" in options:
        return options["direct"] not in ("0", "")
    return options.get("buffered") == "0"


def _block(options: Mapping[str, str], way: str) -> int:
    """Return the bytes of a request, of which all have as many."""
    if options.get("ioengine") in _NO_DISK:
        raise ValueError(f"ioengine {options['ioengine']} reads no disk")
    for slowed in ("rate", "rate_iops", "thinktime"):
        if slowed in options:
            raise ValueError(f"{slowed}: its requests were held back")
    for mixed in ("bssplit", "bsrange", "blocksize_range", "bs_unaligned"):
        if mixed in options:
            raise ValueError(f"{mixed}: requests of several sizes")
    text = options.get("bs", options.get("blocksize", "4k"))
    parts = text.split(",")
    own = parts[1] if way.endswith("write") and len(parts) > 1 else parts[0]
    match = re.fullmatch(r"(\d{1,12})([kmgt]?)(i?)b?", own.strip().lower(), re.ASCII)
    if not match:
        raise ValueError(f"bs={brief(text, 40)}: no block size")
    binary = (options.get("kb_base") == "1000") == bool(match[3])  # 1024 for k, and 1000 for ki
    size = int(match[1]) * (1024 if binary else 1000) ** _UNITS[match[2]]
    return whole(size, "bs", 512, 2**32)


def _bandwidth(told: Mapping[str, Any]) -> float:
    if "bw_bytes" in told:
        return number(told["bw_bytes"], "bw_bytes", BANDWIDTHS)
    return number(told.get("bw"), "bw", (1, BANDWIDTHS[1] / 1024)) * 1024


FIO = Format("fio (--output-format=json)", lambda head: '"fio version"' in head, read)
