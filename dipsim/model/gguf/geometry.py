"""The geometry of a GGUF file: parameters and bytes are those of its tensors, the rest its keys."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dipsim.errors import ModelError, brief
from dipsim.model.gguf.architectures import ARCHITECTURES, Windows
from dipsim.model.gguf.files import Opened, open_model
from dipsim.model.gguf.header import Tensor
from dipsim.model.gguf.tensors import LayerTensors, Parts, quant_of, sort_tensors, storage_of
from dipsim.model.layer import Layer
from dipsim.model.stacked import in_kinds
from dipsim.model.storage import Part

_MOST_LAYERS, _WIDEST = 2**12, 2**26
_STATE_BITS = 32.0  # llama.cpp keeps states in float32
_STREAMED: tuple[Part, ...] = ("gate", "up", "down")
_BESIDE: tuple[Part, ...] = ("router", "shared")


def read_gguf(path: Path) -> dict[str, Any]:
    """Read the geometry and storage of a GGUF model, in the form `load_model` takes.

    Every weight that the headers list is counted, in the bytes of its type; where a key says
    otherwise, ``approximate`` tells. Of a split model any shard may be given.

    Raises:
        ModelError: no GGUF, absurd counts, cut short, no language model, an architecture that is
            not known, or a shard without the others.
    """
    opened = open_model(path)
    return _Reader(path, opened).geometry()


class _Reader:
    """Reads the keys of an architecture, and what its tensors are."""

    def __init__(self, path: Path, opened: Opened) -> None:
        self.path, self.values = path, opened.values
        arch = opened.values.get("general.architecture")
        if not isinstance(arch, str):
            raise ModelError(f"{path}: names no general.architecture: not a language model")
        if arch not in ARCHITECTURES:
            raise ModelError(
                f"{path}: architecture {brief(arch, 40)!r} is not known (known: "
                f"{', '.join(sorted(ARCHITECTURES))}): write its geometry as YAML, see dipsim "
                "models NAME"
            )
        if not any(len(tensor.shape) > 1 for tensor in opened.tensors):
            raise ModelError(f"{path}: holds no weight matrices (only a vocabulary?)")
        self.arch, self.name = arch, opened.values.get("general.name") or opened.name
        self.hidden = self._needed("hidden", "embedding_length", _WIDEST)
        listed = self._needed("layers", "block_count", _MOST_LAYERS)
        ahead = self.number("nextn_predict_layers") or 0
        self.layers = listed - ahead if 0 < ahead < listed else listed
        used, self.ahead = self._without_ahead(opened.tensors, listed)
        self.stack, self.outside = sort_tensors(used, self.hidden, self.layers)
        self.remarks: list[str] = []
        for number, layer in enumerate(self.stack):
            if not layer.shapes:
                raise ModelError(
                    f"{path}: lists no tensors of layer {number} of {self.layers}: a part of a "
                    "model"
                )

    def _needed(self, what: str, key: str, most: int) -> int:
        value = self.values.get(f"{self.arch}.{key}")
        if value is None:
            raise ModelError(f"{self.path}: {what} is missing: the file has no {self.arch}.{key}")
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ModelError(
                f"{self.path}: {self.arch}.{key} is {brief(value, 40)}: {what} from 1 to {most}"
            )
        return value

    def _without_ahead(
        self, tensors: Sequence[Tensor], listed: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the tensors that decoding uses, and those of layers that predict further tokens
        (MTP)."""
        starts = tuple(f"blk.{layer}." for layer in range(self.layers, listed))
        ahead = [tensor for tensor in tensors if starts and tensor.name.startswith(starts)]
        if not ahead:
            return list(tensors), []
        return [tensor for tensor in tensors if not tensor.name.startswith(starts)], ahead

    def number(self, key: str, layer: int | None = None) -> int | None:
        """Return a number by its key; of a list, which has one per layer, that of the layer."""
        value = self.values.get(f"{self.arch}.{key}")
        if isinstance(value, list):
            if layer is None:
                value = value[0] if len(set(value)) == 1 else None
            else:
                value = value[layer] if layer < len(value) else None
        if not isinstance(value, int) or isinstance(value, bool):
            return None
        return value if 0 <= value < 2**40 else None

    def geometry(self) -> dict[str, Any]:
        """Return the whole geometry."""
        layers = [self._layer(number, layer) for number, layer in enumerate(self.stack)]
        self._compare_keys()
        beside, model = self._outside()
        stored = self._storage(layers, beside)
        geometry = {
            "name": str(self.name)[:80],
            "hidden": self.hidden,
            **in_kinds(layers),
            **model,
            "context": self.number("context_length") or None,
            **stored,
        }
        if self.ahead:
            weights = sum(tensor.weights for tensor in self.ahead)
            geometry["sources"] = {
                "parameters": f"without {weights:,} that predict further tokens (MTP)"
            }
        if self.remarks:
            geometry["approximate"] = "; ".join(dict.fromkeys(self.remarks))
        return {key: value for key, value in geometry.items() if value is not None}

    # Layers

    def _layer(self, number: int, layer: LayerTensors) -> dict[str, Any]:
        """Return the keys of one layer; what its shapes do not give is ``extra_parameters``."""
        experts = layer.experts
        keys: dict[str, Any] = {
            **self._heads(number, layer),
            "intermediate": self._width(layer),
            "gated": layer.gated,
            "experts": experts,
            "experts_per_token": self.number("expert_used_count", number) if experts else None,
            "shared_intermediate": layer.shared if experts else None,
        }
        keys |= self._mixer(number, layer, keys)
        held = Counter({part: stored.weights for part, stored in layer.parts.items()})
        shape = Layer.model_construct(
            hidden=self.hidden, **{key: value for key, value in keys.items() if value is not None}
        )
        mixer = held["attention"]
        if mixer != shape.mixer_parameters or shape.mixer in ("latent", "state"):
            keys["attention_parameters"] = mixer
        norms = shape.layer_norm_parameters // self.hidden
        keys["norms"] = layer.norms if layer.norms != norms else None
        mlp = sum(held[part] for part in (*_STREAMED, *_BESIDE))
        extra = held["other"] + mlp - shape.mlp_parameters
        if extra < 0:
            self.remarks.append(
                f"layer {number} has {mlp:,} weights in its MLP, its shapes give "
                f"{shape.mlp_parameters:,}"
            )
        keys["extra_parameters"] = max(extra, 0) or None
        return keys

    def _width(self, layer: LayerTensors) -> int:
        """Return the width of an MLP, as of matrices that are as wide as the model: some models
        narrow what their experts see."""
        seen = layer.axis("ffn_down_exps", 1) or self.hidden
        narrow = seen != self.hidden and layer.width * seen % self.hidden == 0
        return layer.width * seen // self.hidden if narrow else layer.width

    def _heads(self, number: int, layer: LayerTensors) -> dict[str, Any]:
        """Return heads and their sizes, those of windows apart where the file has such."""
        usual = self.number("attention.head_count") or self._first("attention.head_count") or 1
        heads = self.number("attention.head_count", number) or usual
        stated = self.number("attention.head_count_kv", number)
        swa = "_swa" if self._window(number) is not None else ""
        mla = "_mla" if layer.has("attn_kv_a_mqa") else ""
        key = self._size("key_length", mla, swa) or max(self.hidden // heads, 1)
        value = self._size("value_length", mla, swa) or key
        rows = 0 if mla else (layer.axis("attn_k", 1) or 0)
        stored = rows // key if rows % key == 0 else 0
        if stated and stored and stored != stated:
            self.remarks.append(f"layer {number} has {stored} KV heads, the keys say {stated}")
        kv_heads = stored or stated or self._first("attention.head_count_kv") or heads
        return {
            "heads": heads,
            "kv_heads": min(kv_heads, heads),
            "head_dim": key,
            "value_dim": value if value != key else None,
        }

    def _size(self, key: str, *endings: str) -> int | None:
        """Return the size of a head by the first of the keys that is there, with an ending or
        without one."""
        for ending in (*(each for each in endings if each), ""):
            if found := self.number(f"attention.{key}{ending}"):
                return found
        return None

    def _first(self, key: str) -> int | None:
        """Return the first number of a list that is not 0."""
        value = self.values.get(f"{self.arch}.{key}")
        found = [self.number(key, i) for i in range(len(value))] if isinstance(value, list) else []
        return next((each for each in found if each), None)

    def _mixer(self, number: int, layer: LayerTensors, keys: Mapping[str, Any]) -> dict[str, Any]:
        """Return what mixes positions in a layer, and what it caches of them."""
        state = self._state(layer, keys)
        linear = layer.has("ssm_conv1d_q") or not layer.has("attn_output", "attn_qkv")
        linear = linear or (layer.begins("ssm_") and not layer.has("attn_output"))
        if state is not None and linear:
            return {"attention": "state", "attention_parameters": 0, **state}
        if layer.has("attn_kv_a_mqa"):
            latent = layer.axis("attn_kv_a_mqa", 1)
            return {"attention": "latent", "attention_parameters": 0, "kv_values": latent}
        if not layer.begins("attn_") or not layer.has("attn_output", "attn_q", "attn_qkv"):
            return {"attention": "none"}
        found: dict[str, Any] = {"window": self._window(number), **(state or {})}
        shared = self.number("attention.shared_kv_layers") or 0
        if number >= self.layers - shared > 0:
            found["kv_values"] = 0  # it reads those of an earlier layer
        return found

    def _window(self, number: int) -> int | None:
        """Return the positions that a layer attends to; None for all."""
        windows: Windows = ARCHITECTURES[self.arch]
        window = self.number("attention.sliding_window") or windows.usual
        pattern = self.values.get(f"{self.arch}.attention.sliding_window_pattern")
        if isinstance(pattern, list) and number < len(pattern):
            return window if pattern[number] else None
        if isinstance(pattern, int) and not isinstance(pattern, bool) and pattern > 0:
            windows = Windows(pattern)
        return window if window and windows.has(number) else None

    def _state(self, layer: LayerTensors, keys: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the values of fixed size that a layer keeps; None if it has no such state."""
        if layer.has("shortconv.conv"):
            values = self.hidden * max((self.number("shortconv.l_cache") or 1) - 1, 0)
        elif layer.has("ssm_conv1d_q"):  # Kimi's delta attention: a square per head
            inner = layer.axis("attn_q", 1) or 0
            kernel = layer.axis("ssm_conv1d_q", 0) or 1
            values = inner * (self.number("kda.head_dim") or keys["head_dim"])
            values += 3 * (kernel - 1) * inner
        elif layer.begins("ssm_"):
            inner, state = self.number("ssm.inner_size") or 0, self.number("ssm.state_size") or 0
            groups = self.number("ssm.group_count") or 0
            kernel = self.number("ssm.conv_kernel") or 1
            values = inner * state + (kernel - 1) * (inner + 2 * groups * state)
        else:
            return None
        if values <= 0:
            self.remarks.append("the keys do not give the size of its state")
        return {"state_values": max(values, 0), "state_bits": _STATE_BITS}

    # Beside the layers

    def _outside(self) -> tuple[Parts, dict[str, Any]]:
        """Return what is stored outside layers, and the keys that it gives."""
        parts, left = Parts(), dict(self.outside)
        embedding = left.pop("token_embd.weight", None)
        if embedding is None or len(embedding.shape) != 2:
            raise ModelError(f"{self.path}: has no embedding (token_embd.weight)")
        width, vocab = embedding.shape
        head = left.pop("output.weight", None)
        table = left.pop("per_layer_token_embd.weight", None)
        parts.count(embedding, "head" if head is None else "embedding")
        keys: dict[str, Any] = {
            "vocab": vocab,
            "tied_embeddings": head is None,
            "embedding_dim": width if width != self.hidden else None,
        }
        if head is not None:
            parts.count(head, "head")
            if head.weights != embedding.weights:
                self.remarks.append(
                    f"its lm_head has {head.weights:,} weights, the embedding other"
                )
        if table is not None and len(table.shape) == 2 and table.shape[0] % self.layers == 0:
            parts.count(table, "embedding")
            keys["per_layer_embedding"] = table.shape[0] // self.layers
            keys["per_layer_vocab"] = table.shape[1] if table.shape[1] != vocab else None
        elif table is not None:
            left[table.name] = table
        norm = left.pop("output_norm.weight", None)
        if norm is not None and norm.shape == (self.hidden,):
            parts.count(norm, "norm")
        else:
            self.remarks.append("it has no last norm")
        for tensor in left.values():
            parts.count(tensor, "other")
        keys["other_parameters"] = sum(tensor.weights for tensor in left.values()) or None
        return parts, keys

    def _storage(self, layers: Sequence[dict[str, Any]], beside: Parts) -> dict[str, Any]:
        """Return how the model is stored, and set ``parts`` of layers that are stored otherwise
        than most.

        The parts of the model are those of the layers with experts, or of all.
        """
        every = Parts().join([layer.parts for layer in self.stack])
        whole = every.join([beside])
        mlp = {kind for part in (*_STREAMED, *_BESIDE[1:]) for kind in every[part].types}
        usual: dict[str, Any]
        if len(mlp) == 1:
            usual = {"quant": quant_of(mlp.pop())}
        else:
            matrices = [part for part in whole if part not in ("norm", "other")]
            weights = sum(whole[part].weights for part in matrices)
            usual = {"bits": 8 * sum(whole[part].bytes for part in matrices) / max(weights, 1)}
        mixed = any(layer["experts"] for layer in layers)
        main = [
            layer.parts
            for layer, keys in zip(self.stack, layers, strict=True)
            if not mixed or keys["experts"]
        ]
        parts = self._parts(Parts().join([*main, beside]), usual)
        dense = [
            (layer.parts, keys)
            for layer, keys in zip(self.stack, layers, strict=True)
            if mixed and not keys["experts"]
        ]
        if dense:
            own = self._parts(Parts().join([held for held, _ in dense]), usual)
            for _, keys in dense:
                keys["parts"] = own if own != parts else None
        for keys in layers:
            if mixed and keys["experts"]:
                keys["parts"] = parts or None
        return usual if mixed else {**usual, "parts": parts or None}

    def _parts(self, held: Parts, usual: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parts that are stored otherwise than ``usual``."""
        stored = {part: storage_of(each) for part, each in held.items() if each.weights}
        return {part: how for part, how in sorted(stored.items()) if how != usual.get("quant")}

    # What keys say

    def _compare_keys(self) -> None:
        """Note the keys that say other than the tensors."""
        holds = [layer.experts for layer in self.stack]
        stated = {
            "expert_count": [each for each in holds if each],
            "expert_feed_forward_length": [
                layer.width for layer in self.stack if layer.has("ffn_down_exps")
            ],
        }
        for key, found in stated.items():
            value = self.number(key)
            if value and set(found) != {value}:
                shown = ", ".join(str(each) for each in sorted(set(found))[:4]) or "none"
                self.remarks.append(f"{self.arch}.{key} is {value}, its tensors have {shown}")
        for number, layer in enumerate(self.stack):
            width = self.number("feed_forward_length", number)
            if width and layer.width and not layer.experts and width != layer.width:
                self.remarks.append(
                    f"{self.arch}.feed_forward_length is {width}, layer {number} has {layer.width}"
                )
                break
        dense = self.number("leading_dense_block_count")
        if dense is not None and any(holds) and dense != holds.index(next(filter(None, holds))):
            self.remarks.append(
                f"{self.arch}.leading_dense_block_count is {dense}, others are dense"
            )
