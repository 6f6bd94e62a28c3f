"""Error bars: the typical error of dipsim on measured runs of the same class.

``dipsim validate --bars`` writes them from published measurements (docs/validation.md). A bar holds
for a class of work on the devices where it was measured; a run of any other class has none.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dipsim import files
from dipsim.errors import DipsimError, first_problem
from dipsim.hardware import STATED
from dipsim.result import Result

FORMAT, VERSION = "dipsim-bars", 1
STREAMING, MAPPED, MEMORY = "phone-streaming", "phone-mmap", "in-memory"
_STREAMS = (
    "dimensity9300", "dimensity9400", "exynos2400", "oneplus15r", "snapdragon7gen3", "snapdragon8",
    "snapdragon8elite", "snapdragon8gen2", "snapdragon8gen3", "tensor-g4",
)  # fmt: skip
"""Profiles of phones whose ``cpu`` streams from UFS, like the phone that was measured."""
_WAYS = {"direct": STREAMING, "mmap": MAPPED}
"""Class by ``--io``; reads through the page cache were not measured on a phone."""
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
"""Class by profile and backend: measurements of this engine on this kind of unit. The name of the
Apple class ends with the width of the weights."""
_WIDTHS = ((3.5, 6.0, "4 bit"), (15.5, 16.5, "16 bit"))


class Bar(BaseModel):
    """An error bar: the typical error of predictions of a class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(alias="class", min_length=1, max_length=120)
    median: float = Field(gt=0, allow_inf_nan=False)
    """Median error, of the ``kind`` |predicted / measured - 1| or the factor too long or short."""
    kind: Literal["error", "factor"] = "error"
    cases: int = Field(ge=1)
    """Number of measured runs, each predicted from others."""
    measured_on: str = Field(min_length=1, max_length=200)

    @property
    def size(self) -> str:
        """The bar as text: ``±11%`` or ``x 1.7``."""
        return f"±{self.median:.0%}" if self.kind == "error" else f"x {self.median:.2g}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as in the file of bars."""
        return self.model_dump(by_alias=True)


def load_bars(given: str | os.PathLike[str] | None = None) -> dict[str, Bar]:
    """Read the bars of a file, by class; by default those that dipsim carries.

    Raises:
        DipsimError: no such file, or not a file of bars.
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
    """Return the JSON text of a file of bars, as `load_bars` reads it."""
    data = {"format": FORMAT, "version": VERSION, "bars": [bar.to_dict() for bar in bars]}
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def class_of(result: Result) -> str | None:
    """Return the class of measurements that a run belongs to; None if none was measured."""
    config, settings = result.config, result.config["settings"]
    profile, backend = config["profile"]["name"], settings["backend"]
    overlap = str(settings["overlap"])
    if overlap.startswith("paper-") or overlap == "prefetch":  # not measured
        return None
    sources = config["profile"].get("sources", {})
    if any(source["from"].startswith(STATED) for source in sources.values()):
        return None  # a device with numbers of the user's own was not measured either
    if profile in _STREAMS and backend == "cpu" and not result.fits:
        return _WAYS.get(settings.get("io", "direct"))
    name = _IN_MEMORY.get((profile, backend)) if result.fits else None
    if name is None or not name.endswith(", "):
        return name
    bits = _bits(config["model"])
    width = next((text for low, high, text in _WIDTHS if low <= bits <= high), None)
    return None if width is None else name + width


def _bits(model: Mapping[str, Any] | None) -> float:
    """Return the bits per weight of the model of a run; 0 without a model."""
    if model is None:
        return 0.0
    quant = model.get("quant")
    return float(quant["bits"] if quant else model.get("bits", 0.0))


def bar_of(result: Result) -> Bar | None:
    """Return the error bar of a run; None if no measurement matches it."""
    name = class_of(result)
    return None if name is None else load_bars().get(name)


def request_sizes(result: Result) -> Literal["inside", "extrapolated"]:
    """Return ``inside`` if all reads of a run lie within the profile's measured points of flash."""
    return "extrapolated" if "extrapolated" in result.marks else "inside"


def bar_rows(result: Result, bar: Bar | None) -> list[tuple[str, str]]:
    """Return the error bar and the request sizes as (label, text)."""
    text = "none: no measurement matches this run"
    if bar is not None:
        runs = "run" if bar.cases == 1 else "runs"
        text = f"{bar.size}, median of {bar.cases} {runs}: {bar.measured_on}"
    return [("error bar", text), ("request sizes", request_sizes(result))]


def bar_dict(result: Result, bar: Bar | None) -> dict[str, Any]:
    """Return the error bar and the request sizes under the stable keys of ``run --json``."""
    return {
        "error_bar": None if bar is None else bar.to_dict(),
        "request_sizes": request_sizes(result),
    }
