"""Tokens and sessions: who may open the dashboard. Every function works in the caller's transaction."""

from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from .codec import clean
from .errors import InvalidRecordError
from .records import Session, Token
from .tables import access_sessions as sessions
from .tables import access_tokens as tokens

NAME_LENGTH = 100


def add_token(connection: Connection, token: Token) -> None:
    """Add a token.

    Raises:
        InvalidRecordError: its name is taken, empty, or too long.
    """
    name = clean(token.name)
    if not name.strip() or len(name) > NAME_LENGTH:
        raise InvalidRecordError(f"A token needs a name of 1 to {NAME_LENGTH} letters, not {len(name)}.")
    if connection.execute(select(tokens.c.digest).where(tokens.c.name == name)).one_or_none() is not None:
        raise InvalidRecordError(
            f"There is a token of the name {name!r} already. Choose another name, or: foreshock token revoke {name!r}"
        )
    row = {
        "digest": token.digest,
        "name": name,
        "may_write": int(token.may_write),
        "created_at": token.created_at,
        "created_by": clean(token.created_by),
        "expires_at": token.expires_at,
    }
    connection.execute(insert(tokens), row)


def listed(connection: Connection) -> list[Token]:
    """Return all tokens, newest first."""
    return [_token(row) for row in connection.execute(select(tokens).order_by(tokens.c.created_at.desc(), tokens.c.name))]


def find(connection: Connection, digest: str) -> Token | None:
    """Return the token with that digest."""
    row = connection.execute(select(tokens).where(tokens.c.digest == clean(digest))).one_or_none()
    return None if row is None else _token(row)


def remove(connection: Connection, name: str) -> bool:
    """Remove a token and its sessions; return whether it was there."""
    found: str | None = connection.execute(select(tokens.c.digest).where(tokens.c.name == clean(name))).scalar_one_or_none()
    if found is None:
        return False
    connection.execute(delete(sessions).where(sessions.c.token_digest == found))
    connection.execute(delete(tokens).where(tokens.c.digest == found))
    return True


def add_session(connection: Connection, session: Session) -> None:
    """Add a session, and forget those that are over."""
    connection.execute(delete(sessions).where(sessions.c.expires_at <= session.created_at))
    fields = ("digest", "token_digest", "created_at", "expires_at")
    connection.execute(insert(sessions), {name: getattr(session, name) for name in fields})


def find_session(connection: Connection, digest: str) -> tuple[Session, Token] | None:
    """Return a session with its token, None where one of them is gone."""
    row = connection.execute(select(sessions).where(sessions.c.digest == clean(digest))).one_or_none()
    token = None if row is None else find(connection, row.token_digest)
    return None if row is None or token is None else (Session(**row._mapping), token)


def end_session(connection: Connection, digest: str) -> None:
    """End a session, if it is there."""
    connection.execute(delete(sessions).where(sessions.c.digest == clean(digest)))


def _token(row: Row[Any]) -> Token:
    return Token(row.digest, row.name, bool(row.may_write), row.created_at, row.created_by, row.expires_at)
