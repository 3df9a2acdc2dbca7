"""Serve the dashboard: one process, until it is told to stop."""

import gc
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

from ..storage.base import Store
from .security import LOOPBACK
from .source import StoreSource

Announce = Callable[[str], None]


class AddressError(ValueError):
    """The dashboard cannot listen at the address asked for; the message says what would do."""


def serve(
    store: Store | Callable[[], Store],
    host: str = "127.0.0.1",
    port: int = 8050,
    *,
    announce: Announce | None = None,
    channels: Callable[[], Sequence[str]] = tuple,
    page: Callable[[], str] = str,
) -> None:
    """Serve the dashboard over a store until SIGINT or SIGTERM, a watchdog beside it; blocks.

    Args:
        store: A store, which stays the caller's; or a function that opens one, which is called while the first page is served
            already (a quarter sooner), and whose store is closed at the end.
        host: A loopback address. Others are refused as long as the page has no log-in.
        port: 0 takes a free one.
        announce: Called with the page's URL once the page can be used; by default the URL is printed.
        channels: Called once the store is open; returns Apprise URLs that the watchdog's alerts go to, besides the run's own.
        page: Called then too; returns the address under which people reach the page, for links in notifications.

    Raises:
        AddressError: not a loopback address, or the port is taken.
        StoreError: what the function that opens the store raised.
    """
    source = StoreSource(store)
    with closing(_listen(host, port)) as listener, closing(source), ExitStack() as ending:
        url = _url(listener)

        def ready() -> None:
            (announce or _print_url)(url)
            from ..analyzer.watchdog import Watchdog  # not before: the first page needs none

            watchdog = Watchdog(source(), channels=channels(), page=page())
            watchdog.start()
            ending.callback(watchdog.close)

        with _no_collection():
            from .app import build_app
            from .listening import Listener

            server = Listener(build_app(source).server, source, ready)
        server.run(sockets=[listener])
        if server.failure is not None:
            raise server.failure


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pause the garbage collector: a tenth of the time of large imports, which leave no garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _listen(host: str, port: int) -> socket.socket:
    """Return a bound socket; binding first makes a taken port a message instead of a dead server."""
    if host not in LOOPBACK:
        raise AddressError(
            f"Cannot serve the dashboard at {host!r}: it has no log-in yet, so only this machine may open it "
            f"({', '.join(LOOPBACK)}). From another machine use an SSH tunnel: ssh -L 8050:127.0.0.1:8050 HOST, "
            "then open http://127.0.0.1:8050."
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
