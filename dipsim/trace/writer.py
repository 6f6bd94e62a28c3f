"""Writers of traces: whole or not at all, token by token, in any encoding."""

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from dipsim import files
from dipsim.errors import TraceError
from dipsim.trace.checks import check_written
from dipsim.trace.encoding import Encoding, encode_log8
from dipsim.trace.npz import Array
from dipsim.trace.signal import SIGNALS
from dipsim.trace.trace import FORMAT, MAX_TOKENS, SUFFIX, VERSION, as_arrays, shard_name

SHARD_BYTES = 256 * 2**20
_MARKS = {"phase": np.uint8, "sequence": np.int32, "token_id": np.int32}
_USUAL: dict[str, Encoding] = {"b": "bits", "f": "float32"}
_STORAGE = ("encoding", "units")  # entries of meta.signals that the writer sets itself
_COPY = 2**20


def save_trace(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Write arrays (and ``meta``, a dict) as a deflated `.npz`, whole or not at all.

    Raises:
        TraceError: Python objects instead of numbers.
        OSError: a path that cannot be written.
    """
    members = as_arrays(arrays)
    with files.whole_file(Path(path)) as handle:
        np.savez_compressed(handle, **members)  # type: ignore[arg-type]


class TraceWriter:
    """Writes a trace block by block; it appears under its name on `close`, or not at all.

    ``with TraceWriter("t.npz") as out: out.append({"glu": abs_glu})``. A path that ends with
    `.npz` becomes one deflated file, any other a folder of shards, stored so that they can be
    memory-mapped. Memory stays bounded: blocks go to a hidden folder beside ``path`` at once.

    Args:
        path: a `.npz` file, which is replaced, or a folder, which must not exist.
        meta: kept in the trace; see docs/trace-format.md.
        encodings: per signal: float16, float32, log8, bool, bits or sparse. Default: float16
            stays, other floats become float32, sets become bits.
        shard_bytes: a shard ends when it holds this many bytes.

    Raises:
        TraceError: a path that cannot be written, an unknown signal or encoding.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        meta: Mapping[str, Any] | None = None,
        encodings: Mapping[str, Encoding] | None = None,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self.path = Path(path)
        self.tokens = 0
        self._meta, self._encodings = dict(meta or {}), dict(encodings or {})
        for key, encoding in self._encodings.items():
            if key not in SIGNALS or encoding not in _ENCODERS:
                raise TraceError(
                    f"encoding {key}={encoding}: write SIGNAL=ENCODING with one of "
                    f"{', '.join(SIGNALS)} and one of {', '.join(_ENCODERS)}"
                )
        self._one_file = self.path.suffix == SUFFIX
        self._shard_bytes = shard_bytes
        if not self._one_file and os.path.lexists(self.path):
            raise TraceError(f"{self.path} exists: give a new folder, or a name ending in .npz")
        self._shapes: dict[str, tuple[int, int]] = {}
        self._keys: set[str] = set()
        self._last_sequence = 0
        self._spools: dict[str, _Spool] = {}
        self._shards = self._in_shards = 0
        try:
            parent = self.path.resolve().parent
            folder = tempfile.mkdtemp(dir=parent, prefix=f".{self.path.name}.")
        except OSError as problem:
            raise TraceError(f"{self.path}: cannot be written ({problem.strerror})") from None
        self._folder = Path(folder)

    def append(self, block: Mapping[str, Any]) -> None:
        """Add tokens.

        Args:
            block: per signal float or bool [n, layers, units], or [layers, units] for one token;
                ``<signal>.scores`` float beside a sparse bool signal; ``phase``, ``sequence``,
                ``token_id`` [n], or one value for all. Every block holds the same keys.

        Raises:
            TraceError: shapes or keys that change, invalid scores, falling sequence numbers.
        """
        tokens = self._count(block)
        if tokens == 0:
            return
        rows: dict[
            str, Array
        ] = {}  # encode all before any is written: an error leaves the trace as it was
        for key in block:
            if key in SIGNALS:
                rows |= self._encoded(key, np.asarray(block[key]), block.get(f"{key}.scores"))
            elif key in _MARKS:
                rows[key] = self._mark(key, block[key], tokens)
            elif not (key.endswith(".scores") and key.removesuffix(".scores") in block):
                known = ", ".join([*SIGNALS, *_MARKS])
                raise TraceError(f"array {key!r}: unknown; use {known}")
        if self.tokens + tokens > MAX_TOKENS:
            raise TraceError(f"{self.path}: more than {MAX_TOKENS} tokens: split the trace")
        for array, values in rows.items():
            self._write(array, values)
        self.tokens += tokens
        if "sequence" in rows:
            self._last_sequence = int(rows["sequence"][-1])
        full = sum(spool.bytes for spool in self._spools.values()) >= self._shard_bytes
        if full and not self._one_file:
            try:
                self._end_shard()
            except OSError as problem:
                raise TraceError(f"{self.path}: cannot be written ({problem.strerror})") from None
            self._in_shards = self.tokens

    def close(self) -> None:
        """Finish the trace and give it its name.

        Raises:
            TraceError: no token was appended, or the disk is full.
        """
        try:
            if self.tokens == 0:
                raise TraceError(f"{self.path}: no tokens, so no trace is written")
            if self._spools:
                self._end_shard()
            if self._one_file:
                os.replace(self._folder / shard_name(0), self.path)
                shutil.rmtree(self._folder)
            else:
                os.chmod(self._folder, 0o777 & ~files.umask())
                os.rename(self._folder, self.path)
        except OSError as problem:
            self.abort()
            raise TraceError(f"{self.path}: cannot be written ({problem.strerror})") from None
        except BaseException:
            self.abort()
            raise

    def close_early(self) -> int:
        """Finish the trace with its complete tokens after a full disk or an interruption.

        Where there is no room to pack them all, the last are dropped; with sparse sets, all of the
        unfinished shard are.

        Returns:
            The number of tokens kept; with 0 there is no trace.
        """
        whole = min((spool.whole() for spool in self._spools.values()), default=0)
        tries = (whole, whole * 3 // 4, whole // 2, whole // 4)
        packed = next((tokens for tokens in tries if tokens and self._packed(tokens)), 0)
        for spool in self._spools.values():
            spool.path.unlink(missing_ok=True)
        self._spools = {}
        self.tokens = self._in_shards + packed
        if self.tokens == 0:
            self.abort()
        else:
            self.close()
        return self.tokens

    def _packed(self, tokens: int) -> bool:
        """Try to pack the first ``tokens`` rows of every spool as a shard; return True if done."""
        if any(array.endswith(".indptr") for array in self._spools):
            return False  # rows of .indptr are not tokens
        for spool in self._spools.values():
            spool.cut(tokens)
        try:
            self._end_shard()
        except OSError:
            return False
        return True

    def abort(self) -> None:
        """Drop everything that was appended."""
        for spool in self._spools.values():
            with suppress(OSError):  # closing writes what is left, and the disk may be full
                spool.file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _count(self, block: Mapping[str, Any]) -> int:
        """Check a block's keys and shapes against the blocks before; return its tokens."""
        counts = set()
        for key in block:
            if key not in SIGNALS:
                continue
            shape = np.shape(block[key])
            if len(shape) not in (2, 3) or 0 in shape[-2:]:
                raise TraceError(f"signal {key} has shape {shape}: append [n, layers, units]")
            counts.add(shape[0] if len(shape) == 3 else 1)
            if self._shapes.setdefault(key, shape[-2:]) != shape[-2:]:
                before = self._shapes[key]
                raise TraceError(f"signal {key} has shape {shape}: before it had {before}")
        if len(counts) != 1 or len({shape[0] for shape in self._shapes.values()}) > 1:
            raise TraceError("append signals of the same tokens and layers, at least one signal")
        if not self.tokens:
            for key, encoding in self._encodings.items():
                if key not in block:
                    raise TraceError(f"encoding {key}={encoding}: the trace has no signal {key}")
        if self.tokens and set(block) != self._keys:
            differing = ", ".join(sorted(set(block) ^ self._keys))
            raise TraceError(f"every block must hold the same arrays; {differing} differ")
        self._keys = set(block)
        return counts.pop()

    def _encoded(self, key: str, values: Array, scores: Any) -> dict[str, Array]:
        """Return the next rows of the arrays that a signal is stored in."""
        values = values.reshape(-1, *self._shapes[key])
        if values.dtype.kind not in _USUAL:
            raise TraceError(f"signal {key} is {values.dtype}: append floats, or bool for sets")
        usual: Encoding = "sparse" if scores is not None else _USUAL[values.dtype.kind]
        if values.dtype == np.float16:
            usual = "float16"
        encoding = self._encodings.setdefault(key, usual)
        if (encoding in ("bool", "bits", "sparse")) != (values.dtype.kind == "b"):
            kind = "sets" if values.dtype.kind == "b" else "scores"
            raise TraceError(f"signal {key} holds {kind}, which {encoding} cannot hold")
        if scores is not None:
            if encoding != "sparse":
                raise TraceError(f"{key}.scores: only sparse sets carry scores, not {encoding}")
            scores = np.asarray(scores)
            if scores.size != values.size or scores.dtype.kind != "f":
                raise TraceError(
                    f"{key}.scores is {scores.dtype}{list(scores.shape)}: append floats, one for "
                    f"every unit of {key} {list(values.shape)}"
                )
            scores = scores.reshape(values.shape)
        for given in (values, scores):
            if given is not None and given.dtype.kind == "f":
                check_written(key, given, encoding)
        rows: dict[str, Array] = _ENCODERS[encoding](key, values, scores)
        return rows

    def _mark(self, key: str, given: Any, tokens: int) -> Array:
        """Return a mark's next rows, checked; one value stands for all ``tokens``."""
        if np.shape(given) not in ((), (1,), (tokens,)):
            raise TraceError(f"{key} has shape {np.shape(given)}: append [{tokens}] or one value")
        values = np.broadcast_to(np.asarray(given), (tokens,))
        limit = 1 if key == "phase" else 2**31 - 1
        if values.dtype.kind not in "iub" or values.min() < 0 or values.max() > limit:
            raise TraceError(f"{key}: append integers from 0 to {limit}")
        before = self._last_sequence
        if key == "sequence" and (np.diff(values.astype(np.int64), prepend=before) < 0).any():
            raise TraceError("sequence numbers fall: append the tokens sequence by sequence")
        return values.astype(_MARKS[key])

    def _write(self, array: str, rows: Array) -> None:
        if array not in self._spools:
            path = self._folder / f"{array}.raw"
            self._spools[array] = _Spool(path, rows.dtype, rows.shape[1:])
        try:
            self._spools[array].write(rows)
        except OSError as problem:
            raise TraceError(f"{self.path}: cannot be written ({problem.strerror})") from None

    def _end_shard(self) -> None:
        """Pack the spools as the next shard."""
        target = self._folder / shard_name(self._shards)
        compression = zipfile.ZIP_DEFLATED if self._one_file else zipfile.ZIP_STORED
        with (
            files.whole_file(target) as handle,
            zipfile.ZipFile(handle, "w", compression) as archive,
        ):
            for array, spool in self._spools.items():
                spool.copy_into(archive, array)
                if array.endswith(".indptr"):
                    key = array.removesuffix(".indptr")
                    rows, layers, units = spool.rows - 1, *self._shapes[key]
                    shape = np.array([rows // layers, layers, units], np.int64)
                    _add(archive, f"{key}.shape", shape)
            _add(archive, "meta", np.asarray(json.dumps(self._full_meta())))
        for spool in self._spools.values():
            spool.path.unlink()
        self._spools = {}
        self._shards += 1

    def _full_meta(self) -> dict[str, Any]:
        """Return the meta to store, with format, version, encodings and packed units."""
        signals = {key: dict(declared) for key, declared in self._meta.get("signals", {}).items()}
        for key, encoding in self._encodings.items():
            declared = signals.get(key, {})
            stored: dict[str, Any] = {"encoding": encoding} if encoding in ("log8", "bits") else {}
            if encoding == "bits":
                stored["units"] = self._shapes[key][1]
            if declared.get("encoding") == "prob" and encoding not in ("log8", "bits"):
                stored = {"encoding": "prob"}
            kept = {name: value for name, value in declared.items() if name not in _STORAGE}
            signals[key] = {**kept, **stored}
        signals = {
            key: declared for key, declared in signals.items() if declared and key in self._keys
        }
        meta = {**self._meta, "format": FORMAT, "version": VERSION}
        meta.pop("signals", None)
        return {**meta, "signals": signals} if signals else meta


class _Spool:
    """The rows of one array, on disk until their number is known."""

    def __init__(self, path: Path, dtype: np.dtype[Any], tail: tuple[int, ...]) -> None:
        self.path, self.dtype, self.tail = path, dtype, tail
        self.rows = self.bytes = 0
        self.last = 0
        self.file: IO[bytes] = open(path, "wb")  # noqa: SIM115 - closed by copy_into or abort

    def write(self, rows: Array) -> None:
        if self.path.name.endswith(
            ".indptr.raw"
        ):  # given as lengths, kept as the ends of the lists
            ends = np.cumsum(rows, dtype=np.int64) + self.last
            self.last = int(ends[-1])
            rows = np.concatenate([[0], ends]) if self.rows == 0 else ends
        data = np.ascontiguousarray(rows, self.dtype)
        self.file.write(data.tobytes())
        self.file.flush()  # small rows too, so that a full disk shows at once
        self.rows += len(data)
        self.bytes += data.nbytes

    def whole(self) -> int:
        """Return the number of complete rows on disk, also after a write that failed."""
        with suppress(OSError):
            self.file.close()
        return self.path.stat().st_size // self._row_bytes

    def cut(self, rows: int) -> None:
        """Keep the first rows."""
        os.truncate(self.path, rows * self._row_bytes)
        self.rows = rows

    @property
    def _row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.tail, dtype=np.int64))

    def copy_into(self, archive: zipfile.ZipFile, array: str) -> None:
        """Add the rows to an archive as the member ``array``."""
        self.file.close()
        with (
            archive.open(_entry(array, archive.compression), "w", force_zip64=True) as out,
            open(self.path, "rb") as raw,
        ):
            _write_header(out, self.dtype, (self.rows, *self.tail))
            shutil.copyfileobj(raw, out, _COPY)


def _entry(array: str, compression: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(f"{array}.npy")  # dated 1980: equal contents make equal files
    entry.compress_type = compression
    return entry


def _write_header(out: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    head = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(out, head)


def _add(archive: zipfile.ZipFile, array: str, values: Array) -> None:
    with archive.open(_entry(array, archive.compression), "w") as out:
        _write_header(out, values.dtype, values.shape)
        out.write(values.tobytes())


def _floats(dtype: Any) -> Any:
    return lambda key, values, scores: {key: values.astype(dtype)}


def _log8(key: str, values: Array, scores: None) -> dict[str, Array]:
    codes, largest = encode_log8(values)
    return {key: codes, f"{key}.max": largest}


def _bits(key: str, values: Array, scores: None) -> dict[str, Array]:
    return {key: np.packbits(values, axis=-1, bitorder="little")}


def _sparse(key: str, values: NDArray[np.bool_], scores: Array | None) -> dict[str, Array]:
    token, layer, unit = np.nonzero(values)
    narrow = np.uint16 if values.shape[2] <= 2**16 else np.uint32
    arrays = {f"{key}.indptr": values.sum(axis=2, dtype=np.int64).reshape(-1)}
    arrays[f"{key}.indices"] = unit.astype(narrow)
    if scores is not None:
        arrays[f"{key}.scores"] = scores[token, layer, unit].astype(np.float32)
    return arrays


_ENCODERS: dict[str, Any] = {
    "float16": _floats(np.float16),
    "float32": _floats(np.float32),
    "log8": _log8,
    "bool": _floats(np.bool_),
    "bits": _bits,
    "sparse": _sparse,
}
ENCODINGS = tuple(_ENCODERS)
