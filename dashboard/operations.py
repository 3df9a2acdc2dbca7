"""What machines ask: ``/healthz`` (is the process up), ``/readyz`` (can it read the store), ``/metrics`` (Prometheus)."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi import FastAPI, Request, Response
from starlette.responses import JSONResponse

from .. import __version__
from ..storage.errors import StoreError
from . import who
from .access.throttle import Throttle
from .options import Options
from .showings import Showings
from .source import StoreSource

READY_WITHIN = 3.0
"""Seconds in which the store must answer to be called reachable."""
_KEPT = 1.0
"""Seconds for which an answer of the store serves everybody who asks."""


@dataclass(slots=True)
class Workings:
    """What a server process knows of itself. ``watchdog`` tells (whether it is on duty, what is wrong), None: there is none."""

    showings: Showings
    throttle: Throttle
    watchdog: Callable[[], tuple[bool, str]] | None = None
    started_at: float = field(default_factory=time.time)


def operate(server: FastAPI, source: StoreSource, options: Options, workings: Workings) -> None:
    """Register what machines ask."""
    ready = Readiness(source)

    async def health() -> JSONResponse:
        if not options.auth:
            return JSONResponse({"status": "ok", "version": __version__})
        known = who.visitor()
        # The page asks for this every few seconds, and goes to the form when its visitor is no longer signed in.
        return JSONResponse({"status": "ok", "signed_in": known is not None} | ({"version": __version__} if known else {}))

    async def readiness() -> JSONResponse:
        trouble = await ready.trouble()
        if not trouble:
            return JSONResponse({"status": "ready"})
        told = {} if options.auth and who.visitor() is None else {"reason": trouble}
        return JSONResponse({"status": "not ready", **told}, status_code=503)

    async def metrics(request: Request) -> Response:
        from .metrics import exposition

        body, kind = await asyncio.to_thread(exposition, source.whole, workings, request.headers.get("accept", ""))
        return Response(body, media_type=None, headers={"content-type": kind})

    for path, answer in (("/healthz", health), ("/readyz", readiness), ("/metrics", metrics)):
        server.add_api_route(path, answer, methods=["GET"], include_in_schema=False)


class Readiness:
    """Whether the store answers. However many ask at once, it is asked by one of them; used on the event loop's thread."""

    def __init__(self, source: StoreSource) -> None:
        self._source = source
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = float("-inf")

    async def trouble(self) -> str:
        """Return why the store cannot be read, within ``READY_WITHIN`` seconds; empty when it can."""
        if self._asking is None or (self._asking.done() and time.monotonic() - self._asked_at > _KEPT):
            self._asked_at = time.monotonic()
            self._asking = asyncio.create_task(asyncio.to_thread(lambda: self._source.whole().check(write=False)))
        try:
            # Shielded: who waits gives up, the question goes on, and the next who ask wait for the same answer.
            await asyncio.wait_for(asyncio.shield(self._asking), READY_WITHIN)
        except TimeoutError:
            return f"the store has not answered for {READY_WITHIN:.0f} seconds"
        except StoreError as error:
            return str(error)
        return ""
