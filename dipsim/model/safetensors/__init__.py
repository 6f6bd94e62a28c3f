"""Safetensors beside a config: what its weights take as they are stored."""

from dipsim.model.safetensors.files import weight_files
from dipsim.model.safetensors.stored import with_storage

__all__ = ["weight_files", "with_storage"]
