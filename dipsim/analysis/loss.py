"""How much a run may lose: energy at every stage, or with a calibration perplexity.

Energy is a proxy of one method's own: what another method keeps does not compare with it. With a
calibration the loss is the upper bound of perplexity above dense, which does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dipsim.analysis.calibration import Bounds, Calibration
from dipsim.errors import DipsimError
from dipsim.result import Result


def energy_of(result: Result) -> dict[str, float]:
    """Per stage, the mean share of the squared scores that was kept."""
    return dict(zip(result.traffic.groups, result.energy_kept, strict=True))


@dataclass(frozen=True)
class Allowed:
    """The most that may be lost."""

    most: float | Mapping[str, float]
    """Share of the energy at every stage, or per stage; with a calibration, perplexity."""
    calibration: Calibration | None = None

    @property
    def limit(self) -> float:
        """What `loss` may be."""
        return 1.0 if isinstance(self.most, Mapping) else self.most

    @property
    def meaning(self) -> str:
        """What `loss` is, in words."""
        if self.calibration is not None:
            return "perplexity above dense, upper bound"
        worst = "energy lost at the worst stage"
        return f"{worst}, over what it may lose" if isinstance(self.most, Mapping) else worst

    def bounds(self, method: str, kept: Mapping[str, float]) -> Bounds | None:
        """Of the perplexity; None without a calibration."""
        return None if self.calibration is None else self.calibration.bounds(method, kept)

    def loss(self, method: str, kept: Mapping[str, float]) -> float:
        """One number for what a run lost."""
        if self.calibration is not None:
            high = self.calibration.bounds(method, kept).high
            return math.inf if high is None else high - self.calibration.dense_perplexity
        lost = {stage: max(0.0, 1 - share) for stage, share in kept.items()}
        if not isinstance(self.most, Mapping):
            return max(lost.values())
        shares = (_share(lost[stage], most) for stage, most in self.most.items())
        return max(shares)

    def check(self, method: str, stages: Sequence[str], model: str | None) -> None:
        """Refuse what does not fit a run.

        Raises:
            DipsimError: stages without a bound or bounds without a stage, another calibration.
        """
        if self.calibration is not None:
            self.calibration.check(method, stages, model)
        elif isinstance(self.most, Mapping) and set(self.most) != set(stages):
            raise DipsimError(
                f"--max-loss names {', '.join(self.most)}; the stages of {method} are "
                f"{', '.join(stages)}: name each, or give one number for all"
            )


def _share(lost: float, most: float) -> float:
    if most:
        return lost / most
    return math.inf if lost else 0.0
