"""Routing logs of other programs: which experts each token used, read as traces."""

from dipsim.trace.logs.contract import Ask, Format
from dipsim.trace.logs.formats import FORMATS, format_named, recognised

__all__ = ["FORMATS", "Ask", "Format", "format_named", "recognised"]
