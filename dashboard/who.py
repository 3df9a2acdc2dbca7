"""Who looks and decides: the visitor of the request at hand, whose name stands beside a decision in the store."""

import getpass
import time
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who signed in, by a token or in a browser with one.

    Args:
        name: The token's.
        may_write: Whether it may decide: acknowledge, silence, change rules, comment.
        expires_at: When the session or the token ends, seconds since the epoch; None: not by itself.
    """

    name: str
    may_write: bool
    expires_at: float | None = None

    def present(self, now: float) -> bool:
        """Return whether it is still signed in at ``now``."""
        return self.expires_at is None or now < self.expires_at


_VISITOR: ContextVar[Visitor | None] = ContextVar("foreshock_visitor", default=None)


def visitor() -> Visitor | None:
    """Return who asks; None where nobody has to sign in, and outside requests."""
    return _VISITOR.get()


def receive(who: Visitor | None) -> None:
    """Say who asks, for the rest of this request: its context, and the tasks and threads that start in it."""
    _VISITOR.set(who)


def person() -> str:
    """Return the name that decides: the visitor's, else that of the user who runs the dashboard (empty where there is none)."""
    who = visitor()
    if who is not None:
        return who.name
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user id has no name
        return ""


def refusal() -> str:
    """Return why the visitor may change nothing, as the page says it beside a button; empty where that is allowed."""
    who = visitor()
    if who is None:
        return ""
    if not who.present(time.time()):
        return "Your session is over: sign in again."
    return "" if who.may_write else f"You are signed in as {who.name}, which may only read: sign in with a token made with --write."
