"""The studies of the DIP paper (arXiv 2412.01380), and of what stands beside the weights: sweep
files that dipsim ships (``docs/studies``), with a trace and options of a user's in place of theirs.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Unpack

from dipsim.analysis.results import figures_of
from dipsim.errors import DipsimError, brief, check_pairs
from dipsim.files import path_of, read_yaml, shipped
from dipsim.hardware import Profile, override_pairs
from dipsim.keywords import StudyOptions, lists_options
from dipsim.lists import several_names
from dipsim.resolve import Input
from dipsim.settings import concerning
from dipsim.store import Store
from dipsim.sweep.execute import Executor, Watch
from dipsim.sweep.file import Sweep, load_sweep
from dipsim.sweep.grid import Grid
from dipsim.sweep.inputs import Inputs
from dipsim.sweep.keys import LOOP, PAIRS, SHARE
from dipsim.sweep.loop import REPLAYED
from dipsim.sweep.plan import Plan, make_plan
from dipsim.sweep.sweep import LIMIT, SweepResult, executor_of, run_plan
from dipsim.trace import Trace
from dipsim.views import Viewed

FOLDER, SUFFIX = "docs/studies", ".yaml"
PAPER = (
    *("density", "density-ppl", "memory-ppl", "split", "split-ppl", "rate-ppl", "rate-at-loss"),
    *("policies", "gamma", "variants", "dram", "flash", "io-overlap", "predictor"),
    *("binarisation", "layers", "quant", "lora"),
)
"""Studies of the paper, in its order: what ``dipsim study all`` runs."""
BESIDE = ("ttft", "kv", "tokens", "skipping", "batch")
"""Studies of prompts, and of what stands beside the weights."""
STUDIES = (*PAPER, *BESIDE)
_OF_SOME = ("adapter", "lora_steps", "requantise", "geometry", "calibrate_tokens")
"""Keys of a judged model that some studies have, and others would make something else of."""
STORE = "studies.db"
"""Store of the command's studies, unless a user names another: they share cells."""


def titles() -> dict[str, str]:
    """Return what each study varies, by name."""
    return {name: str(read_yaml(_file(name), DipsimError)["title"]) for name in STUDIES}


def load_study(name: str, changes: Mapping[str, Any] | None = None) -> Sweep:
    """Load a study by name.

    Args:
        name: one of `STUDIES`.
        changes: keys of its file that are replaced; a size of DRAM replaces any other.

    Raises:
        DipsimError: there is none of that name, or its file cannot hold the changes.
    """
    if not isinstance(name, str) or name not in STUDIES:
        raise DipsimError(f"no study {brief(repr(name))}: use one of {', '.join(STUDIES)}, or all")
    given = dict(changes or {})
    own = load_sweep(_file(name)).grid
    for key in given:
        _check_free(name, key, own)
    budget = (*concerning("budget"), SHARE)
    if any(given.get(size) is not None for size in budget):
        given = {**dict.fromkeys(budget), **given}
    if given.get("group_density") is not None:
        given = {"density": None, "split": None, **given}
    return load_sweep(_file(name), {"name": name, **given})


def _check_free(name: str, key: str, own: Grid) -> None:
    """Refuse a key in place of several axes of a study, or of one that stands for others too.

    Raises:
        DipsimError: in one line.
    """
    if key in own.names and key not in own.zipped:
        return
    budget = (*concerning("budget"), SHARE)
    varied = [axis for axis in own.names if key in PAIRS and axis.startswith(f"{key}.")]
    varied += [axis for axis in own.names if key in budget and axis in budget]
    if varied:
        axes = " and ".join(f"--set {axis}=VALUE" for axis in varied)
        raise DipsimError(f"{key}: study {name} varies {', '.join(varied)} itself; give {axes}")
    if key in own.zipped:
        raise DipsimError(
            f"{key}: study {name} varies {', '.join(own.zipped)} together; give --set zip=..., or "
            "a sweep of your own"
        )


def _file(name: str) -> Path:
    return shipped(FOLDER) / f"{name}{SUFFIX}"


@dataclass(frozen=True, repr=False)
class StudyResult(SweepResult, Viewed):
    """A study that is over: its cells, in the order of its axes."""

    report: ClassVar[str] = "study"

    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Options that all cells have which take them."""
    unmeasured: int = 0
    """Decode tokens no run measures, since thresholds of some are calibrated on them."""

    @property
    def left_out(self) -> list[str]:
        """Methods of which no cell could be run."""
        ran = {cell.options.get("method") for cell in self.cells if cell.figures is not None}
        every = dict.fromkeys(str(cell.options.get("method")) for cell in self.cells)
        return [method for method in every if method not in ran]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "study": self.name,
            "summary": self.title,
            "axes": list(self.axes),
            "fixed": dict(self.fixed),
            "left_out": self.left_out,
            "unmeasured": self.unmeasured,
            "cells": [
                {
                    **cell.place,
                    **figures_of(cell),
                    "marks": list(cell.marks),
                    "why": cell.why,
                    "options": dict(cell.options),
                }
                for cell in self.cells
            ],
        }


@lists_options
def study(
    name: str,
    trace: Input | Trace | None = None,
    profiles: Input | Profile | Sequence[Input | Profile] = (),
    *,
    methods: str | Sequence[str] = (),
    policies: str | Sequence[str] = (),
    store: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    dask: str | None = None,
    changes: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
    **options: Unpack[StudyOptions],
) -> StudyResult:
    """Run a study of the DIP paper: a sweep that dipsim ships, into a store.

    Args:
        name: one of `STUDIES`.
        trace: path, name of a shipped trace, arrays, or a `Trace`; default: smollm2-chat.
        profiles: a device, or several; default: those of the study. Objects, as a trace or a model
            that is one, are of this process: neither ``workers`` nor ``dask`` take them.
        methods: names or ``file.py:attribute``, in place of the study's.
        policies: names or ``file.py:attribute``, in place of the study's. Texts of methods and
            policies may be comma lists, as on the command line.
        store: SQLite file that keeps the cells for other studies; None to keep them nowhere.
        workers: processes that run cells; results do not depend on it.
        dask: a scheduler in place of them, as of `dipsim.sweep`.
        changes: keys of the study's file that are replaced, as of `dipsim.sweep`.
        watch: told what happens.
        options: they hold for all cells of methods that take them.

    Raises:
        DipsimError: anything wrong with the input, in one line; of what only some cells cannot do
            they say why.
    """
    check_pairs("changes", changes, "{'density': [0.5, 0.7]}")
    inputs = Inputs()
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    if "overrides" in given:
        given["overrides"] = override_pairs(given["overrides"])
    if "model" in given:
        given["model"] = inputs.model_known_as(given["model"])
    if trace is not None:
        given["trace"] = inputs.trace_known_as(trace)
    if devices := several_names(profiles):
        given["profile"] = [inputs.device_known_as(each) for each in devices]
    for key, names in (("method", methods), ("policy", policies)):
        if listed := several_names(names):
            given[key] = [_text(key, each) for each in listed]
    plan = plan_study(name, {**given, **(changes or {})}, inputs)
    executor = executor_of(workers, dask, watch, inputs)
    with TemporaryDirectory() as folder:
        path = Path(folder) / STORE if store is None else path_of(store, "store")
        with Store.open(path, create=True) as opened:
            found = run_study(plan, opened, executor, watch)
    return found if store is not None else replace(found, store=None)


def plan_all(changes: Mapping[str, Any], inputs: Inputs) -> list[Plan]:
    """Work out what the studies of the paper run; each takes the changes that are for its kind.

    Args:
        changes: keys of their files that are replaced: those of a judged model where one is, or
            where they stand; those of a replay where there is one; all others everywhere.
        inputs: opens traces and profiles.

    Raises:
        DipsimError: as `plan_study`.
    """
    plans = []
    for name in PAPER:
        own = load_study(name).grid
        theirs = {*own.fixed, *own.names}
        judges = "text" in theirs
        left_out = (*own.zipped, *(("trace", *REPLAYED) if judges else ()))
        of_theirs = _OF_SOME if judges else (*LOOP, "calibrate_tokens")
        taken = {
            key: value
            for key, value in changes.items()
            if key not in left_out and (key not in of_theirs or key in theirs)
        }
        plans.append(plan_study(name, taken, inputs))
    return plans


def plan_study(name: str, changes: Mapping[str, Any], inputs: Inputs) -> Plan:
    """Work out what a study runs.

    Args:
        changes: keys of its file that are replaced.
        inputs: opens traces and profiles.

    Raises:
        DipsimError: as `load_study`, or a change that no cell uses.
    """
    sweep = load_study(name, changes)
    judges = sweep.grid.fixed.get("text") is not None
    if judges and changes.get("trace") is not None:
        raise DipsimError(
            f"study {name} judges a model on a text, not the trace {brief(changes['trace'])}: give "
            "--set model=FILE --set text=FILE, or no trace"
        )
    own = load_study(name).grid
    asked = set(changes) - {*own.fixed, *own.names}
    return make_plan(sweep, inputs, limit=LIMIT, trust_files=True, asked=asked)


def run_study(
    plan: Plan, store: Store, executor: Executor, watch: Watch | None = None
) -> StudyResult:
    """Run the cells of a study that a store does not hold.

    Raises:
        DipsimError: the store cannot be written.
    """
    done = run_plan(plan, store, executor, watch=watch)
    warm = [int(cell.options.get("warmup") or 0) for cell in plan.cells]
    own = int(plan.sweep.grid.fixed.get("warmup") or 0)
    return StudyResult(
        **{each.name: getattr(done, each.name) for each in fields(done)},
        fixed=plan.sweep.grid.fixed,
        unmeasured=max(warm) if max(warm) > own else 0,
    )


def _text(key: str, given: Any) -> str:
    """Return the name of a method or policy.

    Raises:
        DipsimError: an object, which no other process could be given.
    """
    if isinstance(given, str | os.PathLike):
        return os.fspath(given)
    raise DipsimError(f"{key} {brief(repr(given), 60)}: a study takes names and files, no objects")
