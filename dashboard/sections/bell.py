"""How many alerts are open, beside the header's link to them."""

import threading
import time
import weakref
from collections.abc import Mapping

from dash import html

from ...storage.base import Store
from ...storage.records import AlertQuery, AlertState, Severity
from ..access.reader import underneath
from ..live import Section
from ..pages.attributes import aria
from ..reading import OPEN_STATES
from ..updates import Updates

_FRESH_S = 1.0
_LOUD = (Severity.CRITICAL, Severity.WARNING)

Counts = Mapping[tuple[str, ...], int]


class _Counted:
    """The counts of one store, made at most once a second for all tabs of this process together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at = float("-inf")
        self._counts: Counts = {}

    def of(self, store: Store) -> Counts:
        """Return (state, severity) -> number of open alerts that are worth a look."""
        with self._lock:
            if time.monotonic() - self._at >= _FRESH_S:
                began = time.monotonic()
                self._counts = store.tally_alerts(AlertQuery(OPEN_STATES, _LOUD), ["state", "severity"])
                self._at = began
            return self._counts


_of_stores: weakref.WeakKeyDictionary[Store, _Counted] = weakref.WeakKeyDictionary()


class Belled:
    """A section with the number of open alerts beside what it shows: one of each page carries it.

    A loop of its own would be one too many: Dash's renderer keeps at most 12 callbacks going, live sections among them, and once
    that many are, follows no link. Counted are all runs, whatever the section follows: after news of it, and with every tick.
    """

    def __init__(self, store: Store, section: Section) -> None:
        self._store, self._section = store, section
        self._counted = _of_stores.setdefault(underneath(store), _Counted())

    @property
    def subject(self) -> str:
        """What the section follows."""
        return self._section.subject

    def paint(self) -> Updates:
        """Return everything."""
        return self._with_count(self._section.paint())

    def advance(self) -> Updates:
        """Return what changed."""
        return self._with_count(self._section.advance())

    def tick(self) -> Updates:
        """Return what changes with time. The count asks the store, if nobody has within a second."""
        return self._with_count(self._section.tick())

    def _with_count(self, updates: Updates) -> Updates:
        counts = self._counted.of(self._store)
        return {**updates, **_said(counts)}


def _said(counts: Counts) -> Updates:
    total = sum(counts.values())
    if not total:
        return {"alerts-count": {"children": ""}}
    undecided = sum(count for (state, _), count in counts.items() if state == AlertState.FIRING.value)
    worst = next(severity for severity in _LOUD if any(key[1] == severity.value for key in counts))
    words = f"{total:,} open {'alert' if total == 1 else 'alerts'}, {undecided:,} undecided"
    number = html.Span(f"{total:,}" if total < 1000 else "999+", **aria(hidden="true"))
    style = f"count severity-{worst.value}" if undecided else "count"
    return {
        "alerts-count": {
            "children": html.Span([number, html.Span(words, className="visually-hidden")], className=style, title=words)
        }
    }
