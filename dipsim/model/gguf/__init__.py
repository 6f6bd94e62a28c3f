"""GGUF files: geometry, parameters and bytes of the model whose tensors they list."""

from dipsim.model.gguf.files import check_whole, name_of
from dipsim.model.gguf.geometry import read_gguf
from dipsim.model.gguf.header import SUFFIX

__all__ = ["SUFFIX", "check_whole", "name_of", "read_gguf"]
