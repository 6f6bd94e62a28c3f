"""Geometry in the values of a config: the traits of its family, read layer by layer."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from dipsim import files
from dipsim.errors import ModelError, brief
from dipsim.model.families.config import HEADS, HIDDEN, LAYERS, MOST_LAYERS, WIDTH, Config
from dipsim.model.families.family import Family, Layers
from dipsim.model.families.mixers import biases_of, heads_of, mixer_of
from dipsim.model.families.mlps import EXPERTS, mlp_of
from dipsim.model.families.order import Mixer, Mlp, mixers, mlps
from dipsim.model.families.storage import storage_of
from dipsim.model.families.table import FAMILIES, WRAPPED
from dipsim.model.stacked import in_kinds

_NESTED = 4
"""Configs inside configs that are looked into."""
_ACTIVATIONS = (
    "activation_function",
    "hidden_activation",
    "mlp_hidden_act",
    "activation",
    "hidden_act",
)
_CONTEXTS = ("max_position_embeddings", "n_positions", "max_seq_len", "model_max_length")
_OF_LAYERS = {
    "intermediate_size": "intermediate_size",
    "moe_intermediate_size": "moe_intermediate_size",
    "num_shared_expert": "num_shared_expert",
    "moe_topk": "moe_topk",
    "num_attention_heads_per_layer": "num_attention_heads",
    "num_key_value_heads": "num_key_value_heads",
    "num_attention_heads": "num_attention_heads",
}
"""Keys that may hold a list with a number for each layer, and the key that it stands for."""
MOST_KINDS = 512
"""Kinds of layers that are believed: no model has as many layers."""
_LEFT_OUT = ("vision_config", "audio_config", "vision_tower", "visual", "vit_config")


def geometry_of(values: Mapping[str, Any], where: str, name: str) -> dict[str, Any]:
    """Return the geometry in the values of a config, in the form `load_model` takes.

    Args:
        values: the contents of `config.json`, or a transformers config's ``to_dict()``.
        where: name of the config in error messages.
        name: name of the model if the config gives none.

    Raises:
        ModelError: an unknown architecture, a missing or impossible value.
    """
    kind, inner = _text_model(values, where)
    family = FAMILIES[kind]
    usual = {**family.usual, **_usual(kind)}
    if inner is values:  # nobody means the sizes of the class's own model
        usual = {
            key: value for key, value in usual.items() if key not in _SIZES or key in family.usual
        }
    config = Config(inner, usual, where)
    if family.prepare is not None:
        config = config.over(family.prepare(config))
    layers = _layers(config, family)
    model = _model(config, family, values)
    if family.special is not None:
        family.special(config, layers, model)
    _settle(config, layers, model)
    left = [key for key in _LEFT_OUT if key in values]
    if config.count("num_nextn_predict_layers", "num_mtp_modules"):
        left.append("blocks that predict further tokens")
    sources = {"left out": ", ".join(left)} if left else {}
    named = {"name": str(values.get("_name_or_path") or name)[:80]}
    found = {**named, **model, **in_kinds(layers), **storage_of(values, inner)}
    return {**found, "sources": sources} if sources else found


_SIZES = frozenset((*LAYERS, *HIDDEN, *WIDTH))


def _text_model(values: Mapping[str, Any], where: str) -> tuple[str, Mapping[str, Any]]:
    """Return the ``model_type`` of the text model in a config, and its values.

    Raises:
        ModelError: it is not known.
    """
    inner: Mapping[str, Any] = values
    for _ in range(_NESTED):
        within = next((inner[key] for key in WRAPPED if isinstance(inner.get(key), Mapping)), None)
        if within is None:
            break
        inner = {**{key: inner[key] for key in ("model_type",) if key in inner}, **within}
    kind = inner.get("model_type")
    if isinstance(kind, str) and kind in FAMILIES:
        return kind, inner
    if isinstance(kind, str) and f"{kind}_text" in FAMILIES:
        return f"{kind}_text", inner
    raise UnknownFamilyError(f"{where}: model_type {brief(str(kind), 40)!r} is not known")


class UnknownFamilyError(ModelError):
    """A ``model_type`` that the table of families does not have."""


@cache
def _defaults() -> dict[str, dict[str, Any]]:
    return files.read_json(files.shipped("model/families") / "defaults.json", ModelError)


def _usual(kind: str) -> dict[str, Any]:
    """Return the values that a class gives keys which a config leaves out."""
    return _defaults().get(kind, {})


def _layers(config: Config, family: Family) -> Layers:
    """Return the keys of every layer.

    Raises:
        ModelError: a missing or impossible value.
    """
    given = config.value("hybrid_override_pattern", "layers_block_type", "layer_types")
    many = config.count(*LAYERS)
    if many is None and family.single and isinstance(given, str | list):
        many = len(given)
    many = config.need(*LAYERS) if many is None else many
    if not 1 <= many <= MOST_LAYERS:
        raise config.refused(LAYERS[0], many, f"a number of layers, 1 to {MOST_LAYERS}")
    order = mixers(config, family.order, many)
    experts = config.per_layer(*EXPERTS, layers=many)
    kinds = mlps(config, experts, many)
    if family.single:
        kinds = _single_mlps(given, many)
    known: dict[Any, dict[str, Any]] = {}
    found = []
    for i, own in enumerate(_overrides(config, many, experts)):
        key = (order[i], kinds[i], tuple(sorted(own.items())))
        if key not in known:
            if len(known) == MOST_KINDS:
                raise ModelError(f"{config.where}: more than {MOST_KINDS} kinds of layers")
            known[key] = _layer(config.over(own), family, order[i], kinds[i])
        found.append(dict(known[key]))
    return found


def _single_mlps(given: Any, many: int) -> list[Mlp]:
    """Return the MLPs of layers that have either a mixer or an MLP.

    Args:
        given: the config's list of layers, or a string of a letter each.
        many: number of layers.
    """
    names: dict[Any, Mlp] = {"E": "experts", "moe": "experts", "-": "dense", "mlp": "dense"}
    blocks = list(given or ())[:many]
    return [names.get(block, "none") if isinstance(block, str) else "none" for block in blocks]


def _overrides(config: Config, many: int, experts: list[int | None]) -> list[dict[str, Any]]:
    """Return the values in which each layer differs from the config."""
    found: list[dict[str, Any]] = [{} for _ in range(many)]
    if isinstance(config.value(*EXPERTS), list | tuple):
        for own, count in zip(found, experts, strict=True):
            own["num_experts"] = count
    for key, target in _OF_LAYERS.items():
        if isinstance(config.value(key), list | tuple):
            for own, count in zip(found, config.per_layer(key, layers=many), strict=True):
                own[target] = count
    layered = config.value("per_layer_config")
    if isinstance(layered, Mapping):
        for index, values in layered.items():
            if not str(index).isdecimal() or not int(str(index)[:9]) < many:
                raise config.refused("per_layer_config", index, f"layers below {many}")
            if isinstance(values, Mapping):
                found[int(index)].update((k, v) for k, v in values.items() if isinstance(v, int))
    return found


def _layer(config: Config, family: Family, mixer: Mixer, mlp: Mlp) -> dict[str, Any]:
    """Return the keys of one layer.

    Raises:
        ModelError: a missing or impossible value.
    """
    biased = biases_of(config, family)
    if mlp == "dense" and config.value(*WIDTH) == 0:
        mlp = "none"
    mixing, feeding = mixer_of(config, family, mixer), mlp_of(config, family, mlp, biased)
    extra = mixing.get("extra_parameters", 0) + feeding.get("extra_parameters", 0)
    both = mixer != "none" and mlp != "none"
    norms = family.norms if both else 1
    if family.parallel and config.flag(family.parallel):
        norms = 1
    return {**mixing, **feeding, "extra_parameters": extra, "norms": norms * family.norm_weights}


def _model(config: Config, family: Family, outer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of the model.

    Raises:
        ModelError: a missing or impossible value.
    """
    hidden, vocab = config.need(*HIDDEN), config.need("vocab_size")
    tied = outer.get("tie_word_embeddings")
    other = 0
    if family.positions is not None:
        key, more = family.positions
        other += (config.need(key) + more) * hidden
    biased = biases_of(config, family)
    other += hidden if "f" in biased else 0
    other += vocab if "h" in biased else 0
    found: dict[str, Any] = {
        "hidden": hidden,
        "vocab": vocab,
        "tied_embeddings": config.flag("tie_word_embeddings") if tied is None else bool(tied),
        "context": config.count(*_CONTEXTS),
        "other_parameters": other if family.last_norm else other - hidden,
    }
    activation = config.value(*_ACTIVATIONS)
    if isinstance(activation, str):
        found["activation"] = activation[:40]
    return {key: value for key, value in found.items() if value is not None}


def _settle(config: Config, layers: Layers, model: dict[str, Any]) -> None:
    """Leave out of all keys what says the usual, and give every layer the heads of others."""
    known = [layer for layer in layers if "heads" in layer]
    if not known:
        named = config.value(*HEADS) is not None
        sizes = heads_of(config) if named else (1, 1, model["hidden"])
        known = [dict(zip(_HEADS, sizes, strict=True))]
    heads = {key: known[0][key] for key in (*_HEADS, "value_dim") if key in known[0]}
    for layer in layers:
        if "heads" not in layer:  # they mean nothing to it
            layer |= heads
        usual = {"extra_parameters": 0, "shared_intermediate": 0, "gated": True}
        usual["norms"] = (layer.get("attention") != "none") + (layer["intermediate"] > 0)
        for key in [key for key, value in usual.items() if layer.get(key) == value]:
            del layer[key]
    if model["other_parameters"] <= 0:  # a last norm that is not there may be all that is beside
        del model["other_parameters"]


_HEADS = ("heads", "kv_heads", "head_dim")
