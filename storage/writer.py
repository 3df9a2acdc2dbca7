"""The writer thread: what the training loop hands over is resolved, judged and saved here, off the training thread.

Every flush takes what is ready, in order, into one batch; the batch is analysed whether or not the store can take it; then batch,
alerts and events are saved, or kept for when the store is back (``saving.Saver``).
"""

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .base import Store
from .records import Alert, Batch, Event, Lease, Notification, Run, RunStatus, Segment, StepRecord, new_id
from .saving import Saver
from .trouble import Reporter

_MOST_POINTS = 250_000  # of one batch: about a second of writing
_DRAIN_PAUSE = 0.005  # seconds between looks at a device copy that someone waits for
_RETRY_PAUSE = 0.1  # the same for a store that is away
_GRACE = 0.5  # seconds that the thread may take after its deadline to note what it could not save


class Pending(Protocol):
    """A step whose values are still on their way from the device."""

    def ready(self) -> bool:
        """Return whether ``resolve`` would not wait. Never blocks."""
        ...

    def resolve(self) -> StepRecord:
        """Return the step."""
        ...


@dataclass(frozen=True, slots=True)
class WriterStats:
    """How the writer is doing. ``steps_dropped`` never reached a batch; ``points_lost`` did, but not the store."""

    queue_depth: int
    steps_written: int
    points_written: int
    points_lost: int
    steps_dropped: int
    batches_waiting: int
    errors: int
    last_error: str
    store_ok: bool


class _Marker:
    """Goes through the queue like a step, so that ``flush`` knows when everything before it was handled."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.saved = False


_writers: "weakref.WeakSet[Writer]" = weakref.WeakSet()


def _refuse_in_child() -> None:
    for writer in _writers:
        writer._accepting = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_refuse_in_child)


class Writer:
    """One thread that saves one segment of one run. ``put`` is for the training thread, the rest for any thread.

    Args:
        store: where to; a callable is called, until it succeeds, to open a store that may be away at the start.
        run: created in the store when it is not there.
        segment: its number, or the segment itself, which then is created too when it is not there.
        analyze: called on the writer thread with each batch, exactly once, committed or not; returns alerts to save.
        complete: called after it; returns the batch to save, to which the analysis may have added series of its own.
        notifications: the outbox entries of an alert.
        channels: where alerts go; kept in the store for the watchdog, should this process die.
        flush_interval: seconds between batches.
        capacity: steps that may wait in the queue; more are dropped and counted.
        backlog_points: samples kept in memory while the store is away.
        on_trouble: called (on the writer thread) once for each kind of trouble and once for each outage.
    """

    def __init__(
        self,
        store: Store | Callable[[], Store],
        run: Run,
        segment: int | Segment,
        *,
        analyze: Callable[[Batch], Sequence[Alert]],
        complete: Callable[[Batch], Batch] = lambda batch: batch,
        notifications: Callable[[Alert], Sequence[Notification]] = lambda alert: (),
        channels: Sequence[str] = (),
        flush_interval: float = 0.5,
        capacity: int = 10_000,
        backlog_points: int = 2_000_000,
        on_trouble: Callable[[str, Exception | None], None] = lambda message, error: None,
    ) -> None:
        self._run = run
        if not isinstance(segment, Segment):
            segment = Segment(run.id, segment, run.last_step + 1, time.time())
        self._segment = segment
        self._analyze = analyze
        self._complete = complete
        self._notifications = notifications
        self._flush_interval = flush_interval
        self._capacity = capacity
        self._reporter = Reporter(run, on_trouble)
        self._saver = Saver(store, run, self._segment, backlog_points=backlog_points, reporter=self._reporter, channels=channels)
        self._queue: deque[Pending | StepRecord | _Marker | Segment] = deque()
        self._events: deque[Event] = deque()
        self._refused = 0  # by put, on the training thread
        self._unresolved = 0  # on the writer thread
        self._errors = 0
        self._last_error = ""
        self._waiting: list[_Marker] = []
        self._hurry_until = 0.0
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._wake = threading.Event()
        self._pid = os.getpid()
        # One plain flag for ``put``: the training thread pays every look at it in cache misses.
        self._accepting = True
        _writers.add(self)
        self._thread = threading.Thread(target=self._work, name="foreshock-writer", daemon=True)

    @property
    def store(self) -> Store | None:
        """The store; None until one that was given as a callable could be opened. The writer never closes it."""
        return self._saver.store

    @property
    def lease(self) -> Lease:
        """The right to judge the run, as this writer holds it."""
        return self._saver.lease

    @property
    def stats(self) -> WriterStats:
        """Counts since the start. Cheap."""
        saver = self._saver
        return WriterStats(
            queue_depth=len(self._queue),
            steps_written=saver.steps_written,
            points_written=saver.points_written,
            points_lost=saver.points_lost,
            steps_dropped=self._refused + self._unresolved,
            batches_waiting=saver.batches_waiting,
            errors=self._errors + saver.errors,
            last_error=saver.last_error or self._last_error,
            store_ok=saver.store_ok,
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, item: Pending | StepRecord) -> bool:
        """Hand over a step; return False when it was dropped: the queue is full, the writer closed, or this is a forked child.

        Never blocks; well under a microsecond.
        """
        if not self._accepting:
            return False
        if len(self._queue) >= self._capacity:
            self._refused += 1
            return False
        self._queue.append(item)
        return True

    def begin_segment(self, segment: Segment) -> None:
        """Count what is put from now on to a new segment of the run. Never blocks."""
        if self._accepting:
            self._queue.append(segment)

    def put_event(self, event: Event) -> None:
        """Hand over an event. In a forked child, nothing."""
        if os.getpid() == self._pid:
            self._events.append(event)

    def flush(self, timeout: float) -> bool:
        """Wait until everything put so far is in the store; return False when the store is away or time ran out."""
        if os.getpid() != self._pid or not self._thread.is_alive():
            return False
        marker = _Marker()
        self._queue.append(marker)
        self._hurry_until = time.monotonic() + timeout
        self._wake.set()
        marker.done.wait(timeout)
        return marker.saved

    def close(self, timeout: float = 10.0, *, status: RunStatus | None = None) -> bool:
        """Save what is there, end the thread, and return whether everything was saved. May be called twice.

        Args:
            timeout: seconds after which what could not be saved is counted as lost.
            status: what the run is marked as at its end; None leaves it as it is.
        """
        if os.getpid() != self._pid:
            return False
        if not self._closing.is_set():
            if status is not None:
                self._saver.end_run(status)
            self._deadline = time.monotonic() + timeout
            self._accepting = False
            self._closing.set()
            self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout + _GRACE)
        return not self._thread.is_alive() and not self._queue and self._saver.nothing_waiting

    def _work(self) -> None:
        pause = self._flush_interval
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            closing = self._closing.is_set()
            hurry = closing or time.monotonic() < self._hurry_until
            more = saved = False
            try:
                more = self._take()
                saved = self._saver.save(hurry=hurry)
            except Exception as error:  # noqa: BLE001 - the thread must outlive a mistake in any part of it
                self._failed("writer_failed", "The writer met an error and goes on", error)
            self._answer(saved)
            if closing and (time.monotonic() >= self._deadline or (saved and not self._queue)):
                break
            if more or (self._saver.store_ok and self._saver.batches_waiting):
                pause = 0.0
            elif hurry:
                pause = _DRAIN_PAUSE if self._saver.store_ok else _RETRY_PAUSE
            else:
                pause = self._flush_interval
        self._end()

    def _take(self) -> bool:
        """Move what is ready from the queue into one analysed batch; return whether there is more than one batch holds."""
        records: list[StepRecord] = []
        points = 0
        while self._queue and points < _MOST_POINTS:
            item = self._queue[0]
            if isinstance(item, Segment):
                if records:  # first those of the segment before, in a batch of their own
                    break
                self._segment = item
                self._saver.begin_segment(item)
            elif isinstance(item, _Marker):
                self._waiting.append(item)
            else:
                try:
                    if not isinstance(item, StepRecord) and not item.ready():
                        break
                    record = item if isinstance(item, StepRecord) else item.resolve()
                except Exception as error:  # noqa: BLE001 - one step that fails on the device must not stop the others
                    self._unresolved += 1
                    self._failed("step_unreadable", "A step's measurements could not be read and are left out", error)
                else:
                    records.append(record)
                    points += len(record.values)
            self._queue.popleft()
        if records:
            batch = Batch(new_id(), self._run.id, self._segment.segment, tuple(records))
            alerts, notifications = self._judge(batch)
            self._saver.add_batch(self._completed(batch))
            self._saver.add_alerts(alerts, notifications)
        while self._events:
            self._saver.add_event(self._events.popleft())
        if self._refused:
            message = f"The writer cannot keep up: {self._capacity:,} steps wait, and newer ones are being dropped."
            self._reporter.tell_once("queue_full", message)
        return points >= _MOST_POINTS or (bool(self._queue) and isinstance(self._queue[0], Segment))

    def _judge(self, batch: Batch) -> tuple[list[Alert], list[Notification]]:
        try:
            alerts = list(self._analyze(batch))
            return alerts, [notification for alert in alerts for notification in self._notifications(alert)]
        except Exception as error:  # noqa: BLE001 - a failing detector must not cost the samples
            self._failed("analysis_failed", "The analysis of new samples failed; they are kept all the same", error)
            return [], []

    def _completed(self, batch: Batch) -> Batch:
        try:
            return self._complete(batch)
        except Exception as error:  # noqa: BLE001 - nor must what is derived from them
            self._failed("derived_failed", "What is derived from new samples could not be told; they are kept all the same", error)
            return batch

    def _answer(self, saved: bool) -> None:
        """Tell those who wait in ``flush``, unless the store is still at work on the backlog."""
        if not saved and self._saver.store_ok:
            return
        for marker in self._waiting:
            marker.saved = saved
            marker.done.set()
        self._waiting.clear()

    def _failed(self, kind: str, message: str, error: Exception) -> None:
        self._errors += 1
        self._last_error = f"{type(error).__name__}: {error}"
        self._reporter.tell_once(kind, f"{message}: {self._last_error}", error)

    def _end(self) -> None:
        unread = sum(not isinstance(item, (_Marker, Segment)) for item in self._queue)
        if unread:
            self._unresolved += unread
            self._reporter.tell(
                "steps_unread", f"The writer was closed while {unread} steps were still on their way from the device."
            )
        self._saver.give_up()
        for marker in self._waiting:
            marker.done.set()
