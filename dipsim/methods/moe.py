"""moe: the router's choice of experts, plain or preferring what is in DRAM (routing.py)."""

from contextlib import suppress

from dipsim.errors import MethodError, ModelError
from dipsim.methods.contract import Group, Method, check_settings, scores
from dipsim.methods.router import UNKNOWN, weighing_of
from dipsim.methods.routing import parse_routing
from dipsim.methods.rules import Rule
from dipsim.model import Model, load_model
from dipsim.settings import Settings
from dipsim.trace import Outline
from dipsim.trace.outline import SignalOutline
from dipsim.trace.signal import Signal


def moe(trace: Outline, settings: Settings, model: Model | None) -> Method:
    """Choose the k best experts of the router, or those that a ``routing`` rule prefers.

    Raises:
        MethodError: no router scores, k unknown or more than the trace can serve, a rule that is
            none.
    """
    units = scores(trace, "expert", "moe")
    check_settings("moe", settings, ())
    if settings.density is not None:
        raise MethodError("method moe keeps whole experts: drop --density, give --top-k")
    usual = _experts_per_token(trace, model)
    k = usual if settings.top_k is None else settings.top_k
    if k is None:
        raise MethodError(
            f"{trace.name} does not say how many experts a token uses: give --top-k or --model"
        )
    if not 1 <= k <= units:
        raise MethodError(f"top-k {k}: from 1 to the {units} experts of a layer")
    rule = parse_routing(settings.routing, k)
    _check_recorded(trace.signals["expert"], trace, k, rule)
    weighing = weighing_of(trace)
    if rule is not None and rule.name == "drop-cold" and weighing.kind == UNKNOWN:
        raise MethodError(
            f"{trace.name}: meta.router says that the weights of its experts are not known, which "
            "--routing drop-cold goes by: use another rule"
        )
    group = Group("expert", units, (), "top-k", k / units, rule=rule, chosen=k, weighing=weighing)
    return Method(
        "moe",
        (group,),
        as_recorded=rule is None and k == usual,
        among_recorded=rule is not None
        and rule.name != "drop-cold"
        and trace.signals["expert"].encoding == "sparse",
    )


def _experts_per_token(trace: Outline, model: Model | None) -> int | None:
    recorded = trace.meta.get("experts_per_token")
    if isinstance(recorded, int) and not isinstance(recorded, bool):
        return recorded
    if model is None and trace.model is not None:
        geometry = {"name": trace.model} if isinstance(trace.model, str) else trace.model
        with suppress(ModelError):  # a trace whose model is none may still be routed
            model = load_model(geometry)
    return None if model is None else model.experts_per_token


def _check_recorded(signal: SignalOutline, trace: Outline, k: int, rule: Rule | None) -> None:
    """Refuse a choice among experts of which the trace holds the weights of the best only.

    Raises:
        MethodError: more experts are asked for than are known of a token.
    """
    if not isinstance(signal, Signal) or signal.encoding != "sparse":
        return
    fewest = signal.fewest_listed
    others = rule is not None and rule.name != "drop-cold"
    if k > fewest or (others and k == fewest < signal.units):
        what = f"--routing {rule.name}" if rule is not None and others else "method moe"
        raise MethodError(
            f"{trace.name} holds the weights of {fewest} experts a token only: {what} with k = {k} "
            "would have to know the others; record all router logits, or give a smaller --top-k"
        )
