"""DRAM as the flash and the token share it: fluid flows, worked out from one change to the next.

Only the token asks for anything, so until it asks again all is settled: the flash reads in order,
and speeds change where a read ends or the token's own work does. These moments follow from one
division each; nothing has to happen in between. Where somebody else may act, at the horizon, the
token stops.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from dipsim.timeline.closed import Machine

DMA, USE, COPY = range(3)
"""Readers and writers of DRAM."""


class Draw(NamedTuple):
    """Somebody (`DMA`, `USE` or `COPY`) who draws on DRAM at one rate for a while."""

    reader: int
    start: float
    end: float
    rate: float
    """Bytes per second."""


class Read(NamedTuple):
    """A job of the flash."""

    seconds: float
    """Seconds that the read takes at full speed on a cold device."""
    bytes: float
    token: int
    place: str
    """The place of the step that needs it."""
    early: bool


class Served(NamedTuple):
    """A read that was done, and when."""

    read: Read
    start: float
    end: float


class Dram:
    """Bandwidth that other programs leave, and the two who share it.

    The token draws on it for one thing after the other and has a clock, ``now``. The flash serves
    one read at a time, in the order in which they were asked for; it is followed only as far as
    somebody must know.
    """

    def __init__(self, machine: Machine) -> None:
        self.room = machine.dram - machine.background
        self.now = 0.0
        """The token's clock."""
        self.horizon = float("inf")
        """When somebody else may change something: nothing is worked out beyond."""
        self.is_hot = False
        self.flash_share = 1.0 if machine.heat is None else machine.heat.flash
        self.reads: deque[Read] = deque()
        """Reads that the flash has not done yet; the first is being served."""
        self.asked = self.done = 0
        """Reads that the flash was asked for, and how many of them are done."""
        self.since = self.at = self.left = self.rate = 0.0
        """Begin of the first read, the time until which it was followed, seconds left then at full
        speed, and bytes per second at that speed; on a hot device, those of the hot one."""
        self.alone = 1.0
        """Share of full speed at which it goes while the token does not draw."""
        self.owed = 0.0
        """Bytes of the flash that should come until the token has nothing left but to wait."""
        self.demanded = 0
        """Number of reads that are done when nothing is owed any more."""
        self.moved = [0.0] * 3
        """Bytes, by reader, summed up while they flow."""
        self.draws: list[Draw] | None = None
        """Draws so far; None as long as nobody asks."""
        self.served: list[Served] | None = None
        """Reads so far; None as long as nobody asks."""

    def heat_up(self, now: float) -> None:
        """Slow the flash down from now on, and for good."""
        self._catch_up(now)
        self.is_hot = True
        self._go_hot()

    # The flash ---------------------------------------------------------------------------------

    def read(self, read: Read) -> int:
        """Ask the flash for something; return how many reads are done when it is."""
        self._catch_up(self.now)
        self.reads.append(read)
        if self.asked == self.done:
            self._serve(self.now)
        self.asked += 1
        return self.asked

    def demand(self, read: Read, beside: float) -> int:
        """Ask for something of which ``beside`` bytes should come while the token draws; as `read`.

        What was asked for before comes first.
        """
        self._catch_up(self.now)
        self.owed = beside
        if self.reads:
            self.owed += self.left * self.rate - self.reads[0].bytes
            for earlier in self.reads:
                self.owed += earlier.bytes
        self.demanded = self.read(read)
        return self.demanded

    def wait(self, number: int) -> bool:
        """Wait until so many reads are done; return False if the horizon comes first."""
        while self.done < number:
            end = self.at + self.left / self.alone
            if end > self.horizon:
                self.now = self.horizon
                return False
            self._end(end, self.alone)
            if end > self.now:
                self.now = end
        return True

    def _serve(self, start: float) -> None:
        """Begin with the first read."""
        read = self.reads[0]
        self.since = self.at = start
        self.left, self.rate = read.seconds, read.bytes / read.seconds
        self.alone = 1.0 if self.rate <= self.room else self.room / self.rate
        if self.is_hot:
            self._go_hot()

    def _go_hot(self) -> None:
        self.left /= self.flash_share
        self.rate *= self.flash_share
        self.alone = 1.0 if self.rate <= self.room else self.room / self.rate

    def _catch_up(self, until: float) -> None:
        """Let the flash go on while the token does not draw."""
        while self.reads:
            end = self.at + self.left / self.alone
            if end > until:
                if until > self.at:
                    self._go_on(until - self.at, self.alone)
                return
            self._end(end, self.alone)

    def _go_on(self, seconds: float, speed: float) -> None:
        """Let the first read go on for some seconds at a share of full speed."""
        done = seconds * speed
        self.moved[DMA] += done * self.rate
        self.owed -= done * self.rate
        if self.draws is not None:
            self.draws.append(Draw(DMA, self.at, self.at + seconds, speed * self.rate))
        self.left -= done
        self.at += seconds

    def _end(self, end: float, speed: float) -> None:
        """Let the first read go on at a share of full speed to its end, and the next one begin."""
        self.moved[DMA] += self.left * self.rate
        self.owed -= self.left * self.rate
        if self.draws is not None:
            self.draws.append(Draw(DMA, self.at, end, speed * self.rate))
        read = self.reads.popleft()
        self.done += 1
        if self.done == self.demanded:
            self.owed = 0.0  # exactly, so that reads ahead behind it get their half
        if self.served is not None:
            self.served.append(Served(read, self.since, end))
        if self.reads:
            self._serve(end)

    def finish(self) -> None:
        """Let the flash do all that it was asked for."""
        self._catch_up(float("inf"))

    # The token ---------------------------------------------------------------------------------

    def draw(self, seconds: float, rate: float, hot: float, reader: int) -> float:
        """Let the token draw on DRAM until its work is done, or the horizon comes.

        Args:
            seconds: the work, at the full speed of a cold device.
            rate: bytes per second at that speed.
            hot: share of the speed that is left on a hot device.
            reader: `USE` or `COPY`.

        Returns:
            The seconds that are left: 0, unless the horizon came.
        """
        limit = hot if self.is_hot else 1.0
        if self.reads:
            self._catch_up(self.now)
        while self.reads:
            seconds = self._draw_beside(seconds, rate, limit, reader)
            if not seconds or self.now >= self.horizon:
                return seconds
        speed = limit if rate * limit <= self.room else self.room / rate
        took = seconds / speed
        if self.now + took <= self.horizon:
            self._take(took, speed, rate, reader)
            return 0.0
        took = self.horizon - self.now
        self._take(took, speed, rate, reader)
        self.now = self.horizon
        return max(seconds - took * speed, 0.0)

    def pass_by(self, seconds: float, moved: Sequence[float]) -> None:
        """Let a token pass that took so long and moved so many bytes, by reader."""
        self.now += seconds
        for reader, size in enumerate(moved):
            self.moved[reader] += size

    def _draw_beside(self, seconds: float, rate: float, limit: float, reader: int) -> float:
        """Let both draw until one of them is done, or the horizon comes; return what is left."""
        speed, flash_speed = limit, 1.0
        if rate * limit + self.rate > self.room:
            grant = self._grant(rate * limit, seconds * rate)
            if rate:
                speed = min((self.room - grant) / rate, limit)
            if self.rate:
                flash_speed = grant / self.rate
        took, read = seconds / speed, self.left / flash_speed
        if self.now + (took if took < read else read) > self.horizon:
            took = self.horizon - self.now
            self._take(took, speed, rate, reader)
            self._go_on(took, flash_speed)
            self.now = self.horizon
            return max(seconds - took * speed, 0.0)
        if took < read:
            self._take(took, speed, rate, reader)
            self._go_on(took, flash_speed)
            return 0.0
        self._take(read, speed, rate, reader)
        self._end(self.now, flash_speed)
        return max(seconds - read * speed, 0.0)

    def _take(self, seconds: float, speed: float, rate: float, reader: int) -> None:
        """Let the token draw for some seconds at a share of full speed."""
        self.moved[reader] += seconds * speed * rate
        if self.draws is not None:
            self.draws.append(Draw(reader, self.now, self.now + seconds, speed * rate))
        self.now += seconds

    def _grant(self, want: float, size: float) -> float:
        """Return bytes per second for the flash where both together want too much.

        The flash gets what the token leaves, and more where the token will wait for it: then both
        are done at the same time. Nobody waits yet for reads ahead, so they get up to one half.

        Args:
            want: bytes per second that the token wants.
            size: bytes that it still has to move.
        """
        least = self.room / 2
        if self.owed > 0:
            least = self.room * self.owed / (self.owed + size)
        return min(self.rate, max(self.room - want, least))
