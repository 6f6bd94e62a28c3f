"""Report of `dipsim calibrate`: the profile as YAML, and what measurements told of each number."""

import os
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from rich.console import Group, RenderableType

from dipsim.calibrate.device import CalibratedDevice, ComparedRate
from dipsim.calibrate.number import NumberChange, counted
from dipsim.disk.fit import Calibrated, Errors
from dipsim.errors import DipsimError, printable
from dipsim.hardware import load_profile
from dipsim.report.files import check_text, write_text
from dipsim.report.tables import Table, line
from dipsim.units import BANDWIDTH, BYTES, show_number
from dipsim.validate.runs import Prediction

UNITS = {
    "points": "points",
    "rms": "log error",
    "worst": "share",
    "spread": "share",
    **dict.fromkeys(("fit_error", "left_out_error"), "share"),
    **dict.fromkeys(("measured", "value", "low", "high"), "tokens/s"),
    **dict.fromkeys(("before", "after"), "as a profile states it"),
}
"""Units of figures that `dipsim.report.envelope` does not know."""
_ADVICE = (
    ("flash.fault", "time a model that is mapped and cold; it matters with --io mmap"),
    ("flash.write", "fio --rw=write --direct=1"),
    ("flash", "fio --rw=randread --direct=1, several block sizes and depths, or dipsim iobench"),
    ("dram.bandwidth", "mbw or STREAM"),
    ("page_cache", "fio --direct=0 on a file that was just read; no reader takes it yet"),
    (".overlap_factor", "no benchmark tells it: a runtime's tokens/s with and without overlap"),
    (".per_mask", "no benchmark tells it: time an engine's choice of units"),
    (".per_score", "no benchmark tells it: time an engine's choice of units"),
    (".cache_copy", "no benchmark tells it: time an engine's copies into its cache"),
    (".per_layer", "llama-bench with a small and a large model in one format"),
    (".compute", "llama-bench -p 512"),
    (".dram_efficiency", "llama-bench -d 0,4096, or mbw"),
    (".gemv", "llama-bench with more models in this format"),
)
"""What to run for a number, by a part of its key."""


def check_out(path: str | None, extends: str | None) -> Path | None:
    """Return a path a profile can be written to; None without one.

    Args:
        path: file to write.
        extends: the profile that the rest is taken from, if any.

    Raises:
        DipsimError: another suffix, no such folder, or the profile it extends.
    """
    if path is None:
        return None
    target = check_text("--out", path, ".yaml")
    if extends is not None and os.path.realpath(path) == os.path.realpath(extends):
        raise DipsimError(f"--out {path}: is the profile it --extends; give another name")
    return target


# The file -----------------------------------------------------------------------------------------


def text(found: CalibratedDevice, head: dict[str, Any] | None = None) -> str:
    """Return YAML, with what was fitted in comments above it.

    Args:
        head: keys of a profile that come first.
    """
    data = {key: value for key, value in found.data.items() if key not in ("name", *(head or ()))}
    if head is None:
        data.pop("extends", None)
    body = yaml.safe_dump(
        {**(head or {}), **data}, sort_keys=False, width=1000, default_flow_style=None
    )
    return "".join(f"# {printable(remark)}\n" for remark in remarks(found)) + body


def remarks(found: CalibratedDevice) -> list[str]:
    """Return how many measurements there are, how far off what was fitted is, and what was not."""
    texts = [] if found.flash.curve is None else lines(found.flash.curve)
    if found.compared:
        texts.append(f"{counted(len(found.compared), 'rate')}: {_errors_of(found)}")
    return [*texts, *found.kept, *(f"left out: {each}" for each in found.refused)]


def write(path: Path, found: CalibratedDevice, extends: str | None) -> None:
    """Write a profile, once it is known to be valid.

    Raises:
        DipsimError: the profile would not be valid, or the file cannot be written.
    """
    head: dict[str, Any] = {"name": path.stem}
    if extends is not None:
        known = os.path.isfile(extends)
        head["extends"] = str(Path(extends).resolve()) if known else extends
    told = [str(number.source["from"]) for number in _measured(found)]
    tools = dict.fromkeys(text.partition(" (")[0] for text in told if " (" in text)
    head["summary"] = f"{extends or 'a device'}, measured by {', '.join(tools)}"[:200]
    if "first" in found.data:
        head["first"] = found.data["first"]
        head["default"] = "measured on this device"
    load_profile({**found.data, **head})
    head = {key: printable(str(value)) for key, value in head.items()}
    write_text("--out", path, text(found, head))


def lines(calibrated: Calibrated) -> list[str]:
    """Return how many points there are, and how far off the calibration is, a text for each."""
    sizes = [point.size for point in calibrated.points]
    lanes = sorted({point.lanes for point in calibrated.points})
    texts = [
        f"{len(sizes)} points, {BYTES.exact(min(sizes))} to {BYTES.exact(max(sizes))}, "
        f"{', '.join(map(str, lanes))} in flight"
    ]
    if calibrated.errors is not None:
        texts.append(f"formula: {_errors(calibrated.errors)}")
    if calibrated.left_out is not None:
        which = "each point" if calibrated.errors is not None else "each point between two others"
        texts.append(f"{which} left out in turn: {_errors(calibrated.left_out)}")
    return texts


def _errors(errors: Errors) -> str:
    where = f"{BYTES.exact(errors.at.size)}, {errors.at.lanes} in flight"
    return f"rms log error {errors.rms:.1%}, worst {errors.worst:+.1%} ({where})"


# The table ----------------------------------------------------------------------------------------


def render(found: CalibratedDevice, written: str) -> RenderableType:
    """Return what became of each number, the rates before and after, and what to measure next.

    Args:
        written: name of the file that was written.
    """
    measured = _measured(found)
    parts: list[RenderableType] = [
        line(f"{written}: {counted(len(measured), 'number')} measured", style="bold"),
        _numbers(measured),
    ]
    if found.compared:
        parts += [line(), _rates(found.compared, after=True), line(_errors_of(found))]
    return Group(*parts, line(), *_remains(found))


def render_check(found: CalibratedDevice, name: str) -> RenderableType:
    """Return what a profile says beside what was measured; nothing was written.

    Args:
        name: of the profile.
    """
    parts: list[RenderableType] = []
    if found.compared:
        inside = sum(_holds(each.before, each.measured) for each in found.compared)
        errors = [abs(each.measured / each.before.value - 1) for each in found.compared]
        title = (
            f"{name}: {inside} of {counted(len(errors), 'rate')} within the 90 % interval, median "
            f"error of time {median(errors):.0%}"
        )
        parts += [line(title, style="bold"), _rates(found.compared, after=False)]
    if found.reads:
        off = [abs(said / point.bandwidth - 1) for point, said in found.reads]
        title = f"{name}: median error of {counted(len(off), 'read')} {median(off):.0%}"
        parts += [line(), line(title, style="bold"), _reads(found)]
    if not parts:
        parts.append(line(f"{name}: numbers that were measured, beside its own", style="bold"))
    rest = [n for n in _measured(found) if n.before is not None and not _is_curve(n)]
    if rest:
        parts += [line(), _numbers(rest)]
    return Group(*parts, *(line(f"left out  {each}") for each in found.refused))


def _measured(found: CalibratedDevice) -> list[NumberChange]:
    return [number for number in found.numbers if number.source["kind"] == "measured"]


def _is_curve(number: NumberChange) -> bool:
    return number.key in ("flash.reads", "flash.fit", "flash.lanes", "flash.align")


def _numbers(numbers: list[NumberChange]) -> Table:
    table = Table(
        "number",
        "before",
        "after",
        "within",
        "fit error",
        "left out",
        right=(3, 4, 5),
        whole=(0, 1, 2),
    )
    for number in numbers:
        spread = number.source.get("spread")
        table.add_row(
            number.key.removeprefix("backends."),
            number.before or "-",
            _after(number),
            "-" if spread is None else f"±{spread:.0%}",
            _share(number.error),
            _share(number.left_out),
        )
    return table


def _after(number: NumberChange) -> str:
    if number.key == "flash.reads":
        return counted(len(number.after), "point")
    return "a formula" if number.key == "flash.fit" else str(number.after)


def _share(error: float | None) -> str:
    return "-" if error is None else f"{error:.1%}"


def _rates(compared: tuple[ComparedRate, ...], after: bool) -> Table:
    """Return measured rates beside predicted ones, in tokens/s, with 90 % intervals."""
    backends = {each.backend for each in compared}
    several = ["backend"] if len(backends) > 1 else []
    heads = [
        "model",
        *several,
        "test",
        "measured",
        "before",
        *(["after", "error"] if after else []),
    ]
    test = 1 + len(several)
    table = Table(*heads, right=range(test + 1, len(heads)), whole=(test,))
    for each in compared:
        cells = [each.model.removesuffix(".gguf"), *([each.backend] if several else [])]
        cells += [each.test, show_number(each.measured, 3), _interval(each.before)]
        if after:
            cells += [_interval(each.after), f"{each.error:+.1%}"]
        table.add_row(*cells)
    return table


def _interval(predicted: Prediction) -> str:
    ends = f"{show_number(predicted.low, 3)} - {show_number(predicted.high, 3)}"
    return f"{show_number(predicted.value, 3)} ({ends})"


def _holds(predicted: Prediction, measured: float) -> bool:
    return predicted.low <= measured <= predicted.high


def _errors_of(found: CalibratedDevice) -> str:
    errors = [abs(each.error) for each in found.compared]
    inside = sum(_holds(each.after, each.measured) for each in found.compared)
    return (
        f"median error of time {median(errors):.1%} where fitted; {inside} of {len(errors)} "
        "within the 90 % interval"
    )


def _reads(found: CalibratedDevice) -> Table:
    table = Table("reads", "in flight", "measured", "profile", "error", right=(1, 2, 3, 4))
    for point, said in found.reads:
        table.add_row(
            BYTES.exact(point.size),
            str(point.lanes),
            BANDWIDTH.show(point.bandwidth),
            BANDWIDTH.show(said),
            f"{said / point.bandwidth - 1:+.1%}",
        )
    return table


def _remains(found: CalibratedDevice) -> list[RenderableType]:
    """Return what stays as it was, what was left out, what is estimated still, what is next."""
    rows = Table("", "", whole=(0,))
    for text_ in found.kept:
        rows.add_row("kept", text_.removeprefix("backends."))
    for text_ in found.refused:
        rows.add_row("left out", text_)
    if found.estimates:
        some = ", ".join(key.removeprefix("backends.") for key in found.estimates)
        rows.add_row("estimates", some)
    for key in found.next:
        rows.add_row("next", f"{key.removeprefix('backends.')}: {advice(key)}")
    return [rows]


def advice(key: str) -> str:
    """Return what to run to measure a number of a profile."""
    for part, told in _ADVICE:
        if key.startswith(part) or (part.startswith(".") and part in key):
            return told
    return "see docs/measuring-a-phone.md"
