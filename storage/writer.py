"""The writer: what the training loop hands over is resolved, judged and saved here, off the training thread, by two threads.

The *writer thread* takes what is ready, every flush, in order, into one batch, has it analysed whether or not the store can take
it, and puts batch, alerts and events into the backlog, the spool on disk included. It never touches the store, so that a server
which hangs holds up neither the analysis nor the spool. The *sender thread* brings what waits there into the store (``Saver``).
"""

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .backlog import Backlog
from .base import Store
from .entries import Judgement
from .leftovers import Leftovers
from .records import Alert, Batch, Event, Lease, Notification, Run, RunStatus, Segment, StepRecord, new_id
from .saving import Saver
from .sending import RETRY_PAUSE, Marker, Sender
from .spool import SpoolPlace
from .trouble import Reporter

_MOST_POINTS = 250_000  # of one batch: about a second of writing
_LONGEST_PAUSE = 1.0  # seconds that the analysis waits for a store at work
_FEW = 4  # steps
_DRAIN_PAUSE = 0.005  # seconds between looks at a device copy that someone waits for
_GRACE = 0.5  # seconds that the threads may take after their deadline: to end a call, to bring what is left to the spool


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
    """How the writer is doing. ``steps_dropped`` never reached a batch; ``points_lost`` did, but neither store nor spool.

    ``points_spooled`` and ``bytes_spooled`` are what waits on disk just now, for a store that is away.
    """

    queue_depth: int
    steps_written: int
    points_written: int
    points_lost: int
    steps_dropped: int
    batches_waiting: int
    errors: int
    last_error: str
    store_ok: bool
    points_spooled: int = 0
    bytes_spooled: int = 0


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
        consult: called with the store, whenever it works, on the thread that talks to it: for what the analysis reads there.
        channels: where alerts go; kept in the store for the watchdog, should this process die.
        flush_interval: seconds between batches.
        soon: seconds between them while each holds a few steps at most: of slow steps, each is looked at soon. None: no sooner.
        capacity: steps that may wait in the queue; more are dropped and counted.
        backlog_points: samples kept in memory while the store is away.
        spool: where on disk they go from there; None: nowhere. What dead processes left there is drained.
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
        consult: Callable[[Store], None] = lambda store: None,
        channels: Sequence[str] = (),
        flush_interval: float = 0.5,
        soon: float | None = None,
        capacity: int = 10_000,
        backlog_points: int = 2_000_000,
        spool: SpoolPlace | None = None,
        on_trouble: Callable[[str, Exception | None], None] = lambda message, error: None,
    ) -> None:
        self._run = run
        if not isinstance(segment, Segment):
            segment = Segment(run.id, segment, run.last_step + 1, time.time())
        self._segment = segment
        self._analyze = analyze
        self._complete = complete
        self._notifications = notifications
        self._flush_interval, self._soon = flush_interval, flush_interval if soon is None else soon
        self._taken = 0  # steps of the last batch
        self._capacity = capacity
        self._reporter = Reporter(run, on_trouble)
        self._backlog = Backlog(run, segment, channels=channels, memory_points=backlog_points, place=spool, reporter=self._reporter)
        leftovers = Leftovers(spool.folder) if spool is not None else None
        self._saver = Saver(
            store, run, self._backlog, reporter=self._reporter, channels=channels, leftovers=leftovers, consult=consult
        )
        self._queue: deque[Pending | StepRecord | Marker | Segment] = deque()
        self._extras: deque[Event | Judgement] = deque()
        self._refused = 0  # by put, on the training thread
        self._unresolved = 0  # on the writer thread
        self._errors = 0
        self._last_error = ""
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._wake = threading.Event()
        self._taken_at = float("-inf")
        self._pid = os.getpid()
        # One plain flag for ``put``: the training thread pays every look at it in cache misses.
        self._accepting = True
        _writers.add(self)
        self._thread = threading.Thread(target=self._work, name="foreshock-writer", daemon=True)
        self._sender = Sender(self._saver, self._backlog, pause=flush_interval, failed=self._mistaken, finished=self._wake.set)

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
        saver, backlog = self._saver, self._backlog
        return WriterStats(
            queue_depth=len(self._queue),
            steps_written=saver.steps_written,
            points_written=saver.points_written,
            points_lost=backlog.points_lost,
            steps_dropped=self._refused + self._unresolved,
            batches_waiting=backlog.entries,
            errors=self._errors + saver.errors,
            last_error=saver.last_error or self._last_error,
            store_ok=saver.store_ok,
            points_spooled=backlog.spooled_points,
            bytes_spooled=backlog.spooled_bytes,
        )

    def start(self) -> None:
        """Start the threads."""
        self._thread.start()
        self._sender.start()

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
            self._extras.append(event)

    def put_alerts(self, alerts: Sequence[Alert]) -> None:
        """Hand over alerts that no batch of ours set off. In a forked child, nothing."""
        if os.getpid() == self._pid:
            self._extras.append(Judgement(tuple(alerts)))

    def flush(self, timeout: float) -> bool:
        """Wait until everything put so far is in the store; return False when the store is away or time ran out."""
        marker = self._mark(timeout)
        return marker is not None and marker.done.wait(timeout) and marker.saved

    def judged(self, timeout: float) -> bool:
        """Wait until everything put so far was analysed, stored or not; return whether it was in that time."""
        marker = self._mark(timeout)
        return marker is not None and marker.judged.wait(timeout)

    def _mark(self, timeout: float) -> Marker | None:
        if os.getpid() != self._pid or not self._thread.is_alive():
            return None
        marker = Marker()
        self._sender.hurry_until = time.monotonic() + timeout  # before the marker: an attempt that answers it is a hurried one
        self._queue.append(marker)
        self._wake.set()
        return marker

    def close(self, timeout: float = 10.0, *, status: RunStatus | None = None) -> bool:
        """Save what is there, end the threads, and return whether everything is in the store. May be called twice.

        Args:
            timeout: seconds after which what could not be saved is left in the spool, or, without one, is counted as lost.
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
            self._thread.join(timeout + 2 * _GRACE)
        return not self._thread.is_alive() and not self._queue and self._saver.nothing_waiting

    # -- the writer thread ---------------------------------------------------------------------------------------

    def _work(self) -> None:
        pause = self._soon
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            closing = self._closing.is_set()
            more = False
            try:
                more = self._take()
                self._backlog.keep(away=self._saver.away)
                self._saver.break_off()
            except Exception as error:  # noqa: BLE001 - the thread must outlive a mistake in any part of it
                self._mistaken(error)
            if closing:
                self._sender.hurry_until = float("inf")
                self._sender.ending = not self._queue and not self._extras
            self._sender.wake()
            if closing and (time.monotonic() >= self._deadline or self._sender.all_saved):
                break
            if more and not self._crowded():
                pause = 0.0
            elif closing or more or time.monotonic() < self._sender.hurry_until:
                pause = _DRAIN_PAUSE if self._queue else RETRY_PAUSE
            else:
                pause = self._flush_interval if self._taken > _FEW else self._soon
        self._end()

    def _crowded(self) -> bool:
        """Whether the store is at work and has enough to do: what comes meanwhile waits in the queue, for a larger batch."""
        backlog = self._backlog
        if self._saver.away or backlog.spooled_points:
            return False
        at_work = backlog.entries > 1 and time.monotonic() - self._taken_at < _LONGEST_PAUSE
        return at_work or backlog.memory_points >= _MOST_POINTS

    def _take(self) -> bool:
        """Move what is ready from the queue into one analysed batch; return whether there is more than one batch holds."""
        if self._crowded():
            return bool(self._queue)
        self._taken_at = time.monotonic()
        records: list[StepRecord] = []
        markers: list[Marker] = []
        points = 0
        while self._queue and points < _MOST_POINTS:
            item = self._queue[0]
            if isinstance(item, Segment):
                if records:  # first those of the segment before, in a batch of their own
                    break
                self._segment = item
                self._backlog.add(item)
            elif isinstance(item, Marker):
                markers.append(item)
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
        self._taken = len(records)
        if records:
            batch = Batch(new_id(), self._run.id, self._segment.segment, tuple(records))
            alerts, notifications = self._judge(batch)
            self._backlog.add(self._completed(batch))
            if alerts or notifications:
                self._backlog.add(Judgement(tuple(alerts), tuple(notifications)))
        while self._extras:
            self._backlog.add(self._extras.popleft())
        for marker in markers:
            marker.number = self._backlog.newest
            self._sender.waiting.append(marker)
            marker.judged.set()
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

    def _mistaken(self, error: Exception) -> None:
        self._failed("writer_failed", "The writer met an error and goes on", error)

    def _failed(self, kind: str, message: str, error: Exception) -> None:
        self._errors += 1
        self._last_error = f"{type(error).__name__}: {error}"
        self._reporter.tell_once(kind, f"{message}: {self._last_error}", error)

    def _end(self) -> None:
        unread = sum(not isinstance(item, (Marker, Segment)) for item in self._queue)
        if unread:
            self._unresolved += unread
            self._reporter.tell(
                "steps_unread", f"The writer was closed while {unread} steps were still on their way from the device."
            )
        self._sender.stop(_GRACE)
        self._leave()
        if self._sender.is_alive() and self._saver.store is not None:  # it waits for a server that does not answer
            self._saver.store.interrupt()
        for item in (*self._sender.waiting, *(item for item in self._queue if isinstance(item, Marker))):
            item.judged.set()
            item.done.set()

    def _leave(self) -> None:
        """Leave in the spool what still waits, the run's end too, and say so; without one it is lost, and counted."""
        backlog, end = self._backlog, self._saver.end
        if not backlog.entries and end is None:
            backlog.park()
            return
        waiting, lost_before = backlog.points, backlog.points_lost
        if end is not None:
            backlog.add(end)
        reason = (self._saver.last_error or "there was no time left").rstrip(".")
        if backlog.park():
            self._reporter.tell(
                "left_in_spool",
                f"The run ended while the store could not be written: {reason}. Nothing is lost: {waiting:,} samples wait in "
                f"{backlog.path}. They are stored by the next watch() in that folder, or by: foreshock db drain {backlog.folder}",
            )
            return
        backlog.give_up()
        lost = backlog.points_lost - lost_before
        kept = f" The rest is in {backlog.path}." if backlog.path else ""
        message = f"The run ended while the store could not be written: {reason}. Not saved: {lost:,} samples.{kept}"
        self._reporter.tell("not_saved", message, lost=lost)
