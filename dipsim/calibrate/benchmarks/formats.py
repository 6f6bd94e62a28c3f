"""The table of formats: one row each. A file is of the first format that recognises it."""

from dipsim.calibrate.benchmarks.androbench import ANDROBENCH
from dipsim.calibrate.benchmarks.cases import CASES
from dipsim.calibrate.benchmarks.fio import FIO
from dipsim.calibrate.benchmarks.io_log import IO_LOG
from dipsim.calibrate.benchmarks.iobench import IOBENCH
from dipsim.calibrate.benchmarks.iozone import IOZONE
from dipsim.calibrate.benchmarks.llama_bench import LLAMA_BENCH
from dipsim.calibrate.benchmarks.meminfo import MEMINFO
from dipsim.calibrate.benchmarks.memory import MBW, STREAM
from dipsim.calibrate.benchmarks.phone_kit import DEVICE, STEPS
from dipsim.calibrate.benchmarks.reading import Format
from dipsim.calibrate.benchmarks.source import Source

FORMATS: tuple[Format, ...] = (
    LLAMA_BENCH,
    FIO,
    CASES,
    IO_LOG,
    IOBENCH,
    IOZONE,
    DEVICE,
    STEPS,
    MBW,
    STREAM,
    MEMINFO,
    ANDROBENCH,
)


def recognised(source: Source) -> Format | None:
    """Return the format of a file, by what it holds; None for none."""
    head = source.head
    return next((format_ for format_ in FORMATS if format_.recognises(head)), None)
