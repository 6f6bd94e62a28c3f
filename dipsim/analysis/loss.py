"""Loss that a run may have: energy at every stage, or with a calibration perplexity.

Shares of energy compare runs of one method only, not different methods. With a calibration the loss
is the upper bound of perplexity above dense, which compares them too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from dipsim.analysis.calibration import Bounds, Calibration
from dipsim.errors import DipsimError, brief
from dipsim.result import Result


def energy_of(result: Result) -> dict[str, float]:
    """Return the mean share of the squared scores that a run kept, per stage."""
    return dict(zip(result.traffic.groups, result.energy_kept, strict=True))


@dataclass(frozen=True)
class Allowed:
    """The loss that is allowed."""

    most: float | Mapping[str, float]
    """Largest share of the energy lost at every stage, or per stage; with a calibration, largest
    perplexity above dense."""
    calibration: Calibration | None = None

    @property
    def limit(self) -> float:
        """Largest value of `loss` that is allowed."""
        return 1.0 if isinstance(self.most, Mapping) else self.most

    @property
    def meaning(self) -> str:
        """Meaning of `loss`, in words."""
        if self.calibration is not None:
            return "perplexity above dense, upper bound"
        worst = "energy lost at the worst stage"
        return f"{worst}, over what it may lose" if isinstance(self.most, Mapping) else worst

    def bounds(self, method: str, kept: Mapping[str, float]) -> Bounds | None:
        """Return bounds of the perplexity; None without a calibration."""
        return None if self.calibration is None else self.calibration.bounds(method, kept)

    def loss(self, method: str, kept: Mapping[str, float]) -> float:
        """Return the loss of a run as one number, to be compared with `limit`."""
        if self.calibration is not None:
            high = self.calibration.bounds(method, kept).high
            return math.inf if high is None else high - self.calibration.dense_perplexity
        lost = {stage: max(0.0, 1 - share) for stage, share in kept.items()}
        if not isinstance(self.most, Mapping):
            return max(lost.values())
        shares = (_share(lost[stage], most) for stage, most in self.most.items())
        return max(shares)

    def check(self, method: str, stages: Sequence[str], model: str | None) -> None:
        """Refuse bounds that do not fit a run.

        Raises:
            DipsimError: stages without a bound, bounds without a stage, or as `Calibration.check`.
        """
        if self.calibration is not None:
            self.calibration.check(method, stages, model)
        elif isinstance(self.most, Mapping) and set(self.most) != set(stages):
            raise DipsimError(
                f"--max-loss names {', '.join(self.most)}; the stages of {method} are "
                f"{', '.join(stages)}: name each, or give one number for all"
            )


def allowed_loss(
    given: float | str | Mapping[str, float], calibration: Calibration | None = None
) -> Allowed:
    """Return the loss that is allowed, as ``max_loss`` states it.

    Args:
        given: ``.02``, ``{"mlp_input": .003, "glu": .1}``, or the texts that the command line has
            for them: ``".02"``, ``"mlp_input=.003,glu=.1"``.
        calibration: with one the loss is of perplexity, which is one number.

    Raises:
        DipsimError: not of that form, or no share.
    """
    named = calibration is None
    most = _losses(given) if isinstance(given, str) else given
    losses: list[Any] = list(most.values()) if isinstance(most, Mapping) and named else [most]
    highest = 1.0 if named else math.inf
    if not all(_is_number(loss) and 0 <= loss <= highest for loss in losses):
        form = (
            "a share of the energy from 0 to 1, e.g. .02, or mlp_input=.003,glu=.1"
            if named
            else "a perplexity above dense, 0 or more"
        )
        raise DipsimError(f"--max-loss {brief(repr(given), 60)}: write {form}")
    return Allowed(most, calibration)


def _losses(text: str) -> float | Mapping[str, float]:
    """Return the number, or the numbers by stage, of a text; nan where it is neither."""
    try:
        if "=" not in text:
            return float(text)
        pairs = [part.partition("=") for part in text.split(",")]
        losses = {stage.strip(): float(loss) for stage, _, loss in pairs}
    except ValueError:
        return math.nan
    return losses if len(losses) == len(pairs) else math.nan


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _share(lost: float, most: float) -> float:
    """Return the loss relative to the most allowed; infinite if nothing is allowed."""
    if most:
        return lost / most
    return math.inf if lost else 0.0
