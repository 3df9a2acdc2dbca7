"""Serve the dashboard: one process, until it is told to stop."""

import gc
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from ..storage.base import Store
from .options import OptionError, Options, shown_host
from .source import StoreSource

if TYPE_CHECKING:
    from ..analyzer.watchdog import Watchdog

Announce = Callable[[str], None]


class AddressError(OptionError):
    """The dashboard cannot listen at the address asked for; the message says what would do."""


def serve(
    store: Store | Callable[[], Store],
    port: int = 8050,
    *,
    options: Options | None = None,
    announce: Announce | None = None,
    watchdog: Callable[[Store], "Watchdog"] | None = None,
) -> None:
    """Serve the dashboard over a store until SIGINT or SIGTERM, a watchdog beside it; blocks.

    Args:
        store: A store, which stays the caller's; or a function that opens one, which is called while the first page is served
            already (a quarter sooner), and whose store is closed at the end.
        port: 0 takes a free one.
        options: Where and to whom; by default to this machine only, without a log-in.
        announce: Called with the page's URL once the page can be used; by default the URL is printed.
        watchdog: Called with the store once it is open; makes the watchdog, not yet started. By default one that tells only where
            the runs themselves asked for.

    Raises:
        AddressError: the port is taken, or the address is not this machine's.
        OptionError: visitors have to sign in, and the store has no token that they could do it with.
        StoreError: what the function that opens the store raised.
    """
    options = options or Options()
    source = StoreSource(store)
    with closing(_listen(options.host, port)) as listener, closing(source), ExitStack() as ending:
        url = _url(listener, options)

        def ready() -> None:
            if options.auth:
                _need_a_token(source.whole())
            (announce or _print_url)(url)
            from ..analyzer.watchdog import Watchdog  # not before: the first page needs none

            guard = (watchdog or Watchdog)(source.whole())
            guard.start()
            app.server.state.workings.watchdog = lambda: (guard.on_duty, guard.error)
            ending.callback(guard.close)

        with _no_collection():
            from .app import build_app
            from .listening import Listener

            app = build_app(source, options)
            server = Listener(app.server, source, ready)
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


def _need_a_token(store: Store) -> None:
    """Refuse to ask for a token where there is none.

    Raises:
        OptionError: there is none that still holds.
    """
    now = time.time()
    if not any(token.holds(now) for token in store.tokens()):
        raise OptionError(
            f"Nobody could sign in: {store.url} holds no access token{', but some that have expired' if store.tokens() else ''}. "
            "Make one, which is shown once, and start again: foreshock token create NAME --write"
        )


def _url(listener: socket.socket, options: Options) -> str:
    return f"http://{shown_host(options.host)}:{listener.getsockname()[1]}{options.prefix}"


def _print_url(url: str) -> None:
    print(f"foreshock dashboard: {url}  (stop with Ctrl+C)", flush=True)
