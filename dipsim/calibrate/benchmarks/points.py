"""Points of flash that a reader collects, checked one by one."""

from dipsim.calibrate.benchmarks.reading import BANDWIDTHS, Refusals, number, whole
from dipsim.calibrate.measured import Measurements, Origin, Reads, Writes
from dipsim.disk.fit import Measured, implausible

MOST_LANES = 256
"""Reads in flight of a point of a profile."""
BUFFERED = (
    "through the page cache, whose bandwidth tells nothing of the flash: measure with direct reads"
)
_BLOCKS = (512, 2**32)


class Points:
    """Reads and writes of a file, and what was refused."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.refusals = Refusals(file)
        self.reads: list[Reads] = []
        self.writes: list[Writes] = []

    def refuse(self, place: str, reason: str) -> None:
        """Refuse what stands at a place."""
        self.refusals.add(place, reason)

    def add(
        self,
        place: str,
        origin: Origin,
        *,
        size: float,
        lanes: int,
        bandwidth: object,
        direct: bool,
        in_order: bool,
        written: bool = False,
    ) -> None:
        """Keep a point, or refuse it where it tells nothing.

        Args:
            place: where it stands.
            origin: its origin.
            size: bytes of a request.
            lanes: requests in flight.
            bandwidth: bytes per second of all together.
            direct: False for what went through the page cache.
            in_order: True for sequential requests.
            written: True for writes.
        """
        try:
            whole(size, "the size of a request", *_BLOCKS)
            rate = number(bandwidth, "bandwidth", BANDWIDTHS)
            if not direct:
                raise ValueError(BUFFERED)
            if lanes > MOST_LANES:
                raise ValueError(f"{lanes} requests in flight; a curve has at most {MOST_LANES}")
            point = Measured(float(size), whole(lanes, "requests in flight", 1, MOST_LANES), rate)
            problem = None if written else implausible(point)
            if problem:
                raise ValueError(problem)
        except ValueError as problem:
            self.refuse(place, str(problem))
            return
        if written:
            self.writes.append(Writes(rate, origin, float(size), lanes, in_order))
        else:
            self.reads.append(Reads(point, origin, in_order))

    def measurements(self, devices: tuple[tuple[str, Origin], ...] = ()) -> Measurements:
        """Return what was kept."""
        return Measurements(
            reads=tuple(self.reads),
            writes=tuple(self.writes),
            devices=devices,
            refused=self.refusals.sentences(),
        )
