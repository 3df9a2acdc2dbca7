"""Serve the dashboard: one process, until it is told to stop."""

import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import uvicorn

from ..storage.base import Store
from .app import build_app
from .security import LOOPBACK

_GRACE = 3  # seconds that open pages get at the end

Announce = Callable[[str], None]


class AddressError(ValueError):
    """The dashboard cannot listen at the address asked for; the message says what would do."""


class _Server(uvicorn.Server):
    """A server that says when it listens, and for which SIGINT and SIGTERM are orders to end well, not to die by."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            yield
            self._captured_signals.clear()  # uvicorn would raise them again, after having stopped as they asked


def serve(store: Store, host: str = "127.0.0.1", port: int = 8050, *, announce: Announce | None = None) -> None:
    """Serve the dashboard over a store until SIGINT or SIGTERM; blocks.

    Args:
        host: A loopback address. Others are refused as long as the page has no log-in.
        port: 0 takes a free one.
        announce: Called with the page's URL once it can be opened; by default the URL is printed.

    Raises:
        AddressError: not a loopback address, or the port is taken.
    """
    with closing(_listen(host, port)) as listener:
        url = _url(listener)
        config = uvicorn.Config(
            build_app(store).server,
            log_level="warning",
            access_log=False,
            ws="websockets-sansio",
            timeout_graceful_shutdown=_GRACE,
        )
        _Server(config, lambda: (announce or _print_url)(url)).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """Return a bound socket; binding first makes a taken port a message instead of a dead server."""
    if host not in LOOPBACK:
        raise AddressError(
            f"Cannot serve the dashboard at {host!r}: it has no log-in yet, so only this machine may open it "
            f"({', '.join(LOOPBACK)}). From another machine use an SSH tunnel: ssh -L 8050:127.0.0.1:8050 HOST, then open http://127.0.0.1:8050."
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise AddressError(
            f"Cannot serve the dashboard at {host}:{port}: {error.strerror or error}. "
            "Another dashboard may be running there; choose a port with --port N, or --port 0 for any free one."
        ) from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _print_url(url: str) -> None:
    print(f"foreshock dashboard: {url}  (stop with Ctrl+C)", flush=True)
