"""Traces: what a model did, token by token, independent of device, method and cache."""

from dipsim.trace.trace import DECODE, PREFILL, Trace, load_trace, trace_names
from dipsim.trace.writer import TraceWriter, save_trace

__all__ = [
    "DECODE",
    "PREFILL",
    "Trace",
    "TraceWriter",
    "load_trace",
    "save_trace",
    "trace_names",
]
