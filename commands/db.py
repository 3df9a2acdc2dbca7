"""The group ``foreshock db``: upkeep of a store. Imports what is heavy when a command runs."""

import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import archiving, pruning, spool
from .output import JsonOption, StoreOption, note, opened_store, plain, show, show_json

if TYPE_CHECKING:
    from ..storage.inventory import Inventory

app = typer.Typer(help="Look after a store: what is in it, what may go, moving it on.", no_args_is_help=True)


def add_commands(commands: typer.Typer) -> None:
    """Add the group to the command line."""
    app.command(epilog="Example: foreshock db info --store postgresql://user@host/database")(info)
    app.command(epilog="Example: foreshock db upgrade --check")(upgrade)
    app.command(epilog="Example: foreshock db compact")(compact)
    for room in (pruning, archiving, spool):
        room.add_commands(app)
    commands.add_typer(app, name="db")


def info(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Tell what a store holds, how large it is, and what of your data interventions wrote beside it."""
    from ..config import load_settings
    from ..storage.captures import listed
    from ..storage.inventory import take
    from ..storage.leftovers import leftovers_in

    folder = Path(load_settings().spool or ".").expanduser()
    with closing(opened_store(store)) as opened:
        found = take(opened.database)  # type: ignore[attr-defined]  # open_store opens no other kind
        captured = listed(opened)
    spools = list(leftovers_in(folder)) if folder.is_dir() else []
    if as_json:
        data = plain(found) | {
            "captures": [plain(item) | {"path": str(item.path), "holds": item.holds} for item in captured],
            "spools": [{"path": str(left.path), "state": left.state, "points": left.points} for left in spools],
        }
        show_json(data)
        return
    show(_table(_facts(found)))
    if found.tables:
        show(_table({name: f"{size:,} bytes" for name, size in found.tables.items() if size}, "table", "size"))
    if found.partitions:
        named = {one.name: f"series {one.first:,} to {one.past - 1:,}, {one.bytes:,} bytes" for one in found.partitions}
        show(_table(named, "partition of samples", "holds"))
    known = sum(item.bytes or 0 for item in captured)
    if captured:
        rows = {
            str(item.path): f"{item.run_name}, step {item.step:,}, {_bytes(item.bytes)}: {item.holds}"
            + (f" (on {item.host}?)" if item.bytes is None and item.host else "")
            for item in captured
        }
        show(_table(rows, f"captured user data, {known:,} bytes", "of"))
    for left in spools:
        note(f"{left.path}: {left.points:,} samples that a run could not store ({left.state}); foreshock db drain")


def _facts(found: "Inventory") -> dict[str, str]:
    def counted(numbers: Mapping[Any, int]) -> str:
        return ", ".join(f"{count:,} {name}" for name, count in numbers.items()) or "none"

    facts = {
        "store": found.address,
        "engine": f"{found.engine}, {found.version}",
        "schema": f"{found.schema}, which is what this foreshock writes"
        if found.schema == found.schema_known
        else f"{found.schema}; this foreshock writes {found.schema_known}",
        "size": f"{found.bytes:,} bytes" + (f", and {found.log_bytes:,} in the write-ahead log" if found.log_bytes else ""),
        "runs": counted(found.runs),
        "series": f"{found.series:,}",
        "points": f"{found.points:,}" if found.points_exact else f"about {found.points:,}",
        "rollups": ", ".join(f"{count:,} of {10**level:,}" for level, count in found.rollups.items()) or "none",
        "histograms": f"{found.histograms:,}",
        "alerts": counted(found.alerts),
        "outbox": counted(found.outbox),
        "leases": f"{found.leases:,}",
    }
    if found.oldest_run is not None and found.newest_run is not None:
        facts["oldest run"], facts["newest run"] = (
            time.strftime("%Y-%m-%d %H:%M", time.localtime(moment)) for moment in (found.oldest_run, found.newest_run)
        )
    return facts


def _bytes(size: int | None) -> str:
    return "not found from here" if size is None else f"{size:,} bytes"


def _table(rows: Mapping[str, str], *headings: str) -> Any:
    from rich.table import Table

    table = Table(*headings, show_header=bool(headings), box=None, pad_edge=False)
    if not headings:
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def upgrade(
    store: StoreOption = None,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit with 1 where an upgrade is due.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring a store's tables to what this foreshock writes, with their data. A run that writes does so by itself."""
    from ..config import load_settings
    from ..storage.opening import database_at
    from ..storage.schema import HEAD, prepare, revision, steps_from

    with closing(database_at(load_settings(store=store).store)) as database:
        with database.read() as connection:
            found = revision(connection)
        due = [] if found is None else steps_from(found)
        if not check:
            for number, what in due:
                note(f"{number}: {what}")
            prepare(database, create=False)
        if as_json:
            show_json(
                {"store": database.address, "from": found, "to": HEAD, "due": [number for number, _ in due], "done": not check}
            )
        elif not due:
            note(f"{database.address} has schema {found}, which is what this foreshock writes. Nothing to do.")
        else:
            verb = "is due to be upgraded" if check else "was upgraded"
            note(f"{database.address} {verb} from schema {found} to {HEAD}.")
    raise typer.Exit(1 if check and due else 0)


def compact(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Give back the room of what was deleted, and bring the engine's statistics up to date."""
    from ..storage.compacting import compact as compacted

    with closing(opened_store(store)) as opened:
        done = compacted(opened.database)  # type: ignore[attr-defined]  # open_store opens no other kind
    if as_json:
        show_json(plain(done))
        return
    dropped = f"; empty partitions dropped: {', '.join(done.dropped)}" if done.dropped else ""
    note(f"{opened.url}: {done.before:,} bytes before, {done.after:,} after{dropped}.")
