"""The gate before every page: who asks, whether a request comes from our own page, and what becomes of who may not enter."""

import asyncio
import contextlib
import json
from collections.abc import MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import quote, urlsplit

from ...storage.errors import StoreError
from .. import who
from ..asgi import ASGIApp, Receive, Scope, Send, answer, header
from ..options import Options
from ..who import Visitor
from .door import Door
from .login import COOKIE, LOGIN, LOGOUT, LoginPages, destination
from .throttle import Throttle

LOOK_EVERY = 2.0
"""Seconds between two looks whether whoever holds a WebSocket is still signed in."""
SIGNED_OUT = 4401
_SAFE = ("GET", "HEAD", "OPTIONS")
_OPEN = ("/healthz", "/readyz", LOGIN)
"""Paths for everybody: they tell that the dashboard is there, and nothing of what it shows."""

ELSEWHERE = (
    "This request comes from a page elsewhere, or does not say where from. Only the dashboard's own pages may ask for changes."
)


class Gate:
    """Lets requests of visitors through, and says no to others in the way that suits the request.

    Args:
        door: Knows who may enter; None where nobody has to sign in.
    """

    def __init__(self, app: ASGIApp, options: Options, door: Door | None, throttle: Throttle) -> None:
        self._app, self._options, self._door, self._throttle = app, options, door, throttle
        self._pages = LoginPages(options, door, throttle) if door is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        who.receive(None)
        if not _from_our_page(scope, bearer=self._door is not None and bool(_bearer(scope))):
            await _refuse(scope, receive, send, 403, "cross_site", ELSEWHERE)
        elif self._door is None or self._pages is None:
            await self._app(scope, receive, send)
        else:
            await self._admit(self._door, self._pages, scope, receive, send)

    async def _admit(self, door: Door, pages: LoginPages, scope: Scope, receive: Receive, send: Send) -> None:
        path, address = scope["path"], address_of(scope)
        if path == LOGIN and scope["type"] == "http":
            await pages.login(scope, receive, send, _session(scope))
            return
        is_open = path in _OPEN or path.startswith("/assets/")
        token = _bearer(scope)
        if token and not is_open and (wait := self._throttle.wait(address)):
            await _refuse(scope, receive, send, 429, "too_many_attempts", _later(wait), {"retry-after": str(int(wait) + 1)})
            return
        try:
            visitor = await (door.by_token(token) if token else door.by_session(_session(scope)))
        except StoreError:
            visitor = None
            if not is_open:
                await _refuse(scope, receive, send, 503, "store_unavailable", "The store cannot be asked just now who you are.")
                return
        if token and not is_open:
            (self._throttle.failed if visitor is None else self._throttle.succeeded)(address)
        if path == LOGOUT and scope["type"] == "http":
            await pages.logout(scope, receive, send, _session(scope))
        elif visitor is not None:
            who.receive(visitor)
            await self._follow(door, visitor, scope, receive, send)
        elif is_open:
            await self._app(scope, receive, send)
        elif _is_navigation(scope):
            await answer(send, 303, b"", {"location": self._options.prefix + LOGIN + "?next=" + quote(destination(scope), safe="")})
        else:
            why = "This token is not known here; it may have been revoked, or has expired." if token else "Sign in first."
            await _refuse(scope, receive, send, 401, "not_signed_in", why, {"www-authenticate": "Bearer"})

    async def _follow(self, door: Door, visitor: Visitor, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a visitor's request on; a WebSocket ends when the visitor's session does."""
        if scope["type"] == "http":
            await self._app(scope, receive, send)
            return
        token, session = _bearer(scope), _session(scope)

        async def present() -> bool:
            try:
                return (await (door.by_token(token) if token else door.by_session(session))) == visitor
            except StoreError:
                return False

        heard: asyncio.Task[MutableMapping[str, Any]] | None = None

        async def receive_while_present() -> MutableMapping[str, Any]:
            nonlocal heard
            heard = heard or asyncio.ensure_future(receive())
            while True:
                done, _ = await asyncio.wait({heard}, timeout=LOOK_EVERY)
                if not await present():
                    await send({"type": "websocket.close", "code": SIGNED_OUT, "reason": "signed out"})
                    return {"type": "websocket.disconnect", "code": SIGNED_OUT}
                if done:
                    event, heard = heard.result(), None
                    return event

        try:
            await self._app(scope, receive_while_present, send)
        finally:
            if heard is not None:
                heard.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await heard


def address_of(scope: Scope) -> str:
    """Return the address that a request comes from."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def _from_our_page(scope: Scope, *, bearer: bool) -> bool:
    """Return whether a request that may change something was made by a page of ours, or by no browser at all.

    Browsers say where a request comes from, and a page cannot make them lie. Programs say nothing; they have no cookies either,
    unless somebody gave them some.
    """
    if scope["type"] == "http" and scope["method"] in _SAFE:
        return True
    site, origin = header(scope, b"sec-fetch-site"), header(scope, b"origin")
    if site:
        return site in ("same-origin", "none")
    if origin:
        return _same_host(origin, header(scope, b"host"))
    return bearer or (scope["type"] == "http" and not header(scope, b"cookie"))


def _same_host(origin: str, host: str) -> bool:
    try:
        return bool(host) and urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def _bearer(scope: Scope) -> str:
    kind, _, token = header(scope, b"authorization").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _session(scope: Scope) -> str:
    cookies: SimpleCookie = SimpleCookie()
    with contextlib.suppress(CookieError):
        cookies.load(header(scope, b"cookie"))
    return cookies[COOKIE].value if COOKIE in cookies else ""


def _is_navigation(scope: Scope) -> bool:
    """Return whether a person waits for a page."""
    html = "text/html" in header(scope, b"accept")
    return scope["type"] == "http" and scope["method"] == "GET" and html and not scope["path"].startswith("/api/")


def _later(wait: float) -> str:
    return f"Too many attempts to sign in from your address failed. Try again in {int(wait) + 1} seconds."


async def _refuse(
    scope: Scope, receive: Receive, send: Send, status: int, code: str, why: str, headers: dict[str, str] | None = None
) -> None:
    """Say no, in the API's shape of errors; a WebSocket is not even opened."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": SIGNED_OUT, "reason": why[:100]})
        return
    body = json.dumps({"error": {"code": code, "message": why, "details": []}}).encode()
    await answer(send, status, body, {"content-type": "application/json", "cache-control": "no-store", **(headers or {})})
