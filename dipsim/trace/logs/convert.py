"""A routing log as a trace: sets of ``expert``, with scores where the log has weights."""

import functools
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dipsim import files
from dipsim.errors import TraceError, brief
from dipsim.model import Model
from dipsim.trace.archive import Compress
from dipsim.trace.logs.contract import MOST_EXPERTS, MOST_LAYERS, MOST_PER_TOKEN, Ask, Format, Log
from dipsim.trace.logs.contract import ask as asked
from dipsim.trace.logs.table import Block, Ordered, Table, collected
from dipsim.trace.npz import Array
from dipsim.trace.tokens import DECODE
from dipsim.trace.trace import SUFFIX
from dipsim.trace.writer import TraceWriter

_BLOCK_IDS = 2**19


def import_log(
    source: Path,
    out: Path,
    format_: Format,
    ask: Ask,
    *,
    model: Model | None = None,
    unit_bytes: float | None = None,
    meta: Mapping[str, Any] | None = None,
    compress: Compress = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write a routing log as a trace; guesses that it holds go to a trace of their own beside it.

    Args:
        source: the log.
        out: a `.npz` file, or a new folder of shards.
        format_: its format.
        ask: what the user says of it.
        unit_bytes: bytes of an expert.
        model: what it is from: says experts, layers and experts a token where the log does not.
        meta: further entries of the trace's meta.
        compress: see `TraceWriter`.
        progress: called with (tokens written, tokens).

    Returns:
        Sentences about what was assumed or left out.

    Raises:
        TraceError: a log that cannot be read, or that leaves something open.
        DipsimError: a path that cannot be written.
    """
    files.refuse_same(out, [source])
    _check(ask)
    asked_k, ask = ask.top_k, _completed(ask, model)
    log = format_.read(source, ask)
    experts = _known_experts(source, ask, model, log)
    out.parent.mkdir(parents=False, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".dipsim-", dir=out.parent) as folder:
            table = collected(source, log, ask, Path(folder), experts)
            if asked_k is not None and table.width != asked_k:
                raise TraceError(
                    f"--top-k {asked_k}: rows of {source} hold {table.width} experts: drop it"
                )
            ordered = table.tokens()
            notes = _notes(ask, model, log, table, ordered)
            full = _meta(source, format_, ask, table, ordered, log, unit_bytes)
            numbers = _numbers(source, ordered.layers, ask, model)
            if numbers is not None:
                full["layer_numbers"] = numbers
            full |= dict(meta or {})
            make = functools.partial(TraceWriter, meta=full, compress=compress)
            return notes + _written(source, out, ask, table, ordered, make, progress)
    except OSError as problem:
        raise files.unwritable(out, problem, TraceError) from None


def _check(ask: Ask) -> None:
    """Refuse numbers that no model has.

    Raises:
        TraceError: names the option.
    """
    limits = {"experts": MOST_EXPERTS, "layers": MOST_LAYERS, "top_k": MOST_PER_TOKEN}
    for name, most in limits.items():
        given = getattr(ask, name)
        if given is not None and (type(given) is not int or not 1 <= given <= most):
            option = name.replace("_", "-")
            raise TraceError(f"--{option} {brief(given, 40)}: from 1 to {most}")


def _completed(ask: Ask, model: Model | None) -> Ask:
    """Return what is known of a log, the model included."""
    if model is None or model.experts is None:
        return ask
    with_experts = len(expert_layers(model))
    return replace(
        ask,
        layers=with_experts if ask.layers is None else ask.layers,
        top_k=model.experts_per_token if ask.top_k is None else ask.top_k,
    )


def expert_layers(model: Model) -> list[int]:
    """Return the numbers of a model's layers that have experts."""
    return [int(layer) for layer in np.flatnonzero(model.layer_units("expert"))]


def _known_experts(source: Path, ask: Ask, model: Model | None, log: Log) -> int | None:
    """Return the number of experts of a layer, by option, model or log; None where none says it.

    Raises:
        TraceError: the model is no mixture of experts, or the numbers differ.
    """
    if model is not None and model.experts is None:
        raise TraceError(f"model {brief(model.name, 60)} has no experts: give that of {source}")
    known = {
        "--experts": ask.experts,
        "the model": None if model is None else model.experts,
        str(source): log.experts,
    }
    stated = {place: number for place, number in known.items() if number is not None}
    if len(set(stated.values())) > 1:
        listed = ", ".join(f"{place} {number}" for place, number in stated.items())
        raise TraceError(f"experts of a layer differ: {listed}")
    return next(iter(stated.values()), None)


def _notes(ask: Ask, model: Model | None, log: Log, table: Table, ordered: Ordered) -> list[str]:
    """Return sentences on what was assumed of a log."""
    notes = list(dict.fromkeys(log.notes))
    if table.experts is None:
        largest = table.largest
        notes.append(
            f"{largest + 1} experts a layer, as its largest id is {largest}, unless a model or "
            "--experts says more"
        )
    if table.unknown:
        notes.append("some weights are nan, which is unknown: no scores are kept")
    if table.repeated:
        notes.append(
            f"{table.repeated} steps were routed again (rejected guesses): each is a token of its "
            "own"
        )
    if model is None and ask.layers_are is None and ordered.layers[0] != 0:
        notes.append(
            f"layers {_span(ordered.layers)} hold experts, taken as the model's numbers: "
            "--layers-are moe if they count layers with experts alone"
        )
    return notes


def _written(
    source: Path,
    out: Path,
    ask: Ask,
    table: Table,
    ordered: Ordered,
    make: Callable[..., TraceWriter],
    progress: Callable[[int, int], None] | None,
) -> list[str]:
    """Write the tokens of a log, and its guesses beside them; return what is to be said of it."""
    experts = table.experts or table.largest + 1
    block = max(1, _BLOCK_IDS // (len(ordered.layers) * table.width))
    done, notes = 0, []
    checked = _DecodeCheck(source)
    with ExitStack() as stack:
        make = functools.partial(make, experts=experts)
        writers = [stack.enter_context(make(out))]
        if ordered.guesses is not None:
            beside = guesses_path(out)
            writers.append(stack.enter_context(make(beside)))
            notes.append(f"its guesses are in {beside}: dipsim run {out} --prefetch {beside}")
        for part in ordered.blocks(block):
            whole = checked(part)
            marks = {"phase": whole.phase, "sequence": whole.sequence}
            writers[0].append({"expert": whole.ids, **_scores(whole, ask), **marks})
            if whole.guesses is not None:
                writers[1].append({"expert": whole.guesses, **marks})
            done += len(whole.phase)
            if progress is not None:
                progress(done, len(ordered.phase))
        if not done:
            raise TraceError(f"{source}: holds no whole token")
    return notes + checked.notes()


def _scores(block: Block, ask: Ask) -> dict[str, Array]:
    """Return weights, or ranks where the user says that ids are ranked; nothing without either."""
    if block.weights is not None:
        return {"expert.scores": block.weights}
    if not ask.rank_order:
        return {}
    k = block.ids.shape[2]
    ranks = np.broadcast_to(np.arange(k, 0, -1, dtype=np.float32), block.ids.shape)
    return {"expert.scores": ranks}


def guesses_path(out: Path) -> Path:
    """Return where the guesses of a log go, beside its trace."""
    if out.suffix == SUFFIX:
        return out.with_name(f"{out.stem}.guesses{SUFFIX}")
    return out.with_name(f"{out.name}.guesses")


class _DecodeCheck:
    """Checks that decode tokens have experts in every layer; the last one may be cut short."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.dropped = self.decoded = 0
        self.tokens = 0

    def __call__(self, block: Block) -> Block:
        """Return the block without a token that is cut short, which must be the log's last one."""
        empty = np.all(block.ids < 0, axis=2)
        bad = np.any(empty, axis=1) & (block.phase == DECODE)
        if self.dropped:
            self._fail(self.tokens - 1, "")
        cut = np.flatnonzero(bad)
        if len(cut) and cut[0] == len(bad) - 1:
            self.dropped = 1
            block = Block(
                *(None if part is None else part[:-1] for part in vars(block).values())  # type: ignore[arg-type]
            )
        elif len(cut):
            layer = int(np.flatnonzero(empty[cut[0]])[0])
            self._fail(self.tokens + int(cut[0]), f" in layer {layer} of those it has")
        self.tokens += len(bad)
        self.decoded += int((block.phase == DECODE).sum())
        return block

    def _fail(self, token: int, where: str) -> None:
        raise TraceError(
            f"{self.source}: decode token {token} has no experts{where}: rows are missing"
        )

    def notes(self) -> list[str]:
        """Return sentences on what was left out."""
        notes = []
        if self.dropped:
            notes.append("the last token lacks layers and is left out: the log ends within it")
        if not self.decoded:
            notes.append("all tokens are of prompts: a run measures decode tokens")
        return notes


def _numbers(source: Path, layers: list[int], ask: Ask, model: Model | None) -> list[int] | None:
    """Return the model's numbers of the layers of a log; None where they are not known.

    Raises:
        TraceError: they are not those of the model, or it cannot be told which are.
    """
    counted = layers == list(range(layers[0], layers[0] + len(layers))) and layers[0] <= 1
    if ask.layers_are == "moe" and not counted:
        raise TraceError(
            f"{source}: layers {_span(layers)} do not count from 0: --layers-are model"
        )
    if model is None:
        if ask.layers_are == "moe" or (ask.layers_are is None and layers[0] == 0 and counted):
            return None
        return layers
    own = expert_layers(model)
    as_model, as_moe = layers == own, counted and len(layers) == len(own)
    if (ask.layers_are != "moe" and as_model) or (ask.layers_are != "model" and as_moe):
        return own
    raise asked(
        source,
        f"holds layers {_span(layers)} ({len(layers)}), and model {brief(model.name, 40)} has "
        f"experts in {_span(own)} ({len(own)})",
        "the --model it is from, or --layers-are model|moe",
    )


def _span(numbers: list[int]) -> str:
    """Return numbers as a text: ``1 to 26``, or some of them."""
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
    return brief(", ".join(map(str, numbers)), 60)


def _meta(
    source: Path,
    format_: Format,
    ask: Ask,
    table: Table,
    ordered: Ordered,
    log: Log,
    unit_bytes: float | None,
) -> dict[str, Any]:
    """Return the meta of the trace: what the log says, and bytes by layer."""
    meta: dict[str, Any] = {
        "source": f"{format_.name} {source.name}",
        "experts_per_token": table.width,
        **log.meta,
    }
    expert: dict[str, Any] = {} if log.tensors is None else {"tensors": log.tensors}
    sizes = log.by_layer.get("unit_bytes", {})
    used = [sizes.get(layer, 0) for layer in ordered.layers]
    if any(used):
        if not all(used):
            bare = ordered.layers[used.index(0)]
            raise TraceError(f"{source}: layer {bare} has rows of experts, and no expert_bytes")
        expert["unit_bytes"] = used
    if table.experts is None:
        expert["assumed"] = True
    if unit_bytes is not None:
        expert["unit_bytes"] = unit_bytes
    if dense := log.by_layer.get("dense_bytes"):
        meta["dense_bytes"] = _gathered(dense, ordered.layers)
    return {**meta, "signals": {"expert": expert}} if expert else meta


def _gathered(sizes: Mapping[int, float], layers: list[int]) -> list[float]:
    """Return bytes by layer; those of layers without experts go to the next one with experts."""
    gathered = [0.0] * len(layers)
    for layer, size in sizes.items():
        place = int(np.searchsorted(layers, layer))
        gathered[min(place, len(layers) - 1)] += size
    return [int(size) if size == int(size) else size for size in gathered]
