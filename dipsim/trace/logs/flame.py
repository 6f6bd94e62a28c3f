"""FLAME-MoE-Traces: a folder of Parquet files, one per layer, with ``indices`` and ``scores``.

Row i is the same token in every layer. The number of the layer is the last one in a file's name.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dipsim.errors import TraceError, brief
from dipsim.extras import need
from dipsim.trace.logs.contract import Ask, Format, Head, Log, Rows
from dipsim.trace.logs.lines import BATCH, narrow

_SUFFIXES = (".parquet", ".arrow", ".feather")
_IDS, _SCORES = "indices", "scores"


def _recognises(head: Head) -> bool:
    if head.is_folder:
        return any(Path(name).suffix in _SUFFIXES for name in head.names)
    return head.data[:4] == b"PAR1" or head.data[:6] == b"ARROW1"


def _read(path: Path, ask: Ask) -> Log:
    need(f"{path}: reading it", "parquet", "pyarrow")
    names = Head(path).names if Head(path).is_folder else []
    files = [path / name for name in names if Path(name).suffix in _SUFFIXES] or [path]
    by_layer: dict[int, list[Path]] = {}
    for file in files:
        by_layer.setdefault(_layer(file, len(files)), []).append(file)
    return Log(_rows(by_layer))


def _layer(file: Path, files: int) -> int:
    """Return the layer that the name of a file tells; 0 for a single file without a number."""
    numbers = re.findall(r"layer\D?(\d{1,6})", file.stem, re.ASCII | re.IGNORECASE)
    numbers = numbers or re.findall(r"\d{1,6}", file.stem, re.ASCII)
    if not numbers and files > 1:
        raise TraceError(f"{file}: its name tells no layer: call it layer_<n>{file.suffix}")
    return int(numbers[-1]) if numbers else 0


def _rows(by_layer: dict[int, list[Path]]) -> Iterator[Rows]:
    counts: dict[int, int] = {}
    for layer in sorted(by_layer):
        token = 0
        for file in sorted(by_layer[layer]):
            for table in _tables(file):
                used = _lists(file, table, _IDS)
                weights = None
                if _SCORES in table.schema.names:
                    weights = narrow(_lists(file, table, _SCORES))
                    if weights.shape != used.shape:
                        raise TraceError(f"{file}: {_SCORES} and {_IDS} differ in length")
                rows = np.arange(token, token + len(used))
                yield Rows(rows, np.full(len(rows), layer), used.astype(np.int64), weights)
                token += len(used)
        counts[layer] = token
    if len(set(counts.values())) > 1:
        raise TraceError(
            f"{next(iter(by_layer.values()))[0].parent}: layers have {sorted(set(counts.values()))}"
            " rows: not of the same tokens"
        )


def _tables(file: Path) -> Iterator[Any]:
    """Yield the record batches of a file."""
    import pyarrow as pa
    from pyarrow import ipc, parquet

    try:
        if file.suffix == ".parquet" or Head(file).data[:4] == b"PAR1":
            opened = parquet.ParquetFile(file, memory_map=True)
            columns = [name for name in opened.schema_arrow.names if name in (_IDS, _SCORES)]
            for batch in opened.iter_batches(BATCH, columns=columns, use_threads=False):
                batch.validate(full=True)
                yield batch
            return
        with pa.memory_map(str(file)) as mapped, ipc.open_file(mapped) as reader:
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                batch.validate(full=True)
                for start in range(0, batch.num_rows, BATCH):
                    yield batch.slice(start, BATCH)
    except (pa.ArrowException, OSError, ValueError) as problem:
        raise TraceError(f"{file}: cannot be read ({brief(problem)})") from None


def _lists(file: Path, table: Any, name: str) -> Any:
    """Return a column of lists of one length as an array [rows, k]."""
    import pyarrow as pa
    from pyarrow import compute as pc

    if name not in table.schema.names:
        raise TraceError(f"{file}: has no column {name}")
    column = table.column(name)
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(kind(column.type) for kind in kinds):
        raise TraceError(f"{file}: {name} is {brief(column.type, 40)}: lists are read")
    values = column.flatten()
    good = pa.types.is_integer(values.type) if name == _IDS else _is_number(values.type)
    if column.null_count or values.null_count or not good:
        raise TraceError(f"{file}: {name} holds {brief(values.type, 40)}, or nothing in some rows")
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) > 1:
        raise TraceError(f"{file}: rows of {name} differ in length")
    return values.to_numpy(zero_copy_only=False).reshape(len(column), *lengths)


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


FLAME = Format(
    "flame",
    "FLAME-MoE-Traces",
    "Parquet or Arrow per layer: indices, scores",
    _recognises,
    _read,
)
