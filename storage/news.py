"""Hearing of new rows: announced in the writing transaction on PostgreSQL, looked for cheaply elsewhere.

On PostgreSQL every writing transaction ends with a NOTIFY that carries the run's id, so it is heard when the rows are there and
never before. The channel is named after the schema that holds the tables: stores that share a database do not wake each other.
A SQLite file tells by ``PRAGMA data_version``, a few microseconds without a transaction; MariaDB and MySQL, and a PostgreSQL
reached through a pooler that does not carry notifications, by a query of a few counters each second.
"""

import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Any

from sqlalchemy import Connection, exc, func, select, text
from typing_extensions import override

from .base import Listener
from .database import Database
from .errors import StoreError
from .faults import translate
from .records import new_id
from .results import News
from .tables import alerts, batches, events, outbox, rule_versions, runs, segments

EVERYTHING = News(everything=True)
FILE_PERIOD = 0.1
SERVER_PERIOD = 1.0
"""Seconds from one look to the next where nothing announces itself."""

_SLICE = 1.0  # seconds after which a wait looks whether it was closed
_PROBE_WAIT = 2.0
_AGAIN = 1.0  # seconds between two attempts to reach a server that went away
_PROBE = "probe "
_LISTEN = 'LISTEN "{channel}"'
_CHANNEL = "SELECT 'foreshock_' || relnamespace FROM pg_class WHERE oid = to_regclass('runs')"
_ANNOUNCE = text("SELECT pg_notify('foreshock_' || relnamespace, :run) FROM pg_class WHERE oid = to_regclass('runs')")


def announce(connection: Connection, run_id: str = "") -> None:
    """Let listeners know, when the caller's transaction commits, that this run was written to; ``""``: any may have been.

    One round trip on PostgreSQL (equal announcements of one transaction are heard once), nothing elsewhere.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_ANNOUNCE, {"run": run_id})


def listen(database: Database) -> Listener:
    """Begin to listen: what is committed from now on is heard.

    Raises:
        StoreUnavailableError, StoreConfigurationError: the store cannot be reached.
    """
    if database.dialect == "postgresql":
        return _Notified(database)
    if database.path is not None:
        return Polled(_FileLook(database), FILE_PERIOD)
    if database.dialect == "sqlite":
        return Polled(_MemoryLook(database), FILE_PERIOD)
    return Polled(_ServerLook(database), SERVER_PERIOD)


class Polled(Listener):
    """Looks again and again.

    Args:
        look: Returns what differs after a write; raises StoreError, or returns None, while the store is away. Its ``close()`` is
            called at the end.
        period: Seconds between two looks.
    """

    def __init__(self, look: "_Look", period: float) -> None:
        self._look, self._period = look, period
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._seen: Hashable = look()

    @override
    def wait(self, timeout: float) -> News:
        deadline = time.monotonic() + timeout
        while not self._closed.is_set():
            with self._lock:
                if self._closed.is_set():
                    break
                try:
                    now = self._look()
                except StoreError:
                    now = None
                before, self._seen = self._seen, now
            if now != before:
                return EVERYTHING
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            self._closed.wait(min(self._period, remaining))
        return News()

    @override
    def close(self) -> None:
        self._closed.set()
        with self._lock:
            self._look.close()


class _Look(ABC):
    """A cheap question whose answer differs after a write."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @abstractmethod
    def __call__(self) -> Hashable:
        """Return the answer."""

    def close(self) -> None:  # noqa: B027 - not every look holds something
        """Release what the looking holds."""


class _FileLook(_Look):
    """``PRAGMA data_version`` on a connection of its own: it rises when another one commits. Also notices another file."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._connection: Any = None
        self._identity: Hashable = None

    @override
    def __call__(self) -> Hashable:
        identity = self._database.identity()
        if identity is None or identity != self._identity:
            self.close()
        if identity is None:
            return None
        try:
            if self._connection is None:
                self._connection = _own_connection(self._database)
                self._identity = identity
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        except Exception as error:
            self.close()
            raise _as_store_error(error, self._database) from error
        return identity, version

    @override
    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _MemoryLook(_Look):
    """The one connection of a store in memory counts what it changed."""

    @override
    def __call__(self) -> Hashable:
        with self._database.read() as connection:
            changes: int = connection.connection.dbapi_connection.total_changes  # type: ignore[union-attr]
            return changes


class _ServerLook(_Look):
    """A few counters and sums, each from an index or a small table."""

    @override
    def __call__(self) -> Hashable:
        counted = (
            select(func.max(batches.c.seq)),
            select(func.count()).select_from(runs),
            select(func.sum(runs.c.heartbeat_at)),
            select(func.sum(runs.c.last_step)),
            select(func.sum(runs.c.ended_at)),
            select(func.count(runs.c.ended_at)),
            select(func.count()).select_from(segments),
            select(func.count()).select_from(alerts),
            select(func.sum(alerts.c.updated_at)),
            select(func.count()).select_from(events),
            select(func.count()).select_from(outbox),
            select(func.sum(outbox.c.attempts)),
            select(func.count()).select_from(rule_versions),
        )
        with self._database.read() as connection:
            return tuple(connection.execute(select(*(query.scalar_subquery() for query in counted))).one())


class _Notified(Listener):
    """LISTEN on a connection of its own, which is made anew when it breaks.

    The first thing heard is a message to itself: where that does not arrive (a pooler in transaction mode, a replica) it looks
    instead of listening.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._connection: Any = None
        self._heard: set[str] = set()
        self._polled: Polled | None = None
        try:
            self._connect()
        except Exception as error:
            self._drop()
            raise _as_store_error(error, database) from error

    @override
    def wait(self, timeout: float) -> News:
        if self._polled is not None:
            return self._polled.wait(timeout)
        deadline = time.monotonic() + timeout
        while not self._closed.is_set():
            with self._lock:
                if self._closed.is_set():
                    break
                try:
                    if self._connection is None:
                        self._connect()
                        self._heard.add("")
                    if self._connection is not None:
                        self._hear(0.0 if self._heard else min(_SLICE, max(0.0, deadline - time.monotonic())))
                except Exception:  # noqa: BLE001 - whatever became of the connection: it is made anew
                    if self._connection is not None:
                        self._heard.add("")
                    self._drop()
                heard, self._heard = self._heard, set()
            if heard:
                return News(frozenset(heard - {""}), everything="" in heard)
            if time.monotonic() >= deadline:
                break
            if self._connection is None:
                self._closed.wait(min(_AGAIN, max(0.0, deadline - time.monotonic())))
        return News()

    @override
    def close(self) -> None:
        self._closed.set()
        with self._lock:
            self._drop()
            if self._polled is not None:
                self._polled.close()

    def _connect(self) -> None:
        self._connection = connection = _own_connection(self._database)
        connection.autocommit = True
        (channel,) = connection.execute(_CHANNEL).fetchone()
        if not self._listens(channel):
            self._drop()
            if self._polled is None:
                self._polled = Polled(_ServerLook(self._database), SERVER_PERIOD)

    def _listens(self, channel: str) -> bool:
        """Begin to listen, and prove that what is sent arrives."""
        import psycopg

        try:
            self._connection.execute(_LISTEN.format(channel=channel))
        except psycopg.OperationalError:
            raise
        except psycopg.Error:  # a replica may not listen
            return False
        probe = _PROBE + new_id()
        with self._database.read() as connection:
            connection.execute(text("SELECT pg_notify(:channel, :probe)"), {"channel": channel, "probe": probe})
        deadline = time.monotonic() + _PROBE_WAIT
        while probe not in self._heard:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            self._hear(remaining, probes=True)
        self._heard.discard(probe)
        return True

    def _hear(self, timeout: float, *, probes: bool = False) -> None:
        for message in self._connection.notifies(timeout=timeout, stop_after=1):
            if probes or not message.payload.startswith(_PROBE):
                self._heard.add(message.payload)

    def _drop(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.close()
            self._connection = None


def _own_connection(database: Database) -> Any:
    """Return the driver's connection, made as the pool makes them, that belongs to the caller."""
    pooled = database.engine.raw_connection()
    driver = pooled.dbapi_connection
    pooled.detach()
    return driver


def _as_store_error(error: Exception, database: Database) -> Exception:
    if isinstance(error, StoreError):
        return error
    if isinstance(error, exc.SQLAlchemyError):
        return translate(error, database.address)
    return translate(exc.OperationalError("listen", {}, error), database.address)
