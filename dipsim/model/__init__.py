"""Models: their geometry, the bytes of every slice of weights, and the files that describe them."""

from dipsim.model.formats import FORMAT_BITS, nearest_format, weight_format
from dipsim.model.load import load_model, model_names
from dipsim.model.weight_bytes import (
    ATTENTION,
    DEFAULT_BITS,
    MATRICES,
    MOST_BYTES,
    Matrix,
    Model,
    Quant,
    Slice,
)

__all__ = [
    "ATTENTION",
    "DEFAULT_BITS",
    "FORMAT_BITS",
    "MATRICES",
    "MOST_BYTES",
    "Matrix",
    "Model",
    "Quant",
    "Slice",
    "load_model",
    "model_names",
    "nearest_format",
    "weight_format",
]
