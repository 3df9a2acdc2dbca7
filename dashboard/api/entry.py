"""The entry to the API: an application of its own, made when it is first asked for, so that the page does not wait for it."""

import asyncio

from ..asgi import ASGIApp, Receive, Scope, Send
from ..options import Options
from ..source import StoreSource


class ApiEntry:
    """Passes what is below ``/api`` to the API, and everything else on."""

    def __init__(self, app: ASGIApp, source: StoreSource, options: Options) -> None:
        self._app, self._source, self._options = app, source, options
        self._making: asyncio.Task[ASGIApp] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        path = scope.get("path", "")
        if scope["type"] == "http" and (path == "/api" or path.startswith("/api/")):
            if self._making is None:
                self._making = asyncio.create_task(asyncio.to_thread(self._make))
            api = await asyncio.shield(self._making)
            await api(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _make(self) -> ASGIApp:
        from .application import api_application  # pydantic's models take a tenth of a second that the first page does not have

        return api_application(self._source, self._options)
