"""The API as an application of its own: its endpoints, its description, its page, and how its answers are cached."""

import hashlib
from collections.abc import MutableMapping
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse

from ... import __version__
from .. import who
from ..asgi import ASGIApp, Receive, Scope, Send, header
from ..options import Options
from ..source import StoreSource
from .alerts import alerts_router
from .errors import documented, tell_errors
from .page import api_page
from .runs import runs_router
from .shapes import Health, Me

ROOT = "/api/v1"
DESCRIPTION = """Read runs, samples and alerts of a foreshock store, and decide about alerts.

Every time is in seconds since the epoch, UTC. A number that JSON cannot write stands as null, and the kind beside it says what it
is: finite, positive_infinity, negative_infinity or nan. Every error has the same shape. Lists come in pages: go on with
next_cursor."""


def api_application(source: StoreSource, options: Options) -> ASGIApp:
    """Return the API over a store."""
    api = FastAPI(title="foreshock", version=__version__, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    tell_errors(api)
    routers = (runs_router(source), alerts_router(source), _server_router(source))
    for router in routers:
        api.include_router(router, prefix=ROOT)
    described = _described(api, options)
    page = api_page(described, options.prefix)

    @api.get("/api/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(described)

    @api.get("/api", include_in_schema=False)
    @api.get("/api/", include_in_schema=False)
    async def shown() -> HTMLResponse:
        return HTMLResponse(page)

    return Remembered(api)


def _server_router(source: StoreSource) -> APIRouter:
    router = APIRouter(tags=["Server"])

    @router.get("/health", responses=documented(), summary="How the server and its store are")
    def health() -> Health:
        store = source()
        store.check(write=False)
        return Health(status="ok", version=__version__, store=store.url, notice=store.notice)

    @router.get("/me", responses=documented(), summary="Who asks")
    async def me() -> Me:
        visitor = who.visitor()
        if visitor is None:
            return Me(name=who.person(), may_write=True, signed_in=False, expires_at=None)
        return Me(name=visitor.name, may_write=visitor.may_write, signed_in=True, expires_at=visitor.expires_at)

    return router


def _described(api: FastAPI, options: Options) -> dict[str, Any]:
    """Return the OpenAPI description."""
    found = get_openapi(
        title="foreshock",
        version=__version__,
        description=DESCRIPTION,
        routes=api.routes,
        servers=[{"url": options.prefix or "/"}],
        tags=[{"name": "Runs"}, {"name": "Alerts"}, {"name": "Server"}],
    )
    if options.auth:
        schemes = {"token": {"type": "http", "scheme": "bearer", "description": "A token of `foreshock token create`."}}
        found.setdefault("components", {})["securitySchemes"] = schemes
        found["security"] = [{"token": []}]
    return found


class Remembered:
    """Gives every answer to a GET an ETag, so that who has it already is told just that. Private: it depends on who asks."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        start: MutableMapping[str, Any] = {}
        parts: list[bytes] = []

        async def keep(event: MutableMapping[str, Any]) -> None:
            if event["type"] == "http.response.start":
                start.update(event)
                return
            parts.append(event.get("body", b""))
            if not event.get("more_body", False):
                await self._send(scope, send, start, b"".join(parts))

        await self._app(scope, receive, keep)

    async def _send(self, scope: Scope, send: Send, start: MutableMapping[str, Any], body: bytes) -> None:
        if start["status"] == 200:
            tag = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
            added = [(b"etag", tag.encode()), (b"cache-control", b"private, no-cache"), (b"vary", b"Authorization, Cookie")]
            known = [one.strip().removeprefix("W/") for one in header(scope, b"if-none-match").split(",")]
            if tag in known or known == ["*"]:
                await send({"type": "http.response.start", "status": 304, "headers": added})
                await send({"type": "http.response.body", "body": b""})
                return
            start["headers"] = [*start["headers"], *added]
        await send(start)
        await send({"type": "http.response.body", "body": body})
