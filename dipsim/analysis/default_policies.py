"""Choice of the policies that a command runs when the user names none."""

from collections.abc import Mapping, Sequence
from typing import Any

from dipsim.methods import build_method, name_of
from dipsim.policies import BUILTIN
from dipsim.settings import make_settings
from dipsim.trace import Trace


def policies_that_apply(
    names: Sequence[str], trace: Trace, options: Mapping[str, Any]
) -> list[str]:
    """Return the built-in policies among ``names`` that mean something with these options.

    Raises:
        DipsimError: an option is wrong.
    """
    method = options.get("method")
    settings = make_settings({**options, "method": name_of(method)})
    aware = build_method(trace, settings, given=method).cache_aware
    applicable = []
    for name in names:
        policy = BUILTIN[name]
        if policy.future and (aware or (policy.atomic_only and settings.scope == "global")):
            continue
        if policy.future and settings.prefetch_into == "cache":
            continue
        if settings.access == "sequential" and (policy.atomic_only or policy.admit == "ranked"):
            continue
        if settings.admission is not None and policy.admit == "never":
            continue
        if settings.admission == "ranked" and not policy.ranks:
            continue
        applicable.append(name)
    return applicable
