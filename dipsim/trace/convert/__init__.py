"""Conversions: traces out of other files, and traces in other encodings."""

from dipsim.trace.convert.arrays import import_arrays
from dipsim.trace.convert.exporting import export
from dipsim.trace.convert.importing import import_

__all__ = ["export", "import_", "import_arrays"]
