"""Answers to requests: runs of the simulator, the last ones kept, as plain values."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from dipsim.analysis.baseline import replay_held
from dipsim.explore.asked import BESIDE_SETS, OPTIONS, Asked
from dipsim.explore.curve import curve_of, marked
from dipsim.explore.shown import panels_of, shown
from dipsim.explore.traces import Traces
from dipsim.hardware import Profile, load_profile
from dipsim.methods import BUILTIN
from dipsim.methods.recorded import RECORDED_SIGNALS
from dipsim.replay.active_sets import ActiveSets
from dipsim.replay.replay import Progress
from dipsim.report import run as run_report
from dipsim.report.envelope import about
from dipsim.report.frames import records
from dipsim.report.hints import warnings
from dipsim.report.page import html
from dipsim.report.page.configuration import command_line
from dipsim.report.page.run import page_of_run
from dipsim.report.page.saved import read_result
from dipsim.report.page.source import page_of
from dipsim.result import Result
from dipsim.run import Run, replay
from dipsim.simulate import prepare
from dipsim.store import key_of
from dipsim.sweep.methods import options_of
from dipsim.timeline.timing import time_traffic
from dipsim.trace import Trace

Answer = TypeVar("Answer")
_KEPT = 200
"""Answers that are kept, each of some 50 kB."""
_MARKS = "Marks and caveats"


class Simulator:
    """Runs what requests ask for, with the traces and devices that the app offers.

    Args:
        traces: by name.
        devices: profiles, or what names them, by name.
    """

    def __init__(self, traces: Traces, devices: Mapping[str, str]) -> None:
        self.traces, self.devices = traces, devices
        self._profiles: dict[str, Profile] = {}
        self._known: OrderedDict[Any, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._sets: tuple[Any, ActiveSets] | None = None

    def figures(self, asked: Asked, progress: Progress | None = None) -> dict[str, Any]:
        """Return the page of a run without what it is held against."""
        return self._remembered("figures", asked, lambda: self._page(asked, False, progress))

    def held(self, asked: Asked, progress: Progress | None = None) -> dict[str, Any]:
        """Return the page of a run, held against dense, no cache and the optimum."""
        return self._remembered("held", asked, lambda: self._page(asked, True, progress))

    def curve(self, asked: Asked, progress: Progress | None = None) -> dict[str, Any]:
        """Return rates of the run against the size of its memory."""
        trace = self._trace(asked)
        options = self._options(asked, trace)
        budgets = ("dram", "cache_fraction")
        alike = {name: value for name, value in options.items() if name not in budgets}
        across = "cache_fraction" if "cache_fraction" in options else "dram"
        among = asked.model_copy(update={"options": {**alike, across: 0}})
        lines = self._remembered(
            "curve",
            among,
            lambda: curve_of(trace, self._device(asked), alike, across, progress),
        )
        rate = self.result(asked, progress)["tokens_per_second"]
        curve = lines.with_point(options.get(across), rate)
        return {"panels": [marked(panel) for panel in panels_of([curve.section])]}

    def result(
        self, asked: Asked, progress: Progress | None = None, *, held: bool = False
    ) -> dict[str, Any]:
        """Return the figures that ``dipsim run --json --details`` prints of a run, and warnings.

        Args:
            held: with its verdict and what it is held against.
        """
        kind = "held result" if held else "result"
        return self._remembered(kind, asked, lambda: self._run(asked, held, progress))

    def saved(self, asked: Asked, progress: Progress | None = None) -> dict[str, Any]:
        """Return the file that ``dipsim run --json --details`` would write."""
        data = self.result(asked, progress, held=True)
        known = {key: value for key, value in data.items() if key != "warnings"}
        options, devices = data["config"]["settings"], [self._device(asked)]
        said = about("run", known, options=options, trace=self._trace(asked), profiles=devices)
        return {**known, "about": said}

    def report(self, asked: Asked, progress: Progress | None = None) -> str:
        """Return the page of `dipsim report` as HTML."""
        return html.render(page_of(self.result(asked, progress, held=True)))

    def command(self, asked: Asked) -> str:
        """Return the command line that repeats a run."""
        return command_line(self._arguments(asked))

    def methods(self, name: str) -> dict[str, str]:
        """Return why each method cannot run on a trace; an empty text for one that can."""
        trace = self.traces.open(name).trace
        return {method: _missing(method, trace) for method in BUILTIN}

    def _page(self, asked: Asked, held: bool, progress: Progress | None) -> dict[str, Any]:
        data = self.result(asked, progress, held=held)
        page = page_of_run(read_result("result", data), repeated=False)
        caveats = [each.texts for each in page.sections if each.name == _MARKS]
        return {
            **shown(page, leave_out=[_MARKS]),
            "caveats": [text for texts in caveats for text in texts],
            "warnings": data["warnings"],
            "command": self.command(asked),
        }

    def _run(self, asked: Asked, held: bool, progress: Progress | None) -> dict[str, Any]:
        """Run it, and return the JSON of the result with its warnings."""
        trace = self._trace(asked)
        run = prepare(trace, self._device(asked), **self._options(asked, trace))
        self._hold_sets(asked, run)
        if held:
            result, standing = replay_held(run, progress)
            data = run_report.to_dict(result, standing, layers=True)
        else:
            traffic = replay(run, progress)
            result = Result(run, traffic, time_traffic(run, traffic))
            data = {**result.to_dict(), "per_layer": list(records(result, "layers"))}
        return {**data, "warnings": [*warnings(result), *trace.warnings]}

    def _hold_sets(self, asked: Asked, run: Run) -> None:
        """Choose the active sets of a run, or use those of the last one where they are the same."""
        seen = {name: value for name, value in asked.options.items() if name not in BESIDE_SETS}
        key = asked.trace, self.traces.open(asked.trace).state, key_of(seen)
        known = self._sets
        if known is not None and known[0] == key:
            run.sets.share(known[1])
        else:
            run.sets.hold_if_small()
            self._sets = key, run.sets

    def _trace(self, asked: Asked) -> Trace:
        return self.traces.open(asked.trace).trace

    def _device(self, asked: Asked) -> Profile:
        if asked.profile not in self._profiles:
            self._profiles[asked.profile] = load_profile(self.devices[asked.profile])
        return self._profiles[asked.profile]

    def _options(self, asked: Asked, trace: Trace) -> dict[str, Any]:
        """Return the options that the method takes, of methods with thresholds the tokens that
        these are calibrated on too."""
        options = dict(asked.options)
        method = options.pop("method", None)
        if isinstance(method, str):
            options = options_of(method, trace, options, {})
        return {name: options[name] for name in OPTIONS if name in options}

    def _arguments(self, asked: Asked) -> dict[str, Any]:
        """Return the arguments of `dipsim.simulate` that repeat a run."""
        named = {"trace": self.traces.sources[asked.trace], "profile": self.devices[asked.profile]}
        return {**named, **self._options(asked, self._trace(asked))}

    def _remembered(self, kind: str, asked: Asked, make: Callable[[], Answer]) -> Answer:
        """Return an answer that was given before, as long as the trace is the same."""
        key = kind, asked.key, self.traces.open(asked.trace).state
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                known: Answer = self._known[key]
                return known
        answer = make()
        with self._lock:
            self._known[key] = answer
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return answer


def _missing(method: str, trace: Trace) -> str:
    """Return what a method needs and a trace lacks."""
    if method == "recorded":
        known: Sequence[str] = [s for s in RECORDED_SIGNALS if s in trace.signals]
        sets = any(trace.signals[name].holds == "sets" for name in known)
        return "" if sets else "the trace has scores, no recorded sets"
    lacking = [name for name in BUILTIN[method].signals if name not in trace.signals]
    return f"the trace has no scores of {', '.join(lacking)}" if lacking else ""
