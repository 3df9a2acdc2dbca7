"""The command ``foreshock db info``: what a store holds, in words or as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .output import JsonOption, StoreOption, bytes_text, note, plain, show, show_json

if TYPE_CHECKING:
    from ..storage.captures import Captured
    from ..storage.counting import Count
    from ..storage.inventory import Inventory

Fact = tuple[str, str]


def add_commands(db: typer.Typer) -> None:
    """Add this command to the group ``db``."""
    db.command(epilog="Example: foreshock db info --json")(info)


def info(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Say what a store holds and how large it is, and what lies outside it: spools that wait, captured data."""
    from ..config import load_settings
    from ..storage.captures import listed
    from ..storage.inventory import take
    from ..storage.opening import open_database
    from ..storage.sqlalchemy_store import SQLAlchemyStore

    settings = load_settings(store=store)
    with closing(open_database(settings.store, role="command")) as database:
        found = take(database)
        due = found.schema != found.schema_of_program
        captured = [] if due else listed(SQLAlchemyStore(database))
    spools = _spools(settings.spool)
    if as_json:
        captures = [plain(item) | {"path": str(item.path), "holds": item.holds} for item in captured]
        show_json(plain(found) | {"upgrade_due": due, "spools": spools, "captures": captures})
        return
    show(_table([*_facts(found), *_of_user(captured), *(("spool", _spool_text(each)) for each in spools)]))
    if due:
        note("This store was written by an older foreshock. Bring it up to date with: foreshock db upgrade")
    if any(each["state"] == "left" for each in spools):
        note("Spools hold what runs could not store before they ended. Bring it in with: foreshock db drain")


def _spools(folder: str) -> list[dict[str, Any]]:
    from ..storage.leftovers import leftovers_in

    place = Path("." if folder in ("", "off") else folder).expanduser()
    return [
        {
            "path": str(left.path),
            "state": left.state,
            "bytes": left.path.stat().st_size,
            "run": left.about.run.name if left.about else None,
            "store": left.about.address if left.about else None,
            "samples": left.points,
            "why": left.why,
        }
        for left in leftovers_in(place)
    ]


def _spool_text(spool: Mapping[str, Any]) -> str:
    what = f"{spool['path']} ({bytes_text(spool['bytes'])})"
    if spool["state"] == "left":
        return f"{what}: {spool['samples']:,} samples of run {spool['run']} wait for {spool['store']}"
    return f"{what}: {spool['state']}" if spool["state"] == "in use" else f"{what}: {spool['why']}"


def _of_user(captured: "Sequence[Captured]") -> Iterator[Fact]:
    """Tell what interventions wrote of the user's data; the first line is of all."""
    if not captured:
        yield "user data", "none captured"
        return
    known = [item.bytes for item in captured if item.bytes is not None]
    yield "user data", f"{len(captured):,} captured files, {bytes_text(sum(known))} of them here; foreshock db prune --captures"
    for item in captured:
        elsewhere = f"not found from here{f', written on {item.host}' if item.host else ''}"
        where = elsewhere if item.bytes is None else bytes_text(item.bytes)
        yield "", f"{item.path}: {where}, run {item.run_name}, step {item.step:,}; {item.holds}"


def _facts(found: "Inventory") -> Iterator[Fact]:
    yield "store", found.address
    yield "engine", found.engine
    due = found.schema != found.schema_of_program
    yield "schema", f"{found.schema}{f' (this foreshock has {found.schema_of_program})' if due else ', up to date'}"
    size = found.size
    inside = [f"{bytes_text(size.log)} of it the log"] * bool(size.log) + [f"{bytes_text(size.free)} free inside"] * bool(size.free)
    yield "size", ", ".join([bytes_text(size.total), *inside])
    for name, amount in size.tables.items():
        yield f"  {name}", bytes_text(amount)
    yield "runs", _counts(found.runs)
    if found.oldest is not None and found.newest is not None:
        yield "", f"the oldest began {_moment(found.oldest)}, the newest word is of {_moment(found.newest)}"
    yield "segments", f"{found.segments:,}"
    yield "series", f"{found.series:,}"
    yield "points", _count(found.points)
    if found.rollups:
        yield "rollups", ", ".join(f"level {level}: {_count(count)}" for level, count in found.rollups.items())
    yield "histograms", _count(found.histograms)
    yield "events", f"{found.events:,}"
    yield "alerts", _counts(found.alerts)
    yield "outbox", _counts({_OUTBOX.get(state, state): count for state, count in found.outbox.items()})
    for held in found.leases:
        yield "lease", f"{held.name}, held by {held.owner} for {held.seconds_left:.0f} s more"
    for each in found.partitions:
        rows = "rows unknown before the first ANALYZE" if each.rows is None else f"about {each.rows:,} rows"
        yield "partition", f"{each.name}: series {each.first} to {each.past - 1}, {rows}, {bytes_text(each.bytes)}"


_OUTBOX = {"failed": "dead letters"}


def _count(count: "Count") -> str:
    return f"{count.rows:,}" if count.exact else f"about {count.rows:,} (estimated)"


def _counts(by: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in by.items()) or "none"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(" ", "seconds")


def _table(facts: list[Fact]) -> Any:
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for fact in facts:
        table.add_row(*fact)
    return table
