"""Repeating a run: the ``config`` of a result, written with it and read back from its JSON."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dipsim import methods, policies
from dipsim.errors import DipsimError, brief
from dipsim.files import read_json
from dipsim.model import Model
from dipsim.plugins import full_name, full_path
from dipsim.resolve import WITHOUT_TRACE
from dipsim.run import Run
from dipsim.settings import FIXED_BY_MMAP, Settings, discarded
from dipsim.trace import Trace, load_trace


@dataclass(frozen=True)
class SavedRun:
    """Configuration of a run, as its result states it."""

    file: str
    trace: Mapping[str, Any]
    profile: Mapping[str, Any]
    model: Mapping[str, Any] | None
    """Geometry, where it was an option of the run; None where the trace tells it."""
    settings: Mapping[str, Any]

    def open_trace(self) -> Trace | None:
        """Open the trace of that run; None for a run without one.

        Raises:
            DipsimError: it is gone, or its contents changed.
        """
        name = str(self.trace.get("name"))
        if name == WITHOUT_TRACE:
            return None
        trace = load_trace(name)
        if trace.hash != self.trace.get("hash"):
            raise DipsimError(
                f"{self.file}: trace {name} is not the one of that run (its contents changed); "
                "name the TRACE you want to run with these settings"
            )
        return trace

    def settings_with(
        self, options: Mapping[str, Any], *, trust_files: bool = False
    ) -> dict[str, Any]:
        """Return the saved settings, overridden by the options that are given.

        An option also discards the saved values that refine or restate it (`discarded`): those of
        dip-ca do not outlive another ``method``.

        Args:
            trust_files: the files of a policy and a method that the saved settings name may be
                run; otherwise they must be among the options too.

        Raises:
            DipsimError: the saved settings name a file that would be run, and nobody asked for it.
        """
        given = {key: value for key, value in options.items() if value is not None}
        for what, runs_file in (("policy", policies.runs_file), ("method", methods.runs_file)):
            saved_one = self.settings.get(what)
            if not isinstance(saved_one, str) or not runs_file(saved_one):
                continue
            if not trust_files and what not in given:
                raise DipsimError(
                    f"--config {self.file}: names the {what} {brief(saved_one, 200)}, a file that "
                    f"would be run: look at it, then add --trust-files or give that --{what} "
                    "again; or give another"
                )
            if isinstance(given.get(what), str) and full_name(given[what]) == full_name(saved_one):
                del given[what]  # no other one: what refines it stays
        dropped = discarded(given)
        io = self.settings.get("io"), given.get("io", self.settings.get("io"))
        if "mmap" in io and io[0] != io[1]:  # what mmap fixed was nobody's choice
            dropped |= {*FIXED_BY_MMAP, *discarded(FIXED_BY_MMAP)}
        saved = {key: value for key, value in self.settings.items() if key not in dropped}
        return {**saved, **given}


def make_config(run: Run) -> dict[str, Any]:
    """Return all that repeats the run; ``resolved`` holds what the defaults came to.

    Files are named by their full path, so that a run can be repeated from another folder.
    """
    saved = run.settings.model_dump(mode="json", exclude_none=True)
    for what in {"static_from", "warm_from"} & saved.keys():
        saved[what] = full_path(saved[what])
    if saved.get("prefetch", "previous") not in ("previous", "next-layer"):
        saved["prefetch"] = full_path(saved["prefetch"])
    for what in ("policy", "method"):
        saved[what] = full_name(saved[what])
    model: Model | None = None if run.model is None else run.model.whole  # --layers is a setting
    groups = run.method.groups
    return {
        "trace": {
            "name": WITHOUT_TRACE if run.without_trace else full_path(run.trace.name),
            "hash": run.trace.hash,
        },
        "profile": run.device.model_dump(mode="json", by_alias=True, exclude_unset=True),
        "model": None if model is None else model.model_dump(mode="json", exclude_unset=True),
        "model_given": run.model_given,
        "settings": saved,
        "resolved": {
            "density": run.method.density,
            "group_density": {group.signal: group.density for group in groups},
            "kept": {group.signal: group.kept for group in groups},
            "gamma": {group.signal: group.gamma for group in groups if group.gamma is not None},
            "context": run.context,
        },
    }


def read_config(file: str) -> SavedRun:
    """Read the ``config`` of a result, or a file that holds just that object.

    Raises:
        DipsimError: no such file, not JSON, or not a dipsim config.
    """
    if not os.path.lexists(file):
        raise DipsimError(f"--config {file}: no such file; give the output of dipsim run --json")
    data = read_json(Path(file), DipsimError)
    data = data.get("config", data)
    parts = ("trace", "profile", "settings")
    if not isinstance(data, dict) or not all(isinstance(data.get(p), dict) for p in parts):
        raise DipsimError(
            f"--config {file}: no config with trace, profile and settings; "
            "give the output of dipsim run --json"
        )
    unknown = sorted(set(data["settings"]) - set(Settings.model_fields))
    if unknown:
        raise DipsimError(f"--config {file}: unknown setting {unknown[0]!r}: remove it")
    model = data.get("model") if data.get("model_given") else None
    if model is not None and not isinstance(model, dict):
        raise DipsimError(f"--config {file}: model must be an object")
    return SavedRun(file, data["trace"], data["profile"], model, data["settings"])
