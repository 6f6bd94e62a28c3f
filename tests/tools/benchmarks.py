"""An independent writer of what llama-bench and fio print about a device that is made up.

It imports nothing of dipsim: it knows the programs' formats alone.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

REPEATS = 5
_TIME = "2026-03-14T09:26:53Z"
_ROW: dict[str, Any] = {
    "build_commit": "5d5ab1e0",
    "build_number": 6200,
    "cpu_info": "Made-up Processor",
    "gpu_info": "",
    "backends": "CPU",
    "model_filename": "models/model.gguf",
    "model_type": "",
    "model_size": 0,
    "model_n_params": 0,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_threads": 4,
    "cpu_mask": "0x0",
    "cpu_strict": False,
    "poll": 50,
    "type_k": "f16",
    "type_v": "f16",
    "n_gpu_layers": 99,
    "n_cpu_moe": 0,
    "split_mode": "layer",
    "main_gpu": 0,
    "no_kv_offload": False,
    "flash_attn": False,
    "devices": "auto",
    "tensor_split": "0.00",
    "tensor_buft_overrides": "none",
    "use_mmap": True,
    "embeddings": False,
    "no_op_offload": 0,
    "n_prompt": 0,
    "n_gen": 0,
    "n_depth": 0,
    "test_time": _TIME,
}


def llama_bench(
    rows: Sequence[Mapping[str, Any]],
    how: str = "json",
    noise: float = 0.0,
    random: np.random.Generator | None = None,
) -> str:
    """Return what ``llama-bench -o HOW`` prints.

    Args:
        rows: each with ``rate``, the true tokens per second, and keys of llama-bench's JSON that
            differ from those above: ``model_filename``, ``model_type``, ``model_size`` (bytes),
            ``model_n_params``, ``n_prompt`` or ``n_gen``, ``n_depth``, ``n_threads``, ...
        how: ``json``, ``jsonl``, ``csv`` or ``md``.
        noise: standard deviation of the logarithm of each repeat's rate.
        random: draws the noise.
    """
    whole = [_measured(row, noise, random) for row in rows]
    if how == "json":
        return json.dumps(whole, indent=2) + "\n"
    if how == "jsonl":
        return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in whole)
    return _csv(whole) if how == "csv" else _markdown(whole)


def _measured(
    facts: Mapping[str, Any], noise: float, random: np.random.Generator | None
) -> dict[str, Any]:
    row = {**_ROW, **{key: value for key, value in facts.items() if key != "rate"}}
    tokens = row["n_prompt"] + row["n_gen"]
    draws = np.zeros(REPEATS) if random is None else noise * random.standard_normal(REPEATS)
    rates = facts["rate"] * np.exp(draws)
    times = 1e9 * tokens / rates
    return {
        **row,
        "avg_ns": int(times.mean()),
        "stddev_ns": int(times.std(ddof=1)),
        "avg_ts": round(float(rates.mean()), 6),
        "stddev_ts": round(float(rates.std(ddof=1)), 6),
        "samples_ns": [int(time) for time in times],
        "samples_ts": [float(f"{rate:.6g}") for rate in rates],
    }


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    keys = [key for key in rows[0] if not key.startswith("samples")]
    text = io.StringIO()
    print(",".join(keys), file=text)
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for row in rows:
        values = (row[key] for key in keys)
        writer.writerow([int(value) if isinstance(value, bool) else value for value in values])
    return text.getvalue()


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    on_cpu = all(row["backends"] == "CPU" for row in rows)
    names = ["model", "size", "params", "backend", "threads" if on_cpu else "ngl"]
    names += [
        name for name, key in (("type_k", "type_k"), ("fa", "flash_attn")) if _vary(rows, key)
    ]
    names += ["test", "t/s"]
    width = dict.fromkeys(names, 10) | {"model": 30, "test": 15, "t/s": 20}
    lines = ["| " + " | ".join(name.rjust(width[name]) for name in names) + " |"]
    lines += ["| " + " | ".join("-" * (width[name] - 1) + ":" for name in names) + " |"]
    for row in rows:
        cells = _cells(row)
        lines.append("| " + " | ".join(cells[name].rjust(width[name]) for name in names) + " |")
    build = f"build: {rows[0]['build_commit']} ({rows[0]['build_number']})"
    return "\n".join([*lines, "", build, ""])


def _vary(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    """llama-bench shows a column where any row has not the default."""
    return any(row[key] != _ROW[key] for row in rows)


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    size, count = row["model_size"], row["model_n_params"]
    test = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
    return {
        "model": row["model_type"],
        "size": f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.2f} MiB",
        "params": f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.2f} M",
        "backend": row["backends"],
        "threads": str(row["n_threads"]),
        "ngl": str(row["n_gpu_layers"]),
        "type_k": row["type_k"],
        "fa": str(int(row["flash_attn"])),
        "test": test + (f" @ d{row['n_depth']}" if row["n_depth"] else ""),
        "t/s": f"{row['avg_ts']:.2f} ± {row['stddev_ts']:.2f}",
    }


def fio_json(
    points: Sequence[Mapping[str, Any]],
    how: str = "json",
    noise: float = 0.0,
    random: np.random.Generator | None = None,
    shared: Mapping[str, str] | None = None,
    grouped: bool = True,
) -> str:
    """Return what ``fio --output-format=HOW`` prints for jobs behind stone walls.

    Args:
        points: each with ``size`` (bytes of a request), ``depth``, ``jobs`` (default 1 each),
            ``rw`` (default ``randread``), ``bandwidth``, the true bytes per second of all jobs
            together, and ``options``, further options of the job.
        how: ``json`` or ``json+``.
        noise: standard deviation of the logarithm of the bandwidth.
        random: draws the noise.
        shared: global options; default: direct reads by libaio.
        grouped: with ``--group_reporting``; else there is an entry for each thread.
    """
    entries = [
        entry
        for group, point in enumerate(points)
        for entry in _fio_jobs(point, group, how, noise, random, grouped)
    ]
    options = {"ioengine": "libaio", "direct": "1", "runtime": "4", "time_based": "1"}
    whole = {
        "fio version": "fio-3.33",
        "timestamp": 1773480413,
        "timestamp_ms": 1773480413123,
        "time": "Sat Mar 14 09:26:53 2026",
        "global options": options if shared is None else dict(shared),
        "jobs": entries,
    }
    return json.dumps(whole, indent=2) + "\n"


def _fio_jobs(
    point: Mapping[str, Any],
    group: int,
    how: str,
    noise: float,
    random: np.random.Generator | None,
    grouped: bool,
) -> list[dict[str, Any]]:
    size, jobs, way = point["size"], point.get("jobs", 1), point.get("rw", "randread")
    factor = 1.0 if random is None else float(np.exp(noise * random.standard_normal()))
    block = f"{size // 1024}k" if size % 1024 == 0 and size < 2**20 else str(size)
    block = f"{size // 2**20}m" if size % 2**20 == 0 else block
    options = {"name": f"j{group}", "stonewall": "", "rw": way, "bs": block, "iodepth": "1"}
    options |= {"iodepth": str(point.get("depth", 1)), "numjobs": str(jobs)}
    options |= point.get("options", {})
    entries = 1 if grouped else jobs
    figures = _figures(point["bandwidth"] * factor / entries, size, how)
    own = "write" if way.endswith("write") else "read"
    parts = {"read": _figures(0, size, "json"), "write": _figures(0, size, "json"), own: figures}
    entry = {
        "jobname": f"j{group}",
        "groupid": group,
        "error": 0,
        "eta": 0,
        "elapsed": 5,
        "job options": options,
        **parts,
        "job_runtime": 4000 * (jobs if grouped else 1),
        "latency_depth": point.get("depth", 1),
    }
    return [entry for _ in range(entries)]


def _figures(bandwidth: float, size: int, how: str) -> dict[str, Any]:
    """What fio reports of the reads or writes of a job that ran for 4 s."""
    requests = int(4 * bandwidth / size)
    latency = 1e9 * size / bandwidth if bandwidth else 0.0
    told = {
        "io_bytes": requests * size,
        "io_kbytes": requests * size // 1024,
        "bw_bytes": int(bandwidth),
        "bw": int(bandwidth / 1024),
        "iops": round(bandwidth / size, 6),
        "runtime": 4000 if bandwidth else 0,
        "total_ios": requests,
        "lat_ns": {
            "min": int(latency / 2),
            "max": int(latency * 9),
            "mean": latency,
            "N": requests,
        },
        "bw_min": int(bandwidth / 1100),
        "bw_max": int(bandwidth / 950),
        "bw_agg": 100.0,
        "bw_mean": round(bandwidth / 1024, 6),
        "bw_dev": round(bandwidth / 1024 / 50, 6),
        "bw_samples": 8 if bandwidth else 0,
    }
    if how == "json+":
        told["clat_ns"] = {"bins": {str(int(latency)): requests, str(int(latency * 2)): 1}}
    return told
