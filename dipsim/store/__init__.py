"""The result store: finished cells of sweeps in one SQLite file, which outlives every process.

It knows no simulation: keys, options and figures are plain values.
"""

from dipsim.store.key import key_of
from dipsim.store.store import Outcome, Store, StoredCell, StoredSweep

__all__ = ["Outcome", "Store", "StoredCell", "StoredSweep", "key_of"]
