"""The spool: a local SQLite file that takes what a store cannot take now, in order, and gives it back when the store returns.

It survives a kill of the process, and so does the knowledge whose it is: whoever has the file open holds SQLite's own exclusive
lock on it, which the end of a process releases however it ends. A process never sees what a living one still writes, and two never
drain one file at once. Entries are only ever added at the end and taken away at the front. Its bound is SQLite's own
(``max_page_count``), so that a full spool and a full disk look alike.
"""

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .codec import to_json
from .entries import Entry, decode, encode, points_of, run_from_json, run_to_json
from .records import Run, Segment, new_id

VERSION = 1
"""Of the file's layout, kept as its ``user_version``."""
PATTERN = "foreshock-spool-*.db"

_APPLICATION = 0x666F7265  # says whose file this is
_TAKEN_TOGETHER = 32  # entries taken away in one transaction; a kill before it only means that they are sent again
_SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (number INTEGER PRIMARY KEY, kind TEXT NOT NULL, points INTEGER NOT NULL, data BLOB NOT NULL);
"""


class SpoolError(Exception):
    """The spool cannot be used; the message says why."""


class SpoolFullError(SpoolError):
    """There is no room for more: its bound is reached, or the disk is full."""


class SpoolBusyError(SpoolError):
    """A living process has it open."""


@dataclass(frozen=True, slots=True)
class SpoolPlace:
    """Where a run may spool: an absolute folder, at most how many bytes, and the printable address of the store it is meant for."""

    folder: Path
    limit: int
    address: str


@dataclass(frozen=True, slots=True)
class About:
    """Whose spool it is. ``segments`` are all that the run had begun in that process."""

    id: str
    address: str
    run: Run
    segments: tuple[Segment, ...]
    channels: tuple[str, ...]
    created_at: float


class SpoolFile:
    """An open spool. Its calls must not overlap, whatever threads they come from. Made by ``create`` and ``open``."""

    def __init__(self, path: Path, connection: sqlite3.Connection, about: About, limit: int | None) -> None:
        self.path = path
        self.about = about
        self._connection = connection
        self._limit = limit
        self.taken = -1  # number of the last entry taken away, of which the file need not know yet
        self._untold = 0
        row = connection.execute("SELECT count(*), coalesce(sum(points), 0), coalesce(sum(length(data)), 0) FROM entries")
        self.entries, self.points, self.bytes = row.fetchone()
        if limit is not None:
            (size,) = connection.execute("PRAGMA page_size").fetchone()
            connection.execute(f"PRAGMA max_page_count = {max(1, limit // size)}").fetchone()

    @classmethod
    def create(cls, place: SpoolPlace, run: Run, segments: Sequence[Segment], channels: Sequence[str]) -> "SpoolFile":
        """Make a new spool, locked from the first moment on, and readable by its owner only: channels may hold secrets.

        Raises:
            SpoolError: the folder does not let us.
        """
        about = About(new_id(), place.address, run, tuple(segments), tuple(channels), time.time())
        path = place.folder / f"foreshock-spool-{run.id[:8]}-{about.id[:8]}.db"
        with _told(path, place.limit):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        try:
            with _told(path, place.limit), _closed_on_error(_connect(path)) as connection:
                connection.executescript(f"BEGIN EXCLUSIVE; PRAGMA application_id = {_APPLICATION}; {_SCHEMA}")
                connection.executemany("INSERT INTO about VALUES (?, ?)", _rows(about))
                connection.execute(f"PRAGMA user_version = {VERSION}")
                connection.execute("COMMIT")
                return cls(path, connection, about, place.limit)
        except SpoolError:
            path.unlink(missing_ok=True)
            raise

    @classmethod
    def open(cls, path: Path) -> "SpoolFile":
        """Open what another process left.

        Raises:
            SpoolBusyError: that process lives, or another is draining the file.
            SpoolError: it was written by a newer foreshock, is damaged, or is no spool. It is left as it is.
        """
        with _told(path, None), _closed_on_error(_connect(path)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            ours = connection.execute("PRAGMA application_id").fetchone()[0] == _APPLICATION
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION and ours:
                raise SpoolError(
                    f"{path} was written by a newer foreshock (spool version {version}; this one knows up to {VERSION}). "
                    "Mend it with: pip install -U foreshock"
                )
            if not ours or not version:
                raise SpoolError(f"{path} is not a spool of foreshock's.")
            about = _about(path, dict(connection.execute("SELECT name, value FROM about").fetchall()))
            connection.execute("COMMIT")
            return cls(path, connection, about, None)

    def append(self, entries: Sequence[tuple[int, Entry]]) -> None:
        """Add entries under rising numbers, all or none.

        Raises:
            SpoolFullError, SpoolError: nothing was added.
            ValueError, TypeError, OverflowError: an entry holds what is no number; nothing was added.
        """
        rows = [(number, *_row(entry)) for number, entry in entries]
        begun = tuple(entry for _, entry in entries if isinstance(entry, Segment) and entry not in self.about.segments)
        about = replace(self.about, segments=self.about.segments + begun)
        with _told(self.path, self._limit), self._transaction():
            self._forget()
            self._connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?)", rows)
            if begun:
                self._connection.executemany("REPLACE INTO about VALUES (?, ?)", _rows(about))
        self.about = about
        self._untold = 0
        self.entries += len(rows)
        self.points += sum(row[2] for row in rows)
        self.bytes += sum(len(row[3]) for row in rows)

    def first(self) -> tuple[int, Entry] | None:
        """Return the oldest entry and its number; None when there is none.

        Raises:
            SpoolError: it cannot be read.
        """
        return next(iter(self.leading(1)), None)

    def leading(self, most: int) -> list[tuple[int, Entry]]:
        """Return the oldest entries and their numbers, in order, at most so many.

        Raises:
            SpoolError: they cannot be read.
        """
        query = "SELECT number, kind, data FROM entries WHERE number > ? ORDER BY number LIMIT ?"
        with _told(self.path, self._limit):
            rows = self._connection.execute(query, [self.taken, most]).fetchall()
        try:
            return [(number, decode(kind, data)) for number, kind, data in rows]
        except Exception as error:
            raise SpoolError(f"{self.path} is damaged: {type(error).__name__}: {error}.") from error

    def take(self, number: int) -> None:
        """Take away the oldest entry, whose number this is: the store has it."""
        query = "SELECT points, length(data) FROM entries WHERE number = ? AND number > ?"
        with _told(self.path, self._limit):
            row = self._connection.execute(query, [number, self.taken]).fetchone()
        if row is None:
            return
        self.taken = number
        self._untold += 1
        self.entries -= 1
        self.points -= row[0]
        self.bytes -= row[1]
        if self._untold >= _TAKEN_TOGETHER:
            with _told(self.path, self._limit), self._transaction():
                self._forget()
            self._untold = 0

    def close(self, *, keep: bool = False) -> None:
        """Close the file and let others have it; one that holds nothing any more is removed, unless it is to be kept."""
        if self.entries and self._untold:
            with suppress(sqlite3.Error), self._transaction():
                self._forget()
        empty = self.entries == 0 and not keep
        with suppress(OSError):
            if empty:  # while the lock is ours; nobody makes a file of this name again
                self.path.unlink()
        with suppress(sqlite3.Error):
            self._connection.close()
        if empty:
            self.path.with_name(f"{self.path.name}-journal").unlink(missing_ok=True)

    def _forget(self) -> None:
        self._connection.execute("DELETE FROM entries WHERE number <= ?", [self.taken])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def found_in(folder: Path) -> list[Path]:
    """Return the spools in a folder, oldest first; not those that are just being made, which are still empty."""
    found = []
    for path in folder.glob(PATTERN):
        with suppress(OSError):
            facts = path.stat()
            if facts.st_size:
                found.append((facts.st_mtime, path))
    return [path for _, path in sorted(found)]


def _connect(path: Path) -> sqlite3.Connection:
    # A rollback journal, not write-ahead logging: a run's folder may be on a network file system.
    connection = sqlite3.connect(
        f"file:{os.fspath(path).replace('%', '%25').replace('?', '%3f').replace('#', '%23')}?mode=rw",
        uri=True,
        timeout=0.0,
        isolation_level=None,
        check_same_thread=False,
    )
    with _closed_on_error(connection):  # what is no database is found out here
        connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchone()
        connection.execute("PRAGMA synchronous = NORMAL")
    return connection


@contextmanager
def _closed_on_error(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        yield connection
    except BaseException:
        connection.close()
        raise


def _row(entry: Entry) -> tuple[str, int, bytes]:
    kind, data = encode(entry)
    return kind, points_of(entry), data


def _rows(about: About) -> list[tuple[str, str]]:
    return [
        ("id", about.id),
        ("address", about.address),
        ("run", run_to_json(about.run)),
        ("segments", to_json([[each.run_id, each.segment, each.start_step, each.started_at] for each in about.segments])),
        ("channels", to_json(about.channels)),
        ("created_at", repr(about.created_at)),
    ]


def _about(path: Path, found: dict[str, Any]) -> About:
    try:
        segments = tuple(Segment(*each) for each in json.loads(found["segments"]))
        channels = tuple(json.loads(found["channels"]))
        return About(found["id"], found["address"], run_from_json(found["run"]), segments, channels, float(found["created_at"]))
    except (KeyError, TypeError, ValueError) as error:
        raise SpoolError(f"{path} is damaged: {error}.") from error


@contextmanager
def _told(path: Path, limit: int | None) -> Iterator[None]:
    """Turn what SQLite and the system raise into our errors, in words."""
    try:
        yield
    except sqlite3.Error as error:
        code = "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])
        if code in ("SQLITE_BUSY", "SQLITE_LOCKED"):
            raise SpoolBusyError(f"{path} is in use by a living process.") from error
        if code == "SQLITE_CANTOPEN" and not path.exists():
            raise SpoolBusyError(f"{path} is gone: another process has drained it.") from error
        if code == "SQLITE_FULL":
            bound = f"its bound is {limit:,} bytes, see spool_limit" if limit else "its bound is reached"
            raise SpoolFullError(f"There is no room for more in {path}: {bound}, or the disk is full.") from error
        raise SpoolError(f"{path} cannot be used: {error}.") from error
    except OSError as error:
        raise SpoolError(f"{path} cannot be used: {error.strerror}.") from error
