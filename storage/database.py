"""Connections and transactions over one engine, with every driver error translated and SQLite's file watched.

A ``Database`` offers two contexts, ``read()`` and ``write()``, each one transaction on a connection of its own. On SQLite a write
takes its lock at the start (``BEGIN IMMEDIATE``), so that it waits for others there and cannot fail half-way, and the file is
compared with the one the connection was opened on, before and after: writing into a file that was deleted raises.
"""

import contextlib
import logging
import os
import random
import socket
import sqlite3
import threading
import time
import urllib.parse
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import QueuePool, StaticPool

from .errors import StoreUnavailableError
from .faults import translated
from .pooling import prepare_reads, server_options

LOCK_WAIT = 20.0
"""Seconds a connection waits for another process's lock (SQLite) before the store counts as unavailable."""

_LOOK = 0.01  # seconds between looks at a lock that another process has, at most and at first
_PAUSE = 0.0005  # seconds between two writing transactions of one connection, in which another process finds the lock free

_QUIET = "foreshock"
# What the pool logs of connections that died comes as an exception as well, where it is told in our words.
logging.getLogger(f"{QueuePool.__module__}.{QueuePool.__name__}.{_QUIET}").setLevel(logging.CRITICAL)

Identity = tuple[int, int]

_abandoned: list[Engine] = []  # engines of forked children: kept, so that nothing closes what belongs to the parent


class Database:
    """One engine with its pool.

    Args:
        url: where; a SQLite path must be absolute, its file need not exist yet (``create_file`` makes it).
        role: what this process is to a server's store, for those who watch the server.
        read_timeout: seconds that a reading statement may take on a server; None: any.

    Raises:
        ModuleNotFoundError, sqlalchemy.exc.ArgumentError: the driver is missing, the URL is wrong (see ``opening``).
    """

    def __init__(self, url: URL, *, role: str = "", read_timeout: float | None = None) -> None:
        self.address = printable(url)
        self.path = sqlite_path(url)
        self._pid = os.getpid()
        self._closed = ""
        self._lock: AbstractContextManager[Any] = contextlib.nullcontext()
        if url.get_backend_name() != "sqlite":
            url, options = server_options(url, role)
            self.engine = create_engine(url, **options, pool_logging_name=_QUIET)
            prepare_reads(self.engine, read_timeout)
        else:
            if self.path is None:
                # One connection shared by all threads, so one transaction at a time.
                self._lock = threading.RLock()
                self.engine = create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
            else:
                self.engine = create_engine(_existing_only(url, self.path), poolclass=QueuePool, connect_args=_connect_args(url))
            event.listen(self.engine, "connect", self._on_sqlite_connect)
            event.listen(self.engine, "begin", _on_sqlite_begin)
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()  # the driver's own, of servers
        if url.get_backend_name() != "sqlite":
            event.listen(self.engine, "connect", self._on_server_connect)
        self._writing = self.engine.execution_options(foreshock_write=True)

    @property
    def dialect(self) -> str:
        """Name of the SQL dialect: ``sqlite``, ``postgresql``, ``mysql``, ``mariadb``, ..."""
        return self.engine.dialect.name

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One reading transaction.

        Raises:
            StoreUnavailableError, StoreConfigurationError: as ``base`` says.
        """
        self._refuse()
        with self._lock, translated(self.address), self._watched(self.engine) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One writing transaction: committed when the block ends, rolled back when it raises.

        Raises:
            StoreUnavailableError, StoreConfigurationError, InvalidRecordError: as ``base`` says.
        """
        self._refuse()
        with self._lock, translated(self.address, writing=True):
            with self._watched(self._writing) as connection:
                yield connection
                identity = connection.info.get("identity")
                info = connection.info
            info["written_at"] = time.monotonic()
            if self.path is not None and identity != identity_of(self.path):
                self._vanished()

    def identity(self) -> Identity | None:
        """Which file this is (device, inode); None when it is missing, and where there is no file."""
        return identity_of(self.path) if self.path else None

    def create_file(self) -> None:
        """Make the empty SQLite file if there is none; else do nothing.

        Raises:
            StoreUnavailableError: the folder does not let us.
        """
        if self.path is None:
            return
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o666))
        except PermissionError:
            if not self.path.exists():
                raise StoreUnavailableError(f"Cannot create {self.path}: no permission to write in {self.path.parent}.") from None
        except OSError as error:
            if not self.path.exists():
                raise StoreUnavailableError(f"Cannot create {self.path}: {error.strerror}.") from error

    def interrupt(self) -> None:
        """End the connections under the feet of the threads that use them. For a server that does not answer; SQLite always does.

        A driver in C waits for its socket, and no exception reaches it there.
        """
        for connection in list(self._connections):
            with contextlib.suppress(Exception):  # one that is closed meanwhile, in whatever way its driver says so
                own = connection if hasattr(connection, "fileno") else connection._sock
                with socket.socket(fileno=os.dup(own.fileno())) as same:
                    same.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close all connections. May be called twice."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = "was closed"
        with self._lock:
            self.engine.dispose()

    def abandon(self) -> None:
        """Forget the connections without touching them: they belong to the parent process."""
        if not self._closed:
            self._closed = "was left behind in a forked process"
            _abandoned.append(self.engine)

    def _refuse(self) -> None:
        if os.getpid() != self._pid:
            self.abandon()
        if self._closed:
            raise StoreUnavailableError(f"The store {self.address} {self._closed}; open it again with foreshock.open_store().")

    @contextmanager
    def _watched(self, engine: Engine) -> Iterator[Connection]:
        identity = identity_of(self.path) if self.path else None
        if self.path and identity is None:
            self._vanished()
        with engine.connect() as connection:
            if self.path and connection.info.get("identity") != identity:
                connection.invalidate()  # closed here: it would go back to the pool that is given up
                self._vanished()
            with connection.begin():
                yield connection

    def _vanished(self) -> None:
        self.engine.dispose()
        raise StoreUnavailableError(
            f"The database file {self.path} was removed or replaced while it was open; what it held went with it. "
            "A running monitor starts a new file at its next attempt."
        )

    def _on_server_connect(self, connection: Any, record: Any) -> None:
        self._connections.add(connection)
        if hasattr(connection, "_read_timeout"):  # PyMySQL has one time limit for greeting and statements; it was for the greeting
            connection._read_timeout = None

    def _on_sqlite_connect(self, connection: Any, record: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say, see _on_sqlite_begin
        if self.path is not None:
            record.info["identity"] = identity_of(self.path)
        cursor = connection.cursor()
        record.info["patience"] = cursor.execute("PRAGMA busy_timeout").fetchone()[0] / 1000  # as the URL says, if it does
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA cache_size = -32000")
        # Each series has a place of its own in the file, so that a batch touches a page or two a series. Folding the log into the
        # file at 32 MB instead of 4 writes each of these pages once for many batches.
        cursor.execute("PRAGMA wal_autocheckpoint = 8000")
        cursor.close()


def _on_sqlite_begin(connection: Connection) -> None:
    if not connection.get_execution_options().get("foreshock_write", False):
        connection.exec_driver_sql("BEGIN")
        return
    own: Any = connection.connection.dbapi_connection
    _take_turn(own, connection.info)
    if not own.in_transaction:
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # which says in SQLAlchemy's words why not


def _take_turn(connection: sqlite3.Connection, info: Any) -> None:
    """Begin a writing transaction as soon as no other process has one; give up when that takes too long.

    SQLite's own way of waiting looks ever more seldom the longer it waits, so that among many writers those who come late go
    first, and one that writes without a pause keeps out all others. Here who has waited long looks most often, and who has just
    written leaves the others a moment.
    """
    started = time.monotonic()
    if started - info.get("written_at", 0.0) < _PAUSE:
        time.sleep(_PAUSE)
    connection.execute("PRAGMA busy_timeout = 0").close()
    try:
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE").close()
            except sqlite3.OperationalError as error:
                waited = time.monotonic() - started
                if error.sqlite_errorname != "SQLITE_BUSY" or waited >= info["patience"]:
                    return
                time.sleep(random.uniform(0.2, 1.0) * _LOOK / (1.0 + 0.2 * waited))
            else:
                return
    finally:
        connection.execute(f"PRAGMA busy_timeout = {int(1000 * info['patience'])}").close()


def sqlite_path(url: URL) -> Path | None:
    """Return the file a SQLite URL names; None for memory and for other engines."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:" or url.query.get("mode") == "memory":
        return None
    if not url.database.startswith("file:"):
        return Path(url.database)
    name = urllib.parse.unquote(url.database.removeprefix("file:"))
    return None if name.startswith(":memory:") else Path(name)


def identity_of(path: Path) -> Identity | None:
    """Return device and inode of a file, None when there is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _existing_only(url: URL, path: Path) -> URL:
    # mode=rw: a connection never makes an empty file where the store used to be.
    query = {"mode": "rw", **url.query, "uri": "true"}
    return url.set(database="file:" + urllib.parse.quote(str(path)), query=query)


def _connect_args(url: URL) -> dict[str, Any]:
    defaults: dict[str, Any] = {"timeout": LOCK_WAIT, "check_same_thread": False}
    return {name: value for name, value in defaults.items() if name not in url.query}


def printable(url: URL) -> str:
    """Return an address without its passwords."""
    secrets = {name: "***" for name in url.query if "passw" in name.lower()}
    return url.update_query_dict(secrets).render_as_string(hide_password=True)
