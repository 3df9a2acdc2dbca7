"""The command ``dashboard``: the live page."""

from collections.abc import Sequence
from typing import Annotated

import typer

from .output import StoreOption, note, opened_store


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(epilog="Example: foreshock dashboard --store sqlite:///foreshock.db --port 8050")(dashboard)


def dashboard(
    host: Annotated[str, typer.Option(help="Loopback address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes a free one.")] = 8050,
    store: StoreOption = None,
) -> None:
    """Serve the live page over a store until interrupted."""
    from ..dashboard.server import AddressError, serve

    try:
        # Given a way to open the store, the page is served while SQLAlchemy is still loading.
        serve(lambda: opened_store(store), host=host, port=port, channels=_channels)
    except AddressError as error:
        note(f"Error: {error}")
        raise typer.Exit(2) from None


def _channels() -> Sequence[str]:
    from ..config import load_settings

    return load_settings().notify
