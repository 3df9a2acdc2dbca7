"""The list of all runs, read once for all tabs of this process and then kept up to date by what changed.

The first look reads every row. Later ones read the rows that the store's news name, or, where these name none (SQLite, MariaDB),
compare the runs' marks; without news nothing is read. Newest values and courses are read of those runs only that somebody looks at,
and again once a run has moved on.
"""

import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ..analyzer.risk import SIGNAL as RISK
from ..storage.base import Store
from ..storage.errors import StoreUnavailableError
from ..storage.records import Notification, Run, SeriesKey, Severity
from ..storage.results import News
from .access.reader import underneath
from .letters import letters_of
from .reading import COSTS, OPEN_STATES, cost_of, newest_of
from .searching import Words

LOSS = "loss"
_EVERYTHING = News(everything=True)
_REFRESH = 4.0
"""Seconds for which the newest values of a run that goes on are good enough for a list."""
_TOGETHER = 500
"""Runs measured at a time: others who wait for a few values wait no longer than for these."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A run as the list knows it."""

    run: Run
    words: Words
    alerts: Mapping[Severity, int]


@dataclass(frozen=True, slots=True)
class Figures:
    """Newest values of a run: loss, risk (0 to 100), share of time that monitoring cost, steps a second; None: not known."""

    loss: float | None = None
    risk: float | None = None
    cost: float | None = None
    rate: float | None = None


class Roster:
    """All runs of a store, newest first. Its methods may be called from any thread."""

    def __init__(self, store: Store) -> None:
        self._weakly = weakref.ref(store)
        self._lock, self._measuring = threading.Lock(), threading.Lock()
        self._heard: Callable[[], News] = lambda: _EVERYTHING
        self._marks: dict[str, Hashable] = {}
        self._listed: dict[str, Listed] = {}
        self._letters: Sequence[Notification] = ()
        self._figures: dict[str, tuple[float, int, Figures]] = {}  # run id -> (when read, at which step, what)
        self._courses: dict[str, tuple[int, Sequence[float]]] = {}
        self._read = False

    @property
    def _store(self) -> Store:
        store = self._weakly()
        if store is None:
            raise StoreUnavailableError("The store is gone, and with it the list of its runs.")
        return store

    def follow(self, heard: Callable[[], News]) -> None:
        """From now on read only what ``heard`` names: it returns what was written since it was last called."""
        with self._lock:
            if heard is not self._heard:
                self._heard, self._read = heard, False

    @property
    def letters(self) -> Sequence[Notification]:
        """Messages of this store that could not be delivered."""
        return self._letters

    def look(self) -> Sequence[Listed]:
        """Return all runs, newest first, as they are in the store now."""
        with self._lock:
            heard = self._heard()
            whole = heard.everything or not self._read
            self._read = False  # until this look has come to its end
            if whole:
                self._look_at_all()
            elif heard.runs:
                self._look_at(heard.runs)
            self._read = True
            return tuple(self._listed.values())

    def last(self) -> Sequence[Listed]:
        """Return what the last look found, without asking the store."""
        with self._lock:
            return tuple(self._listed.values())

    def _look_at_all(self) -> None:
        marks = self._store.run_marks()
        changed = [run_id for run_id, mark in marks.items() if self._marks.get(run_id) != mark]
        rows = self._store.runs() if 2 * len(changed) > len(marks) else self._store.runs(ids=changed)
        alerts = self._store.alert_counts(OPEN_STATES)
        self._letters = letters_of(self._store)
        read = {run.id: run for run in rows}
        known = {run_id: one for run_id, one in self._listed.items() if run_id in marks} | _listed(read.values(), alerts)
        self._listed = {run_id: _with(known[run_id], alerts.get(run_id, {})) for run_id in marks if run_id in known}
        self._marks = {run_id: mark for run_id, mark in marks.items() if run_id in known}
        for kept in (self._figures, self._courses):
            for run_id in kept.keys() - marks.keys():
                kept.pop(run_id, None)

    def _look_at(self, run_ids: Iterable[str]) -> None:
        named = [run_id for run_id in run_ids if run_id]
        rows = self._store.runs(ids=named)
        if {run.id for run in rows} != {run_id for run_id in named if run_id in self._listed}:
            self._look_at_all()  # runs came or went: their order is the store's to say
            return
        self._listed |= _listed(rows, self._store.alert_counts(OPEN_STATES, run_ids=named))
        for run_id in named:
            self._marks.pop(run_id, None)  # read again by the next comparison, whatever happened in between

    def measure(self, runs: Sequence[Run]) -> Mapping[str, Figures]:
        """Return run id -> newest values; read anew of runs that have moved on, and not more often than every few seconds."""
        now = time.time()
        stale = [run for run in runs if self._is_stale(run, now)]
        for some in _parts(stale):
            with self._measuring:
                self._measure([run for run in some if self._is_stale(run, now)], now)
        found = {run.id: self._figures.get(run.id) for run in runs}
        return {run_id: known[2] for run_id, known in found.items() if known is not None}

    def _measure(self, runs: Sequence[Run], now: float) -> None:
        ids = [run.id for run in runs]
        values = newest_of(self._store, ids, (LOSS, RISK, *COSTS)) if ids else {}
        rates = self._store.step_rates(ids) if ids else {}
        for run in runs:
            found = values.get(run.id, {})
            figures = Figures(found.get(LOSS), found.get(RISK), cost_of(found), rates.get(run.id))
            self._figures[run.id] = (now, run.last_step, figures)

    def _is_stale(self, run: Run, now: float) -> bool:
        known = self._figures.get(run.id)
        return known is None or (known[1] != run.last_step and now - known[0] >= _REFRESH)

    def courses(self, runs: Sequence[Run]) -> Mapping[str, Sequence[float]]:
        """Return run id -> the course of its loss in a few values; read anew of runs whose newest values were."""
        with self._measuring:
            known = {run.id: self._figures.get(run.id) for run in runs}
            at = {run_id: figures[1] for run_id, figures in known.items() if figures is not None}
            stale = [run_id for run_id, step in at.items() if self._courses.get(run_id, (None,))[0] != step]
            found = self._store.sparklines(stale, SeriesKey(LOSS)) if stale else {}
            self._courses |= {run_id: (at[run_id], found.get(run_id, [])) for run_id in stale}
            return {run_id: self._courses[run_id][1] for run_id in at if run_id in self._courses}


_ROSTERS: weakref.WeakKeyDictionary[Store, Roster] = weakref.WeakKeyDictionary()
_MAKING = threading.Lock()


def roster_of(store: Store) -> Roster:
    """Return the one roster that this process keeps of a store, whoever asks."""
    store = underneath(store)
    with _MAKING:
        if store not in _ROSTERS:
            _ROSTERS[store] = Roster(store)
        return _ROSTERS[store]


def _listed(runs: Iterable[Run], alerts: Mapping[str, Mapping[Severity, int]]) -> dict[str, Listed]:
    return {run.id: Listed(run, Words(run), alerts.get(run.id, {})) for run in runs}


def _with(one: Listed, alerts: Mapping[Severity, int]) -> Listed:
    return one if one.alerts == alerts else replace(one, alerts=alerts)


def _parts(runs: Sequence[Run]) -> Iterator[Sequence[Run]]:
    return (runs[first : first + _TOGETHER] for first in range(0, len(runs), _TOGETHER))
