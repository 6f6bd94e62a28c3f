"""LoRA adapters on the matrices of a model's MLPs: put in, kept in a folder, loaded, fused.

A mask multiplies the input of a matrix and of the adapter beside it: W x' + B A x' = (W + B A) x',
so an adapter fuses into its matrix whatever is masked.
"""

import copy
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import safetensors.torch
import torch
from torch import nn

from dipsim.errors import DipsimError, ModelError, brief
from dipsim.files import read_json, umask, whole_file
from dipsim.lm.quiet import quiet
from dipsim.lm.structure import find_structure

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ABOUT = "dipsim.json"
"""Beside peft's own files: which model the adapter is of, how it was trained, what it does."""


def fingerprint(model: nn.Module) -> str:
    """A hash of the weights, the same for a GGUF and the folder it was saved as."""
    made = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        made.update(f"{name} {tuple(weight.shape)}".encode())
        made.update(weight.detach().float().contiguous().cpu().numpy().data)
    return made.hexdigest()


def shared_copy(model: nn.Module) -> Any:
    """A model with modules of its own that shares the weights, frozen: adapters and masks that are
    put into one are not in the other."""
    memo = {id(at): nn.Parameter(at.data, requires_grad=False) for at in model.parameters()}
    return copy.deepcopy(model, memo)


def add_adapter(model: nn.Module, rank: int, name: str, seed: int = 0) -> peft.PeftModel:
    """Put an adapter that changes nothing yet beside gate, up and down (or fc1, fc2) of every MLP.

    Raises:
        ModelError: layers without an MLP, or matrices that peft cannot adapt.
    """
    layers = find_structure(model).layers
    matrices = {matrix for layer in layers for matrix in (*layer.mlp_input, layer.down)} - {None}
    if not matrices:
        raise ModelError(f"{name}: its layers have experts, no MLP: nothing an adapter goes beside")
    names = [at for at, module in model.named_modules() if module in matrices]
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
            made = peft.PeftModelForCausalLM(model, config)
        except ValueError as problem:
            raise ModelError(f"{name}: peft cannot adapt it ({brief(problem, 160)})") from None
    made.peft_config["default"].base_model_name_or_path = name
    return made


def save_adapter(model: peft.PeftModel, folder: Path, about: Mapping[str, Any]) -> None:
    """Write the files of an adapter, each whole, what it is about last."""
    config = model.peft_config["default"].to_dict()
    config["inference_mode"] = True
    config["target_modules"] = sorted(config["target_modules"])
    with whole_file(folder / WEIGHTS) as handle:
        handle.write(safetensors.torch.save(adapter_weights(model), {"format": "pt"}))
    for file, values in ((CONFIG, config), (ABOUT, about)):
        with whole_file(folder / file) as handle:
            handle.write(json.dumps(values, indent=1, default=list).encode())


def adapter_weights(model: peft.PeftModel) -> dict[str, torch.Tensor]:
    """The adapter's tensors under the names that peft gives them in files."""
    # without a look at embeddings, for which peft would ask a server
    found: dict[str, torch.Tensor] = peft.get_peft_model_state_dict(
        model, save_embedding_layers=False
    )
    return found


def load_adapter(model: nn.Module, folder: str | Path) -> peft.PeftModel:
    """Put the adapter that a folder holds into the model it is of.

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
    try:
        with quiet():
            return peft.PeftModel.from_pretrained(model, str(folder)).eval()
    except Exception as problem:  # of any kind: the libraries check little and raise what comes
        raise ModelError(f"{folder}: not a readable adapter ({brief(problem, 160)})") from None


def fuse(model: peft.PeftModel) -> Any:
    """The model without the adapter, which its matrices now hold: W + B A.

    It is the model the adapter was put into that changes, and what shares its weights.
    """
    return model.merge_and_unload(safe_merge=True)


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a model and its tokenizer as a Hugging Face folder, whole or not at all.

    Raises:
        DipsimError: it cannot be written.
    """
    check_new(folder)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with quiet():
            model.save_pretrained(made)
            tokenizer.save_pretrained(made)
        made.chmod(0o777 & ~umask())
        made.rename(folder)
    except Exception as problem:  # safetensors has errors of its own for a full disk
        raise DipsimError(f"{folder}: cannot be written ({brief(problem, 160)})") from None
    finally:
        shutil.rmtree(made, ignore_errors=True)


def check_new(folder: Path) -> None:
    """A folder that can be made.

    Raises:
        DipsimError: it is there, or nothing it could be made in.
    """
    if folder.exists():
        raise DipsimError(f"{folder}: exists; give a new folder")
    if not folder.parent.is_dir():
        raise DipsimError(f"{folder}: no such folder as {folder.parent} to make it in")
