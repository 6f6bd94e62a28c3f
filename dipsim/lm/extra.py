"""Check for the optional dependencies that running models needs."""

from importlib.util import find_spec

from dipsim.errors import DipsimError

NEEDS = ("torch", "transformers", "peft", "gguf")


def need_torch() -> None:
    """Check that the libraries which run models are installed, without importing them.

    Raises:
        DipsimError: one is missing; the message says what to install.
    """
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        raise DipsimError(
            f"this runs a model and needs {', '.join(missing)}: pip install 'dipsim[torch]'"
        )
