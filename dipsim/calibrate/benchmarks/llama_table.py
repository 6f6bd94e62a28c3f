"""The Markdown table of llama-bench, as rows with the keys of its JSON."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from dipsim.calibrate.benchmarks.reading import plain

_HEAD = re.compile(r"(?m)^[^|\n]{0,40}(\|\s*model\s*\|.*\|\s*test\s*\|\s*t/s\s*\|)")
_BUILD = re.compile(r"(?m)^[^\w\n]*build: ([0-9a-f]{6,40}) \(\d+\)")
_TEST = re.compile(r"(?:pp ?(\d+))?(?:\+?tg ?(\d+))?(?: @ d ?(\d+))?", re.ASCII)
_RATE = re.compile(r"(-?[\d.]+(?:e[-+]?\d+)?)(?:\s*[^\d\s.]{1,4}\s*([\d.]+))?", re.ASCII)
_KEYS = {
    "model": "model_type",
    "backend": "backends",
    "ngl": "n_gpu_layers",
    "threads": "n_threads",
    "n_batch": "n_batch",
    "n_ubatch": "n_ubatch",
    "fa": "flash_attn",
    "mmap": "use_mmap",
    "embd": "embeddings",
    "nkvo": "no_kv_offload",
    "nopo": "no_op_offload",
    "dev": "devices",
    "ot": "tensor_buft_overrides",
    "ncmoe": "n_cpu_moe",
}
"""Keys of the JSON by names of columns; the other columns are called as the keys."""
_SIZES = {"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40}
_COUNTS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def has_table(text: str) -> bool:
    """Return True if a text holds the head of such a table."""
    return _HEAD.search(text) is not None


def table_rows(text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (place, values) of the rows of all tables of a text."""
    build = _BUILD.search(text)
    commit = {"build_commit": build[1]} if build else {}
    names: list[str] = []
    for at, line in enumerate(text.split("\n"), 1):
        if match := _HEAD.match(line):
            names = _cells(match[1])
        elif names and "|" in line and not re.search(r"\|\s*-+:?\s*\|", line):
            yield f"line {at}", {**_row(names, _cells(line[line.index("|") :])), **commit}
        elif "|" not in line:
            names = []


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _row(names: list[str], cells: list[str]) -> dict[str, Any]:
    """Return the values of a row by the keys of the JSON; one that is damaged says so."""
    if len(names) != len(cells):
        return {"damaged": f"{len(cells)} cells under {len(names)} names of columns"}
    row: dict[str, Any] = {}
    for name, cell in zip(names, cells, strict=True):
        if name == "size":
            row["model_size"] = _scaled(cell, _SIZES)
        elif name == "params":
            row["model_n_params"] = _scaled(cell, _COUNTS)
        elif name == "test":
            row.update(_tested(cell))
        elif name == "t/s":
            match = _RATE.fullmatch(cell)
            row["avg_ts"] = plain(match[1]) if match else cell
            row["stddev_ts"] = plain(match[2]) if match and match[2] else None
        else:
            key = _KEYS.get(name, name)
            texts = key in ("model_type", "backends", "devices")
            row[key] = cell if texts else plain(cell)
    return row


def _scaled(cell: str, units: Mapping[str, float]) -> Any:
    value, _, unit = cell.partition(" ")
    count = plain(value)
    return count * units[unit] if unit in units and not isinstance(count, str) else cell


def _tested(cell: str) -> dict[str, Any]:
    """Return the tokens of a test such as ``tg128 @ d4096``."""
    match = _TEST.fullmatch(cell)
    if not match or not cell:
        return {"n_prompt": cell}
    keys = ("n_prompt", "n_gen", "n_depth")
    return {key: plain(match[at + 1] or "0") for at, key in enumerate(keys)}
