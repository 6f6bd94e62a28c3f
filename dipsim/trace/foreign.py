"""Files that are plainly no traces: what they are, and how a trace comes of them."""

import os
from pathlib import Path

from dipsim import files
from dipsim.errors import TraceError


def check_trace_file(path: Path) -> None:
    """Refuse a file that is plainly something else than a trace.

    Raises:
        TraceError: says what it is, and what to do with it.
    """
    kind = files.kind_of(path)
    if kind == "a folder":
        try:
            names = os.listdir(path)
        except OSError as problem:
            raise TraceError(f"{path}: cannot be read: {problem.strerror}") from None
        arrays = [name for name in names if Path(name).suffix in _ARRAYS]
        shards = any(name.startswith("part-") for name in arrays)
        way = _WAYS["weights"] if arrays and not shards else None
    else:
        way = _WAYS.get(kind or "")
    misnamed = kind == "one array" and path.suffix != ".npy"
    if way is not None and not misnamed:
        raise TraceError(f"{path}: {kind}, no trace: {way.format(path=path, stem=path.stem)}")


def way_to_trace(path: Path) -> str | None:
    """Return what a file is that holds no arrays, and how a trace comes of it; None if unknown."""
    kind = files.kind_of(path)
    if kind is None or kind not in _WAYS:
        return None
    return f"{kind}: {_WAYS[kind].format(path=path, stem=path.stem)}"


_ARRAYS = (".npy", ".npz", ".safetensors")
_RECORD = "record one with dipsim record {path} t.npz --prompt TEXT"
_TEXT = (
    "read its numbers into an array x in Python, [tokens, layers, units], and write it with "
    "np.savez('t.npz', expert=x); dipsim import --list shows the routing logs that are read"
)
_WAYS = {
    "lines of JSON": _TEXT,
    "a text": _TEXT,
    "one array": "dipsim import {path} t.npz --map glu={stem}",
    "weights": "of arrays make one with dipsim import {path} t.npz --map glu=NAME",
    "a pickle": "dipsim opens no pickle; save its tensors in Python, "
    "d = torch.load('{path}', weights_only=True); "
    "np.savez('t.npz', **{{name: d[name].numpy() for name in d}}), and import those",
    "an archive": "unpack it; of the .npy files in it dipsim import FOLDER t.npz makes one",
    "a GGUF model": _RECORD + ", or give it as --model",
    "a model folder": _RECORD + ", or give it as --model",
    "a model config": "give it as --model, and first the trace of such a model",
    "a model": "give it as --model, and first the trace of such a model",
    "a profile": "give it as --profile, and first a trace",
    "a result": "dipsim run --config {path} repeats it",
    "a routing log": "dipsim import {path} t.npz",
    "a table": "of a row of scores for each token np.savez('t.npz', "
    "glu=np.loadtxt('{path}', delimiter=',')[:, None]) makes one",
}
