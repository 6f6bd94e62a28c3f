"""Serving the app: to this machine alone, until it is interrupted."""

import secrets
import socket
import webbrowser
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dipsim.errors import DipsimError
from dipsim.extras import need
from dipsim.files import path_of
from dipsim.hardware import load_profile, profile_names
from dipsim.trace import trace_names

if TYPE_CHECKING:
    import uvicorn

    from dipsim.explore.app import App
    from dipsim.explore.turns import Turns

HOST = "127.0.0.1"
TRACE, PROFILE = "smollm2-chat", "snapdragon8"
"""Trace and device that are shown where none is given."""


def serve(
    source: str | None,
    profile: str | None,
    sweep: str | None,
    port: int,
    opened: Callable[[str], None],
    *,
    browser: bool,
) -> None:
    """Serve the app until it is interrupted.

    Args:
        source: a trace, or a store; default: `TRACE`.
        profile: the device to begin with; default: `PROFILE`.
        sweep: of a store that has several.
        port: of the address; 0 for a free one.
        opened: called with the address, once it answers.
        browser: open it in the user's browser.

    Raises:
        DipsimError: a package is missing, no such trace or device, or the port is taken.
    """
    need("the explorer", "explore", "starlette", "uvicorn", "plotly", "jinja2")
    import uvicorn

    from dipsim.explore.turns import Turns

    turns = Turns()
    app = make_app(source, profile, sweep, turns)
    with _listening(port) as listener:
        number, token = listener.getsockname()[1], secrets.token_urlsafe(12)
        config = uvicorn.Config(
            app.guarded(number, token),
            log_level="error",
            access_log=False,
            lifespan="off",
            server_header=False,
            limit_concurrency=64,
            timeout_graceful_shutdown=3,
        )
        address = f"http://{HOST}:{number}/{token}/"
        opened(address)
        if browser:
            webbrowser.open(address)
        try:
            _server(config, turns).run(sockets=[listener])
        except KeyboardInterrupt:  # how it is meant to end
            return


def make_app(source: str | None, profile: str | None, sweep: str | None, turns: "Turns") -> "App":
    """Return the app of a trace or a store, which begins to work out what is shown first.

    Raises:
        DipsimError: no such trace, device or sweep.
    """
    from dipsim.explore.app import App
    from dipsim.explore.controls import Offer
    from dipsim.explore.simulator import Simulator
    from dipsim.explore.study import Study
    from dipsim.explore.traces import Traces
    from dipsim.methods import default_method
    from dipsim.report.page.source import is_store

    study = None
    given = [TRACE if source is None else source]
    devices: dict[str, str] = {name: name for name in profile_names()}
    if source is not None and is_store(path_of(source)):
        study = Study(Path(source), sweep)
        given = study.traces or [TRACE]
        devices |= {name: name for name in study.devices}
    elif sweep is not None:
        raise DipsimError(f"--sweep {sweep}: {source or TRACE} is no store; drop it")
    if profile is not None:
        load_profile(profile)
        devices[profile] = profile
    traces = Traces({name: name for name in dict.fromkeys([*given, *trace_names()])})
    method = "dip" if study is not None else default_method(traces.open(given[0]).trace)
    offer = Offer(
        traces=list(traces.sources),
        profiles=list(devices),
        trace=given[0],
        profile=profile or PROFILE,
        method=method,
        has_study=study is not None,
    )
    simulator = Simulator(traces, devices)
    if study is None:
        turns.soon(partial(simulator.figures, offer.begins_with))
    return App(simulator, offer, turns, study)


def _server(config: "uvicorn.Config", turns: "Turns") -> "uvicorn.Server":
    """Return a server that lets go what is worked on when it is told to end."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            turns.close()
            super().handle_exit(sig, frame)

    return Server(config)


def _listening(port: int) -> socket.socket:
    """Return a socket that listens to this machine alone.

    Raises:
        DipsimError: the port is taken, or needs more rights.
    """
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(64)
    except (OSError, OverflowError) as problem:
        listener.close()
        why = getattr(problem, "strerror", None) or problem
        raise DipsimError(
            f"--port {port}: {why}; give another one, or none for a free one"
        ) from None
    return listener
