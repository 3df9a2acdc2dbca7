"""The web server: says when it listens, opens the store beside the first page, and ends well."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread

import uvicorn
from fastapi import FastAPI

from .source import StoreSource

_HEAD_START = 0.05  # seconds in which a reader who waits already gets the first page, undisturbed by imports
_GRACE = 3  # seconds that open pages get at the end


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
                ws="websockets-sansio",
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
        except BaseException as error:  # noqa: BLE001 - raised again by serve(), on the caller's thread
            self.failure = error
            self.should_exit = True
            return
        self._ready()
        from . import factory  # noqa: F401 - figures and numpy, so that the first reader does not wait for them
