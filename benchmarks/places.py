"""Databases of a benchmark's own: made on any server or in any folder, measured, and dropped whatever happens."""

import contextlib
import os
import re
import signal
import sqlite3
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from sqlalchemy import URL, create_engine, exc, make_url, text

_KEPT = "foreshock_bench_kept"
_NAME = re.compile(r"foreshock_bench_\w+")


class Places:
    """Makes databases for one benchmark, all dropped at its end, Ctrl-C and SIGTERM included. A context manager.

    In SQLite each is a file in a temporary folder, which is made beside the file that the URL names (in the system's folder for
    temporary files where it names none); on PostgreSQL a schema, on MariaDB and MySQL a database beside the one that it names.

    Args:
        url: a SQLAlchemy URL.

    Raises:
        ValueError: no such engine, folder or server, with what mends it.
    """

    def __init__(self, url: str) -> None:
        try:
            self._url = make_url(url)
        except (exc.ArgumentError, ValueError) as error:
            raise ValueError(f"Cannot read {url!r} as the address of a store: {error}. Example: sqlite:///bench.db") from None
        drivers = {
            "sqlite": "sqlite",
            "postgres": "postgresql+psycopg",
            "postgresql": "postgresql+psycopg",
            "mysql": "mysql+pymysql",
            "mariadb": "mariadb+pymysql",
        }
        self._url = self._url.set(drivername=drivers.get(self._url.drivername, self._url.drivername))
        self.engine = self._url.get_backend_name()
        if self.engine not in drivers:
            raise ValueError(f"{self.engine!r} is none of the engines that can be measured: sqlite, postgresql, mariadb, mysql")
        self._made: list[str] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._before: object = None
        self.version = self._version()

    @property
    def address(self) -> str:
        """The URL with its password replaced; safe to print."""
        return self._url.render_as_string(hide_password=True)

    def __enter__(self) -> "Places":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, _terminate)
        if self.engine == "sqlite":
            beside = Path(self._url.database).parent if self._url.database else None
            self._folder = tempfile.TemporaryDirectory(prefix=f"foreshock_bench_{os.getpid()}_", dir=beside and beside.absolute())
        return self

    def __exit__(self, *_: object) -> None:
        with _uninterrupted():
            for url in [*self._made]:
                self.drop(url)
            if self._folder is not None:
                self._folder.cleanup()
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)  # type: ignore[arg-type]

    def make(self) -> str:
        """Make an empty database and return its URL."""
        name = f"foreshock_bench_{os.getpid()}_{uuid.uuid4().hex[:8]}"
        if self.engine == "sqlite":
            assert self._folder is not None
            made = self._url.set(database=str(Path(self._folder.name) / f"{name}.db"))
        else:
            made = self._within(name)
        url = made.render_as_string(hide_password=False)
        self._made.append(url)  # before it is there, so that an interruption leaves nothing
        if self.engine != "sqlite":
            _execute(self._url, f"CREATE {self._kind} {name}")
        return url

    def kept(self) -> str:
        """Return the URL of a database that stays: the file that the URL names, or one called ``foreshock_bench_kept``."""
        if self.engine == "sqlite":
            path = self._url.database or "foreshock-bench.db"
            return self._url.set(database=str(Path(path).absolute())).render_as_string(hide_password=False)
        _execute(self._url, f"CREATE {self._kind} IF NOT EXISTS {_KEPT}")
        return self._within(_KEPT).render_as_string(hide_password=False)

    def analyze(self, url: str) -> None:
        """Let a server look at its tables, as it does by itself some time after they were filled."""
        if self.engine == "postgresql":
            _execute(make_url(url), "ANALYZE")

    def drop(self, url: str) -> None:
        """Drop a database that ``make`` made."""
        self._remove(url)
        self._made.remove(url)

    def _remove(self, url: str) -> None:
        if self.engine == "sqlite":
            path = make_url(url).database
            for end in ("", "-wal", "-shm"):
                Path(f"{path}{end}").unlink(missing_ok=True)
            return
        named = _NAME.search(url)
        assert named is not None
        _execute(self._url, f"DROP {self._kind} IF EXISTS {named[0]}{' CASCADE' if self.engine == 'postgresql' else ''}")

    def _within(self, name: str) -> URL:
        if self.engine == "postgresql":
            return self._url.update_query_dict({"options": f"-csearch_path={name}"})
        return self._url.set(database=name)

    @property
    def _kind(self) -> str:
        return "SCHEMA" if self.engine == "postgresql" else "DATABASE"

    def _version(self) -> str:
        if self.engine == "sqlite":
            beside = Path(self._url.database or ".").parent
            if not beside.is_dir():
                raise ValueError(f"The folder {beside} does not exist. Mend it with: mkdir -p {beside}")
            return sqlite3.sqlite_version
        try:
            (answer,) = _execute(self._url, "SHOW server_version" if self.engine == "postgresql" else "SELECT version()")
        except ModuleNotFoundError as error:
            extra = "postgres" if self.engine == "postgresql" else "mysql"
            raise ValueError(f'{self.address} needs {error.name!r}. Mend it with: pip install "foreshock[{extra}]"') from None
        except exc.SQLAlchemyError as error:
            raise ValueError(f"Cannot reach {self.address}: {str(error).splitlines()[0]}") from None
        return answer


def bytes_of(url: str) -> int:
    """Return what a database takes on disk with all tables and indexes: of SQLite the file and its log, after a checkpoint."""
    place = make_url(url)
    engine = place.get_backend_name()
    if engine == "sqlite":
        path = str(place.database)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return sum(os.path.getsize(path + end) for end in ("", "-wal") if os.path.exists(path + end))
    if engine == "postgresql":
        # A partitioned table itself has no size, its partitions have.
        query = (
            "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'm')"
        )
    else:
        tables = _execute(place, "SELECT table_name FROM information_schema.tables WHERE table_schema = database()")
        _execute(place, f"ANALYZE TABLE {', '.join(tables)}")
        query = "SELECT sum(data_length + index_length) FROM information_schema.tables WHERE table_schema = database()"
    return int(_execute(place, query)[0])


def _execute(url: URL, statement: str) -> list[str]:
    """Execute a statement in no transaction; return the first column of what it answers."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            result = connection.execute(text(statement))
            return [str(row[0]) for row in result] if result.returns_rows else []
    finally:
        engine.dispose()


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let a second Ctrl-C wait until what the first one left is cleared away."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
