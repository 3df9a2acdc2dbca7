"""The command ``dashboard``: the live page."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from .output import StoreOption, note

if TYPE_CHECKING:
    from ..storage import Store

_READ_TIMEOUT_S = 20.0
"""A page that waits longer for one of its parts is better told so."""


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(epilog="Example: foreshock dashboard --store sqlite:///foreshock.db --port 8050")(dashboard)


def dashboard(
    host: Annotated[str, typer.Option(help="Loopback address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes a free one.")] = 8050,
    store: StoreOption = None,
    read_store: Annotated[
        str | None, typer.Option("--read-store", metavar="URL", help="Read replica of a server's store, to read samples from.")
    ] = None,
) -> None:
    """Serve the live page over a store until interrupted."""
    from ..dashboard.server import AddressError, serve

    try:
        # Given a way to open the store, the page is served while SQLAlchemy is still loading.
        serve(lambda: _opened(store, read_store), host=host, port=port, channels=_channels, page=_page)
    except AddressError as error:
        note(f"Error: {error}")
        raise typer.Exit(2) from None


def _opened(store: str | None, read_store: str | None) -> "Store":
    """Open the store for reading: bounded in time, and from a replica where there is one."""
    from ..config import load_settings
    from ..storage import open_store

    settings = load_settings(store=store, read_store=read_store)
    return open_store(settings.store, create=False, role="dashboard", read_store=settings.read_store, read_timeout=_READ_TIMEOUT_S)


def _page() -> str:
    from ..config import load_settings

    return load_settings().dashboard_url


def _channels() -> Sequence[str]:
    from ..config import load_settings

    return load_settings().notify
