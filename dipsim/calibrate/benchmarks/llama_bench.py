"""Reader of llama-bench of llama.cpp: JSON, JSON lines, CSV, SQL and the Markdown table.

Each form becomes rows with the keys of the JSON; a row is a test: a prompt of ``n_prompt`` tokens
(pp), or ``n_gen`` tokens written one by one (tg), after ``n_depth`` tokens of context.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from dipsim.calibrate.benchmarks import llama_backends
from dipsim.calibrate.benchmarks.llama_table import has_table, table_rows
from dipsim.calibrate.benchmarks.reading import (
    RATES,
    SIZES,
    Format,
    Refusals,
    day,
    documents,
    number,
    one_device,
    parsed,
    plain,
    shown,
    whole,
    words,
)
from dipsim.calibrate.benchmarks.source import Source
from dipsim.calibrate.measured import Measurements, Origin, Rate
from dipsim.errors import DipsimError, brief
from dipsim.model import weight_format
from dipsim.validate.cases import Case
from dipsim.validate.devices import known_model

MOST_ROWS = 10_000
MOST_TOKENS = 2**20
_KV_BITS: Mapping[str, float] = {
    "f32": 32.0,
    "f16": 16.0,
    "bf16": 16.0,
    "q8_0": 8.5,
    "q5_1": 6.0,
    "q5_0": 5.5,
    "q4_1": 5.0,
    "q4_0": 4.5,
    "iq4_nl": 4.5,
}
"""Bits of an element of the cache by llama.cpp's names of its types."""
_SETTINGS: Mapping[str, tuple[str, tuple[object, ...]]] = {
    "n_batch": ("b", (2048,)),
    "n_ubatch": ("ub", (512,)),
    "flash_attn": ("fa", (0, -1)),
    "cpu_mask": ("C", ("0x0", 0)),
    "poll": ("poll", (50,)),
    "use_mmap": ("mmap", (1,)),
    "no_op_offload": ("nopo", (0,)),
    "embeddings": ("embd", (0,)),
    "repack": ("repack", (1,)),
}
"""Options by their keys: their short names, and values that are defaults."""
_OLD_BACKENDS = ("cuda", "vulkan", "opencl", "kompute", "metal", "sycl")
"""Keys of versions that stated a truth value for each backend."""


class _Row(NamedTuple):
    """A row, and its place in the file, in words."""

    place: str
    values: Mapping[str, Any]


def read(source: Source) -> Measurements:
    """Read the rates of models.

    Raises:
        DipsimError: damaged as a whole, too many rows, or rows of several devices.
    """
    refusals = Refusals(source.name)
    rates: list[Rate] = []
    processors: dict[str, None] = {}
    chips: dict[str, None] = {}
    for count, row in enumerate(_rows(source)):
        if count >= MOST_ROWS:
            raise DipsimError(f"{source.name}: more than {MOST_ROWS} rows")
        for names, key in ((processors, "cpu_info"), (chips, "gpu_info")):
            if name := words(row.values.get(key)):
                names[name] = None
        try:
            rates.append(_rate(row.values, source.name, count))
        except ValueError as problem:
            refusals.add(row.place, str(problem))
    origin = rates[0].origin if rates else Origin(source.name, "llama-bench")
    one_device(chips, origin)
    devices = one_device(processors, origin)
    return Measurements(tuple(rates), devices=devices, refused=refusals.sentences())


# Forms --------------------------------------------------------------------------------------------


def _recognises(head: str) -> bool:
    stated = '"model_type"' in head and '"n_gen"' in head and '"build_commit"' in head
    return bool(stated or _csv_start(head) or _SQL.search(head) or has_table(head))


_CSV = re.compile(r"(?m)^build_commit,.*$")
_SQL = re.compile(r"(?m)^INSERT INTO (?:test|llama_bench) \(build_commit,")


def _rows(source: Source) -> Iterator[_Row]:
    """Yield the rows of a file in any form; lines around them are passed over."""
    text = source.text
    if start := _csv_start(text):
        yield from _of_csv(text, start)
    elif _SQL.search(text):
        yield from _of_sql(text)
    elif has_table(text):
        yield from (_Row(*row) for row in table_rows(text))
    elif not _LIST.search(text) and re.search(r"(?m)^\{.*\}\s*$", text):
        yield from _of_lines(text, source.name)
    else:
        yield from _of_lists(text, source.name)


_LIST = re.compile(r"(?m)^\[\s*(?:\{|\]|$)")


def _of_lists(text: str, file: str) -> Iterator[_Row]:
    at = 0
    for listed in documents(text, file, _LIST):
        for row in listed:
            at += 1
            yield _Row(f"row {at}", _object(row))


def _object(row: Any) -> Mapping[str, Any]:
    return row if isinstance(row, dict) else {}


def _of_lines(text: str, file: str) -> Iterator[_Row]:
    for at, line in enumerate(text.split("\n"), 1):
        if not line.startswith("{"):
            continue
        try:
            row = _object(parsed(line, file))
        except DipsimError:  # the last line of a run that was stopped
            row = {"damaged": "not readable as JSON"}
        yield _Row(f"line {at}", row)


def _csv_start(text: str) -> re.Match[str] | None:
    """Return the head of a CSV."""
    match = _CSV.search(text)
    return match if match and "model_type" in match[0] and "avg_ts" in match[0] else None


def _of_csv(text: str, start: re.Match[str]) -> Iterator[_Row]:
    first = text.count("\n", 0, start.start()) + 1
    lines = text[start.start() :].split("\n")
    keys = _cells(lines[0])
    for at, line in enumerate(lines[1:], first + 1):
        if line.startswith('"'):
            yield _Row(f"line {at}", _zipped(keys, _cells(line)))


def _of_sql(text: str) -> Iterator[_Row]:
    form = re.compile(r"INSERT INTO \w+ \(([^()]*)\) VALUES \((.*)\);?\s*$")
    for at, line in enumerate(text.split("\n"), 1):
        if match := form.match(line):
            yield _Row(f"line {at}", _zipped(match[1].split(","), _cells(match[2], "'")))


def _cells(line: str, quote: str = '"') -> list[str]:
    """Return the values of a line; none of one that is damaged."""
    try:
        return next(csv.reader([line], quotechar=quote, skipinitialspace=True), [])
    except csv.Error:
        return []


def _zipped(keys: list[str], values: list[str]) -> Mapping[str, Any]:
    """Return the numbers and texts of a row; of another length than its head it says so."""
    if len(keys) != len(values):
        return {"damaged": f"{len(values)} values under {len(keys)} names of columns"}
    pairs = zip((key.strip() for key in keys), values, strict=True)
    return {key: value if key in _TEXTS else plain(value) for key, value in pairs}


_TEXTS = {"build_commit", "cpu_info", "gpu_info", "model_filename", "model_type", "backends"}


# A row --------------------------------------------------------------------------------------------


def _rate(row: Mapping[str, Any], file: str, at: int) -> Rate:
    """Return the rate of a row.

    Raises:
        ValueError: the row tells none, in a sentence.
    """
    if "damaged" in row:
        raise ValueError(row["damaged"])
    prompt, written, depth = (
        whole(row.get(key, 0), key, 0, MOST_TOKENS) for key in ("n_prompt", "n_gen", "n_depth")
    )
    if (prompt > 0) == (written > 0):
        raise ValueError("a prompt and what follows it in one time: give -p and -n, not -pg")
    if prompt and depth:
        raise ValueError("a prompt after other text: no rate is fitted to one")
    value = number(row.get("avg_ts"), "avg_ts", RATES)
    model, model_file = _model(row)
    size = _stated(row, "model_size")
    parameters = _stated(row, "model_n_params")
    ran = llama_backends.ran_on(_with_backends(row), model, bool(prompt))
    case = Case(
        id=f"{brief(file, 60)}#{at + 1}",
        kind="prefill" if prompt else "decode",
        device=words(row.get("cpu_info")) or words(row.get("gpu_info")),
        engine=ran.engine,
        backend=ran.unit,
        model=model,
        weight_format=weight_format(words(row.get("model_type"))) or weight_format(model_file),
        model_bytes=size,
        prompt=prompt or None,
        depth=min(depth + written // 2, MOST_TOKENS),
        source=f"llama-bench, {brief(file, 100)}",
    )
    build = words(row.get("build_commit"), 40)
    spread = row.get("stddev_ts")
    return Rate(
        case,
        value,
        Origin(file, "llama-bench", day(row.get("test_time")), f"build {build}" if build else ""),
        deviation=number(spread, "stddev_ts", (0, RATES[1])) if spread else None,
        threads=whole(row["n_threads"], "n_threads", 1, 4096) if _has_threads(row, ran) else None,
        parameters=parameters,
        kv_bits=_kv_bits(row),
        settings=_settings(row),
        model_file=model_file,
    )


def _has_threads(row: Mapping[str, Any], ran: llama_backends.Ran) -> bool:
    return ran.unit == "cpu" and row.get("n_threads") is not None


def _stated(row: Mapping[str, Any], key: str) -> float | None:
    return None if row.get(key) is None else number(row[key], key, SIZES)


def _model(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return a model's name and that of its file; the name is the one that is known of both."""
    path, kind = words(row.get("model_filename"), 1000), words(row.get("model_type"))
    separated = PureWindowsPath(path) if "\\" in path else PurePosixPath(path)
    file = brief(separated.name, 200)
    if not file and not kind:
        raise ValueError("no model_filename and no model_type")
    return (file if known_model(file) or not kind else kind), file


def _kv_bits(row: Mapping[str, Any]) -> float:
    kinds = [row.get(key) or "f16" for key in ("type_k", "type_v")]
    for kind in kinds:
        if not isinstance(kind, str) or kind not in _KV_BITS:
            raise ValueError(f"keys and values of type {shown(kind)}")
    return sum(_KV_BITS[kind] for kind in kinds) / 2


def _settings(row: Mapping[str, Any]) -> str:
    others = ((short, row.get(key), usual) for key, (short, usual) in _SETTINGS.items())
    told = (
        f"{short} {int(value) if isinstance(value, bool) else shown(value)}"
        for short, value, usual in others
        if value is not None and value not in usual
    )
    return ", ".join(told)


def _with_backends(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row that states its backends, as those of 2024 and before state truth values."""
    if "backends" in row or not any(key in row for key in (*_OLD_BACKENDS, "blas")):
        return row
    names = [name for name in _OLD_BACKENDS if row.get(name)] or ["cpu"]
    return {**row, "backends": ",".join(names)}


LLAMA_BENCH = Format("llama-bench (JSON, JSON lines, CSV, SQL, Markdown)", _recognises, read)
