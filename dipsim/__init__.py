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
    from dipsim.analysis.compare import Comparison, compare
    from dipsim.analysis.contours import Contours
    from dipsim.analysis.frontier import Frontier
    from dipsim.analysis.inspect import Inspection, inspect
    from dipsim.analysis.least import Least
    from dipsim.analysis.mrc import Curves, mrc
    from dipsim.analysis.results import results
    from dipsim.analysis.search import search
    from dipsim.analysis.study import StudyResult, study
    from dipsim.errors import DipsimError
    from dipsim.hardware import Profile, load_profile
    from dipsim.layers import LayerRule
    from dipsim.lm.recording import record
    from dipsim.methods import PruningMethod, UnitGroup
    from dipsim.model import Model, load_model
    from dipsim.planning.plan import Plan, plan
    from dipsim.policies import Policy, load_policy
    from dipsim.result import Result
    from dipsim.simulate import simulate
    from dipsim.sweep.sweep import SweepResult, sweep
    from dipsim.trace import Trace, TraceWriter, load_trace, save_trace
    from dipsim.trace.convert import export, import_
    from dipsim.trace.synth import synth

__all__ = [
    "Comparison",
    "Contours",
    "Curves",
    "DipsimError",
    "Frontier",
    "Inspection",
    "LayerRule",
    "Least",
    "Model",
    "Plan",
    "Policy",
    "Profile",
    "PruningMethod",
    "Result",
    "StudyResult",
    "SweepResult",
    "Trace",
    "TraceWriter",
    "UnitGroup",
    "compare",
    "export",
    "import_",
    "inspect",
    "load_model",
    "load_policy",
    "load_profile",
    "load_trace",
    "mrc",
    "plan",
    "record",
    "results",
    "save_trace",
    "search",
    "simulate",
    "study",
    "sweep",
    "synth",
]

_HOMES = {
    "Comparison": "analysis.compare",
    "Contours": "analysis.contours",
    "Curves": "analysis.mrc",
    "DipsimError": "errors",
    "Frontier": "analysis.frontier",
    "Inspection": "analysis.inspect",
    "LayerRule": "layers",
    "Least": "analysis.least",
    "Model": "model",
    "Plan": "planning.plan",
    "Policy": "policies",
    "Profile": "hardware",
    "PruningMethod": "methods",
    "Result": "result",
    "StudyResult": "analysis.study",
    "SweepResult": "sweep.sweep",
    "Trace": "trace",
    "TraceWriter": "trace",
    "UnitGroup": "methods",
    "compare": "analysis.compare",
    "export": "trace.convert",
    "import_": "trace.convert",
    "inspect": "analysis.inspect",
    "load_model": "model",
    "load_policy": "policies",
    "load_profile": "hardware",
    "load_trace": "trace",
    "mrc": "analysis.mrc",
    "plan": "planning.plan",
    "record": "lm.recording",
    "results": "analysis.results",
    "save_trace": "trace",
    "search": "analysis.search",
    "simulate": "simulate",
    "study": "analysis.study",
    "sweep": "sweep.sweep",
    "synth": "trace.synth",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that ``import dipsim`` stays fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'dipsim' has no attribute {name!r}")
    value = getattr(import_module(f"dipsim.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """Lets functions win over the modules of their names, `simulate` and `sweep`, whoever imports
    those first."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
