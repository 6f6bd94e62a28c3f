"""Ways that leave weights out: DIP and DIP-CA on recorded or synthetic scores."""

from dataclasses import replace
from typing import Any

from dipsim.analysis.loss import energy_of
from dipsim.analysis.search import search
from dipsim.errors import DipsimError
from dipsim.methods.masking import DEFAULT_GAMMA
from dipsim.planning.question import Question, figures_of
from dipsim.planning.way import Way
from dipsim.result import Result

DENSITIES = (0.7, 0.5)
METHODS = ("dip", "dip-ca")


def pruned(question: Question) -> tuple[list[Way], list[str]]:
    """Return runs of DIP and DIP-CA: at some densities, or the fastest within the loss allowed; and
    the fastest of them with units that are used together side by side in flash.

    Returns:
        The ways, and sentences on methods that cannot be run.
    """
    ways, refused = [], []
    for method in METHODS:
        try:
            tried = [{"density": each} for each in DENSITIES]
            if question.max_loss is not None:
                tried = _allowed(question, method)
            ways += [_pruned(question, method=method, **each) for each in tried]
        except DipsimError as problem:
            refused.append(f"{method}: {problem}")
    if ways:
        best = max(ways, key=lambda way: way.figures.rate.value)
        try:
            ways.append(_pruned(question, **best.options, layout="permuted"))
        except DipsimError as problem:  # too few tokens to learn an order from
            refused.append(str(problem))
    return ways, refused


def _allowed(question: Question, method: str) -> list[dict[str, Any]]:
    """Return the options of the fastest run of a method that loses no more than is allowed."""
    assert question.trace is not None, "checked by who asks"
    usual = {"gamma": DEFAULT_GAMMA} if method == "dip-ca" else {}  # not all pairs: seconds
    found: Any = search(
        question.trace,
        question.device,
        max_loss=question.max_loss,
        calibration=question.calibration,
        methods=[method],
        model=question.model,
        **{**question.options, "context": question.context, **usual},
    )
    if found.best is None:
        return []
    return [{"density": float(found.best.place["density"])}]


def _pruned(question: Question, **options: Any) -> Way:
    """Return a run of a method.

    Raises:
        DipsimError: it cannot be run so.
    """
    result = question.run(question.trace, **options)
    layout = f" {options['layout']}" if "layout" in options else ""
    return Way(
        name=f"{options['method']} {options['density']:g}{layout}",
        why=f"{options['density']:.0%} of MLP, {result.hit_rate:.0%} hits",
        options=options,
        figures=replace(figures_of(result), assumed=question.assumed),
        loss=_loss(question, result),
    )


def _loss(question: Question, result: Result) -> str:
    """Return what a run loses: perplexity by a calibration, else the energy that is left out."""
    energy = energy_of(result)
    if question.calibration is not None:
        bounds = question.calibration.bounds(result.method, energy)
        if bounds is not None and bounds.high is not None:
            return f"perplexity {bounds.low:.4g} to {bounds.high:.4g}"
    lost = max((1 - kept for kept in energy.values()), default=0.0)
    return f"{lost:.1%} of energy"
