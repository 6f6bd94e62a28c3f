"""What `dipsim calibrate` prints and writes: YAML, its errors in comments."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from dipsim.disk.fit import Calibrated, Errors
from dipsim.errors import DipsimError, printable
from dipsim.files import whole_file
from dipsim.hardware import load_profile
from dipsim.units import BYTES


def check_out(path: str | None, extends: str | None) -> Path | None:
    """A path a profile can be written to; None stays None.

    Raises:
        DipsimError: no profile to extend or one that is not there, another suffix, no such folder.
    """
    if path is None:
        if extends is not None:
            raise DipsimError(f"--extends {extends} goes with --out FILE.yaml: add it, or drop it")
        return None
    target = Path(path)
    if extends is None:
        raise DipsimError(
            f"--out {path}: a profile needs more than flash: name the one it --extends"
        )
    if target.suffix != ".yaml" or target.is_dir():
        raise DipsimError(f"--out {path}: give a file that ends in .yaml")
    if not target.resolve().parent.is_dir():
        raise DipsimError(f"--out {path}: no such folder")
    if target.resolve() == Path(extends).resolve():
        raise DipsimError(f"--out {path}: is the profile it --extends; give another name")
    return target


def text(found: Calibrated, origin: str, head: Mapping[str, str] | None = None) -> str:
    """YAML, with what it is off by in comments above it.

    Args:
        head: keys of a profile that come first.
    """
    data = {**(head or {}), **found.section(origin)}
    body = yaml.safe_dump(data, sort_keys=False, width=1000, default_flow_style=None)
    return "".join(f"# {line}\n" for line in lines(found)) + body


def lines(found: Calibrated) -> list[str]:
    """How many points, and how far off what became of them is."""
    sizes = [point.size for point in found.points]
    lanes = sorted({point.lanes for point in found.points})
    told = [
        f"{len(sizes)} points, {BYTES.exact(min(sizes))} to {BYTES.exact(max(sizes))}, "
        f"{', '.join(map(str, lanes))} in flight"
    ]
    if found.errors is not None:
        told.append(f"formula: {_told(found.errors)}")
    if found.left_out is not None:
        which = "each point" if found.errors is not None else "each point between two others"
        told.append(f"{which} left out in turn: {_told(found.left_out)}")
    return told


def _told(errors: Errors) -> str:
    where = f"{BYTES.exact(errors.at.size)}, {errors.at.lanes} in flight"
    return f"rms log error {errors.rms:.1%}, worst {errors.worst:+.1%} ({where})"


def write(path: Path, found: Calibrated, origin: str, extends: str) -> None:
    """A profile, checked before it is written.

    Raises:
        DipsimError: it would not be one, or cannot be written.
    """
    parent = Path(extends)
    base = str(parent.resolve()) if parent.is_file() else extends
    head = {"name": path.stem, "extends": base, "summary": f"{extends} with flash of {origin}"}
    load_profile({**head, **found.section(origin)})
    try:
        with whole_file(path) as handle:
            handle.write(text(found, origin, {k: printable(v) for k, v in head.items()}).encode())
    except OSError as problem:
        raise DipsimError(f"--out {path}: cannot be written ({problem.strerror})") from None
