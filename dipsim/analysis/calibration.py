"""Calibrations: the perplexity that a method's loss of energy costs, measured in closed loop.

A calibration is a JSON file of measured points: a method, the share of the energy that each stage
kept, and the resulting perplexity. Nothing is fitted between points. `Calibration.bounds` gives the
bounds that the points imply if perplexity grows with the energy lost at every stage; they are
bounds under monotonicity, not predictions.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dipsim import files
from dipsim.errors import DipsimError, brief, check_type, first_problem

Perplexity = Annotated[float, Field(ge=1, le=1e100, strict=True)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]
Name = Annotated[str, Field(min_length=1, max_length=80)]


class Bounds(NamedTuple):
    """Bounds of the perplexity under monotonicity."""

    low: float
    high: float | None
    """Upper bound; None if more is lost than at any point."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CalibrationPoint(_Section):
    """One closed-loop measurement."""

    method: Name
    energy_kept: Mapping[Name, Share] = Field(min_length=1)
    """Mean share of the squared scores that was kept, per stage."""
    perplexity: Perplexity

    def loses_at_most(self, kept: Mapping[str, float]) -> bool:
        """Return True if the point keeps at least ``kept`` at every stage."""
        return all(self.energy_kept[stage] >= share for stage, share in kept.items())

    def loses_at_least(self, kept: Mapping[str, float]) -> bool:
        """Return True if the point keeps at most ``kept`` at every stage."""
        return all(self.energy_kept[stage] <= share for stage, share in kept.items())


class Calibration(_Section):
    """A calibration file, validated."""

    format: Literal["dipsim-calibration"]
    version: Literal[1]
    model: Name
    dense_perplexity: Perplexity
    points: tuple[CalibrationPoint, ...] = Field(min_length=1, max_length=100_000)

    @model_validator(mode="after")
    def _same_stages(self) -> Self:
        stages: dict[str, set[str]] = {}
        for point in self.points:
            named = set(point.energy_kept)
            if stages.setdefault(point.method, named) != named:
                raise ValueError(f"points of method {brief(point.method)} differ in their stages")
        return self

    @property
    def methods(self) -> list[str]:
        """Methods that have points."""
        return list(dict.fromkeys(point.method for point in self.points))

    def check(self, method: str, stages: Sequence[str], model: str | None) -> None:
        """Refuse, before the run, a run that `bounds` knows nothing about.

        Args:
            method: the run's method.
            stages: names of its stages.
            model: name of its model; None, unknown, passes.

        Raises:
            DipsimError: a run of another model, or as `bounds`.
        """
        if model is not None and model != self.model:
            raise DipsimError(
                f"--calibration is of model {brief(self.model)}, this run of {brief(model)}: "
                "calibrate that one"
            )
        self.bounds(method, dict.fromkeys(stages, 1.0))

    def bounds(self, method: str, energy_kept: Mapping[str, float]) -> Bounds:
        """Return bounds of the perplexity, if it grows with the energy lost at every stage.

        The upper bound is the least perplexity of the points that lose at least as much at every
        stage, the lower bound the greatest of those that lose at most as much. The dense model,
        which loses nothing, is a point of every method. Where measured points contradict
        monotonicity, for instance by noise, the bounds span both.

        Args:
            method: the method's name.
            energy_kept: share of the energy kept, 0 to 1, per stage.

        Raises:
            DipsimError: no point of that method, or points of other stages.
        """
        points = [point for point in self.points if point.method == method]
        if not points:
            known = ", ".join(brief(name, 20) for name in self.methods[:8])
            raise DipsimError(f"--calibration has no point of method {method}: it knows {known}")
        if set(points[0].energy_kept) != set(energy_kept):
            stages = ", ".join(brief(stage, 20) for stage in list(points[0].energy_kept)[:8])
            raise DipsimError(
                f"--calibration of method {method} has stages {stages}; this run has "
                f"{', '.join(energy_kept)}"
            )
        dense = self.dense_perplexity
        low = [point.perplexity for point in points if point.loses_at_most(energy_kept)]
        high = [point.perplexity for point in points if point.loses_at_least(energy_kept)]
        if all(share >= 1 for share in energy_kept.values()):
            high.append(dense)
        least, most = max(low, default=dense), min(high, default=math.inf)
        least, most = sorted((max(least, dense), most))
        return Bounds(least, most if math.isfinite(most) else None)


def refuse_other_weights(options: Mapping[str, Any], beside: str) -> None:
    """Refuse weights that are pruned or stored in other bits: no figure includes their loss.

    Args:
        options: the run's options.
        beside: the option that states a loss, for the message.

    Raises:
        DipsimError: such an option is given, in one line.
    """
    for name in ("weights", "bits"):
        if options.get(name) is not None:
            raise DipsimError(f"--{name} loses what {beside} says nothing of: drop one of them")


def load_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Read a calibration file.

    Raises:
        DipsimError: no such file, not JSON, or not a calibration, in one line.
    """
    check_type("calibration", path, (str, os.PathLike), "a path: a text or a pathlib.Path")
    if not os.path.exists(path):
        raise DipsimError(f"--calibration {path}: no such file; give a calibration in JSON")
    data = files.read_json(Path(path), DipsimError)
    try:
        return Calibration.model_validate(data)
    except ValidationError as problem:
        where = f"--calibration {path}"
        raise DipsimError(f"{where}: {brief(first_problem(problem), 200)}") from None
