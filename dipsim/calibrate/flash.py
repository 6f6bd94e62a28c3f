"""The flash section of a profile, from reads and writes."""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from dipsim.calibrate.measured import Reads, Writes
from dipsim.calibrate.number import (
    NumberChange,
    counted,
    measured_source,
    rounded,
    text_before,
)
from dipsim.disk.fit import LEAST_TO_FIT, Calibrated, Measured, calibrated
from dipsim.errors import DipsimError, brief
from dipsim.hardware import Profile
from dipsim.units import BANDWIDTH

LEAST_SPREAD = 0.1
"""Spread below which no flash of a phone is known: repeated runs differ by as much."""
_NINE_OF_TEN = 1.645
"""Standard deviations within which nine of ten lie."""
_KEYS = ("reads", "fit", "lanes", "align")


class FlashNumbers(NamedTuple):
    """Numbers of flash that reads and writes told."""

    numbers: tuple[NumberChange, ...]
    curve: Calibrated | None
    """Points or formula, with their errors; None where reads tell no curve."""
    refused: tuple[str, ...]
    """Why reads or writes were left out: a sentence each."""


def measure_flash(
    reads: Sequence[Reads],
    writes: Sequence[Writes],
    before: Profile | None,
    *,
    fit: bool = False,
    lanes: int | None = None,
) -> FlashNumbers:
    """Make a flash section of reads at random offsets, and in order where there are no others of
    the size.

    Args:
        before: the profile that is changed, if any.
        fit: a formula instead of the points.
        lanes: reads that the runtime keeps in flight; default: the most that were measured.

    Raises:
        DipsimError: too few points for a formula, or impossible lanes.
    """
    numbers: list[NumberChange] = []
    refused: list[str] = []
    random = {each.point.size for each in reads if not each.in_order}
    kept = [each for each in reads if not each.in_order or each.point.size not in random]
    fast = [] if before is None else [r for r in kept if r.point.bandwidth > before.dram.bandwidth]
    kept = [each for each in kept if each not in fast]
    if fast:
        rate = BANDWIDTH.show(max(each.point.bandwidth for each in fast))
        refused.append(f"{fast[0].origin.file}: {rate} is faster than DRAM: that is no flash")
    points = _points(kept)
    curve = None
    if kept and len({point.size for point in points}) < 2:
        refused.append(
            f"{reads[0].origin.file}: reads of one size are no curve; measure at least two sizes"
        )
    elif points:
        if fit and len(points) < LEAST_TO_FIT:
            raise DipsimError(
                f"{brief(reads[0].origin.file)}: {len(points)} points; --fit needs "
                f"{LEAST_TO_FIT}: measure more, or drop --fit"
            )
        curve = calibrated(points, True, fit, lanes)
        numbers += _curve_numbers(curve, kept, before)
    in_order = [each for each in writes if each.in_order]
    if in_order:
        rate = BANDWIDTH.exact(rounded(median(each.bandwidth for each in in_order)))
        what = f"{counted(len(in_order), 'write')} in order"
        source = measured_source([each.origin for each in in_order], what, LEAST_SPREAD)
        before_it = text_before(before, "flash.write")
        numbers.append(NumberChange("flash.write", before_it, rate, source))
    return FlashNumbers(tuple(numbers), curve, tuple(refused))


def _points(reads: Sequence[Reads]) -> list[Measured]:
    """Return the median bandwidth of each size and number of lanes, by lanes, then by size."""
    rates: dict[tuple[int, float], list[float]] = {}
    for each in reads:
        rates.setdefault((each.point.lanes, each.point.size), []).append(each.point.bandwidth)
    return [Measured(size, lanes, median(some)) for (lanes, size), some in sorted(rates.items())]


def _curve_numbers(
    curve: Calibrated, reads: Sequence[Reads], before: Profile | None
) -> list[NumberChange]:
    orders = {each.in_order for each in reads}
    order = "in order" if orders == {True} else "at random offsets"
    if len(orders) > 1:
        order += ", some in order"
    what = f"{counted(len(curve.points), 'point')} of reads {order}"
    off = curve.left_out or curve.errors
    spread = max(LEAST_SPREAD, 0.0 if off is None else _NINE_OF_TEN * off.rms)
    source = measured_source([each.origin for each in reads], what, spread)
    error = None if curve.errors is None else curve.errors.rms
    left_out = None if curve.left_out is None else curve.left_out.rms
    numbers = []
    for key in _KEYS:
        if key not in curve.flash:
            continue
        path = f"flash.{key}"
        if key in ("reads", "fit"):
            told = NumberChange(
                path, _curve_before(before), curve.flash[key], source, error, left_out
            )
        else:
            text = "reads in flight" if key == "lanes" else "direct reads are of whole pages"
            own = {"kind": "measured", "from": f"dipsim calibrate: {text}"}
            told = NumberChange(path, text_before(before, path), curve.flash[key], own)
        numbers.append(told)
    return numbers


def _curve_before(profile: Profile | None) -> str | None:
    """Return how many points a profile had, or its formula or bandwidth, in words."""
    if profile is None:
        return None
    flash = profile.flash
    if flash.reads:
        return f"{len(flash.reads)} points"
    return "a formula" if flash.fit is not None else BANDWIDTH.exact(flash.bandwidth or 0.0)
