"""dense: no sparsity. Every unit is active for every token: row of gate and up, column of down.

Of a model with experts that runs without a trace a token uses as many whole experts as its router
would take: which ones makes no difference where all of them are in DRAM, and elsewhere such a run
is refused, since hits follow from the routes.
"""

from dipsim.errors import MethodError
from dipsim.methods.contract import NEURON, Group, Method, check_settings
from dipsim.model import Model
from dipsim.settings import Settings
from dipsim.trace import Outline


def dense(trace: Outline, settings: Settings, model: Model | None) -> Method:
    """Return the method that uses all neurons, in one group; their number is the model's, else the
    trace's. Without a trace, a model with experts has a group of them.

    Raises:
        MethodError: a density other than 1, or a trace that does not tell the number of neurons.
    """
    check_settings("dense", settings, ())
    if settings.density not in (None, 1.0):
        raise MethodError(f"method dense keeps everything: density {settings.density:g} is not 1")
    if model is not None and model.experts is not None and not trace.signals:
        share = (model.experts_per_token or 0) / model.experts
        group = Group("expert", model.experts, (), "all", share, chosen=model.experts_per_token)
        return Method("dense", (group,), density=1.0)
    if model is not None:
        units = int(model.layer_units("glu").max())
        if not units and model.experts is None:
            raise MethodError(f"method dense: model {model.name} has no MLP in any layer")
    else:
        recorded = [name for name in ("glu", "gate", "up") if name in trace.signals]
        units = trace.signals[recorded[0]].units if recorded else 0
    if not units:
        raise MethodError("method dense needs the number of neurons: pass --model")
    return Method("dense", (Group("glu", units, NEURON, "all"),), density=1.0)
