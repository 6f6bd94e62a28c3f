"""Error bars: how far off dipsim was on measured runs of the kind at hand.

``dipsim validate --bars`` writes them from published measurements (docs/validation.md). A bar holds
for a class of work on the devices it was measured on; a run of any other kind has none.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dipsim import files
from dipsim.errors import DipsimError, first_problem
from dipsim.result import Result

FORMAT, VERSION = "dipsim-bars", 1
STREAMING, MAPPED, MEMORY = "phone-streaming", "phone-mmap", "in-memory"
_STREAMS = (
    "dimensity9300", "dimensity9400", "exynos2400", "oneplus15r", "snapdragon7gen3", "snapdragon8",
    "snapdragon8elite", "snapdragon8gen2", "snapdragon8gen3", "tensor-g4",
)  # fmt: skip
"""Phones whose ``cpu`` streams from UFS, as the phone that was measured."""
_WAYS = {"direct": STREAMING, "mmap": MAPPED}
"""How weights come in -> the class; reads through the page cache were not measured on a phone."""
_XNNPACK = f"{MEMORY}: phone CPU, XNNPACK and KleidiAI"
_IN_MEMORY: Mapping[tuple[str, str], str] = {
    ("snapdragon8", "cpu"): _XNNPACK,
    ("snapdragon8gen2", "cpu"): _XNNPACK,
    ("snapdragon8gen3", "cpu"): _XNNPACK,
    ("snapdragon8elite", "npu"): f"{MEMORY}: phone NPU, llama.cpp on Hexagon",
    ("snapdragon8elite", "gpu"): f"{MEMORY}: phone GPU, llama.cpp on Adreno",
    ("m1max", "gpu-llamacpp"): f"{MEMORY}: Apple GPU of a Max or Ultra, ",
    ("raspberrypi5", "cpu"): f"{MEMORY}: Raspberry Pi 5 CPU, ollama",
}
"""Profile and backend -> the class that measured this engine on this kind of unit. The Apple class
goes on with the width of the weights."""
_WIDTHS = ((3.5, 6.0, "4 bit"), (15.5, 16.5, "16 bit"))


class Bar(BaseModel):
    """How far off predictions of a class were."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(alias="class", min_length=1, max_length=120)
    median: float = Field(gt=0, allow_inf_nan=False)
    """Of |predicted / measured - 1|; for ``factor`` of how many times too long or too short."""
    kind: Literal["error", "factor"] = "error"
    cases: int = Field(ge=1)
    """Measured runs, each predicted from others."""
    measured_on: str = Field(min_length=1, max_length=200)

    @property
    def size(self) -> str:
        """``±11%`` or ``x 1.7``."""
        return f"±{self.median:.0%}" if self.kind == "error" else f"x {self.median:.2g}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in the file."""
        return self.model_dump(by_alias=True)


def load_bars(given: str | os.PathLike[str] | None = None) -> dict[str, Bar]:
    """The bars of a file by class; by default those that dipsim carries.

    Raises:
        DipsimError: no such file, or no file of bars.
    """
    path = files.shipped("validate/data") / "bars.json" if given is None else Path(given)
    data = files.read_json(path, DipsimError)
    listed = data.get("bars")
    if data.get("format") != FORMAT or data.get("version") != VERSION or type(listed) is not list:
        raise DipsimError(f"{path}: bars have format {FORMAT!r}, version {VERSION} and a list")
    try:
        bars = [Bar.model_validate(bar) for bar in listed]
    except ValidationError as problem:
        raise DipsimError(f"{path}: {first_problem(problem)}") from None
    return {bar.name: bar for bar in bars}


def bars_text(bars: Sequence[Bar]) -> str:
    """What `load_bars` reads."""
    data = {"format": FORMAT, "version": VERSION, "bars": [bar.to_dict() for bar in bars]}
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def class_of(result: Result) -> str | None:
    """The class of measurements that a run belongs to; None when none was measured."""
    config, settings = result.config, result.config["settings"]
    profile, backend = config["profile"]["name"], settings["backend"]
    overlap = str(settings["overlap"])
    if overlap.startswith("paper-") or overlap == "prefetch":  # neither was measured
        return None
    if any(at["kind"] == "given" for at in config["profile"].get("sources", {}).values()):
        return None  # nor was a device with other numbers
    if profile in _STREAMS and backend == "cpu" and not result.fits:
        return _WAYS.get(settings.get("io", "direct"))
    name = _IN_MEMORY.get((profile, backend)) if result.fits else None
    if name is None or not name.endswith(", "):
        return name
    bits = _bits(config["model"])
    width = next((text for low, high, text in _WIDTHS if low <= bits <= high), None)
    return None if width is None else name + width


def _bits(model: Mapping[str, Any] | None) -> float:
    """Bits per weight of the model of a run; 0 when there is none."""
    if model is None:
        return 0.0
    quant = model.get("quant")
    return float(quant["bits"] if quant else model.get("bits", 0.0))


def bar_of(result: Result) -> Bar | None:
    """The error bar of a run; None when no measurement matches it."""
    name = class_of(result)
    return None if name is None else load_bars().get(name)


def request_sizes(result: Result) -> Literal["inside", "extrapolated"]:
    """Whether all reads of a run lie inside the profile's measured points of flash."""
    return "extrapolated" if "extrapolated" in result.marks else "inside"


def bar_rows(result: Result, bar: Bar | None) -> list[tuple[str, str]]:
    """The error bar and the request sizes as (label, text)."""
    said = "none: no measurement matches this run"
    if bar is not None:
        runs = "run" if bar.cases == 1 else "runs"
        said = f"{bar.size}, median of {bar.cases} {runs}: {bar.measured_on}"
    return [("error bar", said), ("request sizes", request_sizes(result))]


def bar_dict(result: Result, bar: Bar | None) -> dict[str, Any]:
    """The same under the stable keys of ``run --json``."""
    return {
        "error_bar": None if bar is None else bar.to_dict(),
        "request_sizes": request_sizes(result),
    }
