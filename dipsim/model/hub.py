"""Models in the cache of the Hugging Face hub, by their id; nothing is asked of the network.

The cache is a folder ``models--org--name`` per model: ``refs/main`` names the snapshot that was
downloaded last, ``snapshots/<commit>`` holds its files (links into ``blobs``).
"""

import os
import re
from pathlib import Path

from dipsim import files
from dipsim.errors import ModelError

_ID = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*", re.ASCII)
_COMMIT = re.compile(r"[\w-][\w.-]*", re.ASCII)


def is_hub_id(given: str | os.PathLike[str]) -> bool:
    """Return True for ``org/name``, where no file has that path."""
    text = str(given)
    return text.count("/") == 1 and bool(_ID.fullmatch(text)) and not os.path.lexists(text)


def cache_folder() -> Path:
    """Return the folder of the cache, as ``huggingface_hub`` finds it by the environment."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if folder := os.environ.get(variable):
            return Path(folder).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "huggingface" / "hub"


def find_snapshot(given: str | os.PathLike[str]) -> Path | None:
    """Return the folder of a model's files in the cache; None where it was not downloaded.

    Args:
        given: ``org/name``, or ``name`` of one of the hub's first models, e.g. ``gpt2``.
    """
    text = str(given)
    if not _ID.fullmatch(text):
        return None
    model = cache_folder() / f"models--{text.replace('/', '--')}"
    snapshots = model / "snapshots"
    reference = model / "refs" / "main"
    if os.path.isfile(reference):
        commit = files.read_text(reference, ModelError).strip()
        if _COMMIT.fullmatch(commit) and os.path.isdir(snapshots / commit):
            return snapshots / commit
    if not os.path.isdir(snapshots):
        return None
    kept = sorted(path for path in snapshots.iterdir() if path.is_dir())
    return kept[0] if len(kept) == 1 else None


def how_to_download(given: str | os.PathLike[str], what: str = "") -> str:
    """Return the words of an error that tell how a hub id gets into the cache.

    Args:
        what: options of ``hf download`` for the files that are needed; default: all.
    """
    return f"not in the Hugging Face cache ({cache_folder()}): run hf download {given}{what} first"
