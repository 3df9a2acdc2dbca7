"""The command ``db drain``: brings into the store what runs could not store before they ended."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import JsonOption, StoreOption, note, show_json

if TYPE_CHECKING:
    from ..storage import Store

FolderArgument = Annotated[Path | None, typer.Argument(help="Folder that holds the spools; else the setting spool, else this one.")]


def add_commands(db: typer.Typer) -> None:
    """Add this command to the group ``db``."""
    db.command(epilog="Example: foreshock db drain --store postgresql://user@host/database")(drain)


def drain(
    folder: FolderArgument = None,
    store: StoreOption = None,
    any_store: Annotated[bool, typer.Option("--any-store", help="Also what was meant for a store at another address.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Store what runs left on disk because their store was away when they ended."""
    from contextlib import closing

    from ..config import load_settings
    from ..storage import open_store

    settings = load_settings(store=store)
    place = folder or Path("." if settings.spool in ("", "off") else settings.spool).expanduser()
    if not place.is_dir():
        raise typer.BadParameter(f"{place} is no folder", param_hint="FOLDER")
    with closing(open_store(settings.store)) as opened:
        rows = _drained(place, opened, any_store)
    if as_json:
        show_json(rows)
    elif not rows:
        note(f"No run left anything in {place.resolve()}.")
    for row in rows:
        (typer.echo if row["outcome"] == "stored" and not as_json else note)(_told(row))
    raise typer.Exit(1 if any(row["outcome"] == "unreadable" for row in rows) else 0)


def _drained(folder: Path, store: "Store", any_store: bool) -> list[dict[str, Any]]:
    """Drain every spool in the folder that can be; return what came of each."""
    import sys

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from ..storage.leftovers import leftovers_in, opened
    from ..storage.spool import SpoolBusyError, SpoolError

    rows: list[dict[str, Any]] = []
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        for left in leftovers_in(folder):
            row: dict[str, Any] = {"path": str(left.path), "run": None, "run_id": None, "store": None}
            rows.append(row | {"outcome": left.state, "samples": 0, "refused": 0, "why": left.why})
            if left.about is None:
                continue
            row = rows[-1]
            row |= {"run": left.about.run.name, "run_id": left.about.run.id, "store": left.about.address}
            try:
                with opened(left.path, store, any_address=any_store) as draining:
                    if draining is None:
                        row["outcome"] = "other store"
                        continue
                    task = progress.add_task(f"storing {left.about.run.name}", total=left.points)
                    while draining.work(0.2):
                        progress.update(task, completed=draining.result.points)
            except SpoolError as error:
                row |= {"outcome": "in use" if isinstance(error, SpoolBusyError) else "unreadable", "why": str(error)}
            else:
                row |= {"outcome": "stored", "samples": draining.result.points, "refused": draining.result.refused}
    return rows


def _told(row: dict[str, Any]) -> str:
    name = Path(row["path"]).name
    if row["outcome"] == "stored":
        refused = f", {row['refused']:,} refused" if row["refused"] else ""
        return f"{name}: {row['samples']:,} samples of run {row['run']} stored{refused}."
    if row["outcome"] == "other store":
        return f"{name}: meant for {row['store']}. Store it there with --store URL, or here with --any-store."
    return f"{row['why']} It was left as it is."
