"""Check for optional dependencies, which the extras of dipsim install."""

from importlib.util import find_spec

from dipsim.errors import DipsimError


def need(what: str, extra: str, *libraries: str) -> None:
    """Check that libraries are installed, without importing them.

    Args:
        what: what needs them, the beginning of the message.
        extra: the extra of dipsim that brings them.
        libraries: names of packages.

    Raises:
        DipsimError: one is missing; the message says what to install.
    """
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise DipsimError(f"{what} needs {', '.join(missing)}: pip install 'dipsim[{extra}]'")
