"""LoRA adapters beside the matrices of a model's MLPs: added, saved in a folder, loaded, fused.

A mask multiplies the input of a matrix and of its adapter: W x' + B A x' = (W + B A) x', so an
adapter fuses exactly into its matrix under any mask.
"""

import copy
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import safetensors
import safetensors.torch
import torch
from torch import nn

from dipsim.errors import DipsimError, ModelError, brief
from dipsim.files import check_destination, read_json, unwritable, whole_file, whole_folder
from dipsim.lm.quiet import quiet
from dipsim.lm.structure import find_structure

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MOST_RANK = 2**14
ABOUT = "dipsim.json"
"""File beside peft's own: the adapter's model, its recipe, and its figures."""


def fingerprint(model: nn.Module) -> str:
    """Return a hash of the weights, the same for a GGUF and the folder it was saved as."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().float().contiguous().cpu().numpy().data)
    return digest.hexdigest()


def shared_copy(model: nn.Module) -> Any:
    """Copy a model's modules but share its weights, frozen.

    Adapters and masks that are added to one are not in the other.
    """
    memo = {id(p): nn.Parameter(p.data, requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, memo)


def add_adapter(model: nn.Module, rank: int, name: str, seed: int = 0) -> peft.PeftModel:
    """Add an adapter beside gate, up and down (or fc1, fc2) of every MLP; it starts without effect.

    Raises:
        ModelError: layers without an MLP, or matrices that peft cannot adapt.
    """
    layers = find_structure(model).layers
    matrices = {matrix for layer in layers for matrix in (*layer.mlp_input, layer.down)} - {None}
    if not matrices:
        raise ModelError(f"{name}: its layers have experts, no MLP: nothing an adapter goes beside")
    names = [path for path, module in model.named_modules() if module in matrices]
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=names,
        base_model_name_or_path=name,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        try:
            adapted = peft.PeftModelForCausalLM(model, config)
        except ValueError as problem:
            raise ModelError(f"{name}: peft cannot adapt it ({brief(problem, 160)})") from None
    adapted.peft_config["default"].base_model_name_or_path = name
    return adapted


def save_adapter(model: peft.PeftModel, folder: Path, about: Mapping[str, Any]) -> None:
    """Write the files of an adapter, each whole or not at all, ``dipsim.json`` last."""
    config = model.peft_config["default"].to_dict()
    config["inference_mode"] = True
    config["target_modules"] = sorted(config["target_modules"])
    with whole_file(folder / WEIGHTS) as handle:
        handle.write(safetensors.torch.save(adapter_weights(model), {"format": "pt"}))
    for file, values in ((CONFIG, config), (ABOUT, about)):
        with whole_file(folder / file) as handle:
            handle.write(json.dumps(values, indent=1, default=list).encode())


def adapter_weights(model: peft.PeftModel) -> dict[str, torch.Tensor]:
    """Return the adapter's tensors under the names that peft gives them in files."""
    # leave embeddings out: to look at them, peft would ask a server
    tensors: dict[str, torch.Tensor] = peft.get_peft_model_state_dict(
        model, save_embedding_layers=False
    )
    return tensors


def load_adapter(model: nn.Module, folder: str | Path) -> peft.PeftModel:
    """Add the adapter that a folder holds to its model, and return the two together.

    Only the weights are read, as numbers; peft's own configuration could name code.

    Raises:
        ModelError: no such folder, files missing or damaged, or an adapter of another model.
    """
    folder = Path(folder)
    for file in (ABOUT, CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise ModelError(f"{folder}: holds no {file}; give a folder that dipsim lora finished")
    about = read_json(folder / ABOUT, ModelError)
    if about.get("weights") != fingerprint(model):
        raise ModelError(
            f"{folder}: an adapter of another model, {brief(about.get('model', 'unknown'))} with "
            "other weights: give the one it was trained on"
        )
    path = folder / WEIGHTS
    try:
        rank = _rank_of(path)
        adapted = add_adapter(model, rank, brief(about.get("model", "unknown")))
        tensors = read_tensors(path, adapter_weights(adapted))
    except Exception as problem:  # the libraries check little, so any error may surface
        raise ModelError(f"{folder}: not a readable adapter ({brief(problem, 160)})") from None
    with quiet():
        peft.set_peft_model_state_dict(adapted, tensors)
    return adapted.requires_grad_(False).eval()


def read_tensors(path: Path, like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read the tensors of a safetensors file; none is read before all shapes are known to be right.

    Args:
        like: tensors with the names and shapes that the file must have.

    Raises:
        ValueError: other names or shapes, or numbers that are not finite.
        safetensors.SafetensorError: not such a file, or cut.
    """
    with safetensors.safe_open(path, "pt") as file:
        names = set(file.keys())
        if names != like.keys():
            raise ValueError("lacks weights" if like.keys() - names else "has other weights")
        for name, weight in like.items():
            shape = list(file.get_slice(name).get_shape())
            if shape != list(weight.shape):
                raise ValueError(f"shape {shape}, not {list(weight.shape)}, of {name}")
        tensors = {name: file.get_tensor(name) for name in names}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise ValueError(f"no finite number in {name}")
    return tensors


def _rank_of(path: Path) -> int:
    """Return the rank of the adapter in a safetensors file.

    Raises:
        ValueError: it has no such matrices.
        safetensors.SafetensorError: not such a file, or cut.
    """
    with safetensors.safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 - the file is no mapping
            if name.endswith(".lora_A.weight"):
                rank = int(file.get_slice(name).get_shape()[0])
                if 1 <= rank <= MOST_RANK:
                    return rank
    raise ValueError(f"no matrices of rank 1 to {MOST_RANK}")


def fuse(model: peft.PeftModel) -> Any:
    """Return the model with its adapter merged into the matrices: W + B A.

    The model that the adapter was added to changes, and with it all that share its weights.
    """
    return model.merge_and_unload(safe_merge=True)


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a model and its tokenizer as a Hugging Face folder, whole or not at all.

    Raises:
        DipsimError: the folder cannot be written.
    """
    check_new(folder)
    try:
        with whole_folder(folder) as unfinished, quiet():
            model.save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)
    except Exception as problem:  # safetensors has errors of its own for a full disk
        raise DipsimError(f"{folder}: cannot be written ({brief(problem, 160)})") from None


def check_new(folder: Path) -> None:
    """Check that a folder can be made.

    Raises:
        DipsimError: the folder exists, its parent does not, or its name leads nowhere.
    """
    if os.path.lexists(folder):
        raise DipsimError(f"{folder}: exists; give a new folder")
    try:
        check_destination(folder)
    except OSError as problem:
        raise unwritable(folder, problem) from None
