"""The command ``dashboard``: the live page."""

from typing import TYPE_CHECKING, Annotated

import typer

from .output import StoreOption, note, seconds_of

if TYPE_CHECKING:
    from ..analyzer.watchdog import Watchdog
    from ..storage import Store

_READ_TIMEOUT_S = 20.0
"""A page that waits longer for one of its parts is better told so."""


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(
        epilog="Example: foreshock dashboard --store sqlite:///foreshock.db --port 8050 (beyond this machine: docs/security.md)"
    )(dashboard)


def dashboard(
    host: Annotated[str, typer.Option(help="Address to listen on; one beyond this machine needs --auth.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes a free one.")] = 8050,
    store: StoreOption = None,
    read_store: Annotated[
        str | None, typer.Option("--read-store", metavar="URL", help="Read replica of a server's store, to read samples from.")
    ] = None,
    auth: Annotated[bool, typer.Option("--auth", help="Let in only who has a token: foreshock token create.")] = False,
    session: Annotated[str, typer.Option(metavar="TIME", help="How long a browser stays signed in, such as 12h.")] = "12h",
    prefix: Annotated[str, typer.Option(metavar="PATH", help="Path under which a reverse proxy shows the page.")] = "",
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="Address or network of a proxy whose X-Forwarded-* headers are believed; repeatable."),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Further host name that the page answers to; repeatable.")
    ] = None,
) -> None:
    """Serve the live page over a store until interrupted."""
    from ..dashboard.options import OptionError, Options, clean_prefix
    from ..dashboard.server import serve

    try:
        options = Options(
            host,
            auth,
            seconds_of(session, "--session"),
            clean_prefix(prefix),
            tuple(trusted_proxy or ()),
            tuple(allow_host or ()),
        )
        # Given a way to open the store, the page is served while SQLAlchemy is still loading.
        serve(lambda: _opened(store, read_store), port, options=options, watchdog=_watchdog)
    except OptionError as error:
        note(f"Error: {error}")
        raise typer.Exit(2) from None


def _opened(store: str | None, read_store: str | None) -> "Store":
    """Open the store for reading: bounded in time, and from a replica where there is one."""
    from ..config import load_settings
    from ..storage import open_store

    settings = load_settings(store=store, read_store=read_store)
    return open_store(settings.store, create=False, role="dashboard", read_store=settings.read_store, read_timeout=_READ_TIMEOUT_S)


def _watchdog(store: "Store") -> "Watchdog":
    from ..config import load_settings
    from ..telling import telling

    return telling(load_settings()).watchdog(store)
