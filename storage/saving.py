"""Bringing batches, alerts and events into a store that may be away: a bounded backlog, back-off, recovery.

Used on the writer thread only, so nothing here is locked.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from .base import InvalidRecordError, LeaseHeldError, Store, StoreError
from .records import Alert, Batch, Event, Lease, Notification, Run, RunStatus, Segment, analyzer_lease, new_id
from .trouble import Reporter

HEARTBEAT = 5.0
"""Seconds after which a run that writes nothing says that it is alive."""

_RENEWAL = 10.0  # seconds between renewals of the right to judge the run, a third of what it lasts
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 10.0  # seconds between attempts while the store is away
_SLICE = 1.0  # seconds of writing backlog at a stretch; then new steps are looked at
_MOST_EVENTS = 10_000
_MOST_ALERTS = 1_000


class Saver:
    """What is to be saved, and the attempts to do so.

    Args:
        store: the store, or what opens it; the latter is called until it succeeds.
        run, segment: what is made again in a store that lost it (a database file that was deleted, say).
        backlog_points: samples kept while the store is away; beyond, the oldest batches go and are counted in ``points_lost``.
        reporter: told of every change between a store that works and one that does not.
        channels: where the run's alerts go; kept in the store for the watchdog.
    """

    def __init__(
        self,
        store: Store | Callable[[], Store],
        run: Run,
        segment: Segment,
        *,
        backlog_points: int,
        reporter: Reporter,
        channels: Sequence[str] = (),
    ) -> None:
        self.store = store if isinstance(store, Store) else None
        self.steps_written = 0
        self.points_written = 0
        self.points_lost = 0
        self.errors = 0
        self.last_error = ""
        self._open = store
        self._run = run
        self._segments = [segment]
        self._reporter = reporter
        self._backlog: deque[Batch] = deque()
        self._backlog_points = 0
        self._most_points = backlog_points
        self._alerts: dict[str, Alert] = {}
        self._notifications: dict[str, Notification] = {}
        self._events: deque[Event] = deque(maxlen=_MOST_EVENTS)
        self._end: tuple[RunStatus, float] | None = None
        self._known_alerts: dict[str, Alert] = {}  # the newest state of each, in case the store loses them
        self._last_step = segment.start_step
        self._points_there = 0  # of this run in the store, as far as we know
        self._prepared = False
        self._ok = True
        self._away_since: float | None = None  # until the backlog of an outage is written
        self._lost_before_outage = 0
        self._delay = 0.0
        self._next_attempt = 0.0
        self._last_contact = float("-inf")
        self._lease = analyzer_lease(run.id, new_id(), segment.segment)
        self._renew_at = float("-inf")
        self._channels = tuple(channels)
        reporter.store = self.store.url if self.store else ""

    @property
    def lease(self) -> Lease:
        """The right to judge the run, renewed with every save."""
        return self._lease

    @property
    def store_ok(self) -> bool:
        """Whether the last attempt to reach the store went well."""
        return self._ok

    @property
    def batches_waiting(self) -> int:
        """Batches in the backlog."""
        return len(self._backlog)

    @property
    def nothing_waiting(self) -> bool:
        """Whether everything given was saved."""
        return not (self._backlog or self._alerts or self._notifications or self._events or self._end)

    def begin_segment(self, segment: Segment) -> None:
        """Take over a segment that begins now; batches of those before it may still wait."""
        self._segments.append(segment)
        self._prepared = False

    def add_batch(self, batch: Batch) -> None:
        """Take over a batch."""
        self._last_step = batch.steps[-1].step
        self._backlog.append(batch)
        self._backlog_points += batch.points
        while self._backlog_points > self._most_points and len(self._backlog) > 1:
            self._lose(self._backlog.popleft())
            message = (
                f"The store is away so long that over {self._most_points:,} samples wait for it; the oldest are being dropped."
            )
            self._reporter.tell_once("backlog_full", message)

    def add_alerts(self, alerts: Sequence[Alert], notifications: Sequence[Notification]) -> None:
        """Take over alerts and notifications; a newer state of an alert replaces one that still waits."""
        for alert in alerts:
            self._alerts[alert.id] = alert
            self._known_alerts[alert.id] = alert
        while len(self._known_alerts) > _MOST_ALERTS:
            del self._known_alerts[next(iter(self._known_alerts))]
        self._notifications.update((notification.id, notification) for notification in notifications)

    def add_event(self, event: Event) -> None:
        """Take over an event."""
        self._events.append(event)

    def end_run(self, status: RunStatus) -> None:
        """Note how the run ended, to be written after everything else."""
        self._end = (status, time.time())

    def save(self, *, hurry: bool = False) -> bool:
        """Try to save what waits, unless it is too early after a failed attempt; return whether nothing waits any more.

        Args:
            hurry: try at once, whatever the back-off says.
        """
        if not hurry and time.monotonic() < self._next_attempt:
            return False
        try:
            store = self._prepare()
            self._save_batches(store)
            self._save_alerts(store)
            self._save_events(store)
            self._beat(store)
        except Exception as error:  # noqa: BLE001 - whatever a store does, training goes on and samples are kept
            self._failed(error)
            return False
        self._ok = True
        self._delay = self._next_attempt = 0.0
        if self._away_since is not None and not self._backlog:
            self._recovered(self._away_since)
            return self.save(hurry=True)
        return self.nothing_waiting

    def give_up(self) -> None:
        """Count what still waits as lost, and say so. Called when the writer ends."""
        if self.nothing_waiting:
            return
        waiting = f"{self._backlog_points:,} samples, {len(self._alerts)} alerts, {len(self._events)} events"
        while self._backlog:
            self._lose(self._backlog.popleft())
        message = (
            f"The run ended while the store could not be written: {self.last_error or 'there was no time left'}. "
            f"Not saved: {waiting}."
        )
        self._reporter.tell("not_saved", message, lost=self.points_lost - self._lost_before_outage)

    def _prepare(self) -> Store:
        if self.store is None:
            assert not isinstance(self._open, Store)
            self.store = self._open()
            self._reporter.store = self.store.url
        if not self._prepared:
            self.store.create_run(replace(self._run, heartbeat_at=time.time()))
            for segment in self._segments:
                self.store.add_segment(segment)
            self._taken(partial(self.store.set_channels, self._run.id, self._channels))
            if self._points_there and self.store.run(self._run.id).last_step < 0:
                self._start_anew()
            self._prepared = True
            self._last_contact = float("-inf")
        return self.store

    def _start_anew(self) -> None:
        """Note that the store lost what it had of this run; what we still know, the alerts, is saved again."""
        self._alerts = self._known_alerts | self._alerts
        message = f"The database was replaced by a new one; {self._points_there:,} samples written before went with the old one."
        self._events.append(self._event("history_gone", message, {"points_lost": self._points_there}))
        self._reporter.tell("history_gone", message)
        self.points_lost += self._points_there
        self._points_there = 0

    def _save_batches(self, store: Store) -> None:
        stop = time.monotonic() + _SLICE
        while self._backlog and time.monotonic() < stop:
            batch = self._backlog[0]
            if self._taken(partial(store.write, batch)):
                self.steps_written += len(batch.steps)
                self.points_written += batch.points
                self._points_there += batch.points
                self._backlog_points -= batch.points
                self._last_contact = time.monotonic()
            else:
                self._lose(batch)
            self._backlog.popleft()

    def _save_alerts(self, store: Store) -> None:
        if not self._alerts and not self._notifications:
            return
        alerts, notifications = list(self._alerts.values()), list(self._notifications.values())
        try:
            self._taken(partial(store.save_alerts, alerts, notifications, lease=self._lease))
        except LeaseHeldError as error:  # the run was resumed elsewhere: its alerts are that process's to raise
            self._reporter.tell_once("analyzer_replaced", f"{error} The alerts of this process are not kept.", error)
        self._alerts.clear()
        self._notifications.clear()

    def _save_events(self, store: Store) -> None:
        while self._events:
            self._taken(partial(store.add_event, self._events[0]))
            self._events.popleft()

    def _beat(self, store: Store) -> None:
        now = time.time()
        if time.monotonic() >= self._renew_at:
            self._renew_at = time.monotonic() + _RENEWAL
            store.take_lease(self._lease)
        if self._end is not None and not self._backlog:
            status, ended_at = self._end
            store.update_run(self._run.id, status=status, ended_at=ended_at, heartbeat_at=now)
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
        if self._away_since is None:
            self._away_since = time.time()
            self._lost_before_outage = self.points_lost
            self._reporter.tell("store_unavailable", f"{error} Samples are kept in memory until it works again.", error)

    def _recovered(self, since: float) -> None:
        until, lost = time.time(), self.points_lost - self._lost_before_outage
        message = f"The store is back after {until - since:.0f} s; {f'{lost:,} samples were lost' if lost else 'nothing was lost'}."
        data = {"from": since, "to": until, "points_lost": lost, "reason": self.last_error}
        self._away_since = None
        self._events.append(self._event("store_recovered", message, data))
        self._reporter.again("backlog_full")
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

    def _lose(self, batch: Batch) -> None:
        self._backlog_points -= batch.points
        self.points_lost += batch.points

    def _event(self, kind: str, message: str, data: dict[str, object]) -> Event:
        return Event(new_id(), self._run.id, self._segments[-1].segment, self._last_step, time.time(), kind, message, data)
