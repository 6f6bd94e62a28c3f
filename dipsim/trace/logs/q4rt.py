"""regolith's Q4RT: a header, then for every token and layer the best experts and their logits.

The header is ``<4sHHHHI``: the magic, then version, layers, experts, experts listed, and tokens.
Per token and layer follow that many uint16 ids and as many float16 logits, the best first.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dipsim.errors import TraceError
from dipsim.trace.logs.contract import MOST_LAYERS, MOST_PER_TOKEN, Ask, Format, Head, Log, Rows
from dipsim.trace.logs.lines import gzipped, opened

_MAGIC = b"Q4RT"
_HEADER = struct.Struct("<4sHHHHI")
_BLOCK_BYTES = 2**20


def _recognises(head: Head) -> bool:
    return head.data[:4] == _MAGIC


def _read(path: Path, ask: Ask) -> Log:
    with opened(path) as file:
        head = file.read(_HEADER.size)
    if len(head) < _HEADER.size or head[:4] != _MAGIC:
        raise TraceError(f"{path}: no Q4RT header")
    _, version, layers, experts, listed, tokens = _HEADER.unpack(head)
    if not (0 < layers <= MOST_LAYERS and 0 < listed <= min(experts, MOST_PER_TOKEN) and tokens):
        raise TraceError(
            f"{path}: {tokens} tokens of {layers} layers, {listed} of {experts} experts listed: "
            f"not believable (version {version})"
        )
    if gzipped(path):
        raise TraceError(f"{path}: is gzipped: gunzip it first")
    size, wanted = os.path.getsize(path), _HEADER.size + tokens * layers * listed * 4
    if size != wanted:
        raise TraceError(f"{path}: {size} bytes, its header asks for {wanted}: copy it again")
    k = listed if ask.top_k is None else ask.top_k
    if k > listed:
        raise TraceError(f"{path}: --top-k {k}: it lists {listed} experts a token")
    log = Log(_rows(path, layers, listed, k), experts=experts)
    if ask.top_k is None:
        log.notes.append(
            f"all {listed} experts that it lists are taken as used: give --top-k if a token uses "
            "fewer"
        )
    return log


def _rows(path: Path, layers: int, listed: int, k: int) -> Iterator[Rows]:
    row = np.dtype([("ids", "<u2", listed), ("logits", "<f2", listed)])
    block = max(1, _BLOCK_BYTES // (row.itemsize * layers)) * layers
    token = 0
    with opened(path) as file:
        file.read(_HEADER.size)
        while data := file.read(block * row.itemsize):
            rows = np.frombuffer(data, row)
            tokens = len(rows) // layers
            yield Rows(
                np.repeat(np.arange(token, token + tokens), layers),
                np.tile(np.arange(layers), tokens),
                rows["ids"][:, :k].astype(np.int64),
                weights=rows["logits"][:, :k].astype(np.float32),
            )
            token += tokens


Q4RT = Format("q4rt", "regolith", "binary Q4RT: uint16 ids, float16 logits", _recognises, _read)
