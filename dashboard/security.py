"""What keeps the page safe while it has no log-in: only this machine may ask, and the browser runs nothing but our own files."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def content_security_policy(script_hashes: list[str]) -> str:
    """Return the policy: our own files and the given inline scripts, no other address. Plotly sets styles inline."""
    return "; ".join(
        (
            "default-src 'self'",
            " ".join(("script-src 'self'", *script_hashes)),
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "connect-src 'self'",
            "worker-src 'self'",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


class Guard:
    """Adds security headers to every answer and turns away requests under a foreign host name.

    The latter stops a page elsewhere from reading ours by letting its own name point at 127.0.0.1 (DNS rebinding).

    Args:
        policy: Returns the content security policy, once the application is complete.
    """

    def __init__(self, app: ASGIApp, policy: Callable[[], str]) -> None:
        self._app = app
        self._make_policy = policy
        self._headers: list[tuple[bytes, bytes]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if not is_local(_header(scope, b"host")):
            await self._refuse(scope, receive, send)
            return

        async def send_with_headers(event: MutableMapping[str, Any]) -> None:
            if event["type"] == "http.response.start":
                own = {name.lower() for name, _ in event.get("headers", [])}  # a report brings the policy that fits it
                event["headers"] = [*event.get("headers", []), *(one for one in self._security_headers() if one[0] not in own)]
            await send(event)

        await self._app(scope, receive, send_with_headers)

    def _security_headers(self) -> list[tuple[bytes, bytes]]:
        if self._headers is None:
            self._headers = [
                (b"content-security-policy", self._make_policy().encode()),
                (b"x-content-type-options", b"nosniff"),
                (b"x-frame-options", b"DENY"),
                (b"referrer-policy", b"no-referrer"),
                (b"cross-origin-opener-policy", b"same-origin"),
            ]
        return self._headers

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 4003})
            return
        body = b"This dashboard answers only to the names of its own machine: open http://127.0.0.1:PORT, or use an SSH tunnel."
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 421, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def is_local(host: str) -> bool:
    """Return whether a Host header names this machine."""
    return urlsplit(f"//{host}").hostname in LOOPBACK


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")
