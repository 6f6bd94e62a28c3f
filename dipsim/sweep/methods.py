"""Several methods side by side: each takes the options that are for it, all measure the same."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dipsim.errors import BudgetError, DipsimError, MethodError, ModelError, PolicyError
from dipsim.methods import PruningMethod, kind_of
from dipsim.methods.thresholds import most_rows
from dipsim.option import flag
from dipsim.settings import TAKES
from dipsim.trace import DECODE, Trace

IMPOSSIBLE = (MethodError, ModelError, BudgetError, PolicyError)
"""Errors that make one of several runs impossible, and leave the others."""


def part_of(trace: Trace, options: Mapping[str, Any]) -> Trace:
    """Return the part of the trace that is replayed."""
    return trace.part(*(options.get(name) for name in ("tokens", "layers", "sequence")))


def options_of(
    method: str | PruningMethod,
    trace: Trace,
    options: Mapping[str, Any],
    changes: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the options of a run of a method.

    Thresholds are calibrated on the first quarter of the tokens unless the user says which.

    Args:
        method: its name, ``file.py:attribute``, or a method of a user's own.
        trace: what is replayed, all of it.
        options: they hold for all runs of methods that take them.
        changes: options of this run; None takes an option away.
    """
    kind = kind_of(method)
    taken = {
        name: value for name, value in options.items() if name not in TAKES or kind in TAKES[name]
    }
    chosen = {**taken, "method": method, **changes}
    if method in ("cats", "teal") or chosen.get("selection") == "threshold":
        part = part_of(trace, options)
        chosen.setdefault("calibrate_tokens", f"0:{max(1, min(part.tokens // 4, most_rows(part)))}")
    else:
        chosen.pop("calibrate_tokens", None)
    return {name: value for name, value in chosen.items() if value is not None}


def check_used(options: Collection[str], runs: Sequence[Mapping[str, Any]], runner: str) -> None:
    """Refuse an option that no run uses.

    Args:
        options: names of those that hold for all runs of methods that take them.
        runs: the options of each.
        runner: who makes them, for the error.

    Raises:
        DipsimError: in one line.
    """
    methods = {kind_of(run["method"]) for run in runs}
    for name in TAKES.keys() & set(options):
        if not methods & set(TAKES[name]):
            raise DipsimError(
                f"{flag(name)} is for {', '.join(TAKES[name])}, none of which {runner} "
                "runs here: drop it"
            )
    calibrated = any("calibrate_tokens" in run for run in runs)
    if "calibrate_tokens" in options and not calibrated:
        raise DipsimError(
            f"--calibrate-tokens: {runner} runs nothing with thresholds here: drop it"
        )


def calibrated_tokens(part: Trace, options: Mapping[str, Any]) -> int:
    """Return the decode tokens up to the last one that a run's thresholds are calibrated on."""
    rows = options.get("calibrate_tokens")
    if rows is None:
        return 0
    return int((part.phase[: part.calibration_rows(rows)[1]] == DECODE).sum())


def warmed_up(options: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    """Return the options of a run with a warm-up of at least so many decode tokens."""
    return {**options, "warmup": max(tokens, options.get("warmup", 0))}
