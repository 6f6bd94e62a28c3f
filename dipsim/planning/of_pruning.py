"""Ways that leave weights out: DIP and DIP-CA on recorded or synthetic scores."""

from collections.abc import Iterator
from typing import Any

from dipsim.analysis.loss import energy_of
from dipsim.analysis.search import search
from dipsim.errors import DipsimError
from dipsim.planning.question import Question, figures_of
from dipsim.planning.way import Way
from dipsim.result import Result

DENSITIES = (0.7, 0.5)
METHODS = ("dip", "dip-ca")


def pruned(question: Question) -> Iterator[Way]:
    """Yield runs of DIP and DIP-CA: at some densities, or the fastest within the loss allowed."""
    assert question.trace is not None, "checked by who asks"
    for method in METHODS:
        densities = DENSITIES if question.max_loss is None else _allowed(question, method)
        for density in densities:
            for layout in ("interleaved", "permuted"):
                yield from _pruned(question, method, density, layout)


def _allowed(question: Question, method: str) -> tuple[float, ...]:
    """Return the density of the fastest run of a method that loses no more than is allowed."""
    assert question.trace is not None, "checked by who asks"
    found: Any = search(
        question.trace,
        question.device,
        max_loss=question.max_loss,
        calibration=question.calibration,
        methods=[method],
        model=question.model,
        **_searched(question),
    )
    return () if found.best is None else (float(found.best.place["density"]),)


def _searched(question: Question) -> dict[str, Any]:
    kept = ("backend", "kv_bits")
    return {key: value for key, value in question.options.items() if key in kept}


def _pruned(question: Question, method: str, density: float, layout: str) -> Iterator[Way]:
    options = {"method": method, "density": density, "layout": layout}
    try:
        result = question.run(question.trace, **options)
    except DipsimError:
        return
    yield Way(
        name=f"{method}, density {density:g}, {layout}",
        why=f"{density:.0%} of the MLP is used; {result.hit_rate:.0%} of that hits",
        options=options,
        figures=figures_of(result),
        loss=_loss(question, result),
        assumed="" if question.like is None else f"scores drawn like {question.like}",
    )


def _loss(question: Question, result: Result) -> str:
    """Return what a run loses: perplexity by a calibration, else the energy that is left out."""
    energy = energy_of(result)
    if question.calibration is not None:
        bounds = question.calibration.bounds(result.method, energy)
        if bounds is not None and bounds.high is not None:
            return f"perplexity {bounds.low:.4g} to {bounds.high:.4g}"
    lost = max((1 - kept for kept in energy.values()), default=0.0)
    return f"{lost:.1%} of the energy"
