"""Driver errors in, the contract's three errors out."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Dialect, exc

from .errors import InvalidRecordError, ReadOnlyStoreError, StoreConfigurationError, StoreError, StoreUnavailableError

# SQLite result codes that no waiting mends.
_SQLITE_BROKEN = {
    "SQLITE_NOTADB": "the file is not a SQLite database; name another file",
    "SQLITE_CORRUPT": "the database file is damaged; move it away and start a new one, or restore a backup",
    "SQLITE_ERROR": "the tables are not as foreshock left them; restore a backup or name another store",
}
_SQLITE_REASONS = {
    "SQLITE_BUSY": "another process holds its lock",
    "SQLITE_LOCKED": "another connection holds its lock",
    "SQLITE_READONLY": "it is read-only",
    "SQLITE_FULL": "the disk is full",
    "SQLITE_IOERR": "the disk reports an error",
    "SQLITE_CANTOPEN": "the file cannot be opened; its folder is gone, or read-only",
}
# What servers say while connecting when only the user can mend it (they give no code at that point, MySQL apart).
_REFUSALS = (
    "password authentication failed",
    "no password supplied",
    "does not exist",
    "no pg_hba.conf entry",
    "access denied",
    "unknown database",
    "permission denied",
    "doesn't exist",
)


# What servers say to a role that lacks a right, and to whoever writes to a replica.
_FORBIDDEN = ("permission denied", "must be owner of", "command denied", "read-only transaction", "read_only", "read-only option")
_CUT_SHORT = ("statement timeout", "max_statement_time", "maximum statement execution time")


@contextmanager
def translated(address: str, *, writing: bool = False) -> Iterator[None]:
    """Turn what SQLAlchemy and drivers raise in the block into a ``StoreError``; other exceptions pass.

    Args:
        address: the store's printable URL, for the message.
        writing: whether the block means to write, which not every role may.
    """
    try:
        yield
    except exc.SQLAlchemyError as error:
        raise translate(error, address, writing=writing) from error
    except OverflowError as error:
        raise InvalidRecordError(f"A number is too large to be stored in {address}: {error}.") from error


@contextmanager
def as_sqlalchemy_raises(dialect: Dialect, statement: str = "") -> Iterator[None]:
    """Turn what a driver raises that is used past SQLAlchemy into what SQLAlchemy would have raised: one way for all errors."""
    try:
        yield
    except dialect.loaded_dbapi.Error as error:
        raise exc.DBAPIError.instance(statement, None, error, dialect.loaded_dbapi.Error, dialect=dialect) from error


def translate(error: exc.SQLAlchemyError, address: str, *, writing: bool = False) -> StoreError:
    """Return the contract's error for a SQLAlchemy error."""
    cause = getattr(error, "orig", None)
    reason = str(cause if cause is not None else error).strip()
    code = getattr(cause, "sqlite_errorname", None)
    if isinstance(error, exc.DataError | exc.IntegrityError):
        return InvalidRecordError(f"The store {address} refused a record: {reason}.")
    if code is not None:
        return _of_sqlite(code, reason, address)
    if isinstance(error, exc.ProgrammingError) and "binding" in reason:
        return InvalidRecordError(f"The store {address} refused a record: {reason}.")
    if writing and any(words in reason.lower() for words in _FORBIDDEN):
        return ReadOnlyStoreError(
            f"The store {address} may be read at this address, not written ({reason.splitlines()[0]}). "
            "Use the address of a role that may write; docs/storage.md has the rights of a writer and of a reader."
        )
    if any(words in reason.lower() for words in _CUT_SHORT):
        return StoreUnavailableError(f"The store {address} took too long to answer: {reason.splitlines()[0]}")
    if isinstance(error, exc.ProgrammingError) or any(words in reason.lower() for words in _REFUSALS):
        return StoreConfigurationError(f"The store {address} does not work as it is set up: {reason}")
    return StoreUnavailableError(f"The store {address} is not available: {reason}")


def _of_sqlite(code: str, reason: str, address: str) -> StoreError:
    family = "_".join(code.split("_")[:2])
    if family in _SQLITE_BROKEN:
        return StoreConfigurationError(f"The store {address} cannot be used ({reason}): {_SQLITE_BROKEN[family]}.")
    why = _SQLITE_REASONS.get(family, "SQLite refused")
    return StoreUnavailableError(f"The store {address} is not available: {why} ({reason}).")
