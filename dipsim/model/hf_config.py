"""Geometry out of a Hugging Face `config.json`."""

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dipsim import files
from dipsim.errors import ModelError
from dipsim.model.families import UnknownFamilyError, geometry_of

FILE = "config.json"
BUILDER = "dipsim.lm.built"


def is_hf_config(path: Path) -> bool:
    """Return True for a `.json` file or a folder that holds `config.json`."""
    return path.suffix == ".json" or os.path.isfile(path / FILE)


def read_hf_config(path: Path) -> dict[str, Any]:
    """Read the geometry in a `config.json` or a folder with one, in the form `load_model` takes.

    A ``model_type`` that no row of the table of families has is built by transformers, without
    weights, where that is installed.

    Raises:
        ModelError: an unreadable file, or an unknown architecture.
    """
    file = path / FILE if os.path.isdir(path) else path
    config = files.read_json(file, ModelError)
    name = file.absolute().parent.name
    try:
        return geometry_of(config, str(file), name)
    except UnknownFamilyError as unknown:
        if any(find_spec(library) is None for library in ("torch", "transformers")):
            raise ModelError(
                f"{unknown}: pip install 'dipsim[torch]' reads what transformers knows; or write "
                "its geometry as YAML, see dipsim models NAME"
            ) from None
    # Builds it without weights; the name keeps this package free of what runs models
    built: dict[str, Any] = import_module(BUILDER).geometry_of_config(config, str(file), name)
    return built
