"""The files of one model: a single GGUF, or shards ``NAME-0000N-of-0000M.gguf``."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dipsim.errors import ModelError
from dipsim.model.gguf.header import MOST_TENSORS, Tensor, read_header

_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.ASCII)


class Opened(NamedTuple):
    """The headers of all files of a model."""

    name: str
    """Name of the files, without a suffix."""
    values: Mapping[str, Any]
    """Entries of the first one."""
    tensors: list[Tensor]


def name_of(path: Path) -> str:
    """Return the name of the model that a file, or all shards of one, hold."""
    match = _SHARD.fullmatch(path.name)
    return path.stem if match is None else match[1]


def open_model(path: Path) -> Opened:
    """Read the headers of a model; of a split one any shard may be given.

    Raises:
        ModelError: a bad header, a shard that is missing, or shards that do not fit together.
    """
    values, tensors, _ = read_header(path)
    shards = _shards(path, values)
    if not shards:
        return Opened(path.stem, values, tensors)
    values, tensors = {}, []
    for number, shard in enumerate(shards):
        own, listed, _ = read_header(shard)
        if (own.get("split.no"), own.get("split.count")) != (number, len(shards)):
            raise ModelError(
                f"{shard}: its header says shard {_shown(own)}: rename it, or split it anew"
            )
        values = own if number == 0 else values
        tensors += listed
        if len(tensors) > MOST_TENSORS:
            raise ModelError(f"{path}: its shards list more than {MOST_TENSORS} tensors")
    claimed = values.get("split.tensors.count", len(tensors))
    if claimed != len(tensors):
        raise ModelError(
            f"{path}: its shards list {len(tensors)} tensors, the first says {claimed}"
        )
    return Opened(name_of(path), values, tensors)


def check_whole(path: Path) -> None:
    """Check that the files of a model hold all weights that their headers list.

    Raises:
        ModelError: a file is cut short, or its header is refused (as by `open_model`).
    """
    values, tensors, header = read_header(path)
    for file in _shards(path, values) or [path]:
        if file != path:
            values, tensors, header = read_header(file)
        _check_end(file, values, tensors, header)


def _check_end(path: Path, values: Mapping[str, Any], tensors: list[Tensor], header: int) -> None:
    align = values.get("general.alignment", 32)
    if not isinstance(align, int) or align < 1:
        raise ModelError(f"{path}: general.alignment is {str(align)[:40]}: not a number of bytes")
    begin = -(-header // align) * align
    end = max((begin + tensor.offset + int(tensor.bytes) for tensor in tensors), default=0)
    size = os.stat(path).st_size
    if size < end:
        raise ModelError(
            f"{path}: cut short: its weights end at byte {end}, the file at {size}; copy it again"
        )


def _shards(path: Path, values: Mapping[str, Any]) -> list[Path]:
    """Return all shards of a split model, in order; none of a model in one file.

    Raises:
        ModelError: one is missing.
    """
    count, match = values.get("split.count", 0), _SHARD.fullmatch(path.name)
    if not isinstance(count, int) or isinstance(count, bool) or count <= 1:
        return []
    if match is None or int(match[3]) != count:
        raise ModelError(
            f"{path}: shard {_shown(values)} of a split model: give all, named "
            f"NAME-00001-of-{min(count, 99999):05d}.gguf and so on"
        )
    shards = [
        path.with_name(f"{match[1]}-{number:05d}-of-{match[3]}.gguf")
        for number in range(1, count + 1)
    ]
    for shard in shards:
        if not shard.is_file():
            raise ModelError(
                f"{path}: shard {_shown(values)} of a split model: give all, {shard.name} is "
                "missing beside it"
            )
    return shards


def _shown(values: Mapping[str, Any]) -> str:
    number, count = values.get("split.no"), values.get("split.count")
    first = number + 1 if isinstance(number, int) else "?"
    return f"{str(first)[:12]} of {str(count)[:12]}"
