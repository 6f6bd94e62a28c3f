"""Measurements of a device, in the one form that the readers of benchmarks yield."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dipsim.disk.fit import Measured as MeasuredReads
from dipsim.validate.cases import Case


class Origin(NamedTuple):
    """The file that a measurement stands in, and what the file says of it."""

    file: str
    """Name of the file, without its folder."""
    tool: str
    """Program that wrote it, e.g. ``llama-bench``."""
    date: str = ""
    """Day of the measurement, as YYYY-MM-DD; empty where the file does not say."""
    command: str = ""
    """Command line, or build of the program; empty where the file does not say."""


class Rate(NamedTuple):
    """Tokens per second of a model that lies in memory."""

    case: Case
    """The run (kind ``decode`` or ``prefill``, in tokens/s): model, bytes, format, depth."""
    value: float
    """Tokens per second."""
    origin: Origin
    deviation: float | None = None
    """Standard deviation of the repeats, in tokens per second."""
    threads: int | None = None
    parameters: float | None = None
    """Weights of the model, where they are stated."""
    kv_bits: float = 16.0
    """Bits of an element of the keys and values, the mean of both."""
    settings: str = ""
    """Other options of the run that are not the program's defaults, e.g. ``fa 1, ub 128``."""
    model_file: str = ""
    """Name of the model's file, where it is stated."""


class Reads(NamedTuple):
    """Direct reads of flash: a size, reads in flight, and the bandwidth of all together."""

    point: MeasuredReads
    origin: Origin
    in_order: bool = False
    """True for sequential reads."""


class Writes(NamedTuple):
    """Direct writes of flash."""

    bandwidth: float
    """Bytes per second of all together."""
    origin: Origin
    size: float | None = None
    """Bytes of a write, where they are stated."""
    lanes: int = 1
    """Writes in flight."""
    in_order: bool = True
    """True for sequential writes."""


class Transfer(NamedTuple):
    """Bandwidth of DRAM that a program reached."""

    bandwidth: float
    """Bytes per second that crossed the bus: a copy reads and writes, and counts twice."""
    threads: int | None
    origin: Origin
    test: str = ""
    """Name of the program's test, e.g. ``Triad``."""


class Memory(NamedTuple):
    """Sizes of DRAM in bytes, as the operating system states them."""

    capacity: float
    available: float | None
    origin: Origin


@dataclass(frozen=True)
class Measurements:
    """All that was read of one or more files."""

    rates: tuple[Rate, ...] = ()
    reads: tuple[Reads, ...] = ()
    writes: tuple[Writes, ...] = ()
    transfers: tuple[Transfer, ...] = ()
    memory: tuple[Memory, ...] = ()
    devices: tuple[tuple[str, Origin], ...] = ()
    """Names of devices that the files state (a processor, a host), each with its file."""
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Geometries of models by name, where a file states them."""
    refused: tuple[str, ...] = ()
    """Parts that tell nothing: a sentence each, that begins with the file's name."""

    def __bool__(self) -> bool:
        return bool(self.rates or self.reads or self.writes or self.transfers or self.memory)


def together(parts: Iterable[Measurements]) -> Measurements:
    """Return the measurements of several files as one."""
    some = list(parts)
    models: dict[str, Mapping[str, Any]] = {}
    for part in some:
        models.update(part.models)
    return Measurements(
        rates=tuple(rate for part in some for rate in part.rates),
        reads=tuple(reads for part in some for reads in part.reads),
        writes=tuple(writes for part in some for writes in part.writes),
        transfers=tuple(transfer for part in some for transfer in part.transfers),
        memory=tuple(sizes for part in some for sizes in part.memory),
        devices=tuple(dict.fromkeys(device for part in some for device in part.devices)),
        models=models,
        refused=tuple(dict.fromkeys(text for part in some for text in part.refused)),
    )
