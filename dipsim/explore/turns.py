"""Two threads for the simulator: one for the figures that are asked for now, one for what stands
beside them; of what waits in either, the newest."""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Literal, TypeVar

from dipsim.replay.replay import Progress

Lane = Literal["now", "beside"]
Answer = TypeVar("Answer")
Work = Callable[[Progress], Answer]
"""Called with what tells it how far it is, and stops it when it is overtaken."""


class Overtaken(Exception):  # noqa: N818 - no error: somebody asked for something newer
    """Raised in work that nobody waits for any more."""


class Turns:
    """Lanes in which one thing is worked on at a time."""

    def __init__(self) -> None:
        self._newest: dict[Lane, int] = {"now": 0, "beside": 0}
        self._closed = False
        self._lanes: dict[Lane, _Lane] = {"now": _Lane(), "beside": _Lane()}

    async def newest(self, lane: Lane, work: Work[Answer]) -> Answer:
        """Return what work comes to, unless newer work of the lane, or of `now`, is asked for
        before it is done.

        Raises:
            Overtaken: it was.
        """
        for each in self._newest if lane == "now" else (lane,):
            self._newest[each] += 1
        own = self._newest[lane]
        return await self._turn(lane, work, lambda: own != self._newest[lane])

    async def every(self, work: Work[Answer]) -> Answer:
        """Return what work beside the figures comes to, whatever else is asked for.

        Raises:
            Overtaken: the app ends.
        """
        return await self._turn("beside", work, lambda: False)

    def soon(self, work: Work[Any]) -> None:
        """Begin work whose answer nobody waits for."""
        self._lanes["now"].put(lambda: work(lambda _done, _total: None), lambda _answer, _why: None)

    def close(self) -> None:
        """Stop what is worked on, and let all that waits go."""
        self._closed = True

    async def _turn(self, lane: Lane, work: Work[Answer], stopped: Callable[[], bool]) -> Answer:
        def progress(_done: int, _total: int) -> None:
            if self._closed or stopped():
                raise Overtaken

        def turn() -> Answer:
            progress(0, 1)
            return work(progress)

        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()

        def tell(answer: Any, problem: BaseException | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_settle, future, answer, problem)

        self._lanes[lane].put(turn, tell)
        return await future


class _Lane:
    """A thread that works on one thing after another."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[tuple[Callable[[], Any], Callable[..., None]]] = SimpleQueue()
        threading.Thread(target=self._work, name="simulator", daemon=True).start()

    def put(self, turn: Callable[[], Any], tell: Callable[..., None]) -> None:
        """Add work; its answer, or what it raised, is told when it is done."""
        self._waiting.put((turn, tell))

    def _work(self) -> None:
        while True:
            turn, tell = self._waiting.get()
            try:
                answer, problem = turn(), None
            except BaseException as raised:  # whoever asked is told
                answer, problem = None, raised
            tell(answer, problem)


def _settle(future: "asyncio.Future[Any]", answer: Any, problem: BaseException | None) -> None:
    """Settle a future, unless nobody waits for it any more."""
    if future.done():
        return
    if problem is None:
        future.set_result(answer)
    else:
        future.set_exception(problem)
