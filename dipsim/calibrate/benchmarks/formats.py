"""The table of formats: one row each. A file is of the first format that recognises it."""

from dipsim.calibrate.benchmarks.fio import FIO
from dipsim.calibrate.benchmarks.llama_bench import LLAMA_BENCH
from dipsim.calibrate.benchmarks.reading import Format
from dipsim.calibrate.benchmarks.source import Source

FORMATS: tuple[Format, ...] = (LLAMA_BENCH, FIO)


def recognised(source: Source) -> Format | None:
    """Return the format of a file, by what it holds; None for none."""
    return next((format_ for format_ in FORMATS if format_.recognises(source.head)), None)
