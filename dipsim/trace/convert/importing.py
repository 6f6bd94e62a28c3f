"""Import of files of other programs as a trace."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dipsim.errors import DipsimError, check_pairs, check_text
from dipsim.files import path_of
from dipsim.model import Model, load_model
from dipsim.trace.convert.arrays import import_arrays
from dipsim.trace.convert.routes import import_routes, is_routes
from dipsim.trace.encoding import Encoding
from dipsim.trace.meta import plain_meta
from dipsim.trace.trace import Trace, load_trace
from dipsim.trace.vectors import VectorEncoding


def import_(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    names: Mapping[str, str] | None = None,
    encodings: Mapping[str, Encoding | VectorEncoding] | None = None,
    model: str | os.PathLike[str] | Mapping[str, Any] | Model | None = None,
    meta: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trace:
    """Make a trace out of arrays, or of a phone's log of experts, and open it.

    Args:
        source: a `.npy`, `.npz` or `.safetensors` file, a folder of them, or a route_trace CSV.
        out: a `.npz` file, or a new folder of shards.
        names: per signal (or phase, sequence, token_id) the array's name, e.g.
            ``{"glu": "layers.*.acts"}``; ``*`` stands for the number of the layer. Default: arrays
            that are named like signals.
        encodings: per signal float16, float32, log8, bool, bits or sparse; of vectors int8.
        model: what the trace is from; kept in it.
        meta: further entries of its meta, e.g. ``source`` and ``license``.
        progress: called with (tokens done, tokens), or bytes of a CSV.

    Returns:
        The trace; its ``warnings`` say what was changed.

    Raises:
        DipsimError: files that are unreadable, or hold no trace; ``out`` is one of them.
    """
    check_pairs("names", names, '{"glu": "layers.*.acts"}')
    for name in (names or {}).values():
        check_text("names", name, "the name of an array")
    check_pairs("encodings", encodings, '{"glu": "log8"}')
    kept = plain_meta({} if meta is None else meta)
    if model is not None:
        kept["model"] = load_model(model).model_dump(mode="json", exclude_unset=True)
    path, target = path_of(source, "source"), path_of(out)
    notes: list[str] = []
    if not is_routes(path):
        notes = import_arrays(
            path, target, names=names, encodings=encodings, meta=kept, progress=progress
        )
    elif names or encodings:
        raise DipsimError("--map and --encoding are for arrays: a route CSV has neither")
    else:
        import_routes(path, target, meta=kept, progress=progress)
    written = load_trace(Path(target))
    return replace(written, warnings=(*written.warnings, *notes))
