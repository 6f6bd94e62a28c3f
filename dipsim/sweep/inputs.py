"""Inputs of many runs, opened once: traces and profiles."""

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from dipsim.errors import DipsimError, brief
from dipsim.hardware import Profile, load_profile
from dipsim.model import Model, load_model
from dipsim.resolve import find_model
from dipsim.settings import Settings
from dipsim.store import key_of
from dipsim.trace import Trace, load_trace
from dipsim.units import BYTES


class Inputs:
    """Traces and profiles that are opened when they are first asked for."""

    def __init__(self) -> None:
        self._traces: dict[str, Trace] = {}
        self._kept: tuple[str, Trace] | None = None
        self._profiles: dict[str, Profile] = {}
        self._objects: list[str] = []
        self._devices: dict[str, Profile] = {}
        self._models: dict[str, Model] = {}
        self._sizes: dict[tuple[str | None, str | None], float] = {}

    def trace(self, name: str) -> Trace:
        """Return an open trace.

        Raises:
            TraceError: no such trace, or it is wrong.
        """
        if name not in self._traces:
            self._traces[name] = load_trace(name)
        return self._traces[name]

    @property
    def objects(self) -> list[str]:
        """Names of what is opened here alone, as it is an object of this process."""
        return [*self._objects, *self._devices, *self._models]

    def trace_known_as(self, trace: Any) -> str:
        """Return the name by which a trace is opened; an object has its own from then on.

        Args:
            trace: a path or name, arrays, or a `Trace`.

        Raises:
            TraceError: arrays that are no trace.
        """
        if isinstance(trace, str | os.PathLike):
            return os.fspath(trace)
        opened = trace if isinstance(trace, Trace) else load_trace(trace)
        self._traces[opened.name] = opened
        self._objects.append(opened.name)
        return opened.name

    def device_known_as(self, profile: Any) -> str:
        """Return the name by which a device is loaded; an object has its own from then on.

        Args:
            profile: a name or a file, its contents, or a `Profile`.

        Raises:
            ProfileError: contents that are no profile.
        """
        if isinstance(profile, str | os.PathLike):
            return os.fspath(profile)
        loaded = load_profile(profile)
        self._devices[loaded.name] = loaded
        return loaded.name

    def kept(self, name: str) -> Trace:
        """Return an open trace that keeps what it inflates, until another one is asked for.

        Raises:
            TraceError: as `trace`.
        """
        if self._kept is None or self._kept[0] != name:
            self._kept = name, self.trace(name).kept()
        return self._kept[1]

    def model_known_as(self, model: Any) -> str:
        """Return the name by which a model is loaded; an object has its own from then on.

        Args:
            model: a name or a file, its contents, or a `Model`.

        Raises:
            ModelError: contents that are no model.
        """
        if isinstance(model, str | os.PathLike):
            return os.fspath(model)
        loaded = model if isinstance(model, Model) else load_model(model)
        self._models[loaded.name] = loaded
        return loaded.name

    def model(self, name: str | None) -> Any:
        """Return a model that is an object, else the name that was given."""
        return None if name is None else self._models.get(name, name)

    def share_of_model(self, share: Any, options: Mapping[str, Any]) -> str:
        """Return a share of the model of a run at its own bits, as a text of bytes.

        Raises:
            DipsimError: no share, or no model.
        """
        with suppress(ValueError):  # 1e-9 is a text in YAML
            share = float(share) if isinstance(share, str) else share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 10:
            raise DipsimError(f"dram_share {brief(repr(share), 40)}: a share of the model, e.g. .5")
        return BYTES.exact(share * self._model_bytes(options.get("model"), options.get("trace")))

    def _model_bytes(self, model: str | None, trace: str | None) -> float:
        if (model, trace) not in self._sizes:
            opened = None if trace is None else self.trace(trace)
            known = None if model is None else load_model(self.model(model))
            if known is None and opened is not None:
                known = find_model(opened, None, Settings())
            if known is None:
                raise DipsimError("dram_share: no model to take shares of; add model")
            self._sizes[model, trace] = known.total_bytes
        return self._sizes[model, trace]

    def profile(self, options: Mapping[str, Any]) -> Profile:
        """Return the device of a run, with its ``overrides``.

        Raises:
            ProfileError: no such profile, or it is wrong.
        """
        profile, overrides = options["profile"], options.get("overrides", ())
        key = key_of({"profile": profile, "overrides": overrides})
        if key not in self._profiles:
            self._profiles[key] = load_profile(self._devices.get(profile, profile), overrides)
        return self._profiles[key]
