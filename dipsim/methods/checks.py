"""Refusals of what a method cannot go with: clusters of other units, models of another kind."""

from dipsim.errors import MethodError, ModelError, TraceError
from dipsim.methods.contract import Method
from dipsim.model import Model
from dipsim.settings import Settings
from dipsim.trace import Outline


def check_cluster(trace: Outline, method: Method, settings: Settings) -> None:
    """Refuse a cluster that does not divide units, or of units that are not chosen one by one."""
    size = settings.cluster
    if settings.layout is not None:
        raise MethodError(f"--cluster {size} joins units that lie side by side: drop --layout")
    for group in method.groups:
        signal = trace.signals.get(group.signal)
        if signal is not None and not group.of_experts and signal.cluster != size:
            units = signal.recorded_units
            divisors = [n for n in (2, 4, 8, 16, 32, 64) if units % n == 0] or [1]
            raise TraceError(
                f"--cluster {size} does not divide the {units} units of "
                f"{group.signal}: use one that does, e.g. {', '.join(map(str, divisors))}"
            )
    if any(group.choice == "all" or group.of_experts for group in method.groups):
        raise MethodError(
            f"--cluster {size} joins columns or neurons that are chosen; {method.name} "
            "has none: drop it"
        )


def check_model(model: Model, method: Method) -> None:
    """Refuse a model whose MLP does not have the units of a method."""
    of_experts = any(group.of_experts for group in method.groups)
    if of_experts != (model.experts is not None):
        has = f"{model.experts} experts a layer" if model.experts else "no experts"
        units = "whole experts" if of_experts else "neurons or columns of one MLP"
        raise ModelError(f"model {model.name} has {has}; {method.name} loads {units}")
    if not model.gated and method.name in ("glu", "dip", "dip-ca", "gate", "up", "cats"):
        raise ModelError(
            f"model {model.name} has no gate, which method {method.name} counts on: use "
            "recorded sets, glu-oracle or dense"
        )
