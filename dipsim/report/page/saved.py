"""The JSON of `dipsim run`, read back: the figures that a page shows, each of them checked."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dipsim.errors import DipsimError, brief, first_problem

Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, le=1e30)]
Rate = Amount | None
"""Tokens per second; None where tokens take no time."""
Name = Annotated[str, Field(max_length=2000)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Interval(_Part):
    """Interval of the rate; see `dipsim.timeline.interval`."""

    low: Amount
    high: Amount
    level: Share
    first_to_measure: list[Mapping[Name, Any]] = []
    unmeasured: Name | None = None


class Latency(_Part):
    """Milliseconds per token."""

    mean: Amount
    p50: Amount
    p95: Amount
    p99: Amount


class Group(_Part):
    """A group of units, over all layers."""

    name: Name
    units: Amount
    active: Amount
    accesses: Amount
    hits: Amount
    mass_kept: Share | None = None
    energy_kept: Share | None = None
    capacity: Amount | list[Amount] | None = None


class Baseline(_Part):
    """Baselines: other uses of the same memory."""

    rate: Rate
    times: Amount | None = None


class Baselines(_Part):
    """All that a run is held against; None where there is none."""

    dense: Baseline | None = None
    no_cache: Baseline | None = None
    optimum: Baseline | None = None


class Trial(_Part):
    """A change of one option that was tried."""

    option: Name
    rate: Rate


class Verdict(_Part):
    """Attribution of the time to resources and layers."""

    policys_time: float | None = None
    optimum_rate: Rate = None


class LayerRow(_Part):
    """Figures of one layer and group: a row of ``to_frame("layers")``."""

    layer: Annotated[int, Field(ge=0, le=2**31)]
    group: Name
    hit_rate: Share
    flash_bytes_per_token: Amount
    flash_ms_per_token: Amount


class Attribution(_Part):
    """Exposed milliseconds of every part of a token, by resource."""

    parts: list[Mapping[Name, Name | int | float | None]] = []
    elasticity: Mapping[Name, float | None] = {}


class Config(_Part):
    """Command, trace, profiles and version that made the result."""

    trace: Mapping[Name, Any]
    profile: Mapping[Name, Any]
    settings: Mapping[Name, Any]
    model: Mapping[Name, Any] | None = None
    model_given: bool = False


class SavedResult(_Part):
    """A result of `dipsim run`; keys as in docs/concepts.md, others are passed over."""

    tokens: Annotated[int, Field(ge=0)]
    hit_rate: Share
    unit_hit_rate: Share
    flash_bytes_per_token: Amount
    flash_useful_bytes_per_token: Amount
    flash_reads_per_token: Amount
    dram_bytes_per_token: Amount
    tokens_per_second: Rate
    tokens_per_second_range: tuple[Rate, Rate]
    tokens_per_second_interval: Interval | None = None
    latency_ms: Latency
    time_share: Mapping[Name, Share]
    budget: Mapping[Name, Any]
    groups: list[Group]
    marks: list[Name]
    estimates: list[Name] = []
    config: Config
    version: Name
    baselines: Baselines = Baselines()
    tried: list[Trial] = []
    verdict: Verdict | None = None
    per_layer: list[LayerRow] = []
    attribution: Attribution | None = None


def read_result(name: str, data: Mapping[str, Any]) -> SavedResult:
    """Check what a file of JSON holds.

    Args:
        name: the file, for the error.
        data: its object.

    Raises:
        DipsimError: no result of `dipsim run`, in one line that says what is missing or wrong.
    """
    about = data.get("about")
    command = about.get("command") if isinstance(about, Mapping) else None
    if command not in (None, "run"):
        given = brief(repr(command), 40)
        raise DipsimError(
            f"{name}: the JSON of dipsim {given}; a report is of dipsim run --json, or of a store"
        )
    try:
        return SavedResult.model_validate(data)
    except ValidationError as problem:
        why = brief(first_problem(problem), 300)
        raise DipsimError(
            f"{name}: no result of dipsim run ({why}); give what dipsim run --json prints"
        ) from None
