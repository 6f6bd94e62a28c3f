"""Guard of the app: only the page of this machine's own browser may ask, at its own address."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",  # plotly sets styles of its own
        "img-src data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """An app behind the checks of every request.

    Args:
        app: what answers those that pass.
        port: at which the app is reached.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it: another name than the app's, or another page's."""
        if scope["type"] != "http":
            return
        problem = self._problem(scope["method"], Headers(scope=scope))
        if problem is None:
            await self._app(scope, receive, _with_headers(send))
        else:
            refusal = PlainTextResponse(f"{problem}\n", status_code=403)
            await refusal(scope, receive, _with_headers(send))

    def _problem(self, method: str, headers: Headers) -> str | None:
        """Return why a request is refused; None where it is not."""
        host = headers.getlist("host")
        if len(host) != 1 or host[0] not in self._hosts:
            return "refused: this is not the name that dipsim explore is reached by"
        origin = headers.get("origin")
        if origin is None and method not in ("GET", "HEAD"):
            return "refused: only the page of dipsim explore may ask for this"
        if origin is not None and origin != f"http://{host[0]}":
            return "refused: asked by a page from elsewhere"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return "refused: asked by a page from elsewhere"
        return None


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
        await send(message)

    return sending
