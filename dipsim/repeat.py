"""Repeating a run: the ``config`` of a result, written with it and read back from its JSON."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dipsim.errors import DipsimError
from dipsim.files import read_json
from dipsim.model import Model
from dipsim.run import Run
from dipsim.settings import MAPPED, Settings
from dipsim.trace import Trace, load_trace

_OF_A_METHOD = (
    "masking",
    "routing",
    "top_k",
    "selection",
    "calibrate_tokens",
    "recall",
    "predictor_rank",
    "weights",
    "cluster",
)
_TOGETHER = (
    ({"dram", "cache", "cache_fraction"}, {"dram", "cache", "cache_fraction"}),
    ({"density", "group_density", "split"}, {"density", "group_density", "split"}),
    ({"method"}, {"density", "group_density", "split", "gamma", *_OF_A_METHOD}),
    ({"policy"}, {"static_from", "admission"}),
    ({"selection", "calibrate_tokens"}, {"selection", "calibrate_tokens"}),
    ({"layout"}, {"order_from"}),
    ({"overlap", "prefetch"}, {"overlap", "prefetch"}),
)
"""Who gives one of the first starts anew with the second."""


@dataclass(frozen=True)
class SavedRun:
    """What a result says about how it was made."""

    file: str
    trace: Mapping[str, Any]
    profile: Mapping[str, Any]
    model: Mapping[str, Any] | None
    """Only when it was an option of the run; otherwise the trace says it again."""
    settings: Mapping[str, Any]

    def open_trace(self) -> Trace:
        """The very trace of that run.

        Raises:
            DipsimError: it is gone, or its contents changed.
        """
        name = str(self.trace.get("name"))
        found = load_trace(name)
        if found.hash != self.trace.get("hash"):
            raise DipsimError(
                f"{self.file}: trace {name} is not the one of that run (its contents changed); "
                "name the TRACE you want to run with these settings"
            )
        return found

    def settings_with(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The saved settings; options that are given take their place."""
        given = {key: value for key, value in options.items() if value is not None}
        dropped = {name for first, second in _TOGETHER if first & set(given) for name in second}
        io = self.settings.get("io"), given.get("io", self.settings.get("io"))
        if "mmap" in io and io[0] != io[1]:  # what it left no choice of starts anew
            dropped |= {*MAPPED, "prefetch", "admission", "static_from"}
        saved = {key: value for key, value in self.settings.items() if key not in dropped}
        return {**saved, **given}


def make_config(run: Run) -> dict[str, Any]:
    """Everything that repeats the run; ``resolved`` says what the defaults came to.

    Files are named by their full path, so that a run can be repeated from another folder.
    """
    said = run.settings.model_dump(mode="json", exclude_none=True)
    if "static_from" in said:
        said["static_from"] = _full(said["static_from"])
    if said.get("prefetch", "previous") not in ("previous", "next-layer"):
        said["prefetch"] = _full(said["prefetch"])
    file, suffix, attribute = run.settings.policy.rpartition(".py:")
    if suffix:
        said["policy"] = _full(file + ".py") + ":" + attribute
    model: Model | None = run.model
    if model is not None:  # the whole one: --layers is among the settings
        model = model.model_copy(update={"layers": run.trace.recorded_layers})
    groups = run.method.groups
    return {
        "trace": {"name": _full(run.trace.name), "hash": run.trace.hash},
        "profile": run.device.model_dump(mode="json", by_alias=True, exclude_unset=True),
        "model": None if model is None else model.model_dump(mode="json", exclude_unset=True),
        "model_given": run.model_given,
        "settings": said,
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


def _full(name: str) -> str:
    return os.path.abspath(name) if os.path.exists(name) else name
