"""Report of `dipsim calibrate`: flash as YAML of a profile, with its errors in comments."""

import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from dipsim.disk.fit import Calibrated, Errors
from dipsim.errors import DipsimError, printable
from dipsim.hardware import load_profile
from dipsim.report.files import check_text, write_text
from dipsim.units import BYTES

UNITS = {"points": "points", "rms": "log error", "worst": "share"}
"""Units of figures that `dipsim.report.envelope` does not know."""


def check_out(path: str | None, extends: str | None) -> Path | None:
    """Return a path a profile can be written to; None without one.

    Args:
        path: file to write.
        extends: the profile that the rest is taken from.

    Raises:
        DipsimError: no profile to extend, no file to write, another suffix, no such folder.
    """
    if path is None:
        if extends is not None:
            raise DipsimError(f"--extends {extends} goes with --out FILE.yaml: add it, or drop it")
        return None
    if extends is None:
        raise DipsimError(
            f"--out {path}: a profile needs more than flash: name the one it --extends"
        )
    target = check_text("--out", path, ".yaml")
    if os.path.realpath(path) == os.path.realpath(extends):
        raise DipsimError(f"--out {path}: is the profile it --extends; give another name")
    return target


def text(calibrated: Calibrated, origin: str, head: Mapping[str, str] | None = None) -> str:
    """Return YAML, with the calibration's errors in comments above it.

    Args:
        calibrated: points or formula, and their errors.
        origin: name of the table of measurements.
        head: keys of a profile that come first.
    """
    keys = {**(head or {}), **calibrated.section(origin)}
    body = yaml.safe_dump(keys, sort_keys=False, width=1000, default_flow_style=None)
    return "".join(f"# {line}\n" for line in lines(calibrated)) + body


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


def write(path: Path, calibrated: Calibrated, origin: str, extends: str) -> None:
    """Write a profile, once it is known to be valid.

    Raises:
        DipsimError: the profile would not be valid, or the file cannot be written.
    """
    parent = Path(extends)
    base = str(parent.resolve()) if os.path.isfile(parent) else extends
    head = {"name": path.stem, "extends": base, "summary": f"{extends} with flash of {origin}"}
    load_profile({**head, **calibrated.section(origin)})
    head = {key: printable(value) for key, value in head.items()}
    write_text("--out", path, text(calibrated, origin, head))
