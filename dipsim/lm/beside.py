"""Systems beside the weights in a running model: eviction, retrieval, rounding of KV, and skipped
layers.

They are hooks, and act at once: layers that are skipped hand their keys and values on, which are
then rounded, and of which then some leave, or are not read. Tokens are pruned by running layers on
fewer rows (lazy.py), which goes with none of them.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from dipsim.errors import BudgetError, MethodError
from dipsim.kv.bits import parse_format
from dipsim.kv.retrieval import parse_fetch
from dipsim.kv.rounding import check_rounds
from dipsim.kv.rules import load_rule
from dipsim.lm.eviction import evicting
from dipsim.lm.lazy import PrunedPerplexity
from dipsim.lm.live import Live
from dipsim.lm.restricted import Restricted
from dipsim.lm.retrieving import retrieving
from dipsim.lm.rounding import Rounding, rounding
from dipsim.lm.skipping import LayerStates, skip_layers
from dipsim.option import flag
from dipsim.result import Result
from dipsim.tokens import parse_pruning

Settings = Mapping[str, Any]
"""Settings of a candidate, of which only those that are asked for are there."""
_SYSTEMS = ("kv_policy", "kv_fetch", "kv_quant", "skip_layers")


class IncompatibleError(MethodError):
    """Systems, or a system and a method, of which a running model can have one only."""


def check_systems(method: str, settings: Settings, prompt: int, layers: int) -> None:
    """Refuse systems that a running model cannot have, or not together.

    Args:
        method: that masks the weights.
        settings: of the candidate.
        prompt: tokens of each window that are a prompt; 0 for none.
        layers: of the model.

    Raises:
        IncompatibleError: systems that exclude each other.
        DipsimError: a system that is none, or that needs a prompt.
    """
    if "prune_tokens" in settings:
        _check_pruning(method, settings, prompt, layers)
    if "kv_quant" in settings:
        check_rounds(parse_format(settings["kv_quant"]))
    if "kv_policy" in settings:
        _check_eviction(settings, prompt)
    if "kv_fetch" in settings and (retrieval := parse_fetch(settings["kv_fetch"])):
        _check_retrieval(f"--kv-fetch {retrieval}", settings)


def _check_pruning(method: str, settings: Settings, prompt: int, layers: int) -> None:
    given = f"--prune-tokens {settings['prune_tokens']}"
    parse_pruning(settings["prune_tokens"]).cuts(layers)
    others = [flag(name) for name in _SYSTEMS if name in settings]
    others += [f"--method {method}"] if method != "dense" else []
    if others:
        raise IncompatibleError(
            f"{given} and {others[0]}: a running model computes fewer rows, on which neither masks "
            "nor other systems act; drop one of them"
        )
    if not prompt:
        raise MethodError(f"{given} prunes prompts: give --prompt, the tokens of each window's")


def _check_eviction(settings: Settings, prompt: int) -> None:
    rule = load_rule(settings["kv_policy"])
    given = f"--kv-policy {rule.label}"
    if not rule.evicts:
        return
    if not prompt and (settings.get("kv_when") or rule.when) != "token":
        raise BudgetError(
            f"{given} cuts a prompt: give --prompt, the tokens of each window's, or --kv-when token"
        )
    if settings.get("skip_kv") == "hole":
        raise IncompatibleError(
            f"{given} and --skip-kv hole: attention that evicts sees all positions that are held; "
            "take project or copy"
        )
    quant = settings.get("kv_quant")
    if quant is not None and parse_format(quant).newest:
        raise IncompatibleError(
            f"{given} and --kv-quant {quant}, which keeps the newest positions in fp16, others for "
            "every query: take a format that rounds all, e.g. q8_0"
        )


def _check_retrieval(given: str, settings: Settings) -> None:
    if "skip_layers" in settings:
        raise IncompatibleError(
            f"{given} and --skip-layers {settings['skip_layers']}: what tokens read is not counted "
            "layer by layer; drop one of them"
        )
    rule = load_rule(settings.get("kv_policy", "full"))
    if rule.evicts:
        raise IncompatibleError(
            f"{given} and --kv-policy {rule.label}: blocks are made of all positions; drop one of "
            "them"
        )
    quant = settings.get("kv_quant")
    if quant is not None and parse_format(quant).newest:
        raise IncompatibleError(
            f"{given} and --kv-quant {quant}, which keeps the newest positions in fp16, others for "
            "every query: take a format that rounds all, e.g. q8_0"
        )
    if settings.get("kv_dram") is not None:
        raise IncompatibleError(
            f"{given} and --kv-dram {settings['kv_dram']}: which blocks come from flash is counted "
            "on traces; drop one of them, or record a trace and replay it"
        )


@dataclass(frozen=True)
class Running:
    """Systems that act in a running model; None for each that does not."""

    restricted: Restricted | None = None
    """Attention to some positions only."""
    rounded: Rounding | None = None

    def kv_figures(self, result: Result, prompt: int) -> dict[str, Any] | None:
        """Return what the KV cache kept and lost, behind the prompt; None where it is whole."""
        if result.kv is None:
            return None
        figures = {**result.kv, "loop": "closed"}
        if self.restricted is not None:
            figures["mass_kept"] = self.restricted.mass_kept(prompt)
            figures["output_error"] = self.restricted.output_error(prompt)
        elif self.rounded is not None:
            figures["output_error"] = self.rounded.output_error
        return figures


@contextmanager
def systems_in(
    model: nn.Module,
    settings: Settings,
    live: Live,
    *,
    prompt: int,
    states: LayerStates | None,
) -> Iterator[Running]:
    """Let the systems of a candidate act in a model while the with-block lasts.

    Args:
        model: a causal language model of transformers, called with whole windows.
        settings: of the candidate, checked (`check_systems`).
        live: the masks and caches that are told of skipped layers.
        prompt: tokens of each window that are a prompt.
        states: what rules that skip layers are fitted to.

    Raises:
        DipsimError: a rule that does not fit the model or the masks, in one line.
    """
    with ExitStack() as stack:
        restricted: Restricted | None = None
        rounded = None
        if "kv_policy" in settings and (rule := load_rule(settings["kv_policy"])).evicts:
            budget, when = settings["kv_budget"], settings.get("kv_when")
            restricted = stack.enter_context(
                evicting(model, rule, budget, when=when, prompt=prompt or None)
            )
        if "kv_fetch" in settings and (retrieval := parse_fetch(settings["kv_fetch"])):
            restricted = stack.enter_context(retrieving(model, retrieval, prompt=prompt))
        if "kv_quant" in settings:
            rounded = stack.enter_context(
                rounding(
                    model,
                    parse_format(settings["kv_quant"]),
                    first=prompt,
                    measures=restricted is None,
                )
            )
        if "skip_layers" in settings:
            assert states is not None, "rules are fitted to them"
            skipping = skip_layers(
                model,
                settings["skip_layers"],
                states,
                skip_kv=settings.get("skip_kv") or "project",
                prompt=prompt,
                tell=live.skip,
            )
            if not skipping.schedule.ahead and live.method.name != "dense":
                raise IncompatibleError(
                    f"--skip-layers {settings['skip_layers']} and --method {live.method.name}: it "
                    "decides when a layer has run, its caches are asked before; take a rule that "
                    "decides ahead, e.g. similarity:by=previous"
                )
            stack.enter_context(skipping)
        yield Running(restricted, rounded)


def token_figures(pruned: PrunedPerplexity, result: Result) -> dict[str, Any]:
    """Return the work of a model whose tokens were pruned (`PrunedPerplexity`), and the bytes of
    hidden states that wait."""
    counted = result.pruned_tokens
    assert counted is not None, "tokens are pruned"
    shares = {name: getattr(pruned, name) for name in ("prefill", "computed", "revived", "read")}
    return {"rule": counted["rule"], **shares, "aux_bytes": counted["aux_bytes"]}
