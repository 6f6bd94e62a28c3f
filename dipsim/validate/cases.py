"""Published measurements: the runs, and separately the times they took.

A `Case` has no measured time, so no prediction can see the one it is judged by. Measured times lie
in `Cases.seconds`, which only fits of other cases and the final comparison read.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dipsim import files
from dipsim.errors import DipsimError, brief, first_problem

FORMAT, VERSION = "dipsim-validation", 1
SHIPPED = "validate/data"
"""Folder of the shipped cases, inside the package."""


_LEAST, _MOST = 1e-9, 1e18  # believable figures in any unit of a case


def _number(given: Any) -> float:
    """Return a number above 0; unlike pydantic, refuse texts and infinities."""
    plain = isinstance(given, int | float) and not isinstance(given, bool)
    if not plain or not _LEAST < given < _MOST:
        raise ValueError("it must be a number above 0")
    return float(given)


Positive = Annotated[float, BeforeValidator(_number)]


class Case(BaseModel):
    """A published run: device, model and policy, without the time that was measured."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str = Field(min_length=1, max_length=80, pattern=r"^[\w.+-]+$")
    kind: str = Field(max_length=200)
    device: str = Field(max_length=400)
    source: str = Field(default="", max_length=400)
    policy: str = Field(default="", max_length=400)
    hw: Mapping[str, Any] = {}
    model: Mapping[str, Any] = {}
    dram_cache_MiB: float = Field(default=0, ge=0, allow_inf_nan=False)  # noqa: N815 - the file's
    flash_bytes_per_token: Positive | None = None
    touched_bytes_per_token: Positive | None = None
    dram_bytes_per_token: Positive | None = None

    def number(self, section: str, key: str) -> float:
        """Return ``hw.key`` or ``model.key``, a number above 0.

        Raises:
            DipsimError: the number is missing, or not above 0.
        """
        value = (self.hw if section == "hw" else self.model).get(key)
        try:
            return _number(value)
        except ValueError:
            raise DipsimError(
                f"case {self.id}: {section}.{key} must be a number above 0, given "
                f"{brief(repr(value))}"
            ) from None

    def bytes_of(self, what: str) -> float:
        """Return the bytes per token of ``flash``, ``touched`` or ``dram``.

        Raises:
            DipsimError: the case does not state them.
        """
        value = getattr(self, f"{what}_bytes_per_token")
        if value is None:
            raise DipsimError(f"case {self.id}: {what}_bytes_per_token is missing: add it")
        return float(value)


@dataclass(frozen=True)
class Cases:
    """The cases of a file, and their measured times."""

    facts: tuple[Case, ...]
    seconds: Mapping[str, float]
    """Measured seconds per token, by the case's id; cases without a time are left out."""


def shipped_cases() -> Path:
    """Return the path of the cases that dipsim carries."""
    return files.shipped(SHIPPED) / "cases.json"


def load_cases(given: str | os.PathLike[str] | None = None) -> Cases:
    """Read the cases of a file, by default those that dipsim carries.

    Raises:
        DipsimError: no such file, another format, a case that is damaged or stands there twice.
    """
    path = shipped_cases() if given is None else Path(given)
    data = files.read_json(path, DipsimError)
    if data.get("format") != FORMAT or data.get("version") != VERSION:
        raise DipsimError(f"{path}: cases have format {FORMAT!r} and version {VERSION}")
    listed = data.get("cases")
    if not isinstance(listed, list) or not listed:
        raise DipsimError(f"{path}: cases must be a list of objects")
    facts: list[Case] = []
    seconds: dict[str, float] = {}
    for number, given_case in enumerate(listed):
        where = f"{path}: case {number}"
        try:
            case = Case.model_validate(given_case)
        except ValidationError as problem:
            raise DipsimError(f"{where}: {brief(first_problem(problem), 300)}") from None
        if any(other.id == case.id for other in facts):
            raise DipsimError(f"{where}: {case.id} stands there twice: give it another id")
        facts.append(case)
        measured = _seconds(given_case.get("measured"), f"{path}: case {case.id}")
        if measured is not None:
            seconds[case.id] = measured
    return Cases(tuple(facts), seconds)


def _seconds(measured: Any, where: str) -> float | None:
    """Return the seconds per token, in whatever unit they are stated; None without any.

    Raises:
        DipsimError: the figure is no number above 0.
    """
    if not isinstance(measured, dict):
        raise DipsimError(f"{where}: measured must be an object")
    for key, scale, power in (("s_per_token", 1, 1), ("ms_per_token", 1e-3, 1), ("tok_s", 1, -1)):
        value = measured.get(key)
        if value is not None:
            try:
                return scale * _number(value) ** power
            except ValueError:
                text = brief(json.dumps(value))
                raise DipsimError(
                    f"{where}: measured.{key} must be a number above 0, given {text}"
                ) from None
    return None
