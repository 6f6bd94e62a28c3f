"""What there is: profiles with the marks of their numbers, models, policies, methods, a trace."""

import shlex
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dipsim.errors import printable
from dipsim.hardware import Profile
from dipsim.methods import BUILTIN as METHODS
from dipsim.model import Model
from dipsim.policies import BUILTIN as POLICIES
from dipsim.report.run import table
from dipsim.trace import Trace
from dipsim.units import BANDWIDTH, BYTES


def profiles(known: list[Profile]) -> Table:
    """One line per profile."""
    made = table("profile", "DRAM", "bandwidth", "summary")
    for profile in known:
        made.add_row(
            profile.name,
            BYTES.show(profile.dram.capacity),
            BANDWIDTH.show(profile.dram.bandwidth),
            profile.summary,
        )
    return made


def profile(found: Profile) -> RenderableType:
    """Every number of a profile with its kind and source."""
    made = table("key", "value", "kind", "from")
    for column in made.columns[:3]:
        column.no_wrap = True
    previous = ""
    for key, value in found.numbers():
        source = found.source(key)
        kind, origin = (source.kind, source.origin) if source else ("no source", "")
        for i, text in enumerate(_texts(value)):
            said = "" if i or origin == previous else origin
            made.add_row("" if i else _short(key), text, "" if i else kind, said)
            previous = origin
    return Group(Text(f"{found.name}: {found.summary}", style="bold"), made)


def models(known: list[Model]) -> Table:
    """One line per model preset."""
    made = table(
        "model", "layers", "hidden", "intermediate", "parameters", "bytes", right=(1, 2, 3, 4, 5)
    )
    for model in known:
        made.add_row(
            model.name,
            str(model.layers),
            str(model.hidden),
            str(model.intermediate),
            f"{model.parameters:,}",
            f"{BYTES.show(model.total_bytes)} at {_storage(model)}",
        )
    return made


def model(found: Model) -> Table:
    """The geometry and the byte counts of a model."""
    made = table(found.name, "")
    hidden = {"name", "sources", "bits", "quant"}
    usual = {"gated": True, "shared_intermediate": 0, "window_every": 1}
    for key, value in found.model_dump(exclude=hidden, exclude_none=True).items():
        if usual.get(key) != value:
            made.add_row(key, str(value))
    made.add_row("weights", _storage(found))
    for label, size in (
        ("attention, one layer", found.attention_bytes),
        ("one expert" if found.experts else "MLP, one layer", found.mlp_bytes),
        ("lm_head", found.head_bytes),
        ("KV, one position (16 bit)", float(found.kv_bytes(1, 16))),
        ("whole model", found.total_bytes),
    ):
        made.add_row(label, BYTES.show(size))
    made.add_row("parameters", f"{found.parameters:,}")
    for key, source in found.sources.items():
        made.add_row(f"source of {key}", source)
    return made


def _storage(model: Model) -> str:
    quant = model.quant
    if quant is None:
        return f"{model.bits:g} bits"
    return f"{quant.format} ({quant.bits:g} bits, groups of {quant.group}, axis {quant.axis})"


def policies() -> RenderableType:
    """A row per built-in policy, its parameters below what it does."""
    made = table("policy", "admission", "what it does", "source")
    for policy in POLICIES.values():
        what = [policy.summary]
        if policy.parameters:
            what.append(", ".join(f"{key}={value:g}" for key, value in policy.parameters.items()))
        made.add_row(policy.name, policy.admit, "\n".join(what), policy.source)
    hint = "hint: set a parameter as in --policy lfu-decay:half_life=8; yours is file.py:attribute"
    return Group(made, Text(hint, style="cyan"))


def methods() -> Table:
    """One line per method."""
    made = table("method", "signals", "what it does")
    for name, entry in METHODS.items():
        first, *rest = entry.signals or ("any",)
        among = ", ..., " if len(rest) > 1 else ", "
        made.add_row(name, among.join([first, *rest[-1:]]), entry.summary)
    return made


def written(made: Trace) -> RenderableType:
    """A trace that was just written, in one line, and the command to go on with."""
    kinds = ", ".join(f"{at.name} {at.units} ({at.encoding})" for at in made.signals.values())
    path = Path(made.name)
    files = [path] if path.is_file() else list(path.iterdir())
    size = BYTES.show(sum(file.stat().st_size for file in files))
    lines = [
        f"{made.name}: {made.tokens} tokens of {made.layers} layers, {kinds}; {size}",
        f"hint: dipsim inspect {shlex.quote(made.name)}",
    ]
    return Group(*(Text(printable(line)) for line in lines))


def _short(key: str) -> str:
    """``backends.cpu.sync`` -> ``cpu.sync``: the section is clear, and lines are short."""
    return key.removeprefix("backends.")


def _texts(value: object) -> list[str]:
    """A value as text; of measured reads, one line each."""
    if isinstance(value, list) and isinstance(value[0], dict):
        return [f"{at['size']} x{at['lanes']} {at['bandwidth']}" for at in value]
    if isinstance(value, list):
        return [" to ".join(map(str, value))]
    return [str(value)]
