"""What the commands share: their options, and how tables, notes and JSON are printed. Data goes to stdout, the rest to stderr."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from ..storage import Store

StoreOption = Annotated[
    str | None, typer.Option("--store", metavar="URL", help="SQLAlchemy URL; else FORESHOCK_STORE, else foreshock.toml.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print data as JSON, and nothing else.")]


def opened_store(store: str | None) -> "Store":
    """Open the store that was asked for, or the configured one; it must exist."""
    from ..config import load_settings
    from ..storage import open_store

    return open_store(load_settings(store=store).store, create=False, role="command")


def console() -> "Console":
    """Return a console that shows names as they are. What is piped is not cut at 80 columns."""
    from rich.console import Console

    made = Console(markup=False, highlight=False, emoji=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = 160
    return made


def show(content: "RenderableType") -> None:
    """Print text or a table on stdout."""
    console().print(content)


def note(message: str) -> None:
    """Print a line on stderr."""
    typer.echo(message, err=True)


def show_json(data: object) -> None:
    """Print data as JSON."""
    typer.echo(json.dumps(data, indent=2, allow_nan=False))


def seconds_of(given: str, option: str) -> float:
    """Read a length of time, ``30m``, for an option.

    Raises:
        BadParameter: it is none.
    """
    from ..analyzer.handling import HandlingError, seconds

    try:
        return seconds(given)
    except HandlingError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def bytes_text(count: int) -> str:
    """Write a number of bytes for people, ``1.5 MiB``."""
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(amount) < 1024:
            return f"{amount:.1f} {unit}" if unit != "bytes" else f"{count} bytes"
        amount /= 1024
    return f"{amount:.1f} TiB"


def plain(value: Any) -> Any:
    """Turn records into what JSON has; non-finite numbers, which JSON has not, into ``"nan"``, ``"inf"``, ``"-inf"``."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value
