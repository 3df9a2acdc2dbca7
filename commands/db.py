"""The group ``foreshock db``, which looks after a store: ``upgrade`` and ``compact`` are here, the others in modules beside."""

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from . import archiving, inventory, spool
from .output import JsonOption, StoreOption, bytes_text, note, plain, show_json
from .progress import progress_bar

if TYPE_CHECKING:
    from ..storage.database import Database
    from ..storage.upgrading import Upgrade

db = typer.Typer(help="Look after a store: what it holds, its schema, its room.", no_args_is_help=True)


@db.callback()
def _db() -> None:
    pass


inventory.add_commands(db)


@db.command(epilog="Example: foreshock db upgrade --store postgresql://owner@host/database")
def upgrade(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit status 1 if an upgrade is due.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a store's tables those of this foreshock, with what is in them."""
    from ..storage.upgrading import carry_out, due

    with closing(_database(store)) as database:
        found = due(database)
        if not as_json:
            _tell(found, check)
        if not check and found.revisions:
            with progress_bar() as progress:
                progress.add_task(f"upgrading to schema {found.wanted}", total=None)
                carry_out(database, found)
            if not as_json:
                typer.echo(f"Done: {found.address} has schema {found.wanted}.")
    if as_json:
        show_json(plain(found) | {"due": bool(found.revisions), "done": bool(found.revisions) and not check})
    raise typer.Exit(1 if check and found.revisions else 0)


@db.command(epilog="Example: foreshock db compact --store runs.db")
def compact(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Give back the room of what was deleted, and refresh the statistics that queries are planned by."""
    from ..storage.compacting import compact as compact_store

    with closing(_database(store)) as database, progress_bar() as progress:
        progress.add_task("compacting", total=None)
        done = compact_store(database)
    for trouble in done.left:
        note(trouble)
    if as_json:
        show_json(plain(done))
        return
    for name in done.dropped:
        typer.echo(f"Dropped the empty partition {name}.")
    change = done.before - done.after
    kept = f"{bytes_text(change)} given back" if change > 0 else "nothing to give back"
    typer.echo(f"{done.address}: {bytes_text(done.before)} before, {bytes_text(done.after)} after ({kept}), {done.seconds:.1f} s.")


for commands in (spool, archiving):
    commands.add_commands(db)


def _database(store: str | None) -> "Database":
    from ..config import load_settings
    from ..storage.opening import open_database

    return open_database(load_settings(store=store).store, role="command")


def _tell(found: "Upgrade", check: bool) -> None:
    if not found.revisions:
        typer.echo(f"Nothing to do: {found.address} has schema {found.wanted}, this foreshock's.")
        return
    was = f"has schema {found.found}" if found.found else "holds no store yet"
    typer.echo(f"{found.address} {was}; this foreshock's is {found.wanted}. {'Due' if check else 'Upgrading'}:")
    for revision in found.revisions:
        typer.echo(f"  {revision.number}  {revision.does}")
