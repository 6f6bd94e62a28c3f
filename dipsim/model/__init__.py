"""Models: their geometry, the bytes of every slice of weights, and the files that describe them."""

from dipsim.model.formats import FORMAT_BITS, nearest_format, weight_format
from dipsim.model.layer import SIGNALS, Layer, layer_units
from dipsim.model.load import load_model, model_names
from dipsim.model.model import MOST_BYTES, Model
from dipsim.model.storage import ATTENTION, DEFAULT_BITS, MATRICES, Matrix, Quant, Slice

__all__ = [
    "ATTENTION",
    "DEFAULT_BITS",
    "FORMAT_BITS",
    "MATRICES",
    "MOST_BYTES",
    "SIGNALS",
    "Layer",
    "Matrix",
    "Model",
    "Quant",
    "Slice",
    "layer_units",
    "load_model",
    "model_names",
    "nearest_format",
    "weight_format",
]
