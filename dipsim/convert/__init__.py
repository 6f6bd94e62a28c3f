"""Traces out of other files, and traces in other encodings."""

from dipsim.convert.arrays import import_arrays
from dipsim.convert.export import export_trace
from dipsim.convert.routes import import_routes, is_routes

__all__ = ["export_trace", "import_arrays", "import_routes", "is_routes"]
