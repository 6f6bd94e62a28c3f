"""Inputs that many commands share: the device, the trace, the options that were given."""

import warnings
from typing import TYPE_CHECKING, Any

from dipsim.cli.output import say
from dipsim.errors import DipsimError

if TYPE_CHECKING:
    from dipsim.hardware import Profile
    from dipsim.trace import Trace


def load_device(profile: Any, override: list[str] | None) -> "Profile":
    """Return the profile, with what was overridden.

    Raises:
        DipsimError: no profile was named, or it is wrong.
    """
    from dipsim.hardware import load_profile, profile_names

    if profile is None:
        raise DipsimError(f"no profile: add --profile with one of {', '.join(profile_names())}")
    with warnings.catch_warnings(record=True) as deprecations:
        warnings.simplefilter("always", FutureWarning)
        device = load_profile(profile, override or ())
    for deprecation in deprecations:
        say(f"warning: {deprecation.message}")
    return device


def open_trace(source: Any) -> "Trace":
    """Return the trace, once its warnings are said.

    Raises:
        DipsimError: no such trace, or it is wrong.
    """
    from dipsim.trace import load_trace

    trace = load_trace(source)
    warn_of(trace)
    return trace


def warn_of(trace: "Trace") -> None:
    """Say the warnings of an open trace."""
    for warning in trace.warnings:
        say(f"warning: {warning}")


def given_only(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given: those that are not None."""
    return {name: value for name, value in options.items() if value is not None}
