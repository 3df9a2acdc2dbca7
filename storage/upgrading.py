"""What stands between a store's schema and this program's, told before it is done."""

from dataclasses import dataclass

from . import schema
from .database import Database
from .errors import StoreConfigurationError


@dataclass(frozen=True, slots=True)
class Revision:
    """A migration: its number, and what it does in a line."""

    number: str
    does: str


@dataclass(frozen=True, slots=True)
class Upgrade:
    """The way of a store to this program's schema; ``revisions`` in order, none where nothing is to do.

    ``found`` is None where a server's database holds no store yet.
    """

    address: str
    found: str | None
    wanted: str
    revisions: tuple[Revision, ...]


def due(database: Database) -> Upgrade:
    """Return what an upgrade would do. Changes nothing.

    Raises:
        StoreConfigurationError: the schema is newer than this program, a file holds no store, or tables of somebody else are there.
        StoreUnavailableError: the store cannot be reached.
    """
    found = schema.standing(database)
    if found is None and database.path is not None:
        raise StoreConfigurationError(
            f"{database.address} exists but holds no foreshock store, and the first run that is given a file makes one by itself. "
            "Name the right one with --store URL or FORESHOCK_STORE."
        )
    if found is None:
        with database.read() as connection:
            schema.refuse_foreign(database, connection)
    revisions = () if found == schema.HEAD else _between(database, found)
    return Upgrade(database.address, found, schema.HEAD, revisions)


def carry_out(database: Database, upgrade: Upgrade) -> None:
    """Do it, all of it in one transaction where the engine can; other processes wait.

    Raises:
        StoreConfigurationError: the role may not change tables.
        StoreUnavailableError: the store cannot be reached or written.
    """
    if upgrade.revisions:
        schema.upgrade(database, upgrade.found)


def _between(database: Database, found: str | None) -> tuple[Revision, ...]:
    from alembic.script import ScriptDirectory

    with database.read() as connection:
        scripts = ScriptDirectory.from_config(schema.migrations(connection))
    steps = reversed(list(scripts.iterate_revisions(schema.HEAD, found or "base")))
    return tuple(Revision(each.revision, " ".join(each.doc.replace("``", "`").split())) for each in steps)
