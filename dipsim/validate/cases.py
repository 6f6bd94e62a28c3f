"""Published measurements as data: what was run on which device, and what was measured.

A file of cases is YAML or JSON with ``cases``, a list, and ``models``, geometries by name
(docs/validation.md). Ids have no meaning. A `Case` has no measured figure, so no prediction can see
the one that it is judged by: measured figures lie in `Cases.measured`.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from dipsim import files
from dipsim.errors import DipsimError, brief, first_problem
from dipsim.model import weight_format
from dipsim.validate import earlier

SHIPPED = "validate/data"
"""Folder of the shipped cases, inside the package."""
MOST_CASES = 100_000
"""Most cases that are read from a file."""
MOST_EXPERTS = 65_536
"""Most experts of a layer."""
MIB = 2.0**20
_LEAST, _MOST = 1e-9, 1e18  # believable figures in any unit of a case
Kind = Literal["decode", "prefill", "ttft", "streaming", "mapped", "curve"]
UNITS: Mapping[str, tuple[float, int]] = {
    "tokens/s": (1.0, -1),
    "s": (1.0, 1),
    "ms": (1e-3, 1),
}
"""Scale and power of each unit of a figure: its seconds are (scale x figure)^power."""


def _number(given: Any) -> Any:
    """Return a number above 0, or None as it is; unlike pydantic, refuse texts and infinities.

    Raises:
        ValueError: no number, or none that is believable.
    """
    if given is None:
        return None
    plain = isinstance(given, int | float) and not isinstance(given, bool)
    if not plain or not _LEAST < given < _MOST:
        raise ValueError("it must be a number above 0")
    return float(given)


def _mib(key: str, stated: Any) -> float:
    """Return the bytes of a size that is stated in MiB under a key; 0 stands for none."""
    try:
        return float(_number(stated)) * MIB if stated else 0.0
    except ValueError as problem:
        raise ValueError(f"{key}: {problem}") from None


Positive = Annotated[float | None, BeforeValidator(_number)]
Text = Annotated[str, Field(max_length=400)]


class Case(BaseModel):
    """A published run: device, engine, model and work, without the figure that was measured.

    Figures are in its ``unit``. Bytes are per token unless said. What a streaming case does not
    state is taken from its model and its profile.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    id: str = Field(min_length=1, max_length=80)
    kind: Kind = "streaming"
    device: Text = ""
    profile: str | Mapping[str, Any] | None = Field(
        default=None, validation_alias=AliasChoices("profile", "nearest_profile")
    )
    engine: Text = ""
    backend: Text = ""
    model: str | Mapping[str, Any] = ""
    weight_format: str | None = Field(default=None, max_length=200)
    bits: Positive = Field(default=None, validation_alias=AliasChoices("bits", "bits_per_weight"))
    model_bytes: Positive = None
    """Bytes of the whole file."""
    weight_bytes: Positive = None
    """Bytes of the weights that a token of a dense model reads."""
    prompt: Annotated[int, Field(ge=1, le=2**20)] | None = None
    depth: Annotated[int, Field(ge=0, le=2**20)] = 0
    unit: Literal["tokens/s", "s", "ms"] = "tokens/s"
    source: Text = ""
    note: Text = ""
    # What streaming cases state
    layers: Annotated[int, Field(ge=1, le=10_000)] | None = None
    experts: Annotated[int, Field(ge=1, le=MOST_EXPERTS)] | None = None
    experts_per_token: Annotated[int, Field(ge=1, le=MOST_EXPERTS)] | None = None
    expert_bytes: Positive = None
    tensors: Annotated[int, Field(ge=1, le=16)] = 3
    """Tensors that an expert is read from, one read each."""
    dense_bytes: Positive = None
    flash_bytes: Positive = None
    hit_pct: Annotated[float, Field(ge=0, le=100)] | None = None
    cache_bytes: float = Field(default=0, ge=0, le=_MOST)
    lanes: Annotated[int, Field(ge=1, le=256)] | None = None
    overlap: Literal["serial", "pipelined"] = "serial"
    not_predicted: Text = ""
    """Reason why it is kept, and not predicted."""

    @model_validator(mode="before")
    @classmethod
    def _in_bytes(cls, data: Any) -> Any:
        """Read sizes that are stated in MiB, and drop what was measured on the way."""
        if not isinstance(data, dict):
            return data
        plain = {key: value for key, value in data.items() if key not in _MEASURED_BESIDE}
        if "accepted" in data:
            plain.setdefault("not_predicted", "several tokens a step: drafts are not modelled")
        for key, name in _IN_MIB.items():
            stated = plain.pop(key, None)
            if stated is not None:
                plain[name] = _mib(key, stated)
        return plain

    @property
    def stored_as(self) -> str | None:
        """Weight format that the case, or the text of its model, names; None for none known."""
        text = self.weight_format or (self.model if isinstance(self.model, str) else "")
        return weight_format(text)

    @property
    def is_rate(self) -> bool:
        """True if its figures are tokens per second, False if they are times."""
        return UNITS[self.unit][1] < 0

    def figure_of(self, seconds: float) -> float:
        """Return seconds as a figure in the unit of the case."""
        scale, power = UNITS[self.unit]
        return float(seconds**power / scale)

    def seconds_of(self, figure: float) -> float:
        """Return a figure in the unit of the case as seconds."""
        scale, power = UNITS[self.unit]
        return float((scale * figure) ** power)

    @property
    def experts_used(self) -> int | None:
        """Experts that a token uses in a layer, as stated or as the text of the model says it
        (``top-6``); None for neither."""
        told = re.findall(r"top-(\d{1,4})\b", self.model) if isinstance(self.model, str) else []
        return self.experts_per_token or (int(told[-1]) if told else None)


_IN_MIB = {
    "cache_MiB": "cache_bytes",
    "flash_MiB_per_token": "flash_bytes",
    "dense_MiB": "dense_bytes",
}
_MEASURED_BESIDE = (
    *("compute_s", "flash_s", "stall_s", "management_s", "total_s", "upload_s", "readback_s"),
    *("slots", "GB_per_run", "forwards", "stall_s_per_run", "compute_s_per_run"),
    *("experts_touched", "whole_s", "whole_GiB", "routed_s", "routed_GiB", "accepted"),
)
"""Keys of published runs that no prediction reads."""


@dataclass(frozen=True)
class Cases:
    """The cases of a file, and what was measured."""

    facts: tuple[Case, ...]
    measured: Mapping[str, float]
    """Measured figure in the case's unit, by its id; cases without one are left out."""
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Geometries that the file states, by name."""


def shipped_cases() -> Path:
    """Return the path of the cases that dipsim carries."""
    return files.shipped(SHIPPED) / "cases.yaml"


def load_cases(given: str | os.PathLike[str] | None = None) -> Cases:
    """Read the cases of a file, by default those that dipsim carries.

    Raises:
        DipsimError: no such file, another format, a case that is damaged or stands there twice.
    """
    path = shipped_cases() if given is None else Path(given)
    as_json = path.suffix.lower() == ".json"
    data = files.read_json(path, DipsimError) if as_json else files.read_yaml(path, DipsimError)
    return cases_of(data, str(path))


def cases_of(data: Mapping[str, Any], path: str) -> Cases:
    """Return the cases of a file's contents.

    Raises:
        DipsimError: as `load_cases`, in one line that begins with ``path``.
    """
    if data.get("format") == earlier.FORMAT:
        data = earlier.modern(data, path)
    listed, curves = data.get("cases"), data.get("falling", [])
    if not isinstance(listed, list) or not isinstance(curves, list) or not listed:
        raise DipsimError(f"{path}: no cases: give cases: [{{id, device, model, value, ...}}, ...]")
    if len(listed) + len(curves) > MOST_CASES:
        raise DipsimError(f"{path}: {len(listed)} cases, at most {MOST_CASES} are read")
    models = data.get("models", {})
    if not isinstance(models, dict) or not all(isinstance(m, dict) for m in models.values()):
        raise DipsimError(f"{path}: models must map names to geometries")
    facts: dict[str, Case] = {}
    measured: dict[str, float] = {}
    entries = [*listed, *(_curve(curve) for curve in curves)]
    for number, entry in enumerate(_without_repeats(entries)):
        where = f"{path}: case {number}"
        if not isinstance(entry, dict):
            raise DipsimError(f"{where}: an object of keys and values, given {brief(repr(entry))}")
        value = next((entry[key] for key in ("value", "tok_s") if key in entry), None)
        case = _case({k: v for k, v in entry.items() if k not in ("value", "tok_s")}, where)
        if case.id in facts:
            raise DipsimError(f"{where}: {case.id} stands there twice: give it another id")
        facts[case.id] = case
        if value is not None:
            measured[case.id] = _measured(value, f"{where} ({case.id})")
    return Cases(tuple(facts.values()), measured, models)


def _case(entry: Mapping[str, Any], where: str) -> Case:
    """Return the case of an entry without its figure.

    Raises:
        DipsimError: an unknown key (the nearest one is named), or an impossible value.
    """
    try:
        return Case.model_validate(entry)
    except ValidationError as problem:
        name = brief(str(entry.get("id", "")), 60)
        raise DipsimError(f"{where} ({name}): {brief(first_problem(problem), 300)}") from None


def _measured(value: Any, where: str) -> float:
    """Return the measured figure.

    Raises:
        DipsimError: it is no number above 0.
    """
    try:
        figure = _number(value)
    except ValueError:
        figure = None
    if figure is None:
        text = brief(json.dumps(value, default=str))
        raise DipsimError(f"{where}: value must be a number above 0, given {text}")
    return float(figure)


def _curve(entry: Any) -> Any:
    """Return a curve of rates over cache sizes as a case that is not predicted."""
    if not isinstance(entry, dict):
        return entry
    kept = {key: value for key, value in entry.items() if key not in ("rows", "columns")}
    return {**kept, "kind": "curve", "not_predicted": "a curve of rates over cache sizes"}


def _without_repeats(entries: list[Any]) -> list[Any]:
    """Return entries in which ``the same`` is what the entry before states for that key."""
    whole: list[Any] = []
    before: dict[str, Any] = {}
    for entry in entries:
        if isinstance(entry, dict):
            entry = {key: _repeated(value, before.get(key)) for key, value in entry.items()}
            before = {**before, **entry}
        whole.append(entry)
    return whole


def _repeated(value: Any, before: Any) -> Any:
    """Return a text in which ``the same`` stands for what stood before."""
    repeats = isinstance(value, str) and value.startswith("the same") and isinstance(before, str)
    return before + value.removeprefix("the same") if repeats else value
