"""Bringing what waits in the backlog into a store that may be away: in order, with back-off and recovery.

Used on the sender thread; what other threads look at is said so.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from .backlog import Backlog
from .base import Store
from .entries import End, Entry, Judgement, points_of
from .errors import InvalidRecordError, LeaseHeldError, StoreError
from .leftovers import Leftovers
from .records import Alert, Batch, Event, Lease, Run, RunStatus, Segment, analyzer_lease, new_id
from .trouble import Reporter

HEARTBEAT = 5.0
"""Seconds after which a run that writes nothing says that it is alive."""

_RENEWAL = 10.0  # seconds between renewals of the right to judge the run, a third of what it lasts
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 10.0  # seconds between attempts while the store is away
_SLICE = 1.0  # seconds of writing backlog at a stretch; then whoever waits is answered
_MOST_ALERTS = 1_000
_ANSWER = 1.0  # seconds within which a store that works answers a small batch
_SLOWEST = 50_000  # samples a second that a store at work takes at the least
_FIRST_PATIENCE, _LONGEST_PATIENCE = 30.0, 600.0  # seconds after which a call that is not answered is broken off


class Saver:
    """The attempts to save what waits.

    Args:
        store: the store, or what opens it; the latter is called until it succeeds.
        run: made again in a store that lost it (a database file that was deleted, say), with its segments and alerts.
        backlog: what waits.
        reporter: told of every change between a store that works and one that does not.
        channels: where the run's alerts go; kept in the store for the watchdog.
        leftovers: spools of dead processes, drained when there is nothing else to do.
        consult: called with the store after every attempt that went well; it keeps its own pace.
    """

    def __init__(
        self,
        store: Store | Callable[[], Store],
        run: Run,
        backlog: Backlog,
        *,
        reporter: Reporter,
        channels: Sequence[str] = (),
        leftovers: Leftovers | None = None,
        consult: Callable[[Store], None] = lambda store: None,
    ) -> None:
        self.store = store if isinstance(store, Store) else None
        self.steps_written = 0
        self.points_written = 0
        self.errors = 0
        self.last_error = ""
        self.stopping = False
        """Set by the writer at the end: nothing more is begun."""
        self._open = store
        self._run = run
        self._backlog = backlog
        self._reporter = reporter
        self._leftovers = leftovers
        self._consult = consult
        self._end: End | None = None
        self._known_alerts: dict[str, Alert] = {}  # the newest state of each, in case the store loses them
        self._points_there = 0  # of this run in the store, as far as we know
        self._prepared = False
        self._ok = True
        self._away_since: float | None = None  # until the backlog of an outage is written
        self._lost_before_outage = 0
        self._delay = 0.0
        self._next_attempt = 0.0
        self._last_contact = float("-inf")
        self._lease = analyzer_lease(run.id, new_id(), backlog.segments[0].segment)
        self._renew_at = float("-inf")
        self._channels = tuple(channels)
        self._call: tuple[float, float] | None = None  # of the store, now on: since when, and how long it may well take
        self._patience = _FIRST_PATIENCE
        reporter.store = self.store.url if self.store else backlog.place.address if backlog.place else ""

    @property
    def lease(self) -> Lease:
        """The right to judge the run, renewed with every save."""
        return self._lease

    @property
    def store_ok(self) -> bool:
        """Whether the last attempt to reach the store went well. Any thread may look."""
        return self._ok

    @property
    def away(self) -> bool:
        """Whether the store takes nothing at present: the last attempt failed, or this one is not answered. Any thread may look."""
        call = self._call
        return not self._ok or (call is not None and time.monotonic() - call[0] > call[1])

    @property
    def nothing_waiting(self) -> bool:
        """Whether everything given was saved."""
        return not (self._backlog.entries or self._end)

    def end_run(self, status: RunStatus) -> None:
        """Note how the run ended, to be written when nothing else waits. Any thread may call."""
        self._end = End(status, time.time())

    @property
    def end(self) -> End | None:
        """How the run ended, until that is saved."""
        return self._end

    def save(self, *, hurry: bool = False) -> bool:
        """Try to save what waits, unless it is too early after a failed attempt; return whether nothing waits any more.

        Args:
            hurry: try at once, whatever the back-off says.
        """
        if not hurry and time.monotonic() < self._next_attempt:
            return False
        self._call = time.monotonic(), _ANSWER
        try:
            store = self._prepare()
            self._save_entries(store)
            self._call = time.monotonic(), _ANSWER
            self._beat(store)
            self._consult(store)
        except Exception as error:  # noqa: BLE001 - whatever a store does, training goes on and samples are kept
            self._backlog.put_back()
            self._failed(error)
            return False
        finally:
            self._call = None
        self._ok = True
        self._delay = self._next_attempt = 0.0
        self._patience = _FIRST_PATIENCE
        if self._away_since is not None and not self._backlog.entries:
            self._recovered(self._away_since)
            return self.save(hurry=True)
        return self.nothing_waiting

    def tidy(self) -> bool:
        """Drain something of what dead processes left; return whether there is more."""
        return self._leftovers is not None and self.store is not None and self._leftovers.work(self.store)

    def break_off(self) -> None:
        """Break off a call that the store does not answer for very long. Called from another thread, now and then.

        A store that is merely slow gets twice the time at the next attempt.
        """
        call = self._call
        if call is not None and self.store is not None and time.monotonic() - call[0] > max(self._patience, 2 * call[1]):
            self._patience = min(2 * self._patience, _LONGEST_PATIENCE)
            self._call = time.monotonic(), call[1]
            self.store.interrupt()

    def _prepare(self) -> Store:
        if self.store is None:
            assert not isinstance(self._open, Store)
            self.store = self._open()
            self._reporter.store = self.store.url
        if not self._prepared:
            self.store.create_run(replace(self._run, heartbeat_at=time.time()))
            for segment in list(self._backlog.segments):
                self.store.add_segment(segment)
            self._taken(partial(self.store.set_channels, self._run.id, self._channels))
            if self._points_there and self.store.run(self._run.id).last_step < 0:
                self._start_anew(self.store)
            self._prepared = True
            self._last_contact = float("-inf")
        return self.store

    def _start_anew(self, store: Store) -> None:
        """Note that the store lost what it had of this run; what we still know, the alerts, is saved again."""
        self._judge(store, Judgement(tuple(self._known_alerts.values())))
        message = f"The database was replaced by a new one; {self._points_there:,} samples written before went with the old one."
        self._backlog.event("history_gone", message, {"points_lost": self._points_there})
        self._reporter.tell("history_gone", message)
        self._backlog.lost(self._points_there)
        self._points_there = 0

    def _save_entries(self, store: Store) -> None:
        stop = time.monotonic() + _SLICE
        while not self.stopping and time.monotonic() < stop:
            leading = self._backlog.leading()
            if not leading:
                break
            self._call = time.monotonic(), _ANSWER + sum(points_of(entry) for _, entry in leading) / _SLOWEST
            batches = [entry for _, entry in leading if isinstance(entry, Batch)]
            if len(batches) > 1 and self._taken(partial(self._write, store, batches)):
                for number, _ in leading:
                    self._backlog.done(number)
                continue
            number, entry = leading[0]  # by itself: so that one that no store takes does not keep the others out
            if not self._taken(partial(self._apply, store, entry)):
                self._backlog.lost(points_of(entry))
            self._backlog.done(number)

    def _write(self, store: Store, batches: Sequence[Batch]) -> None:
        if len(batches) == 1:
            store.write(batches[0])
        else:
            store.write_together(batches)
        points = sum(batch.points for batch in batches)
        self.steps_written += sum(len(batch.steps) for batch in batches)
        self.points_written += points
        self._points_there += points
        self._last_contact = time.monotonic()

    def _apply(self, store: Store, entry: Entry) -> None:
        if isinstance(entry, Batch):
            self._write(store, [entry])
        elif isinstance(entry, Judgement):
            self._judge(store, entry)
        elif isinstance(entry, Event):
            store.add_event(entry)
        elif isinstance(entry, Segment):
            store.add_segment(entry)

    def _judge(self, store: Store, judgement: Judgement) -> None:
        try:
            store.save_alerts(judgement.alerts, judgement.notifications, lease=self._lease)
        except LeaseHeldError as error:  # the run was resumed elsewhere: its alerts are that process's to raise
            self._reporter.tell_once("analyzer_replaced", f"{error} The alerts of this process are not kept.", error)
            return
        self._known_alerts.update((alert.id, alert) for alert in judgement.alerts)
        while len(self._known_alerts) > _MOST_ALERTS:
            del self._known_alerts[next(iter(self._known_alerts))]

    def _beat(self, store: Store) -> None:
        now = time.time()
        if time.monotonic() >= self._renew_at:
            self._renew_at = time.monotonic() + _RENEWAL
            store.take_lease(self._lease)
        if self._end is not None and not self._backlog.entries:
            store.update_run(self._run.id, status=self._end.status, ended_at=self._end.at, heartbeat_at=now)
            self._end = None
            store.release_lease(self._lease)
        elif time.monotonic() - self._last_contact >= HEARTBEAT:
            store.update_run(self._run.id, heartbeat_at=now)
        else:
            return
        self._last_contact = time.monotonic()

    def _failed(self, error: Exception) -> None:
        self.errors += 1
        self.last_error = str(error)
        self._ok = self._prepared = False
        self._delay = min(max(_FIRST_DELAY, 2 * self._delay), _LONGEST_DELAY)
        self._next_attempt = time.monotonic() + self._delay
        if self._away_since is None and not self.stopping:
            self._away_since = time.time()
            self._lost_before_outage = self._backlog.points_lost
            place = self._backlog.place
            where = f"in memory and, should it take longer, in {place.folder}" if place else "in memory"
            self._reporter.tell("store_unavailable", f"{error} Samples are kept {where}, until it works again.", error)

    def _recovered(self, since: float) -> None:
        until, lost = time.time(), self._backlog.points_lost - self._lost_before_outage
        message = f"The store is back after {until - since:.0f} s; {f'{lost:,} samples were lost' if lost else 'nothing was lost'}."
        self._away_since = None
        data = {"from": since, "to": until, "points_lost": lost, "reason": self.last_error}
        self._backlog.event("store_recovered", message, data)
        for kind in ("backlog_full", "records_full", "spool_full", "spool_failed"):
            self._reporter.again(kind)
        self._reporter.tell("store_recovered", message, lost=lost)

    def _taken(self, action: Callable[[], None]) -> bool:
        """Do it and return True. What no retry would bring in is reported and returns False; a store that is away raises."""
        try:
            action()
        except Exception as error:
            if isinstance(error, StoreError) and not isinstance(error, InvalidRecordError):
                raise
            self.errors += 1
            self.last_error = f"{type(error).__name__}: {error}"
            self._reporter.tell_once("record_refused", f"{self.last_error} It is left out; the rest goes on.", error)
            return False
        return True
