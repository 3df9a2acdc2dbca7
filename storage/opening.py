"""``open_store``: from what a user writes to a store that is ready, or to a message that says what mends it."""

import os
import re
from pathlib import Path

from sqlalchemy import URL, exc, make_url

from . import schema
from .base import Store
from .database import Database, printable, sqlite_path
from .errors import StoreConfigurationError, StoreError
from .replica import Replica
from .spool import SpoolPlace
from .sqlalchemy_store import SQLAlchemyStore
from .upserts import unsupported

DEFAULT_URL = "sqlite:///foreshock.db"
ENVIRONMENT = "FORESHOCK_STORE"

_EXAMPLES = "Examples: sqlite:///foreshock.db, runs.db, postgresql://user:password@host/database."
_SUFFIXES = (".db", ".sqlite", ".sqlite3")
_DRIVERS = {  # what a bare scheme means: the drivers that our extras install
    "sqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
_INSTALLS = {"psycopg": '"foreshock[postgres]"', "pymysql": "pymysql"}


def open_store(
    url_or_store: str | os.PathLike[str] | Store | None = None,
    *,
    create: bool = True,
    role: str = "",
    read_store: str = "",
    read_timeout: float | None = None,
) -> Store:
    """Open a store, making or upgrading its tables where needed and allowed.

    Args:
        url_or_store: a SQLAlchemy URL, the path of a SQLite file (ending in .db, .sqlite or .sqlite3), a Store (returned as it
            is), or None for the environment's ``FORESHOCK_STORE``, else ``sqlite:///foreshock.db``.
        create: whether a store that is not there may be made, and one of an older foreshock upgraded. Readers such as the dashboard
            say False, and need no right to write.
        role: what this process is to the store (monitor, dashboard, ...), for those who watch a server's connections.
        read_store: URL of a read replica of a server's store: what is large is read there while it is there and keeps up.
        read_timeout: seconds that a reading statement may take on a server.

    Raises:
        StoreConfigurationError: unknown URL, dialect or driver, no such folder or file, a schema newer than this program,
            or older and not to be changed.
        StoreUnavailableError: the server is away, the file is locked or read-only, the disk is full.
    """
    if isinstance(url_or_store, Store):
        return url_or_store
    given = _given(url_or_store)
    database = _database(given, create, role, read_timeout)
    in_memory = database.path is None and database.dialect == "sqlite"
    try:
        if create:
            database.create_file()
        schema.prepare(database, create=create or in_memory)
        replica = _replica(database, read_store, role, read_timeout) if read_store else None
    except StoreError:
        database.close()
        raise
    return SQLAlchemyStore(database, replica)


def open_database(url: str | os.PathLike[str] | None = None, *, role: str = "") -> Database:
    """Return the way to a store that is there, whatever its schema: for what looks after stores. The caller closes it.

    Args:
        url, role: see ``open_store``.

    Raises:
        StoreConfigurationError: unknown URL, dialect or driver, no such file.
    """
    return _database(_given(url), False, role, None)


def _given(url: str | os.PathLike[str] | None) -> str:
    return os.fspath(url) if url is not None else os.environ.get(ENVIRONMENT) or DEFAULT_URL


def _database(given: str, create: bool, role: str, read_timeout: float | None) -> Database:
    url = _url(given)
    path = sqlite_path(url)
    if path is not None:
        _look_at(path, given, create)
    return _connect(url, given, role, read_timeout)


def _replica(primary: Database, given: str, role: str, read_timeout: float | None) -> Replica:
    url = _url(given)
    if primary.engine.url.get_backend_name() != url.get_backend_name() or url.get_backend_name() == "sqlite":
        raise StoreConfigurationError(
            f"{_printable(given)!r} cannot be the read replica of {primary.address}: it must be the same kind of server."
        )
    return Replica(primary, _connect(url, given, role, read_timeout))


def spool_place(folder: str, limit: int, store: Store | str) -> SpoolPlace | None:
    """Return where a run may spool that is meant for this store; None where spooling is off or the store does not outlive us.

    Args:
        folder: as the setting ``spool`` says; relative to the current folder, of now.
        store: the store, or its address.

    Raises:
        StoreConfigurationError: there cannot be such a store.
    """
    address = store.url if isinstance(store, Store) else printable(_url(store))
    in_memory = address.startswith("sqlite") and sqlite_path(make_url(address)) is None
    if folder in ("", "off") or in_memory:
        return None
    return SpoolPlace(Path(os.path.abspath(Path(folder).expanduser())), limit, address)


def _url(given: str) -> URL:
    if "://" not in given and given.endswith(_SUFFIXES):
        url = URL.create("sqlite", database=given)
    else:
        try:
            url = make_url(given)
        except exc.ArgumentError:
            raise StoreConfigurationError(f"Cannot read {_printable(given)!r} as the address of a store. {_EXAMPLES}") from None
        except ValueError as error:  # a port that is no number
            raise StoreConfigurationError(
                f"Cannot read {_printable(given)!r} as the address of a store: {error}. {_EXAMPLES}"
            ) from None
    url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
    if url.get_backend_name() == "postgresql" and url.drivername != _DRIVERS["postgresql"]:
        wanted = _printable(url.set(drivername="postgresql").render_as_string(hide_password=False))
        raise StoreConfigurationError(
            f"foreshock speaks to PostgreSQL through psycopg 3 (COPY, LISTEN), not {url.drivername!r}. Write {wanted!r}, "
            f"and if the driver is missing: pip install {_INSTALLS['psycopg']}"
        )
    if url.get_backend_name() not in ("sqlite", "postgresql", "mysql", "mariadb"):
        raise unsupported(url.get_backend_name())
    path = sqlite_path(url)
    if path is None:
        return url
    # Absolute, so that a script that changes its folder goes on writing into the same file.
    return url.set(database=str(Path(os.path.abspath(path.expanduser()))), query={k: v for k, v in url.query.items() if k != "uri"})


def _look_at(path: Path, given: str, create: bool) -> None:
    if path.is_dir():
        raise StoreConfigurationError(f"{path} is a folder. Name a file in it: {path / 'foreshock.db'}")
    if not path.parent.is_dir():
        raise StoreConfigurationError(f"The folder {path.parent} does not exist. Mend it with: mkdir -p {path.parent}")
    if not create and not path.exists():
        raise StoreConfigurationError(
            f"There is no store at {path}. Start a run that writes one (foreshock demo, or foreshock.watch(..., store={given!r})), "
            f"or name another with --store URL or {ENVIRONMENT}."
        )


def _connect(url: URL, given: str, role: str, read_timeout: float | None) -> Database:
    try:
        database = Database(url, role=role, read_timeout=read_timeout)
    except StoreError:
        raise
    except exc.NoSuchModuleError:
        raise StoreConfigurationError(f"SQLAlchemy knows no driver {url.drivername!r}. {_EXAMPLES}") from None
    except ModuleNotFoundError as error:
        missing = error.name or url.drivername
        install = _INSTALLS.get(missing, missing)
        raise StoreConfigurationError(
            f"The store {_printable(given)!r} needs the driver {missing!r}. Mend it with: pip install {install}"
        ) from None
    except (exc.ArgumentError, TypeError, ValueError) as error:
        raise StoreConfigurationError(
            f"Cannot use {_printable(given)!r} as the address of a store: {error}. {_EXAMPLES}"
        ) from error
    if database.engine.dialect.is_async:
        raise StoreConfigurationError(f"{url.drivername!r} is an asynchronous driver; foreshock needs an ordinary one. {_EXAMPLES}")
    return database


def _printable(given: str) -> str:
    """Hide the password of an address that may not even be a URL."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", given)
