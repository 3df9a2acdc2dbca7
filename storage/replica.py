"""A read replica: what is large is read there, as long as it is there and keeps up; else from the primary, and that is said."""

import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, text
from typing_extensions import override

from . import schema
from .base import Listener
from .database import Database
from .errors import StoreError, StoreUnavailableError, UnknownRunError
from .results import News

MOST_LAG = 5.0
"""Seconds that a replica may be behind and still be read."""
TRY_AGAIN = 10.0
"""Seconds after which a replica that failed is tried again."""

_LOOK_EVERY = 1.0
_POLL = 0.05
_WRITTEN = text("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
_REPLAYED = text("SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() - '0/0'::pg_lsn END")

T = TypeVar("T")


class Replica:
    """The same store reached by another address.

    Args:
        primary: Where what is written goes, and what is read when the replica cannot be.
        database: The replica; a connection is made when it is first read.
    """

    def __init__(self, primary: Database, database: Database) -> None:
        self._primary, self._database = primary, database
        self._proven = False
        self._away_until = self._looked_at = float("-inf")
        self._trouble = ""
        self._ahead: deque[tuple[float, int]] = deque()  # (when, how far the primary had written), not yet replayed
        self._behind = 0.0

    @property
    def notice(self) -> str:
        """What readers should know; empty while the replica is read."""
        if self._trouble:
            return f"The read replica cannot be used just now, the primary is read instead: {self._trouble}"
        if self._behind > MOST_LAG:
            return f"The read replica is {self._behind:.0f} s behind; the primary is read instead."
        return ""

    def ask(self, question: Callable[[Connection], T]) -> T:
        """Return the answer of the replica, or of the primary where the replica fails or does not know the run yet."""
        if self.database() is self._database:
            try:
                with self._database.read() as connection:
                    return question(connection)
            except UnknownRunError:
                pass
            except StoreError as error:
                self._fails(error)
        with self._primary.read() as connection:
            return question(connection)

    def database(self) -> Database:
        """Return where to read now."""
        now = time.monotonic()
        if now < self._away_until:
            return self._primary
        if now - self._looked_at >= _LOOK_EVERY:
            self._looked_at = now
            try:
                self._look(now)
            except StoreError as error:
                self._fails(error)
                return self._primary
        return self._primary if self._behind > MOST_LAG else self._database

    def catch_up(self, timeout: float) -> None:
        """Wait until the replica has what the primary has now, or until ``timeout`` seconds are over."""
        deadline = time.monotonic() + timeout
        try:
            while time.monotonic() >= self._away_until:
                self._looked_at = now = time.monotonic()
                self._look(now)
                if not self._ahead or now >= deadline:
                    return
                time.sleep(_POLL)
        except StoreError as error:
            self._fails(error)

    def close(self) -> None:
        """Close its connections."""
        self._database.close()

    def abandon(self) -> None:
        """Forget its connections in a forked child."""
        self._database.abandon()

    def _look(self, now: float) -> None:
        """See whether it holds our tables, and how far it is behind.

        Raises:
            StoreError: it cannot be reached, or is not what it should be.
        """
        if not self._proven:
            with self._database.read() as connection:
                found = schema.revision(connection)
            if found != schema.HEAD:
                raise StoreUnavailableError(f"{self._database.address} has schema {found or 'none'}, the primary {schema.HEAD}")
            self._proven = True
        self._trouble = ""
        if self._database.dialect != "postgresql":
            return
        with self._database.read() as connection:
            replayed = connection.execute(_REPLAYED).scalar_one()
        if replayed is None:  # the same server under another role
            self._ahead.clear()
            self._behind = 0.0
            return
        if not self._ahead or now - self._ahead[-1][0] >= _LOOK_EVERY / 2:
            with self._primary.read() as connection:
                self._ahead.append((now, int(connection.execute(_WRITTEN).scalar_one())))
        while self._ahead and self._ahead[0][1] <= replayed:
            self._ahead.popleft()
        self._behind = now - self._ahead[0][0] if self._ahead else 0.0

    def _fails(self, error: StoreError) -> None:
        self._trouble = str(error)
        self._proven = False
        self._away_until = time.monotonic() + TRY_AGAIN


class PatientListener(Listener):
    """Hears of what the primary got, when the replica has it too: who is woken finds it there."""

    def __init__(self, primary: Listener, replica: Replica) -> None:
        self._primary, self._replica = primary, replica

    @override
    def wait(self, timeout: float) -> News:
        heard = self._primary.wait(timeout)
        if heard:
            self._replica.catch_up(1.5 * MOST_LAG)
        return heard

    @override
    def close(self) -> None:
        self._primary.close()
