"""Traces: what a model did, token by token, independent of device, method and cache."""

from dipsim.trace.load import load_trace
from dipsim.trace.opening import trace_names
from dipsim.trace.outline import Outline
from dipsim.trace.save import save_trace
from dipsim.trace.tokens import DECODE, PREFILL, Tokens
from dipsim.trace.trace import Trace, recording
from dipsim.trace.writer import TraceWriter

__all__ = [
    "DECODE",
    "PREFILL",
    "Outline",
    "Tokens",
    "Trace",
    "TraceWriter",
    "load_trace",
    "recording",
    "save_trace",
    "trace_names",
]
