"""The optional part of dipsim that runs models: what it needs, said in one line."""

from importlib.util import find_spec

from dipsim.errors import DipsimError

NEEDS = ("torch", "transformers", "peft", "gguf")


def need_torch() -> None:
    """Check that what runs models is installed, without importing it.

    Raises:
        DipsimError: it is not; says what to install.
    """
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        raise DipsimError(
            f"this runs a model and needs {', '.join(missing)}: pip install 'dipsim[torch]'"
        )
