"""dipsim: a phone's memory hierarchy for language-model inference, replayed from traces.

>>> import dipsim
>>> result = dipsim.simulate("smollm2-chat", "snapdragon8", dram="80%")
>>> result.tokens_per_second
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dipsim.errors import DipsimError
    from dipsim.hardware import Profile, load_profile
    from dipsim.model import Model, load_model
    from dipsim.policies import Policy, load_policy
    from dipsim.result import Result
    from dipsim.simulate import simulate
    from dipsim.trace import Trace, TraceWriter, load_trace, save_trace

__all__ = [
    "DipsimError",
    "Model",
    "Policy",
    "Profile",
    "Result",
    "Trace",
    "TraceWriter",
    "load_model",
    "load_policy",
    "load_profile",
    "load_trace",
    "save_trace",
    "simulate",
]

_HOMES = {
    "DipsimError": "errors",
    "Model": "model",
    "Policy": "policies",
    "Profile": "hardware",
    "Result": "result",
    "Trace": "trace",
    "TraceWriter": "trace",
    "load_model": "model",
    "load_policy": "policies",
    "load_profile": "hardware",
    "load_trace": "trace",
    "save_trace": "trace",
    "simulate": "simulate",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that ``import dipsim`` stays fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'dipsim' has no attribute {name!r}")
    value = getattr(import_module(f"dipsim.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """Lets the function `simulate` win over the module of that name, whoever imports that first."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "simulate" and isinstance(value, ModuleType):
            value = value.simulate
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
