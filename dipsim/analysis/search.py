"""Search: the highest rate at a loss, the least hardware for a rate, or rates over two axes."""

import os
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Unpack

from dipsim.analysis.calibration import Calibration, load_calibration, refuse_other_weights
from dipsim.analysis.contours import Contours, contours
from dipsim.analysis.frontier import Frontier, search_rate
from dipsim.analysis.least import Least, search_least
from dipsim.analysis.loss import allowed_loss
from dipsim.errors import DipsimError, brief, check_text, check_type
from dipsim.hardware import Profile, load_profile
from dipsim.keywords import SearchOptions, lists_options
from dipsim.lists import several_names
from dipsim.option import flag
from dipsim.replay.replay import Progress
from dipsim.resolve import Input
from dipsim.sweep.vary import AXES, Axis
from dipsim.trace import Trace, load_trace


@lists_options
def search(
    trace: Input | Trace,
    profile: Input | Profile,
    *,
    max_loss: float | str | Mapping[str, float] | None = None,
    calibration: str | os.PathLike[str] | Calibration | None = None,
    target_rate: float | None = None,
    least: Axis | None = None,
    axes: str | tuple[Axis, Axis] | None = None,
    points: int | None = None,
    methods: str | Sequence[str] = (),
    progress: Progress = lambda done, total: None,
    **options: Unpack[SearchOptions],
) -> Frontier | Least | Contours:
    """Search for the highest rate, for the least hardware, or for both along two axes.

    Args:
        trace: path, name of a shipped trace, arrays, or a `Trace`.
        profile: path, name of a shipped profile, mapping, or a `Profile`.
        max_loss: find the highest rate that loses no more: a share of the energy at every stage,
            or per stage (``{"mlp_input": .003, "glu": .1}``); with a calibration, perplexity above
            dense.
        calibration: perplexities of methods, a file or `Calibration`.
        target_rate: find the least hardware with which a run makes so many tokens per second.
        least: what is to be least: dram (the default), flash-bandwidth or iops.
        axes: two of them: run a grid; a text is a comma list, ``"dram,iops"``.
        points: of each axis, 2 to 50; default: 6.
        methods: those that may have the highest rate, or the one that runs; by default the
            trace's.
        progress: called with (runs done, runs expected).

    Returns:
        A `Frontier` for ``max_loss``, a `Least` for ``target_rate``, `Contours` for ``axes``.

    Raises:
        DipsimError: not exactly one of the three questions, or anything wrong with the input, in
            one line.
    """
    question = _question({"max_loss": max_loss, "target_rate": target_rate, "axes": axes})
    methods, pair = several_names(methods), several_names(axes)
    for method in methods:
        check_text("methods", method, "a name, or file.py:attribute")
    check_type("least", least, str, f"one of {', '.join(AXES)}")
    _belongs({"--calibration": calibration}, "max_loss", question)
    _belongs({"--method twice": methods[1:] or None}, "max_loss", question)
    _belongs({"--least": least}, "target_rate", question)
    _belongs({"--points": points}, "axes", question)
    if target_rate is not None:
        target_rate = _rate_of(target_rate)
    opened, device = load_trace(trace).kept(), load_profile(profile, options.pop("overrides", ()))
    given: dict[str, Any] = {**options, "progress": progress}
    if max_loss is not None:
        return _rate(opened, device, max_loss, calibration, methods, given)
    given["method"] = methods[0] if methods else None
    if target_rate is not None:
        return search_least(opened, device, least or "dram", target_rate, **given)
    return _grid(opened, device, pair, 6 if points is None else points, given)


def _question(questions: Mapping[str, Any]) -> str:
    """Return the question that is asked.

    Raises:
        DipsimError: no question is asked, or several are.
    """
    asked = [name for name, value in questions.items() if value is not None]
    if len(asked) != 1:
        given = " and ".join(map(flag, asked)) or "nothing to search for"
        raise DipsimError(f"{given}: give one of {', '.join(map(flag, questions))}")
    return asked[0]


def _rate_of(given: Any) -> float:
    """Return a target as a number.

    Raises:
        DipsimError: no number, or none that a device could reach.
    """
    check_type("target_rate", given, Real, "a number of tokens per second")
    if not 1e-9 <= given <= 1e15:
        raise DipsimError(f"--target-rate {given:g}: tokens per second, from 1e-9 to 1e15")
    return float(given)


def _belongs(given: Mapping[str, Any], to: str, question: str) -> None:
    """Refuse options that belong to another question."""
    for name, value in given.items():
        if value is not None and question != to:
            raise DipsimError(f"{name} goes with {flag(to)}, not with {flag(question)}: drop it")


def _rate(
    trace: Trace,
    device: Profile,
    max_loss: float | str | Mapping[str, float],
    calibration: str | os.PathLike[str] | Calibration | None,
    methods: Sequence[str],
    options: dict[str, Any],
) -> Frontier:
    for name in ("density", "group_density"):
        if options.get(name) is not None:
            raise DipsimError(f"{flag(name)} is what --max-loss searches: drop one of them")
    refuse_other_weights(options, "--max-loss")
    if len(set(methods)) < len(methods):
        raise DipsimError("--method: one is named twice; name each once")
    if calibration is not None and not isinstance(calibration, Calibration):
        calibration = load_calibration(calibration)
    allowed = allowed_loss(max_loss, calibration)
    return search_rate(trace, device, allowed, list(methods) or [None], **options)


def _grid(
    trace: Trace, device: Profile, axes: list[Any], points: int, options: dict[str, Any]
) -> Contours:
    if len(axes) != 2:
        given = ",".join(map(str, axes))
        raise DipsimError(f"--axes {brief(given)}: name two, e.g. dram,flash-bandwidth")
    check_type("points", points, Integral, "a whole number, from 2 to 50")
    if not 2 <= points <= 50:
        raise DipsimError(f"--points {points}: of each axis, from 2 to 50")
    return contours(trace, device, (axes[0], axes[1]), points, **options)
