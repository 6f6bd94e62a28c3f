"""The app: a page, its files, and answers of the simulator; it keeps nothing of who asks."""

import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from dipsim.errors import DipsimError
from dipsim.explore.asked import Asked, AskedCell, AskedRuns, parse
from dipsim.explore.comparison import csv_of, entry_of, page_of_entries
from dipsim.explore.controls import Offer, page
from dipsim.explore.guard import Guard
from dipsim.explore.simulator import Simulator
from dipsim.explore.study import Study
from dipsim.explore.turns import Lane, Overtaken, Turns
from dipsim.replay.replay import Progress
from dipsim.report.page import FOLDER as REPORT

_FOLDER = Path(__file__).parent
_MOST_BYTES = 2**16
"""Bytes of a request."""


class App:
    """Answers to the requests of the page.

    Args:
        simulator: what runs.
        offer: what the page offers.
        turns: who runs first.
        study: the sweep that is shown too, if any.
    """

    def __init__(
        self, simulator: Simulator, offer: Offer, turns: Turns, study: Study | None = None
    ) -> None:
        self._simulator, self._offer, self._turns, self._study = simulator, offer, turns, study

    def guarded(self, port: int, token: str) -> ASGIApp:
        """Return the app as it is served.

        Args:
            port: at which it is reached.
            token: first part of every path, which other users of the machine do not know.
        """
        simulator = self._simulator
        files = {
            "explore.css": (_FOLDER / "explore.css", "text/css"),
            "explore.js": (_FOLDER / "explore.js", "text/javascript"),
            "figures.js": (_FOLDER / "figures.js", "text/javascript"),
            "style.css": (REPORT / "style.css", "text/css"),
            "shared.js": (REPORT / "shared.js", "text/javascript"),
            "plotly.min.js": (plotly_script(), "text/javascript"),
        }
        routes = [
            Route("/", self._page),
            *(Route(f"/{name}", _file(*known)) for name, known in files.items()),
            _post("figures", self._run("now", simulator.figures)),
            _post("held", self._run("beside", simulator.held)),
            _post("curve", self._run("beside", simulator.curve)),
            _post("methods", self._methods),
            _post("result.json", self._result),
            _post("report.html", self._report),
            _post("comparison", self._comparison),
            _post("comparison.json", self._comparison_json),
            _post("comparison.csv", self._comparison_csv),
            _post("study", self._whole_study),
            _post("cell", self._cell),
        ]
        return Guard(Starlette(routes=[Mount(f"/{token}", routes=routes)]), port)

    async def _page(self, request: Request) -> Response:
        return Response(page(self._offer), media_type="text/html; charset=utf-8")

    # One run

    def _asked(self, value: Any) -> Asked:
        return parse(Asked, value).check(self._simulator.devices)

    def _run(
        self, lane: Lane, answer: Callable[[Asked, Progress], dict[str, Any]]
    ) -> Callable[[Any], Awaitable[Response]]:
        async def run(value: Any) -> Response:
            asked = self._asked(value)
            return _json(await self._turns.newest(lane, partial(answer, asked)))

        return run

    async def _methods(self, value: Any) -> Response:
        asked = self._asked(value)
        methods = await self._turns.every(lambda _: self._simulator.methods(asked.trace))
        return _json({"methods": methods})

    async def _result(self, value: Any) -> Response:
        asked = self._asked(value)
        saved = await self._turns.every(partial(self._simulator.saved, asked))
        return _json(saved, indent=2)

    async def _report(self, value: Any) -> Response:
        asked = self._asked(value)
        text = await self._turns.every(partial(self._simulator.report, asked))
        return Response(text, media_type="text/html; charset=utf-8")

    # Several runs

    async def _gathered(self, value: Any) -> list[tuple[Asked, dict[str, Any]]]:
        runs = [each.check(self._simulator.devices) for each in parse(AskedRuns, value).runs]
        return [
            (asked, await self._turns.every(partial(self._simulator.result, asked)))
            for asked in runs
        ]

    async def _comparison(self, value: Any) -> Response:
        gathered = await self._gathered(value)
        entries = [entry_of(asked.place, result) for asked, result in gathered]
        return _json(page_of_entries(entries))

    async def _comparison_json(self, value: Any) -> Response:
        gathered = await self._gathered(value)
        runs = [{**result, "command": self._simulator.command(asked)} for asked, result in gathered]
        return _json({"runs": runs}, indent=2)

    async def _comparison_csv(self, value: Any) -> Response:
        gathered = await self._gathered(value)
        commands = [self._simulator.command(asked) for asked, _ in gathered]
        entries = [entry_of(asked.place, result) for asked, result in gathered]
        return Response(csv_of(entries, commands), media_type="text/csv; charset=utf-8")

    # The sweep of a store

    async def _whole_study(self, value: Any) -> Response:
        study = self._known_study()
        return _json(await self._turns.every(lambda _: study.shown()))

    async def _cell(self, value: Any) -> Response:
        study, asked = self._known_study(), parse(AskedCell, value)
        return _json(await self._turns.every(lambda _: study.cell(asked.cell)))

    def _known_study(self) -> Study:
        if self._study is None:
            raise DipsimError("no store: start dipsim explore with one")
        return self._study


def plotly_script() -> Path:
    """Return plotly's script, which its Python package ships.

    Raises:
        ImportError: plotly is not installed.
    """
    import plotly

    return Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


def _file(path: Path, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return Response(path.read_bytes(), media_type=kind)

    return answer


def _post(name: str, answer: Callable[[Any], Awaitable[Response]]) -> Route:
    """Return a route that takes JSON; what a user can mend is answered in one line of JSON."""

    async def post(request: Request) -> Response:
        if request.headers.get("content-type") != "application/json":
            return PlainTextResponse("give application/json\n", status_code=415)
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _MOST_BYTES:
                return PlainTextResponse(f"at most {_MOST_BYTES} bytes\n", status_code=413)
        try:
            value = json.loads(body, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return PlainTextResponse("this is no JSON\n", status_code=400)
        try:
            return await answer(value)
        except Overtaken:
            return _json({"overtaken": True})
        except DipsimError as problem:
            return _json({"error": str(problem)})
        except MemoryError:
            return _json({"error": "not enough memory: take a part of the trace (tokens)"})

    return Route(f"/{name}", post, methods=["POST"])


def _no_constant(name: str) -> None:
    """Refuse NaN and infinities, which JSON does not have."""
    raise ValueError(name)


def _json(value: Any, indent: int | None = None) -> Response:
    if indent is None:
        return JSONResponse(value)
    text = json.dumps(value, indent=indent, allow_nan=False)
    return Response(text, media_type="application/json")
