"""What holds for every answer: headers that keep the page safe, host names we answer to, and how much and how long one may send."""

import asyncio
import logging
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from .asgi import ASGIApp, Receive, Scope, Send, answer, header
from .options import Options

logger = logging.getLogger(__name__)

MOST_BYTES = 1 << 20
"""A request's body is no longer: the largest of ours, a callback of the page with its state, has a few kilobytes."""
BODY_WITHIN = 30.0
"""Seconds within which a request must have arrived whole."""

_CACHED = ("/assets/", "/_dash-component-suites/")
"""Files that anybody may have, and that browsers may keep."""


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
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    )


class Guard:
    """Adds security headers to every answer; turns away requests under a foreign host name, and those too large or too slow.

    Args:
        options: Which host names are ours.
        policy: Returns the content security policy, once the application is complete.
    """

    def __init__(self, app: ASGIApp, options: Options, policy: Callable[[], str]) -> None:
        self._app, self._options = app, options
        self._make_policy = policy
        self._headers: list[tuple[bytes, bytes]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "websocket" and not self._options.answers_to(header(scope, b"host")):
            await receive()
            await send({"type": "websocket.close", "code": 4003})
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_with_headers(event: MutableMapping[str, Any]) -> None:
            nonlocal started
            if event["type"] == "http.response.start":
                started = True
                event["headers"] = [*event.get("headers", []), *self._security_headers()]
                if not scope["path"].startswith(_CACHED) and not any(name == b"cache-control" for name, _ in event["headers"]):
                    event["headers"].append((b"cache-control", b"no-store"))
            await send(event)

        if not self._options.answers_to(header(scope, b"host")):
            await _say(send_with_headers, 421, _FOREIGN)
        elif (declared := header(scope, b"content-length")).isdecimal() and int(declared) > MOST_BYTES:
            await _say(send_with_headers, 413, _TOO_LARGE)
        else:
            try:
                await self._app(scope, _bounded(receive), send_with_headers)
            except _Unbearable as error:
                if not started:
                    await _say(send_with_headers, error.status, error.words)
            except Exception:
                logger.exception("a request could not be answered")
                if not started:
                    await _say(send_with_headers, 500, _BROKEN)

    def _security_headers(self) -> list[tuple[bytes, bytes]]:
        if self._headers is None:
            self._headers = [
                (b"content-security-policy", self._make_policy().encode()),
                (b"x-content-type-options", b"nosniff"),
                (b"x-frame-options", b"DENY"),
                (b"referrer-policy", b"same-origin"),  # with no-referrer, forms of our own would say that they come from nowhere
                (b"cross-origin-opener-policy", b"same-origin"),
                (b"cross-origin-resource-policy", b"same-origin"),
                (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=(), usb=(), browsing-topics=()"),
            ]
        return self._headers


_FOREIGN = (
    "This dashboard answers only to names it knows. On its own machine open http://127.0.0.1:PORT, from another use an SSH tunnel; "
    "or start it with --allow-host NAME, where NAME is the one in your browser's address bar."
)
_BROKEN = "Something in the dashboard failed. Its log says what."
_TOO_LARGE = f"A request may hold at most {MOST_BYTES:,} bytes."
_TOO_SLOW = f"A request must arrive within {BODY_WITHIN:.0f} seconds."


class _Unbearable(Exception):
    """The request is too large, or takes too long to arrive."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words


def _bounded(receive: Receive) -> Receive:
    """Return a way to receive a request's body that raises once it is too long, or late."""
    deadline, size, complete = time.monotonic() + BODY_WITHIN, 0, False

    async def receive_bounded() -> MutableMapping[str, Any]:
        nonlocal size, complete
        if complete:
            return await receive()
        try:
            event = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise _Unbearable(408, _TOO_SLOW) from None
        size += len(event.get("body", b""))
        complete = event["type"] != "http.request" or not event.get("more_body", False)
        if size > MOST_BYTES:
            raise _Unbearable(413, _TOO_LARGE)
        return event

    return receive_bounded


async def _say(send: Send, status: int, words: str) -> None:
    await answer(send, status, words.encode(), {"content-type": "text/plain; charset=utf-8", "connection": "close"})
