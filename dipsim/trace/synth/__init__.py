"""Synthetic traces of any geometry, fitted to a real one (docs/synth.md)."""

from dipsim.trace.synth.draw import Geometry, draw, geometry_of
from dipsim.trace.synth.fit import TraceFit, fit_trace
from dipsim.trace.synth.synthesize import synth

__all__ = ["Geometry", "TraceFit", "draw", "fit_trace", "geometry_of", "synth"]
