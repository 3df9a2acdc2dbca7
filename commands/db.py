"""The group ``foreshock db``, which looks after a store: ``upgrade`` and ``compact`` are here, the others in modules beside."""

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from . import archiving, inventory, pruning, spool
from .output import JsonOption, StoreOption, bytes_text, note, plain, show_json
from .progress import progress_bar

if TYPE_CHECKING:
    from ..storage.database import Database
    from ..storage.upgrading import Upgrade

db = typer.Typer(help="Look after a store: what is in it, its schema, what may go, moving it on.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Add the group to the command line."""
    inventory.add_commands(db)
    db.command(epilog="Example: foreshock db upgrade --store postgresql://owner@host/database")(upgrade)
    db.command(epilog="Example: foreshock db compact --store runs.db")(compact)
    for commands in (pruning, archiving, spool):
        commands.add_commands(db)
    app.add_typer(db, name="db")


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
                note(f"Done: {found.address} has schema {found.wanted}.")
    if as_json:
        show_json(plain(found) | {"due": bool(found.revisions), "done": bool(found.revisions) and not check})
    raise typer.Exit(1 if check and found.revisions else 0)


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
        note(f"Dropped the empty partition {name}.")
    change = done.before - done.after
    kept = f"{bytes_text(change)} given back" if change > 0 else "nothing to give back"
    note(f"{done.address}: {bytes_text(done.before)} before, {bytes_text(done.after)} after ({kept}), {done.seconds:.1f} s.")


def _database(store: str | None) -> "Database":
    from ..config import load_settings
    from ..storage.opening import open_database

    return open_database(load_settings(store=store).store, role="command")


def _tell(found: "Upgrade", check: bool) -> None:
    if not found.revisions:
        note(f"Nothing to do: {found.address} has schema {found.wanted}, this foreshock's.")
        return
    was = f"has schema {found.found}" if found.found else "holds no store yet"
    note(f"{found.address} {was}; this foreshock's is {found.wanted}. {'Due' if check else 'Upgrading'}:")
    for revision in found.revisions:
        note(f"  {revision.number}  {revision.does}")
