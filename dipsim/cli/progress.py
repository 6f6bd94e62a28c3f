"""Progress of a command that takes a while, on the last line of the terminal."""

import threading
from typing import Self

from dipsim.cli.output import say
from dipsim.cli.status import STATUS
from dipsim.compiling import compiling


class Progress:
    """A command's progress, shown on the last line of the terminal from the first second on.

    Where standard error is no terminal nothing is printed, however long it takes, or with ``log``
    a line for each count.

    Args:
        doing: what is done, e.g. "replaying".
        things: what is counted; None where nothing is.
        log: there are few things and each takes long: a log shall show how many are done.
    """

    delay, interval = 1.0, 0.1
    """Seconds until the line comes, and between its changes."""

    def __init__(self, doing: str, things: str | None = None, *, log: bool = False) -> None:
        self.doing, self.things, self.log = doing, things, log
        self.done, self.total = 0, 0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(self, done: int, total: int) -> None:
        """Note how many things are done, and how many there are in all."""
        self.done, self.total = done, total
        if self.log and self._thread is None:
            say(self._count())

    def __str__(self) -> str:
        """Return what is going on now."""
        if what := compiling():
            return f"compiling {what}"
        if self.things is None:
            return self.doing
        if self.total == 0:
            return "preparing"
        return "finishing" if self.done >= self.total else self._count()

    def _count(self) -> str:
        return f"{self.doing} {self.done} of {self.total} {self.things}"

    def show(self) -> None:
        """Show it on the terminal."""
        STATUS.show(f"dipsim: {self} ...")

    def _show_until_over(self) -> None:
        wait = self.delay
        while not self._over.wait(wait):
            self.show()
            wait = self.interval

    def __enter__(self) -> Self:
        if STATUS.visible:
            self._thread = threading.Thread(target=self._show_until_over, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._over.set()
            self._thread.join()
            STATUS.clear()
