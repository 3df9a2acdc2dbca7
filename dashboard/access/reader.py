"""The store as a visitor sees it: who may only read finds that every method that writes refuses, whichever page calls it."""

from typing import Any, cast

from ...storage.base import Store
from ...storage.errors import ReadOnlyStoreError
from .. import who
from ..answers import Answers

READS = frozenset(
    {
        "alert",
        "alert_counts",
        "alert_events",
        "alerts",
        "batches",
        "changes",
        "channels",
        "check",
        "deliveries",
        "due_notifications",
        "envelopes",
        "events",
        "find_alerts",
        "frame",
        "histograms",
        "listen",
        "newest",
        "notice",
        "notifications",
        "read",
        "run",
        "rule_history",
        "rule_overrides",
        "rules_revision",
        "run_marks",
        "runs",
        "segments",
        "series",
        "silences",
        "sparklines",
        "step_rates",
        "step_times",
        "tally_alerts",
        "url",
    }
)
"""What of a store a reader may use. A name that is not here is refused: add a new method that reads, and none that writes."""


class Refused(ReadOnlyStoreError):
    """The visitor may not change anything; the message says what would do."""


def as_seen(store: Store) -> Store:
    """Return the store itself to who may write, and where nobody has to sign in; else what can only be read."""
    return cast(Store, _Readable(store)) if who.refusal() else store


def underneath(store: Store) -> Store:
    """Return the store that all visitors share, to keep in mind what is the same for all of them. Only to be read from."""
    seen = store._store if isinstance(store, _Readable) else store
    return seen.whole() if isinstance(seen, Answers) else seen


class _Readable:
    """A store whose other methods refuse. A write asks once more: a session may have ended since."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        if name in READS:
            return getattr(self._store, name)
        raise Refused(who.refusal() or "Your session is over: sign in again.")
