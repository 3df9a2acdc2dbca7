"""The web server: says when it listens, opens the store beside the first page, and ends well."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from .security import MOST_BYTES
from .source import StoreSource

_HEAD_START = 0.05  # seconds in which a reader who waits already gets the first page, undisturbed by imports
_GRACE = 3  # seconds that open pages get at the end
_MOST_CONNECTIONS = 2000
HEAD_WITHIN = 10.0
"""Seconds within which the head of a request must have arrived. uvicorn itself would wait for ever."""
MOST_HEAD = 64 * 1024
"""Bytes that a request may bring before its head is complete."""


class Impatient(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """An HTTP connection that is closed when the head of a request is too long, or does not come (Slowloris)."""

    _waiting: asyncio.TimerHandle | None = None
    _bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take what came. Between two requests the waiting begins with the first byte."""
        answered = self._idle()
        if answered and self._waiting is None:
            self._wait()
        super().data_received(data)
        if answered and self._idle():
            self._bytes += len(data)
            if self._bytes > MOST_HEAD:
                self.transport.close()
        else:
            self._enough()

    def handle_websocket_upgrade(self, *event: Any) -> None:
        """Hand the connection on; it is not ours to close any more."""
        self._enough()
        super().handle_websocket_upgrade(*event)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._enough()
        super().connection_lost(exc)

    def _idle(self) -> bool:
        """Return whether no request is being answered."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(HEAD_WITHIN, self.transport.close)

    def _enough(self) -> None:
        self._bytes = 0
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class Listener(uvicorn.Server):
    """A uvicorn server for which SIGINT and SIGTERM are orders to end well, not to die by.

    Args:
        source: Opened on a thread of its own once the server listens: the first page needs no store, and SQLAlchemy takes a while
            to import. When that fails, the server stops and ``failure`` holds the reason.
        ready: Called when the page can be used.
    """

    def __init__(self, app: FastAPI, source: StoreSource, ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                loop="asyncio",
                http=Impatient,
                ws="websockets-sansio",
                ws_max_size=MOST_BYTES,
                proxy_headers=False,  # Forwarded does that, for proxies that are trusted
                server_header=False,
                limit_concurrency=_MOST_CONNECTIONS,
                reset_contextvars=True,  # or who asked first on a connection could be taken for who asks next
                timeout_graceful_shutdown=_GRACE,
            )
        )
        self._source, self._ready = source, ready
        self.failure: BaseException | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, then to open the store."""
        await super().startup(sockets)
        if self.started:
            thread = Thread(target=self._prepare, name="foreshock-dashboard-store", daemon=True)
            asyncio.get_running_loop().call_later(_HEAD_START, thread.start)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let signals end the server; uvicorn would raise them again after having stopped as they asked."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    def _prepare(self) -> None:
        try:
            self._source.open()
            self._ready()
        except BaseException as error:  # noqa: BLE001 - raised again by serve(), on the caller's thread
            self.failure = error
            self.should_exit = True
            return
        from . import factory  # noqa: F401 - figures and numpy, so that the first reader does not wait for them
