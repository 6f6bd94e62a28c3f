"""Vectors of a trace: what attention was given, and how far each layer moved its input.

They are signed, and no scores of units: methods and policies never read them. `query`, `key` and
`value` stand after the position embedding and any norm of queries and keys; `layer_io` holds cosine
and gain of attention, MLP and the whole layer.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import DipsimError, TraceError
from dipsim.model import load_model
from dipsim.trace.checks import check_believable
from dipsim.trace.encoding import as_float32
from dipsim.trace.layer_array import BLOCK_BYTES, LayerArray, what_of
from dipsim.trace.npz import Array, Member
from dipsim.trace.parts import VectorPart
from dipsim.views import shortened

VectorEncoding = Literal["float16", "float32", "int8"]
ATTENTION_VECTORS = ("query", "key", "value")
VECTORS = (*ATTENTION_VECTORS, "layer_io")
ENCODINGS: tuple[VectorEncoding, ...] = ("float16", "float32", "int8")
LAYER_IO = ("attention", "mlp", "layer")
"""Parts of a layer whose cosine and gain `layer_io` holds, in this order."""
IO_WIDTH = 2 * len(LAYER_IO)
_LARGEST_COSINE = 1.01
"""Bound of a cosine that was rounded to 16 bits."""
_CODES = 127


@dataclass(frozen=True, kw_only=True)
class Vectors(LayerArray):
    """A signed vector per token and layer."""

    width: int
    """Numbers of a vector: those of all heads, one head after the other."""
    encoding: VectorEncoding
    heads: int | None
    """Heads that the vector is made of; None where the trace does not say."""

    __repr__ = shortened

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Return tokens start..stop-1, float32[tokens, layers, width]; default: all.

        A deflated array is inflated from its beginning at each call: to read it in many pieces
        take `blocks`, or the vectors of `Trace.kept`.

        Raises:
            TraceError: values that are not finite, cosines outside -1..1, or tokens outside it.
        """
        first, last = self.rows(start, stop)
        pieces = [self._decoded(*piece) for piece in self.raw(first, last, max(1, last - first))]
        empty = np.empty((0, self.layers[1] - self.layers[0], self.width), np.float32)
        return pieces[0] if len(pieces) == 1 else np.concatenate([empty, *pieces])

    def blocks(self, block: int | None = None) -> Iterator[NDArray[np.float32]]:
        """Yield all tokens in order, float32[n <= block, layers, width].

        Args:
            block: default: as many tokens as take 32 MiB.

        Raises:
            TraceError: as `read`.
        """
        size = max(1, BLOCK_BYTES // self.row_bytes) if block is None else block
        for piece in self.raw(self.first, self.first + self.count, size):
            yield self._decoded(*piece)

    def stored(self, block: int) -> Iterator[dict[str, Array]]:
        """Yield all tokens as `TraceWriter.append` takes them, int8 codes with their scales."""
        for rows, scale, _ in self.raw(self.first, self.first + self.count, block):
            yield {self.name: rows} | ({} if scale is None else {f"{self.name}.scale": scale})

    def check(self) -> None:
        """Read all values once.

        Raises:
            TraceError: as `read`.
        """
        for _ in self.blocks():
            pass

    @property
    def kind(self) -> tuple[Any, ...]:
        """Properties that all shards share."""
        return self.encoding, self.width, self.heads

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in all layers of the files, as `read` returns it."""
        return 4 * self.width * self.recorded_layers

    def describe(self) -> dict[str, Any]:
        """Return encoding, width and heads as plain values."""
        return {"encoding": self.encoding, "width": self.width, "heads": self.heads}

    def _decoded(self, rows: Array, scale: Array | None, token: int) -> NDArray[np.float32]:
        values = as_float32(rows)
        if scale is not None:
            factors = as_float32(scale)
            if (factors < 0).any():
                raise TraceError(f"{self.what}.scale is negative near token {token}")
            tokens, layers, heads = factors.shape
            values = (values.reshape(tokens, layers, heads, -1) * factors[..., None]).reshape(
                values.shape
            )
        if not np.isfinite(values).all():
            near, layer, place = (int(i) for i in np.argwhere(~np.isfinite(values))[0])
            raise TraceError(
                f"{self.what}: {values[near, layer, place]} at token {token + near}, layer "
                f"{self.layers[0] + layer}: values are finite"
            )
        if self.name == "layer_io":
            check_layer_io(self.what, values, token)
        return values


def open_vectors(
    trace: str, key: str, members: Mapping[str, Member], meta: Mapping[str, Any]
) -> Vectors:
    """Open vectors of one file and check their arrays against each other.

    Args:
        trace: the trace's name, for error messages.
        key: one of `VECTORS`.
        members: all arrays of the file.
        meta: of the trace; ``attention`` or ``model`` says how many heads there are.

    Raises:
        TraceError: shapes or types that make no vectors.
    """
    what, member = what_of(trace, key), members[key]
    if len(member.shape) != 3 or 0 in member.shape[1:]:
        raise TraceError(f"{what} has shape {list(member.shape)}: it must be [tokens, layers, n]")
    tokens, layers, width = member.shape
    check_believable(what, layers, width)
    encoding = encoding_of(what, key, member.dtype)
    scale = members.get(f"{key}.scale")
    heads = None if key == "layer_io" else heads_of(meta, key)
    if encoding == "int8":
        floats = scale is not None and scale.dtype.kind == "f" and len(scale.shape) == 3
        if not floats or scale is None or scale.shape[:2] != (tokens, layers):
            raise TraceError(
                f"{what} is int8: it needs {key}.scale, float16 [tokens, layers, heads]"
            )
        heads = scale.shape[2]
    elif scale is not None:
        raise TraceError(f"{trace}: {key}.scale is for int8, but {key} is {encoding}")
    check_width(what, key, width, heads)
    return Vectors(
        name=key,
        trace=trace,
        parts=(VectorPart(member, scale),),
        count=tokens,
        layers=(0, layers),
        recorded_layers=layers,
        width=width,
        encoding=encoding,
        heads=heads,
    )


def encoding_of(what: str, key: str, dtype: np.dtype[Any]) -> VectorEncoding:
    """Return how vectors of a type are stored.

    Raises:
        TraceError: a type that no vectors have.
    """
    for encoding in ENCODINGS[: 2 if key == "layer_io" else 3]:
        if dtype == np.dtype(encoding):
            return encoding
    also = "" if key == "layer_io" else f", or int8 with {key}.scale"
    raise TraceError(
        f"{what} is {dtype}: save float16 or float32 with its signs (x.astype(np.float16)){also}"
    )


def check_width(what: str, key: str, width: int, heads: int | None) -> None:
    """Refuse vectors that are not made of their heads, or of the six figures of ``layer_io``.

    Raises:
        TraceError: names ``what`` they are.
    """
    if key == "layer_io" and width != IO_WIDTH:
        raise TraceError(
            f"{what} has {width} figures a layer: it must be {IO_WIDTH}, cosine and gain of "
            f"{', '.join(LAYER_IO)}"
        )
    if heads is not None and (heads < 1 or width % heads):
        raise TraceError(f"{what} is {width} wide, which {heads} heads do not divide")


def check_layer_io(what: str, values: NDArray[Any], token: int) -> None:
    """Refuse figures whose cosines are none.

    Args:
        what: the array, for error messages.
        values: float[tokens, layers, 6], finite.
        token: number of the first, for the message.

    Raises:
        TraceError: one lies outside -1..1.
    """
    if np.abs(values[..., ::2]).max(initial=0) > _LARGEST_COSINE:
        raise TraceError(
            f"{what} holds a cosine outside -1..1 from token {token} on: its six figures are "
            "cosine and gain of attention, of the MLP and of the layer"
        )


def heads_of(meta: Mapping[str, Any], key: str) -> int | None:
    """Return the heads of queries, or of keys and values, by ``meta.attention`` or ``meta.model``.

    None where neither says it.
    """
    name = "heads" if key == "query" else "kv_heads"
    attention = meta.get("attention")
    stated = attention.get(name) if isinstance(attention, Mapping) else None
    if isinstance(stated, int) and not isinstance(stated, bool) and stated > 0:
        return stated
    model = meta.get("model")
    if not isinstance(model, str | Mapping):
        return None
    try:
        return int(getattr(load_model(model), name))
    except DipsimError:
        return None


def encode_int8(values: NDArray[Any], heads: int) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Encode vectors with one scale per token, layer and head: value = code x scale.

    Args:
        values: float[tokens, layers, width], finite.
        heads: heads that a vector is made of.

    Returns:
        codes : int8[tokens, layers, width] in -127..127, and scale : float16[tokens, layers,
        heads], the largest of a head over 127.

    Raises:
        TraceError: a head's largest is too large for a scale.
    """
    tokens, layers, width = values.shape
    split = values.reshape(tokens, layers, heads, width // heads).astype(np.float32)
    with np.errstate(over="ignore"):
        scale = (np.abs(split).max(axis=-1) / _CODES).astype(np.float16)
    if not np.isfinite(scale).all():
        raise TraceError("int8 holds no values beyond 8.3 million: use float32")
    wide = scale.astype(np.float32)[..., None]
    codes = np.rint(np.divide(split, wide, out=np.zeros_like(split), where=wide > 0))
    return np.clip(codes, -_CODES, _CODES).astype(np.int8).reshape(values.shape), scale
