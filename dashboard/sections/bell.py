"""How many alerts are open, beside the header's link to them."""

import threading
import time
import weakref
from collections.abc import Mapping

from dash import html

from ...storage.base import Store
from ...storage.records import AlertQuery, AlertState, Severity
from ..live import Updates
from ..reading import OPEN_STATES

_FRESH_S = 1.0
_LOUD = (Severity.CRITICAL, Severity.WARNING)

Counts = Mapping[tuple[str, ...], int]


class _Counted:
    """The counts of one store, made at most once a second for all tabs of this process together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at = float("-inf")
        self._counts: Counts = {}

    def of(self, store: Store) -> tuple[Counts, float]:
        """Return (state, severity) -> number of open alerts that are worth a look, and when they were counted."""
        with self._lock:
            if time.monotonic() - self._at >= _FRESH_S:
                began = time.monotonic()
                self._counts = store.tally_alerts(AlertQuery(OPEN_STATES, _LOUD), ["state", "severity"])
                self._at = began
            return self._counts, self._at


_counted: weakref.WeakKeyDictionary[Store, _Counted] = weakref.WeakKeyDictionary()


class Bell:
    """The number of open alerts, warnings and worse. It stands on every page and follows every run, so it must cost little."""

    subject = ""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._mine = _counted.setdefault(store, _Counted())
        self._counts: Counts = {}
        self._stale = False

    def paint(self) -> Updates:
        """Return the number."""
        heard = time.monotonic()
        self._counts, at = self._mine.of(self._store)
        self._stale = at < heard
        return self._said()

    def advance(self) -> Updates:
        """Return the number again; one counted up to a second before the news counts, and is counted anew with the next tick."""
        return self.paint()

    def tick(self) -> Updates:
        """Return the number; counts again only where what is shown may be older than the last news."""
        return self.paint() if self._stale else self._said()

    def _said(self) -> Updates:
        total = sum(self._counts.values())
        if not total:
            return {"alerts-count": {"children": ""}}
        undecided = sum(count for (state, _), count in self._counts.items() if state == AlertState.FIRING.value)
        worst = next(severity for severity in _LOUD if any(key[1] == severity.value for key in self._counts))
        words = f"{total:,} open {'alert' if total == 1 else 'alerts'}, {undecided:,} undecided"
        number = html.Span(f"{total:,}" if total < 1000 else "999+", **{"aria-hidden": "true"})
        style = f"count severity-{worst.value}" if undecided else "count"
        return {
            "alerts-count": {
                "children": html.Span([number, html.Span(words, className="visually-hidden")], className=style, title=words)
            }
        }
