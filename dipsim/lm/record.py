"""Traces of a running model: hooks on its modules, streamed to disk call by call."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dipsim.errors import DipsimError, TraceError
from dipsim.lm.attention import attention_of
from dipsim.lm.calls import Call, Marks, call_of
from dipsim.lm.geometry import geometry_of
from dipsim.lm.probe import evaluating, probe_ids
from dipsim.lm.quiet import quiet
from dipsim.lm.routes_tap import RoutesTap, joined_meta, narrowed, routing_meta
from dipsim.lm.structure import Layer, Output, Structure, find_structure
from dipsim.lm.vector_taps import VectorTaps
from dipsim.trace import Outline, Tokens
from dipsim.trace.archive import Compress
from dipsim.trace.encoding import Encoding
from dipsim.trace.outline import SignalOutline
from dipsim.trace.signal import SIGNALS
from dipsim.trace.vectors import ATTENTION_VECTORS, VECTORS, VectorEncoding
from dipsim.trace.vectors import ENCODINGS as VECTOR_ENCODINGS
from dipsim.trace.writer import TraceWriter

ENCODINGS: tuple[Encoding, ...] = ("float16", "float32", "log8")
"""Encodings of a recording, whose signals hold scores."""
_NAMES = ", ".join((*SIGNALS, *VECTORS))
_UNEQUAL = (
    "signal {} differs in width between layers, or not all ran: a trace holds one width; record "
    "other signals"
)


def record(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    signals: Sequence[str] | None = None,
    encodings: Mapping[str, Encoding | VectorEncoding] | None = None,
    meta: Mapping[str, Any] | None = None,
    compress: Compress = "auto",
) -> "Recorder":
    """Record the signals of a model while the with-block runs.

    ``with record(model, "t.npz"): model.generate(ids, max_new_tokens=64)``. Every call without a KV
    cache, and every prompt, is a sequence; rows of a batch are sequences one after another. Several
    tokens at a time with a cache (a prompt, in ``generate``) are prefill, all other tokens decode.

    Args:
        model: a causal language model of transformers, with or without peft's layers.
        path: a `.npz` file, which is replaced, or a new folder of shards.
        signals: some of mlp_input, gate, up, glu, attn_input, attn_output, expert, and of the
            vectors query, key, value, layer_io. Default: mlp_input and glu, or expert for a
            mixture of experts.
        encodings: per signal float16 (default), float32 or log8; of query, key and value int8.
        meta: entries of the trace's meta, e.g. ``source`` and ``license``; ``model`` replaces the
            geometry in the model's config.
        compress: see `dipsim.TraceWriter`.

    Raises:
        DipsimError: an unknown architecture, a signal that it lacks, attention that cannot be
            read, a path that cannot be written,
            meta that JSON cannot hold; in the with-block a full disk. However the with-block ends,
            the tokens recorded until then are kept, beside an older trace under a name of their
            own, and the error says so.
    """
    structure = find_structure(model)
    names = _wanted(structure, signals)
    chosen = _encodings(names, encodings)
    kind = getattr(getattr(model, "config", None), "model_type", "model")
    properties = _meta(model, structure, names, str(kind))
    if any(name in ATTENTION_VECTORS for name in names):
        properties["attention"] = attention_of(model, structure, probe_ids(model))
    writer = TraceWriter(
        path, meta=joined_meta(properties, meta or {}), encodings=chosen, compress=compress
    )
    return Recorder(model, structure, chosen, writer)


def record_arrays(
    model: nn.Module,
    ids: Tensor | Sequence[int],
    signals: Sequence[str] | None = None,
    structure: Structure | None = None,
) -> dict[str, Any]:
    """Return the trace of one call as arrays that `load_trace` takes; for short texts.

    Args:
        model: as for `record`.
        ids: int64[tokens] or [sequences, tokens].
        signals: as for `record`; the arrays are float32[tokens, layers, units].
        structure: the result of `find_structure`, if it is known already.
    """
    structure = structure or find_structure(model)
    names = _wanted(structure, signals)
    blocks: list[dict[str, Any]] = []
    taps = _Taps(model, structure, dict.fromkeys(names, torch.float32), blocks.append)
    rows = torch.as_tensor(ids, device=next(model.parameters()).device)
    try:
        with quiet(), evaluating(model), torch.no_grad():
            model(input_ids=rows.reshape(-1, rows.shape[-1]))
    finally:
        taps.remove()
    about = _meta(model, structure, names)
    if any(name in ATTENTION_VECTORS for name in names):
        about["attention"] = attention_of(model, structure, probe_ids(model))
    return {**blocks[0], "meta": about}


def outline(
    model: nn.Module, name: str, tokens: Tokens, signals: Sequence[str], structure: Structure
) -> Outline:
    """Return the outline of the trace that a recording of these tokens would be; nothing is run.

    Args:
        model: as for `record`.
        signals: as for `record`.
        structure: the result of `find_structure`.

    Raises:
        TraceError: a signal that the model lacks, or whose width differs between layers.
    """
    units: dict[str, int] = {}
    for signal in _wanted(structure, signals):
        widths = {layer.units[signal] for layer in structure.layers if signal in layer.units}
        if len(widths) > 1:
            raise TraceError(_UNEQUAL.format(signal))
        (units[signal],) = widths
    return Outline(
        name=name,
        rows=tokens,
        layers=len(structure.layers),
        signals={
            signal: SignalOutline(
                name=signal,
                encoding="float32",
                recorded_units=units[signal],
                scored=True,
                recorded_layer_units=_layer_units(structure, signal),
            )
            for signal in units
        },
        meta=_meta(model, structure, tuple(units)),
        hash="",
        recorded_layers=len(structure.layers),
    )


def _layer_units(structure: Structure, signal: str) -> tuple[int, ...]:
    """Return the units of each layer, where some lack a signal; else nothing."""
    counts = tuple(layer.units.get(signal, 0) for layer in structure.layers)
    return counts if 0 in counts else ()


def _meta(
    model: nn.Module, structure: Structure, names: Sequence[str], kind: str = "model"
) -> dict[str, Any]:
    """Return what a model says of itself, as the meta of a trace of some signals."""
    meta: dict[str, Any] = {}
    if (geometry := geometry_of(model, kind, structure)) is not None:
        meta["model"] = geometry
    if not structure.moe:
        return meta
    return meta | routing_meta(structure, recorded="expert" in names)


class Recorder:
    """A trace in the making; see `record`."""

    def __init__(
        self,
        model: nn.Module,
        structure: Structure,
        encodings: Mapping[str, Encoding | VectorEncoding],
        writer: TraceWriter,
    ) -> None:
        self._model, self._structure = model, structure
        self._encodings, self._writer = encodings, writer
        self._taps: _Taps | None = None

    @property
    def path(self) -> Path:
        """File or folder of the trace; of a part beside an older trace, known at the end."""
        return self._writer.path

    @property
    def tokens(self) -> int:
        """Number of tokens recorded so far."""
        return self._writer.tokens

    def __enter__(self) -> Self:
        halves = (torch.float16, torch.float32)
        stored = {name: halves[encoding != "float16"] for name, encoding in self._encodings.items()}
        try:
            self._taps = _Taps(self._model, self._structure, stored, self._writer.append)
        except BaseException:
            self._writer.abort()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        assert self._taps is not None, "entered"
        self._taps.remove()
        if problem is None and self.tokens == 0:
            self._writer.abort()
            raise TraceError(f"{self.path}: the model was not called, so no trace is written")
        given = self.tokens
        try:
            kept = self._writer.close_early(wanted=problem is None)
        except KeyboardInterrupt as stop:  # what was recorded is worth a second try, not a third
            kept, problem = self._writer.close_early(wanted=problem is None), problem or stop
        if problem is None and kept == given:
            return
        remark = f"the first {kept} tokens are kept in {self.path}" if kept else "nothing is kept"
        if problem is None:
            raise TraceError(f"{self.path}: the disk is full; {remark}")
        if kept and isinstance(problem, DipsimError):
            raise type(problem)(f"{problem}; {remark}") from None
        if kept:
            problem.add_note(remark)
        if kind is None:
            raise problem


class _Tap(NamedTuple):
    """Place of a signal: the input (``given``) or the output of a module, and how to read it."""

    module: nn.Module
    given: bool
    read: Callable[[Any], Tensor]


class _Taps:
    """Hooks that pass on the signals and marks of every call of the model as one block."""

    def __init__(
        self,
        model: nn.Module,
        structure: Structure,
        stored: Mapping[str, torch.dtype],
        take: Callable[[dict[str, Any]], None],
    ) -> None:
        self._stored, self._take = stored, take
        self._rows: dict[str, list[NDArray[Any] | None]] | None = None
        """Signals of the call that is under way, layer by layer; None between calls."""
        self._listens = True
        self._reads_attention = any(name in ATTENTION_VECTORS for name in stored)
        self._layers = len(structure.layers)
        self._call: Call | None = None
        self._marks = Marks()
        self._routes: RoutesTap | None = None
        decoder = structure.decoder
        self._hooks: list[Any] = []
        try:
            vectors = [name for name in stored if name in VECTORS]
            self._hooks.append(VectorTaps(model, structure, vectors, self._keep))
            self._hooks.append(decoder.register_forward_pre_hook(self._begin, with_kwargs=True))
            self._hooks.append(decoder.register_forward_hook(self._end))
            for i, layer in enumerate(structure.layers):
                for signal in stored.keys() - {*VECTORS, "expert"}:
                    self._put_in(i, signal, _tap(layer, signal))
            if "expert" in stored:
                self._routes = RoutesTap(structure, stored["expert"])
                self._hooks.append(self._routes)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove all hooks from the model.

        One that an interrupt leaves behind does nothing any more.
        """
        self._listens, self._rows = False, None
        for hook in self._hooks:
            hook.remove()

    def _put_in(self, layer: int, signal: str, tap: _Tap | None) -> None:
        """Add the hook that reads one signal of one layer."""
        assert tap is not None, "_wanted asks for it"

        def keep(values: Any) -> None:
            self._keep(signal, layer, tap.read(values))

        if tap.given:
            hook = tap.module.register_forward_pre_hook(
                lambda module, args, given: keep((*args, *given.values())[0]), with_kwargs=True
            )
        else:
            hook = tap.module.register_forward_hook(lambda module, args, output: keep(output))
        self._hooks.append(hook)

    def _keep(self, signal: str, layer: int, values: Tensor) -> None:
        if self._rows is not None:
            self._rows[signal][layer] = self._kept(signal, values)

    def _kept(self, signal: str, values: Tensor) -> NDArray[Any]:
        """Return scores [rows, units] in the stored type, in the memory of the CPU."""
        values = values.detach().reshape(-1, values.shape[-1]).float()
        return narrowed(signal, values if signal in VECTORS else values.abs(), self._stored[signal])

    def _begin(self, decoder: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        if not self._listens:
            return
        self._call = call_of(args, given)
        if self._reads_attention and any(
            getattr(value, "is_compileable", False) for value in (*args, *given.values())
        ):
            raise DipsimError(
                "a static KV cache, whose last positions are not those of the call: record query, "
                "key and value with a cache that grows (DynamicCache, generate's own)"
            )
        self._rows = {
            signal: [None] * self._layers for signal in self._stored if signal != "expert"
        }
        if self._routes is not None:
            self._routes.begin()

    def _end(self, decoder: nn.Module, args: Any, output: Any) -> None:
        call, rows = self._call, self._rows
        if call is None or rows is None:
            return
        self._rows = None
        block: dict[str, Any] = {}
        for signal, layers in rows.items():
            shapes = {None if layer is None else layer.shape for layer in layers}
            if len(shapes) > 1 or None in shapes:
                raise TraceError(_UNEQUAL.format(signal))
            block[signal] = np.stack(layers, axis=1)  # type: ignore[arg-type]
        if self._routes is not None:
            block |= self._routes.block()
        for signal, values in block.items():
            if len(values) != call.sequences * call.tokens:
                raise TraceError(
                    f"signal {signal} has {len(values)} rows in a call of "
                    f"{call.sequences * call.tokens} tokens: this model does not take every token "
                    "once, in its order; record other signals"
                )
        block["phase"], block["sequence"] = self._marks.of(call)
        if call.ids is not None:
            block["token_id"] = call.ids.reshape(-1).cpu().numpy().astype(np.int32)
        self._take(block)


def _tap(layer: Layer, signal: str) -> _Tap | None:
    """Return the place of a signal in a layer; None if it has none."""
    if signal in ("gate", "up"):
        output = layer.gate if signal == "gate" else layer.up
        return (
            None if output is None else _Tap(output.module, False, _scored(output, layer, signal))
        )
    fed = {
        "mlp_input": layer.mlp_input[:1],
        "glu": () if layer.down is None else (layer.down,),
        "attn_input": layer.attn_input[:1],
        "attn_output": () if layer.attn_output is None else (layer.attn_output,),
    }[signal]
    return _Tap(fed[0], True, lambda x: x) if fed else None


def _scored(output: Output, layer: Layer, signal: str) -> Callable[[Tensor], Tensor]:
    """Return the function from a module's output to its signal; gate passes the activation."""
    act = layer.act if signal == "gate" else None
    return lambda y: output.of(y) if act is None else act(output.of(y))


def _wanted(structure: Structure, signals: Sequence[str] | None) -> tuple[str, ...]:
    """Return the signals and vectors to record, checked.

    Raises:
        TraceError: no signal, an unknown one, or one that a layer lacks.
    """
    usual = ("expert",) if structure.moe else ("mlp_input", "glu")
    names = tuple(dict.fromkeys(signals if signals is not None else usual))
    if not names:
        raise TraceError(f"no signal to record: name some of {_NAMES}")
    for name in names:
        if name in VECTORS:
            continue
        if name not in SIGNALS:
            raise TraceError(f"signal {name!r} is not known: record some of {_NAMES}")
        without = _layers_without(structure, name)
        if without:
            present = [key for key in SIGNALS if not _layers_without(structure, key)]
            raise TraceError(
                f"signal {name} is not in layer {without[0]} of this model, and a trace holds all "
                f"layers: record some of {', '.join(present) or 'nothing'}"
            )
    return names


def _layers_without(structure: Structure, signal: str) -> list[int]:
    """Return the layers that lack a signal; a layer without experts records that it uses none."""
    if signal == "expert":
        return [] if structure.moe else [*range(len(structure.layers))]
    return [i for i, layer in enumerate(structure.layers) if _tap(layer, signal) is None]


def _encodings(
    names: Sequence[str], given: Mapping[str, Encoding | VectorEncoding] | None
) -> dict[str, Encoding | VectorEncoding]:
    """Return the encoding of every signal and vector, checked."""
    for name, encoding in (given or {}).items():
        allowed: tuple[str, ...] = ENCODINGS[:2] if name in ("expert", "layer_io") else ENCODINGS
        if name in ATTENTION_VECTORS:
            allowed = VECTOR_ENCODINGS
        if name not in names or encoding not in allowed:
            raise TraceError(
                f"encoding {name}={encoding}: write SIGNAL=ENCODING with one of "
                f"{', '.join(names)} and one of {', '.join(allowed)}"
            )
    return {name: (given or {}).get(name, "float16") for name in names}
