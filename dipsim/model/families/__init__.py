"""Families of models: geometry out of the keys that each of them has in its `config.json`."""

from dipsim.model.families.geometry import UnknownFamilyError, geometry_of
from dipsim.model.families.table import FAMILIES

__all__ = ["FAMILIES", "UnknownFamilyError", "geometry_of"]
