"""Writers of traces: whole or not at all, token by token, in any encoding.

What they accept, `open_trace` reads back; what it would refuse is refused before it is written.
"""

import errno
import os
from collections.abc import Mapping
from numbers import Real
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dipsim import files
from dipsim.errors import TraceError, brief, check_pairs, check_type
from dipsim.trace.archive import Compress, ListSpool, Spool, check_compress, pack
from dipsim.trace.beside import BESIDE
from dipsim.trace.checks import (
    JUDGED_TOKENS,
    check_believable,
    check_not_negative,
    check_router,
    check_written,
    plain_array,
)
from dipsim.trace.decisions import DECISIONS, StepsWritten
from dipsim.trace.encoders import (
    check_encoding,
    decision_rows,
    encoded,
    listed_rows,
    vector_rows,
)
from dipsim.trace.encoding import Encoding, Meaning
from dipsim.trace.layer_units import refuse_listed, refuse_written
from dipsim.trace.meta import FORMAT, VERSION, check_signals, meta_text, misplaced, plain_meta
from dipsim.trace.npz import Array
from dipsim.trace.opening import shard_name
from dipsim.trace.routes import ROUTES, route_rows
from dipsim.trace.signal import MEANINGS, SIGNALS
from dipsim.trace.tokens import DECODE
from dipsim.trace.trace import MAX_TOKENS, SUFFIX
from dipsim.trace.vectors import VECTORS, VectorEncoding

SHARD_BYTES = 256 * 2**20
_MOST_SHARDS = 100_000  # their names have five digits
_MARKS = {"phase": np.uint8, "sequence": np.int32, "token_id": np.int32}
_USUAL: dict[str, Encoding] = {"b": "bits", "f": "float32"}
_NOTHING = np.empty(0)
_STORAGE = ("encoding", "units")  # entries of meta.signals that the writer sets itself


class TraceWriter:
    """Writes a trace block by block; it appears under its name on `close`, or not at all.

    ``with TraceWriter("t.npz") as out: out.append({"glu": abs_glu})``. A path that ends with
    `.npz` becomes one file, any other a folder of shards. Memory stays bounded: blocks go to a
    hidden folder beside ``path`` at once.

    Args:
        path: a `.npz` file, which is replaced, or a folder, which must not exist.
        meta: kept in the trace; see docs/trace-format.md. Values of numpy, paths, dates and sets
            become what JSON has for them.
        encodings: per signal: float16, float32, log8, bool, bits or sparse. Default: float16
            stays, other floats become float32, sets become bits. Of ``expert`` also prob: floats
            are probabilities, or logits: they are logits, though they look like weights. Vectors
            are float16, float32 or, with the heads in ``meta.attention``, int8.
        shard_bytes: a shard ends when it holds this many bytes.
        norms: float[layers, units] of the down columns that ``glu`` weighs; None for none.
        experts: number of experts, where ``expert`` is appended as ids of those used.
        compress: ``auto`` deflates the arrays of one file of which that saves more than 30 %, and
            stores all of shards, so that they are mapped when read; ``always``, or ``never``.

    Raises:
        TraceError: a path that cannot be written, an unknown signal, an encoding that it cannot
            have, meta that JSON cannot hold, or that a reader would ignore where it stands.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        meta: Mapping[str, Any] | None = None,
        encodings: Mapping[str, Encoding | Meaning | VectorEncoding] | None = None,
        shard_bytes: int = SHARD_BYTES,
        norms: NDArray[Any] | None = None,
        experts: int | None = None,
        compress: Compress = "auto",
    ) -> None:
        check_compress(compress)
        self.path = files.path_of(path)
        self.tokens = 0
        check_pairs("encodings", encodings, '{"glu": "log8"}')
        check_type("shard_bytes", shard_bytes, Real, "a number of bytes")
        self._meta = plain_meta({} if meta is None else meta)
        check_signals(str(path), self._meta.get("signals", {}))
        for remark in misplaced(self._meta, SIGNALS):
            raise TraceError(remark)
        for key in self._meta.get("signals", {}):  # of those not appended it is left out
            if key not in SIGNALS:
                raise TraceError(
                    f"meta.signals names {brief(key)!r}, no signal: use {', '.join(SIGNALS)}"
                )
        self._encodings: dict[str, Encoding] = {}
        self._vector_encodings: dict[str, str] = {}
        for key, encoding in (encodings or {}).items():
            check_encoding(key, encoding)
            if key in VECTORS:
                self._vector_encodings[key] = encoding
            elif encoding == "prob" or encoding == "logits":
                self._declare(key, encoding)
            elif encoding != "int8":
                self._encodings[key] = encoding
        self._one_file = self.path.suffix == SUFFIX
        self._compress = compress if self._one_file or compress == "always" else "never"
        self._shard_bytes = shard_bytes
        check_type("experts", experts, int, "a number of experts")
        self._experts = experts
        self._norms = None if norms is None else _checked_norms(norms)
        if not self._one_file and os.path.lexists(self.path):
            raise TraceError(f"{self.path} exists: give a new folder, or a name ending in .npz")
        self._shapes: dict[str, tuple[int, int]] = {}
        self._keys: set[str] = set()
        self._last_sequence = 0
        self._steps = StepsWritten()
        self._spools: dict[str, Spool] = {}
        self._shards = self._in_shards = 0
        self._finished = False
        try:
            self._unfinished = files.Unfinished(self.path, folder=True)
        except OSError as problem:
            raise files.unwritable(path, problem, TraceError) from None
        self._folder = self._unfinished.path

    def __repr__(self) -> str:
        state = "finished" if self._finished else "open"
        return f"TraceWriter of {brief(self.path)}: {self.tokens} tokens, {state}"

    def append(self, block: Mapping[str, Any]) -> None:
        """Add tokens.

        Args:
            block: per signal float or bool [n, layers, units], or [layers, units] for one token;
                of ``expert`` also ints [n, layers, k], the ids of the experts used, -1 for none;
                ``<signal>.scores`` float beside a sparse bool signal; vectors float [n, layers,
                width], or int8 beside ``<vectors>.scale``; ``layer_mode`` [n, layers]; ``kept``
                bool [steps that begin here, layers, positions]; ``expert.used``,
                ``expert.weights`` [n, layers, k]; ``phase``, ``sequence``, ``token_id`` [n], or
                one value for all. Every block holds the same keys.

        Raises:
            TraceError: a finished trace, shapes or keys that change, unknown arrays, values that no
                trace, or not this encoding, may hold, falling sequence numbers, more than 2**22
                tokens, a full disk.
        """
        if self._finished:
            raise TraceError(f"{self.path}: is finished; write further tokens with a new writer")
        given = {key: plain_array(key, values) for key, values in block.items()}
        tokens, shapes = self._checked_shapes(given)
        if tokens == 0:
            return
        # all is checked and encoded before any is written: an error leaves the trace as it was
        rows: dict[str, Array] = {}
        encodings, vectors = dict(self._encodings), dict(self._vector_encodings)
        for key, values in given.items():
            if key in VECTORS:
                vectors[key], stored = vector_rows(
                    key,
                    values.reshape(-1, *shapes[key]),
                    given.get(f"{key}.scale"),
                    vectors.get(key),
                    self._meta,
                )
                rows |= stored
            elif key in ROUTES:
                rows[key] = route_rows(key, values.reshape(-1, *shapes[key]))
            elif key in DECISIONS:
                layers, width = shapes[key]
                shape = (-1, layers) if key == "layer_mode" else (-1, layers, width)
                rows[key] = decision_rows(key, values.reshape(shape))
            elif self._lists(key, values):
                encodings[key] = "sparse"
                ids = values.reshape(tokens, shapes[key][0], -1)
                refuse_listed(key, ids, shapes[key][1], self._meta, self.tokens)
                rows |= listed_rows(key, ids, given.get(f"{key}.scores"), shapes[key][1])
            elif key in SIGNALS:
                scores = given.get(f"{key}.scores")
                values = values.reshape(-1, *shapes[key])
                encodings[key] = self._encoding(key, values, scores)
                refuse_written(key, values, self._meta, self.tokens)
                rows |= encoded(key, values, scores, encodings[key])
                if key == "expert" and values.dtype.kind == "f" and not self.tokens:
                    check_router(rows[key][:JUDGED_TOKENS], "signal expert", self._meaning(key))
            elif key in _MARKS:
                rows[key] = self._mark(key, values, tokens)
            elif not _belongs(key, given):
                known = ", ".join([*SIGNALS, *BESIDE, *_MARKS])
                raise TraceError(f"array {key!r}: unknown; use {known}")
        if self.tokens + tokens > MAX_TOKENS:
            raise TraceError(f"{self.path}: more than {MAX_TOKENS} tokens: split the trace")
        if "kept" in given:
            self._check_steps(rows, given["kept"].reshape(-1, *shapes["kept"]), tokens)
        self._shapes, self._keys, self._encodings = shapes, set(given), encodings
        self._vector_encodings = vectors
        try:
            spools = [self._spool(array, values) for array, values in rows.items()]
            for spool, values in zip(spools, rows.values(), strict=True):
                spool.write(values)
            self.tokens += tokens
            if "sequence" in rows:
                self._last_sequence = int(rows["sequence"][-1])
            full = sum(spool.bytes for spool in self._spools.values()) >= self._shard_bytes
            if full and not self._one_file and self._shards + 1 < _MOST_SHARDS:
                self._end_shard(self.tokens)
        except OSError as problem:
            raise files.unwritable(self.path, problem, TraceError) from None

    def close(self) -> None:
        """Finish the trace and give it its name; once it is finished, nothing happens.

        Raises:
            TraceError: no token was appended, or the disk is full.
        """
        if self._finished:
            return
        try:
            if self.tokens == 0:
                raise TraceError(f"{self.path}: no tokens, so no trace is written")
            self._steps.check_end()
            if self._spools:
                self._end_shard(self.tokens)
            self._take_name()
        except OSError as problem:
            self.abort()
            raise files.unwritable(self.path, problem, TraceError) from None
        except BaseException:
            self.abort()
            raise

    def close_early(self, *, wanted: bool = False) -> int:
        """Finish the trace with its complete tokens after a full disk or an interruption.

        Where there is no room to pack them all, the last are dropped; with sparse sets, all of the
        unfinished shard are. An older trace stays: the part goes beside it under a name of its own,
        which is `path` then. After an interruption it may be called again.

        Args:
            wanted: whether this is the end that was wanted, so that a whole trace takes its name.

        Returns:
            The number of tokens kept; with 0 there is no trace.
        """
        try:
            complete = self._pack_whole_tokens() and wanted
            if self.tokens == 0:
                self.abort()
            elif (self._folder / shard_name(0)).exists():  # no earlier call gave it its name
                destination = self._unfinished.destination
                if os.path.lexists(destination) and not (complete and self._one_file):
                    self._unfinished.destination = files.unused_name(destination, "part")
                    self.path = self._unfinished.destination
                self._take_name()
        except OSError as problem:
            self.abort()
            raise files.unwritable(self.path, problem, TraceError) from None
        self._unfinished.discard()
        return self.tokens

    def _pack_whole_tokens(self) -> bool:
        """Pack as many tokens as there is room for; return True if these are all."""
        appended = self.tokens
        whole = min((spool.rows_on_disk() for spool in self._spools.values()), default=0)
        tries = (whole, whole * 3 // 4, whole // 2, whole // 4)
        if not any(tokens and self._packed(tokens) for tokens in tries):
            for spool in self._spools.values():
                spool.path.unlink(missing_ok=True)
            self._spools = {}
        self.tokens = self._in_shards
        return self.tokens == appended

    def _packed(self, tokens: int) -> bool:
        """Try to pack the first ``tokens`` rows of every spool as a shard; return True if done."""
        lists = any(isinstance(spool, ListSpool) for spool in self._spools.values())
        if lists or "kept" in self._spools:
            return False  # whose rows are not tokens
        for spool in self._spools.values():
            spool.cut(tokens)
        try:
            self._end_shard(self._in_shards + tokens)
        except OSError:
            return False
        return True

    def abort(self) -> None:
        """Drop everything that was appended."""
        for spool in self._spools.values():
            spool.close()
        self._unfinished.discard()

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

    def _lists(self, key: str, values: Array) -> bool:
        """Return whether a signal is appended as ids of the units used."""
        return key == "expert" and self._experts is not None and values.dtype.kind in "iu"

    def _declare(self, key: str, meaning: Meaning) -> None:
        """Note in meta what the floats of a signal are."""
        declared = dict(self._meta.get("signals", {}))
        declared[key] = {**declared.get(key, {}), "encoding": meaning}
        self._meta["signals"] = declared

    def _meaning(self, key: str) -> Meaning | None:
        """Return what the floats of a signal are said to be."""
        given = self._meta.get("signals", {}).get(key, {}).get("encoding")
        return given if key == "expert" and given in MEANINGS else None

    def _checked_shapes(self, block: Mapping[str, Array]) -> tuple[int, dict[str, tuple[int, int]]]:
        """Check a block against those before; return its tokens, and layers and units by signal."""
        counts, shapes = set(), dict(self._shapes)
        for key in block:
            if key not in (*SIGNALS, *BESIDE):
                continue
            shape = block[key].shape if key != "layer_mode" else (*block[key].shape, 1)
            if len(shape) not in (2, 3) or 0 in shape[-2:]:
                axes = {"layer_mode": "[n, layers]", "kept": "[steps, layers, positions]"}
                raise TraceError(
                    f"{_noun(key)} {key} has shape {block[key].shape}: append "
                    f"{axes.get(key, '[n, layers, units]')}"
                )
            if self._experts is not None and self._lists(key, block[key]):
                shape = (*shape[:-1], self._experts)
            if key != "kept":
                counts.add(shape[0] if len(shape) == 3 else 1)
            if self.tokens and key in shapes and shapes[key] != shape[-2:]:
                raise TraceError(
                    f"{_noun(key)} {key} has shape {shape}: before it had {shapes[key]}"
                )
            shapes[key] = shape[-2:]
            check_believable(f"{_noun(key)} {key}", *shapes[key])
        if len(counts) != 1 or len({layers for layers, _ in shapes.values()}) > 1:
            raise TraceError("append signals of the same tokens and layers, at least one signal")
        if not self.tokens:
            for key, encoding in (self._encodings | self._vector_encodings).items():
                if key not in block:
                    raise TraceError(f"encoding {key}={encoding}: the trace has no signal {key}")
            if self._norms is not None and block.get("glu", _NOTHING).dtype.kind == "b":
                raise TraceError("norms weigh scores of glu, and this glu holds sets: give none")
            if self._norms is not None and shapes.get("glu") != self._norms.shape:
                raise TraceError(
                    f"norms have shape {list(self._norms.shape)}: give those of glu's "
                    f"[layers, units], here {shapes.get('glu', 'none')}"
                )
        if self.tokens and set(block) != self._keys:
            differing = ", ".join(sorted(set(block) ^ self._keys))
            raise TraceError(f"every block must hold the same arrays; {differing} differ")
        return counts.pop(), shapes

    def _encoding(self, key: str, values: Array, scores: Array | None) -> Encoding:
        """Return the encoding of a signal, whose values and scores it can hold."""
        if values.dtype.kind not in _USUAL:
            raise TraceError(f"signal {key} is {values.dtype}: append floats, or bool for sets")
        usual: Encoding = "sparse" if scores is not None else _USUAL[values.dtype.kind]
        if values.dtype == np.float16:
            usual = "float16"
        encoding = self._encodings.get(key, usual)
        if (encoding in ("bool", "bits", "sparse")) != (values.dtype.kind == "b"):
            kind = "sets" if values.dtype.kind == "b" else "scores"
            raise TraceError(f"signal {key} holds {kind}, which {encoding} cannot hold")
        if scores is not None and encoding != "sparse":
            raise TraceError(f"{key}.scores: only sparse sets carry scores, not {encoding}")
        if scores is not None and (scores.size != values.size or scores.dtype.kind != "f"):
            raise TraceError(
                f"{key}.scores is {scores.dtype}{list(scores.shape)}: append floats, one for "
                f"every unit of {key} {list(values.shape)}"
            )
        for given in (values, scores):
            if given is not None and given.dtype.kind == "f":
                check_written(key, given, encoding)
        meaning = self._meaning(key)
        if meaning is not None and values.dtype.kind == "b":
            raise TraceError(f"encoding {key}={meaning}: is for floats, and {key} holds sets")
        return encoding

    def _mark(self, key: str, given: Array, tokens: int) -> Array:
        """Return a mark's next rows, checked; one value stands for all ``tokens``."""
        if given.shape not in ((), (1,), (tokens,)):
            raise TraceError(f"{key} has shape {given.shape}: append [{tokens}] or one value")
        values = np.broadcast_to(given, (tokens,))
        limit = 1 if key == "phase" else 2**31 - 1
        if values.dtype.kind not in "iub" or values.min() < 0 or values.max() > limit:
            raise TraceError(f"{key}: append integers from 0 to {limit}")
        before = self._last_sequence
        if key == "sequence" and (np.diff(values.astype(np.int64), prepend=before) < 0).any():
            raise TraceError("sequence numbers fall: append the tokens sequence by sequence")
        return values.astype(_MARKS[key])

    def _check_steps(self, rows: Mapping[str, Array], kept: Array, tokens: int) -> None:
        phase = rows.get("phase", np.full(tokens, DECODE, np.uint8))
        self._steps.check(phase, rows.get("sequence", np.zeros(tokens, np.int32)), kept)

    def _spool(self, array: str, rows: Array) -> Spool:
        """Return the spool of an array, made for its first rows."""
        if array not in self._spools:
            kind = ListSpool if array.endswith(".indptr") else Spool
            self._spools[array] = kind(self._folder / f"{array}.raw", rows.dtype, rows.shape[1:])
        return self._spools[array]

    def _end_shard(self, tokens: int) -> None:
        """Pack the spools as the next shard, so that all shards hold ``tokens`` tokens."""
        arrays: dict[str, Array | Spool] = dict(self._spools)
        for key, (layers, units) in self._shapes.items():
            if f"{key}.indptr" in arrays:
                shape = (tokens - self._in_shards, layers, units)
                arrays[f"{key}.shape"] = np.array(shape, np.int64)
        if "kept" in arrays:
            shape = (arrays["kept"].shape[0], *self._shapes["kept"])
            arrays["kept.shape"] = np.array(shape, np.int64)
        if self._norms is not None:
            arrays["glu.norms"] = self._norms
        arrays["meta"] = np.asarray(meta_text(self._full_meta()))
        with files.whole_file(self._folder / shard_name(self._shards)) as handle:
            pack(handle, arrays, self._compress)
        packed, self._spools = self._spools, {}
        self._shards, self._in_shards = self._shards + 1, tokens
        for spool in packed.values():
            spool.path.unlink()

    def _take_name(self) -> None:
        """Give the finished trace its name, `path`.

        Raises:
            OSError: the name cannot be given.
        """
        if self._one_file:
            os.replace(self._folder / shard_name(0), self._unfinished.destination)
            self._unfinished.discard()
        elif os.path.lexists(self._unfinished.destination):
            raise FileExistsError(errno.EEXIST, "it exists by now")
        else:
            self._unfinished.finish()
        self._finished = True

    def _full_meta(self) -> dict[str, Any]:
        """Return the meta to store, with format, version, encodings and packed units."""
        signals = {key: dict(declared) for key, declared in self._meta.get("signals", {}).items()}
        for key, encoding in self._encodings.items():
            declared = signals.get(key, {})
            stored: dict[str, Any] = {"encoding": encoding} if encoding in ("log8", "bits") else {}
            if encoding == "bits":
                stored["units"] = self._shapes[key][1]
            if (meaning := self._meaning(key)) is not None:
                stored = {"encoding": meaning}
            kept = {name: value for name, value in declared.items() if name not in _STORAGE}
            signals[key] = {**kept, **stored}
        signals = {
            key: declared for key, declared in signals.items() if declared and key in self._keys
        }
        meta = {**self._meta, "format": FORMAT, "version": VERSION}
        meta.pop("signals", None)
        return {**meta, "signals": signals} if signals else meta


def _noun(key: str) -> str:
    return "signal" if key in SIGNALS else "array"


def _belongs(key: str, given: Mapping[str, Array]) -> bool:
    """Return whether an array is the scores of sparse sets, or the scales of vectors, given too."""
    name, _, suffix = key.rpartition(".")
    return name in given and suffix == ("scale" if name in VECTORS else "scores")


def _checked_norms(norms: NDArray[Any]) -> NDArray[np.float32]:
    numbers = plain_array("norms", norms)
    if numbers.dtype.kind != "f":
        raise TraceError(f"norms are {numbers.dtype}: give floats")
    with np.errstate(over="ignore"):
        narrow = numbers.astype(np.float32)
    check_not_negative(narrow, "norms")
    return narrow
