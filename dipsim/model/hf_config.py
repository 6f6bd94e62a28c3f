"""Geometry out of a Hugging Face `config.json`."""

import os
from pathlib import Path
from typing import Any

from dipsim import files
from dipsim.errors import ModelError
from dipsim.model.families import geometry_of

FILE = "config.json"


def is_hf_config(path: Path) -> bool:
    """Return True for a `.json` file or a folder that holds `config.json`."""
    return path.suffix == ".json" or os.path.isfile(path / FILE)


def read_hf_config(path: Path) -> dict[str, Any]:
    """Read the geometry in a `config.json` or a folder with one, in the form `load_model` takes.

    Raises:
        ModelError: an unreadable file, or an unknown architecture.
    """
    file = path / FILE if os.path.isdir(path) else path
    config = files.read_json(file, ModelError)
    return geometry_of(config, str(file), file.absolute().parent.name)
