"""Everything on an alert's page that is said in words, and its evidence; live."""

import time
from collections.abc import Sequence
from functools import cache

from ...analyzer import handling
from ...analyzer.rules import Rule, RuleSet
from ...storage.base import Store
from ...storage.errors import UnknownRunError
from ...storage.records import Alert, AlertQuery, AlertState, Run, Severity, Silence
from ...storage.results import AlertLine
from ..bundles import Bundle, bundles_of
from ..history import Entry, history_of, state_words
from ..pages.alert import bundle_list, charts, decisions, head, history_list, related_list, remedy, why
from ..reading import SHOWN_STATES
from ..updates import Updates
from .around import window

_MOST_RELATED = 8
_READ_RELATED = 60
_READ_EARLIER = 200
"""Earlier warnings among which the first is looked for. Where there are more it is not told: it may be one that was not read."""


class Dossier:
    """An alert's page. Its parts are made anew on each look; only those that changed are sent.

    Raises:
        KeyError: no such alert.
    """

    def __init__(self, store: Store, alert_id: str) -> None:
        self._store = store
        self._alert = store.alert(alert_id)
        self._run: Run | None = None
        self._state = ""
        self._silences: Sequence[Silence] = ()
        self._history: Sequence[Entry] = ()
        self._bundles: Sequence[Bundle] = ()
        self._related: Sequence[AlertLine] = ()
        self._first: Alert | None = None
        self._names: dict[str, str] = {}

    @property
    def alert(self) -> Alert:
        """The alert as it was when it was last looked at."""
        return self._alert

    @property
    def subject(self) -> str:
        """Id of its run."""
        return self._alert.run_id

    def paint(self) -> Updates:
        """Return every part."""
        self._read()
        return self.tick()

    def advance(self) -> Updates:
        """Return every part as it is now."""
        return self.paint()

    def tick(self) -> Updates:
        """Return every part as it reads now, from what was read last."""
        alert = self._alert
        return {
            "alert-head": {"children": head(alert, self._run, time.time(), self._state)},
            "alert-decisions": {"children": decisions(alert, self._silences, self._names)},
            "alert-evidence": {"children": charts(alert)},
            "alert-why": {"children": why(alert, _rules().get(alert.rule))},
            "alert-remedy": {"children": remedy(alert, self._first, _rules().get(self._first.rule) if self._first else None)},
            "alert-bundles": {"children": bundle_list(self._bundles)},
            "alert-related": {"children": related_list(self._related, alert)},
            "alert-history": {"children": history_list(self._history)},
            "page-title": {"data": f"{alert.severity.value.capitalize()} · {alert.rule}"},
        }

    def _read(self) -> None:
        store, now = self._store, time.time()
        self._alert = alert = store.alert(self._alert.id)
        events = store.alert_events(alert.id)
        self._state = state_words(alert, events)
        self._history = history_of(alert, events, store.notifications(alert_id=alert.id))
        self._silences = handling.covering(store, alert, now) if alert.state is not AlertState.RESOLVED else []
        steps = window(alert)
        try:
            self._run = store.run(alert.run_id)
        except UnknownRunError:  # deleted under our eyes
            return
        self._names[alert.run_id] = self._run.name
        self._bundles = bundles_of(store, self._run, alert, events, steps)
        near = AlertQuery(SHOWN_STATES, run_id=alert.run_id, steps=steps)
        found = [line for line in store.find_alerts(near, limit=_READ_RELATED) if line.alert.id != alert.id]
        nearest = sorted(found, key=lambda line: abs(line.alert.first_step - alert.first_step))[:_MOST_RELATED]
        self._related = sorted(nearest, key=lambda line: line.alert.first_step)
        loud = (Severity.WARNING, Severity.CRITICAL)
        earlier = AlertQuery(SHOWN_STATES, loud, run_id=alert.run_id, steps=(0, alert.first_step - 1))
        before = [line.alert for line in store.find_alerts(earlier, limit=_READ_EARLIER)] if alert.first_step > 0 else []
        whole = len(before) < _READ_EARLIER
        self._first = min(before, key=lambda other: other.first_step, default=None) if whole else None


@cache
def _rules() -> dict[str, Rule]:
    """Return the rules that foreshock and its plug-ins bring, by name; a run may have had others."""
    return dict(RuleSet.default())
