"""Check for the optional dependencies that running models needs."""

from dipsim.extras import need

NEEDS = ("torch", "transformers", "peft", "gguf")


def need_torch() -> None:
    """Check that the libraries which run models are installed, without importing them.

    Raises:
        DipsimError: one is missing; the message says what to install.
    """
    need("this runs a model and", "torch", *NEEDS)
