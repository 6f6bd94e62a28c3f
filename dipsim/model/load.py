"""Loading a model: by the name of a preset, from YAML, `config.json` or GGUF, or from a mapping."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dipsim import files
from dipsim.errors import ModelError, brief, first_problem, not_taken
from dipsim.model import gguf, hf_config, hub, safetensors
from dipsim.model.formats import FORMAT_BITS, weight_format
from dipsim.model.model import Model, without_parts

FOLDER, SUFFIX = "model/presets", ".yaml"


def load_model(
    given: str | os.PathLike[str] | Mapping[str, Any] | Model,
    bits: float | None = None,
    stored_as: str | None = None,
) -> Model:
    """Load a model by the name of a preset, from a file, or from a mapping of its geometry.

    Args:
        given: a preset's name, a YAML file, a Hugging Face `config.json` or the folder it lies in,
            a GGUF file (its header is read), or a mapping such as ``{"layers": 32, ...}``. A
            mapping of nothing but ``name`` (and ``bits`` or ``quant``) names a preset.
        bits: bits per weight, scales included, in place of the model's own storage.
        stored_as: weight format, e.g. ``q4_0``, in place of the model's own; without ``bits`` it
            takes its usual ones.

    Raises:
        ModelError: unknown name, unreadable file, unknown or missing key, impossible value.
    """
    if isinstance(given, Model):
        data, where = given.model_dump(mode="json", exclude_unset=True), given.name
    elif isinstance(given, Mapping):
        data, where = dict(given), str(given.get("name", "unnamed"))
        if set(data) <= {"name", "bits", "quant"} and "name" in data:
            data = {**_preset(str(data["name"])), **data}
    elif isinstance(given, str | os.PathLike):
        data, where = _read(given), str(given)
    else:
        takes = "the name of a preset, a file, or a geometry such as {layers: 32, ...}"
        raise ModelError(not_taken("model", given, takes))
    if stored_as is not None and not isinstance(stored_as, str):
        raise ModelError(not_taken("weight format", stored_as, "a name such as q4_0"))
    if stored_as is not None:
        stored_as = weight_format(stored_as) or stored_as
        bits = _usual_bits(stored_as) if bits is None else bits
    if bits is not None:
        data = {**without_parts(data), "bits": bits}
    if stored_as is not None:
        data = {**data, "weight_format": stored_as}
    try:
        return Model.model_validate(data)
    except ValidationError as problem:
        raise ModelError(f"model {where}: {first_problem(problem)}") from None


def _usual_bits(stored_as: str) -> float:
    """Return the bits per weight of a format.

    Raises:
        ModelError: a format that dipsim does not know.
    """
    if stored_as not in FORMAT_BITS:
        raise ModelError(
            f"--weight-format {brief(stored_as)}: its bits are not known: add --bits, or give one "
            f"of {', '.join(FORMAT_BITS)}"
        )
    return FORMAT_BITS[stored_as]


def model_names() -> list[str]:
    """Return the names of the presets."""
    return files.shipped_names(FOLDER, SUFFIX)


def _preset(name: str) -> dict[str, Any]:
    if name not in model_names():
        raise ModelError(f"no model preset {name!r}: use one of {', '.join(model_names())}")
    return files.read_yaml(files.shipped(FOLDER) / f"{name}{SUFFIX}", ModelError)


_WAYS: Mapping[files.Kind | None, str] = {
    "a trace": "give it first, dipsim run TRACE --model NAME",
    "one array": "dipsim import makes a trace of it",
    "a folder": "a model's holds config.json; give that, a GGUF, a YAML file or a preset",
    "weights": "the sizes are in the config.json beside it: give that, or the folder",
    "a pickle": "the sizes are in the config.json beside it: give that, or the folder",
    "an archive": "unpack it, and give the config.json in it",
    "a profile": "give it as --profile",
    "a result": "dipsim run --config FILE repeats it, its model included",
    "a routing log": "dipsim import makes a trace of it",
    "a table": "a model is YAML, config.json or GGUF",
}


def _read_snapshot(name: str, snapshot: Path) -> dict[str, Any]:
    """Read the geometry of a model in the cache of the hub.

    Raises:
        ModelError: neither a config.json nor one GGUF was downloaded.
    """
    if os.path.isfile(snapshot / hf_config.FILE):
        geometry = hf_config.read_hf_config(snapshot)
        return {**_with_weights(geometry, snapshot), "name": name[:80]}
    ggufs = sorted(snapshot.glob(f"*{gguf.SUFFIX}"))
    if ggufs and (len(ggufs) == 1 or len({gguf.name_of(path) for path in ggufs}) == 1):
        return gguf.read_gguf(ggufs[0])
    if ggufs:
        listed = ", ".join(path.name for path in ggufs)
        raise ModelError(f"{name}: has several GGUF files, give one: {snapshot} holds {listed}")
    raise ModelError(
        f"{name}: no config.json in {snapshot}: run hf download {name} {hf_config.FILE} first"
    )


def _with_weights(geometry: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a geometry with the bytes of the weights that lie beside its config, if any do.

    Args:
        path: of the config, or of its folder.
    """
    if not os.path.isdir(path) and path.name != hf_config.FILE:
        return geometry
    paths = safetensors.weight_files(path if os.path.isdir(path) else path.parent)
    return safetensors.with_storage(geometry, paths) if paths else geometry


def _of_weights(path: Path) -> dict[str, Any]:
    """Read the geometry of a file of weights: that of the config beside it, in its own bytes.

    Raises:
        ModelError: there is no config beside it.
    """
    folder = path.absolute().parent
    if not os.path.isfile(folder / hf_config.FILE):
        raise ModelError(
            f"{path}: weights without a {hf_config.FILE} beside them, which has the sizes: put it "
            "there, or give a YAML file"
        )
    geometry = hf_config.read_hf_config(folder)
    return safetensors.with_storage(geometry, safetensors.weight_files(path))


def _read(given: str | os.PathLike[str]) -> dict[str, Any]:
    path = files.find(given, FOLDER, SUFFIX)
    if path is None and (snapshot := hub.find_snapshot(given)) is not None:
        return _read_snapshot(str(given), snapshot)
    if path is None:
        known, meant = ", ".join(model_names()), files.nearest(given, "model")
        if hub.is_hub_id(given):
            meant = hub.how_to_download(given, f" {hf_config.FILE}") + "; or "
        raise ModelError(
            f"no model {str(given)!r}: {meant}give a YAML file, a config.json, a GGUF, or one of "
            f"{known}"
        )
    if path.suffix == ".safetensors" and path.is_file():
        return _of_weights(path)
    if (kind := files.kind_of(path)) in _WAYS:
        raise ModelError(f"{path}: {kind}, no model: {_WAYS[kind]}")
    if path.suffix == gguf.SUFFIX:
        return gguf.read_gguf(path)
    if hf_config.is_hf_config(path):
        return _with_weights(hf_config.read_hf_config(path), path)
    return files.read_yaml(path, ModelError)
