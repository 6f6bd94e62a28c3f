"""Reports that list what there is: profiles, models, policies, methods."""

from collections import Counter
from typing import Any

from rich.console import Group, RenderableType

from dipsim.analysis.profile_list import kind_share
from dipsim.hardware import Profile, Source, kinds_of
from dipsim.methods import BUILTIN as METHODS
from dipsim.model import Layer, Model, Quant
from dipsim.policies import BUILTIN as POLICIES
from dipsim.report.tables import Table, line, stacked
from dipsim.systems.catalogue import SYSTEMS
from dipsim.units import BANDWIDTH, BYTES, show_number


def profiles(known: list[Profile]) -> RenderableType:
    """Return a line for each profile, with the shares of its numbers that are measured or fitted to
    runs; a sentence where there is none."""
    if not known:
        return line("no shipped profile meets all conditions of --where")
    rows = Table("profile", "DRAM", "bandwidth", "measured", "fitted", "summary", right=(3, 4))
    for profile in known:
        rows.add_row(
            profile.name,
            BYTES.show(profile.dram.capacity),
            BANDWIDTH.show(profile.dram.bandwidth),
            f"{kind_share(profile, 'measured'):.0%}",
            f"{kind_share(profile, 'fitted'):.0%}",
            profile.summary,
        )
    return rows


def profiles_dict(known: list[Profile]) -> dict[str, Any]:
    """Return the profiles by name; under ``kinds``, how many numbers of each are of which kind."""
    return {
        **{profile.name: profile_dict(profile) for profile in known},
        "kinds": {profile.name: kinds_of(profile) for profile in known},
    }


def profile_dict(shown: Profile) -> dict[str, Any]:
    """Return a profile as a file holds it."""
    return shown.model_dump(mode="json", by_alias=True, exclude_none=True)


def profile(shown: Profile) -> RenderableType:
    """Return every number of a profile with its kind and source."""
    rows = Table("key", "value", "kind", "from", whole=range(3))
    previous = ""
    for key, value in shown.numbers():
        source = shown.source(key)
        kind, origin = (source.kind, _origin(source)) if source else ("no source", "")
        for i, text in enumerate(_texts(value)):
            repeated = i or origin == previous
            rows.add_row(
                "" if i else key.removeprefix("backends."),  # cpu.per_layer says enough
                text,
                "" if i else kind,
                "" if repeated else origin,
            )
            previous = origin
    head = [line(f"{shown.name}: {shown.summary}", style="bold")]
    for i, (name, backend) in enumerate(shown.backends.items()):
        text = f"backend {name}" + (f": {backend.engine}" if backend.engine else "")
        if i == 0 and shown.default:
            text += f"; the default: {shown.default}"
        if text != f"backend {name}":
            head.append(line(text))
    counts = kinds_of(shown)
    kinds = ", ".join(f"{many} {kind}" for kind, many in counts.items() if many)
    head.append(line(f"its {sum(counts.values())} numbers: {kinds}"))
    return Group(*head, rows)


def _origin(source: Source) -> str:
    """Return where a number is from, and what a fit says of it."""
    fit = []
    if source.spread is not None:
        fit.append(f"nine of ten within a factor of {show_number(1 + source.spread, 3)}")
    if source.left_out is not None:
        fit.append(f"median error {source.left_out:.0%} of a model left out")
    if source.cases:
        fit.append(f"{len(source.cases)} case{'s' * (len(source.cases) > 1)}")
    return f"{source.origin} ({'; '.join(fit)})" if fit else source.origin


def _texts(value: object) -> list[str]:
    """Return a value as text; of measured reads, a line each."""
    if isinstance(value, list) and isinstance(value[0], dict):
        return [f"{read['size']} x{read['lanes']} {read['bandwidth']}" for read in value]
    if isinstance(value, list):
        return [" to ".join(map(str, value))]
    return [str(value)]


def models(known: list[Model]) -> Table:
    """Return a line for each model preset."""
    rows = Table(
        "model", "layers", "hidden", "intermediate", "parameters", "bytes", right=(1, 2, 3, 4, 5)
    )
    for model in known:
        rows.add_row(
            model.name,
            str(model.layers),
            str(model.hidden),
            str(model.intermediate),
            f"{model.parameters:,}",
            f"{BYTES.show(model.total_bytes)} at {_storage(model.quant or model.bits)}",
        )
    return rows


def model(shown: Model) -> Table:
    """Return the geometry and the byte counts of a model."""
    rows = Table(shown.name, "")
    values = shown.model_dump(exclude_none=True)
    for key in sorted(values, key=_order):
        if key not in _APART and _USUAL.get(key) != values[key]:
            rows.add_row(key, str(values[key]))
    for name, many in Counter(shown.kind_names).items() if shown.kinds else ():
        rows.add_row(f"{many} {name}", _kind(shown.stack[shown.kind_names.index(name)]))
    rows.add_row("weights", _storage(shown.quant or shown.bits))
    for part, stored in shown.parts.items():
        rows.add_row(f"weights of {part}", _storage(stored))
    embeddings = shown.embedding_bytes if shown.per_layer_embedding else 0.0
    for label, size in (
        ("attention, one layer", shown.attention_bytes),
        ("one expert" if shown.experts else "MLP, one layer", shown.mlp_bytes),
        ("lm_head", shown.head_bytes),
        *([("embeddings read by row", embeddings)] if embeddings else ()),
        ("KV, one position (16 bit)", float(shown.kv_bytes(1, 16))),
        ("whole model", shown.total_bytes),
    ):
        rows.add_row(label, BYTES.show(size))
    rows.add_row("parameters", f"{shown.parameters:,}")
    for key, source in shown.sources.items():
        rows.add_row(f"source of {key}", source)
    return rows


def _storage(stored: Quant | float) -> str:
    if not isinstance(stored, Quant):
        return f"{show_number(stored, 6)} bits"
    bits = show_number(stored.bits, 6)
    return f"{stored.format} ({bits} bits, groups of {stored.group}, axis {stored.axis})"


def _kind(layer: Layer) -> str:
    """Return what a kind of layer is: its mixer, and its MLP."""
    heads = f"{layer.heads} heads, {layer.kv_heads} of KV"
    mixer = {
        "full": f"attention of {heads}",
        "window": f"attention of {heads} to the last {layer.window} positions",
        "latent": f"latent attention, {layer.position_values} values a position",
        "state": "no attention",
        "none": "no attention",
    }[layer.mixer]
    if layer.state_values:
        mixer += f", a state of {BYTES.show(layer.state_bytes)}"
    if layer.experts is None:
        return f"{mixer}; " + (f"MLP of {layer.intermediate}" if layer.intermediate else "no MLP")
    shared = f", beside one of {layer.shared_intermediate}" if layer.shared_intermediate else ""
    used = f"{layer.experts_per_token} of {layer.experts} experts"
    return f"{mixer}; {used} of {layer.intermediate}{shared}"


_FIRST = (
    *("layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim", "vocab"),
    *("tied_embeddings", "activation", "gated", "experts", "experts_per_token"),
    *("shared_intermediate", "window", "window_every", "context", "weight_format", "weights"),
)
_LAST = "approximate"
_APART = {"name", "sources", "bits", "quant", "parts", "kinds", "pattern"}
_USUAL: dict[str, Any] = {
    "gated": True,
    "shared_intermediate": 0,
    "window_every": 1,
    "state_values": 0,
    "state_bits": 16.0,
    "extra_parameters": 0,
    "other_parameters": 0,
}


def _order(key: str) -> tuple[int, int]:
    """Return where a key of a model is shown: geometry first, what is missing last."""
    return (_FIRST.index(key), 0) if key in _FIRST else (len(_FIRST), int(key == _LAST))


def systems() -> Table:
    """Return a row for each system that may stand beside the weights."""
    rows = Table("option of run", "what it does", "source")
    for system in SYSTEMS:
        rows.add_row(system.option, system.summary, system.source)
    return rows


def systems_dict() -> dict[str, Any]:
    """Return the same as plain values."""
    return {"systems": [system._asdict() for system in SYSTEMS]}


def policies() -> RenderableType:
    """Return a row for each built-in policy, its parameters below what it does."""
    rows = Table("policy", "admission", "what it does", "source")
    for policy in POLICIES.values():
        texts = [policy.summary]
        if policy.parameters:
            values = policy.parameters.items()
            texts.append(", ".join(f"{key}={show_number(value, 6)}" for key, value in values))
        rows.add_row(policy.name, policy.admit, stacked(*texts), policy.source)
    hint = "hint: set a parameter as in --policy lfu-decay:half_life=8; yours is file.py:attribute"
    return Group(rows, line(hint, style="cyan"))


def policies_dict() -> dict[str, Any]:
    """Return what `policies` lists, as plain values by name."""
    return {
        "policies": {
            policy.name: {
                "admission": policy.admit,
                "summary": policy.summary,
                "parameters": dict(policy.parameters),
                "source": policy.source,
            }
            for policy in POLICIES.values()
        }
    }


def methods_dict() -> dict[str, Any]:
    """Return what `methods` lists, as plain values by name."""
    return {
        "methods": {
            name: {"signals": list(entry.signals), "summary": entry.summary}
            for name, entry in METHODS.items()
        }
    }


def methods() -> RenderableType:
    """Return a line for each built-in method."""
    rows = Table("method", "signals", "what it does")
    for name, entry in METHODS.items():
        first, *rest = entry.signals or ("any",)
        between = ", ..., " if len(rest) > 1 else ", "
        rows.add_row(name, between.join([first, *rest[-1:]]), entry.summary)
    return Group(rows, line("hint: yours is file.py:attribute", style="cyan"))
