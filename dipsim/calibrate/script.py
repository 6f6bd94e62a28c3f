"""Shell scripts that measure a device, and pack what `dipsim calibrate` reads."""

from dipsim import files
from dipsim.errors import DipsimError, brief, check_text

FOLDER, SUFFIX = "calibrate/scripts", ".sh"


def script_targets() -> list[str]:
    """Return the kinds of devices that there is a script for."""
    return files.shipped_names(FOLDER, SUFFIX)


def phone_script(target: str) -> str:
    """Return the script, in POSIX sh, that measures a device of some kind.

    Args:
        target: one of `script_targets`, e.g. ``android``.

    Raises:
        DipsimError: there is no script for it.
    """
    check_text("script", target, "a text, such as 'android'")
    known = script_targets()
    if target not in known:
        raise DipsimError(f"no script for {brief(target)!r}: use {', '.join(known)}")
    return (files.shipped(FOLDER) / f"{target}{SUFFIX}").read_text(encoding="utf-8")
