"""Synthesis of a trace: fit one, draw another, write it."""

import os
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

from dipsim.errors import check_pairs, check_type
from dipsim.files import path_of, refuse_same
from dipsim.model import Model, load_model
from dipsim.trace.archive import Compress
from dipsim.trace.checks import names_of
from dipsim.trace.encoding import Encoding
from dipsim.trace.load import load_trace
from dipsim.trace.synth.draw import draw, geometry_of
from dipsim.trace.synth.fit import TraceFit, fit_trace
from dipsim.trace.trace import Trace
from dipsim.trace.writer import TraceWriter


def synth(
    out: str | os.PathLike[str],
    like: str | os.PathLike[str] | Mapping[str, Any] | Trace = "smollm2-chat",
    *,
    model: str | os.PathLike[str] | Mapping[str, Any] | Model | None = None,
    tokens: int | None = None,
    signals: Sequence[str] | None = None,
    encodings: Mapping[str, Encoding] | None = None,
    seed: int = 0,
    iid: bool = False,
    compress: Compress = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Trace:
    """Write a synthetic trace and open it.

    Args:
        out: a `.npz` file, or a new folder of shards (for gigabytes).
        like: the trace that is fitted: path, name of a shipped one, arrays, or a `Trace`.
        model: the geometry: preset, file, mapping or `Model`; default: the fitted trace's own.
        tokens: number of tokens; default: as many as the fitted trace has.
        signals: names of some of the fitted trace's signals; default: all.
        encodings: encodings per signal; default: the fitted trace's.
        seed: seed of all random numbers.
        iid: independent scores, under which every policy hits C / N: for checks only.
        compress: see `TraceWriter`.
        progress: called with (tokens done, tokens).

    Raises:
        DipsimError: a trace that cannot be fitted, an unknown model, a path that cannot be written.
    """
    source = load_trace(like)
    path = path_of(out)
    check_pairs("encodings", encodings, '{"glu": "log8"}')
    check_type("tokens", tokens, Integral, "how many")
    check_type("seed", seed, Integral, "a whole number")
    check_type("iid", iid, bool, "True or False")
    refuse_same(path, source.paths)
    fit = fit_trace(source, names_of(signals))
    target = None if model is None else load_model(model)
    count = source.tokens if tokens is None else tokens
    stored = {key: signal.encoding for key, signal in fit.signals.items()} | dict(encodings or {})
    blocks = draw(fit, geometry_of(fit, target), count, seed, iid=iid)
    meta = _meta(source, fit, target, seed, iid)
    with TraceWriter(path, meta=meta, encodings=stored, compress=compress) as writer:
        for block in blocks:
            writer.append({key: values for key, values in block.items() if key != "kind"})
            if progress is not None:
                progress(writer.tokens, count)
    return load_trace(path)


def _meta(
    source: Trace, fit: TraceFit, model: Model | None, seed: int, iid: bool
) -> dict[str, Any]:
    origin = "independent random scores with the marginals of" if iid else "synthetic, fitted to"
    meta: dict[str, Any] = {
        "source": f"{origin} {fit.source} (hash {fit.hash[:16]}), seed {seed}: dipsim synth"
    }
    if model is not None:
        meta["model"] = model.model_dump(mode="json", exclude_unset=True)
    elif source.model is not None:
        meta["model"] = source.model
    kept = {}
    for key in fit.signals:
        declared = dict(source.signals[key].declared)
        if model is not None:
            declared.pop("unit_bytes", None)
        kept[key] = declared
    meta["signals"] = kept
    return meta
