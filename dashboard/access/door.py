"""The door: knows visitors by their token or by the session of their browser.

Tokens and sessions stand in the store, so every server process over it knows them. Where this process may not write to the store, a
session is held in its memory, and is valid here only.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from ...storage.errors import ReadOnlyStoreError, StoreError
from ...storage.records import Session, Token
from ..source import StoreSource
from ..who import Visitor
from .secrets import LENGTH, digest, new_session

FRESH = 5.0
"""Seconds for which an answer of the store is taken for true: what was revoked elsewhere is out within them."""
ABSENT = 300.0
"""Seconds for which the last answer holds while the store is away, and nobody could have revoked anything in it."""
_MOST = 4096


@dataclass(frozen=True, slots=True)
class _Known:
    """What the store said, and when (a steady clock)."""

    visitor: Visitor | None
    at: float


class Door:
    """Lets in who has a token. Used on the event loop's thread; the store is asked on others.

    Args:
        source: The store that holds the tokens.
        session_length: Seconds that a browser stays signed in.
    """

    def __init__(self, source: StoreSource, session_length: float) -> None:
        self._source = source
        self.session_length = session_length
        self._known: OrderedDict[tuple[str, str], _Known] = OrderedDict()
        self._held: dict[str, tuple[Session, Token]] = {}

    async def by_token(self, token: str) -> Visitor | None:
        """Return who has this token; None for a token that is unknown, revoked or expired.

        Raises:
            StoreError: the store cannot be asked, and has not been lately.
        """
        return await self._find("token", token, self._token)

    async def by_session(self, secret: str) -> Visitor | None:
        """Return whose browser has this session.

        Raises:
            StoreError: see ``by_token``.
        """
        return await self._find("session", secret, self._session)

    async def open_session(self, token: str) -> tuple[str, float] | None:
        """Begin a session with a token; return (secret for the cookie, when it ends), None for no token of ours.

        Raises:
            StoreError: the store cannot be asked.
        """
        if len(token) > LENGTH:
            return None
        now = time.time()
        found = await asyncio.to_thread(lambda: self._source.whole().token(digest(token)))
        if found is None or not found.holds(now):
            return None
        secret = new_session()
        ends = now + self.session_length if found.expires_at is None else min(now + self.session_length, found.expires_at)
        await asyncio.to_thread(self._keep, Session(digest(secret), found.digest, now, ends), found)
        return secret, ends

    async def close_session(self, secret: str) -> None:
        """End a session: at once here, within ``FRESH`` seconds elsewhere.

        Raises:
            StoreError: it stays open in the store.
        """
        key = digest(secret)
        self._held.pop(key, None)
        self._remember(("session", key), None)
        await asyncio.to_thread(self._forget, key)

    async def _find(self, kind: str, secret: str, ask: Callable[[str], Visitor | None]) -> Visitor | None:
        if len(secret) > LENGTH:
            return None
        key = digest(secret)
        known = self._known.get((kind, key))
        age = float("inf") if known is None else time.monotonic() - known.at
        if known is None or age > FRESH:
            try:
                known = self._remember((kind, key), await asyncio.to_thread(ask, key))
            except StoreError:
                if known is None or known.visitor is None or age > ABSENT:
                    raise
        found = known.visitor
        return found if found is not None and found.present(time.time()) else None

    def _remember(self, key: tuple[str, str], visitor: Visitor | None) -> _Known:
        self._known[key] = known = _Known(visitor, time.monotonic())
        self._known.move_to_end(key)
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
        return known

    # -- on a worker thread --------------------------------------------------------------------------------------

    def _token(self, key: str) -> Visitor | None:
        found = self._source.whole().token(key)
        return None if found is None else Visitor(found.name, found.may_write, found.expires_at)

    def _session(self, key: str) -> Visitor | None:
        found = self._held.get(key)
        if found is not None and self._source.whole().token(found[0].token_digest) is None:
            found = None
        found = found or self._source.whole().session(key)
        return None if found is None else Visitor(found[1].name, found[1].may_write, found[0].expires_at)

    def _keep(self, session: Session, token: Token) -> None:
        try:
            self._source.whole().add_session(session)
        except ReadOnlyStoreError:
            now = time.time()
            self._held = {key: held for key, held in self._held.items() if held[0].expires_at > now}
            self._held[session.digest] = (session, token)

    def _forget(self, key: str) -> None:
        try:
            self._source.whole().end_session(key)
        except ReadOnlyStoreError:
            return  # it was held here alone
