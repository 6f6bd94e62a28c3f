"""Inputs of many runs, opened once: traces and profiles."""

from collections.abc import Mapping
from typing import Any

from dipsim.hardware import Profile, load_profile
from dipsim.store import key_of
from dipsim.trace import Trace, load_trace


class Inputs:
    """Traces and profiles that are opened when they are first asked for."""

    def __init__(self) -> None:
        self._traces: dict[str, Trace] = {}
        self._kept: tuple[str, Trace] | None = None
        self._profiles: dict[str, Profile] = {}

    def trace(self, name: str) -> Trace:
        """Return an open trace.

        Raises:
            TraceError: no such trace, or it is wrong.
        """
        if name not in self._traces:
            self._traces[name] = load_trace(name)
        return self._traces[name]

    def kept(self, name: str) -> Trace:
        """Return an open trace that keeps what it inflates, until another one is asked for.

        Raises:
            TraceError: as `trace`.
        """
        if self._kept is None or self._kept[0] != name:
            self._kept = name, self.trace(name).kept()
        return self._kept[1]

    def profile(self, options: Mapping[str, Any]) -> Profile:
        """Return the device of a run, with its ``overrides``.

        Raises:
            ProfileError: no such profile, or it is wrong.
        """
        profile, overrides = options["profile"], options.get("overrides", ())
        key = key_of({"profile": profile, "overrides": overrides})
        if key not in self._profiles:
            self._profiles[key] = load_profile(profile, overrides)
        return self._profiles[key]
