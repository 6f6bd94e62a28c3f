"""Synthetic traces of any geometry, fitted to a real one (docs/synth.md)."""

from dipsim.synth.draw import Geometry, draw, geometry_of
from dipsim.synth.fit import Fit, fit_trace
from dipsim.synth.synthesize import synthesize

__all__ = ["Fit", "Geometry", "draw", "fit_trace", "geometry_of", "synthesize"]
