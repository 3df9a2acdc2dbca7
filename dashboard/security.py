"""What holds for every answer: headers that keep the page safe, host names we answer to, and how much and how long one may send."""

import asyncio
import json
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
        bounded = _Bounded(receive)

        async def send_with_headers(event: MutableMapping[str, Any]) -> None:
            nonlocal started
            if event["type"] == "http.response.start":
                started = True
                own = {name.lower() for name, _ in event.get("headers", [])}  # a report brings the policy that fits it
                event["headers"] = [*event.get("headers", []), *(one for one in self._security_headers() if one[0] not in own)]
                if not scope["path"].startswith(_CACHED) and b"cache-control" not in own:
                    event["headers"].append((b"cache-control", b"no-store"))
            await send(event)

        async def send_unless_refused(event: MutableMapping[str, Any]) -> None:
            # Who reads the body may take its end for bad manners of its own kind; what is said is the reason.
            if bounded.refusal is None or started:
                await send_with_headers(event)

        if not self._options.answers_to(header(scope, b"host")):
            await _say(scope, send_with_headers, 421, "unknown_host", _FOREIGN)
        elif (declared := header(scope, b"content-length")).isdecimal() and int(declared) > MOST_BYTES:
            await _say(scope, send_with_headers, 413, "too_large", _TOO_LARGE)
        else:
            try:
                await self._app(scope, bounded.receive, send_unless_refused)
            except _Unbearable:
                pass
            except Exception:
                logger.exception("a request could not be answered")
                if not started and bounded.refusal is None:
                    await _say(scope, send_with_headers, 500, "internal_error", _BROKEN)
            if bounded.refusal is not None and not started:
                await _say(scope, send_with_headers, *bounded.refusal)

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


class _Bounded:
    """A request's body, which ends in an exception once it is too long, or late; ``refusal`` then says what to answer."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._deadline, self._size, self._complete = time.monotonic() + BODY_WITHIN, 0, False
        self.refusal: tuple[int, str, str] | None = None

    async def receive(self) -> MutableMapping[str, Any]:
        """Return the next part.

        Raises:
            _Unbearable: see the class.
        """
        if self._complete:
            return await self._receive()
        try:
            event = await asyncio.wait_for(self._receive(), max(0.0, self._deadline - time.monotonic()))
        except TimeoutError:
            self.refusal = (408, "too_slow", _TOO_SLOW)
            raise _Unbearable from None
        self._size += len(event.get("body", b""))
        self._complete = event["type"] != "http.request" or not event.get("more_body", False)
        if self._size > MOST_BYTES:
            self.refusal = (413, "too_large", _TOO_LARGE)
            raise _Unbearable
        return event


async def _say(scope: Scope, send: Send, status: int, code: str, words: str) -> None:
    """Answer with a sentence; to a program in the API's shape of errors."""
    body, kind = words.encode(), "text/plain; charset=utf-8"
    if scope["path"].startswith("/api/"):
        body, kind = json.dumps({"error": {"code": code, "message": words, "details": []}}).encode(), "application/json"
    await answer(send, status, body, {"content-type": kind, "connection": "close"})
