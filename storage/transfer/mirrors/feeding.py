"""A mirror on a thread of its own, behind a bounded queue: slow, failing, hanging or absent, it costs training nothing.

The writer thread only appends to a queue. What does not fit is dropped for this mirror (never for the store), counted and told.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from ...records import Alert, Batch, SeriesKey, StepRecord
from .base import Mirror, MirrorError

log = logging.getLogger("foreshock")

MOST_POINTS = 500_000
"""Samples that may wait for one mirror."""
MOST_ALERTS = 1_000
_MOST_BATCHES = 1_000
_MOST_TUPLES = 1_024
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds after a failure

OnFault = Callable[[str, Exception], None]
"""Told the source and the error of each failure, on any thread; logs the first of a source and counts all."""


class Feed:
    """One mirror, its queue and its thread. ``put`` is for the writer thread, and never blocks or raises."""

    def __init__(self, mirror: Mirror, on_fault: OnFault) -> None:
        self.dropped = 0
        """Batches that the mirror was not told of, or not wholly."""
        self.taken = 0
        """Batches that it was told of."""
        self._mirror = mirror
        self._on_fault = on_fault
        self._source = f"mirror {mirror.NAME}"
        self._queue: deque[Batch] = deque()
        self._alerts: deque[Alert] = deque(maxlen=MOST_ALERTS)
        self._points = 0
        self._pause = 0.0
        self._telling = False
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._columns: dict[int, tuple[tuple[SeriesKey, ...], tuple[int, ...], tuple[SeriesKey, ...]]] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name=f"foreshock-mirror-{mirror.NAME}", daemon=True)
        self._thread.start()

    def put(self, batch: Batch, alerts: Sequence[Alert]) -> None:
        """Hand over a batch with the alerts that are new."""
        self._alerts.extend(alerts)
        with self._lock:
            full = bool(self._queue) and (self._points + batch.points > MOST_POINTS or len(self._queue) >= _MOST_BATCHES)
            if full:
                self.dropped += 1
            else:
                self._queue.append(batch)
                self._points += batch.points
        self._wake.set()
        if full:
            behind = MirrorError("it cannot keep up; what is new is not mirrored until it does. The store has everything.")
            self._on_fault(f"{self._source} (queue)", behind)

    def end(self) -> None:
        """Say that nothing more comes. Does not wait."""
        self._closing.set()
        self._wake.set()

    def close(self, deadline: float) -> None:
        """Let it tell what waits until ``deadline`` (``time.monotonic()``); then leave it, counting what it was not told."""
        self.end()
        self._thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            self.dropped += len(self._queue) + self._telling
            self._queue.clear()
        if self.dropped:
            log.warning(
                "%s was not told of %d of %d batches; the store has them", self._source, self.dropped, self.dropped + self.taken
            )

    def _work(self) -> None:
        while not self._succeeds(self._mirror.open):
            if self._closing.wait(self._pause):
                return
        while True:
            self._wake.wait()
            self._wake.clear()
            self._tell_all()
            if self._closing.is_set() and not self._queue:
                break
        self._succeeds(self._mirror.close)

    def _tell_all(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    return
                batch = self._queue.popleft()
                self._points -= batch.points
                self._telling = True
            # Alerts go with the batch that raised them; where that one was dropped or failed, with the next.
            alerts = [self._alerts.popleft() for _ in range(len(self._alerts))]
            if self._succeeds(lambda batch=batch, alerts=alerts: self._mirror.take(self._chosen(batch), alerts)):  # type: ignore[misc]
                self.taken += 1
            else:
                self.dropped += 1
                self._alerts.extendleft(reversed(alerts))
                self._closing.wait(self._pause)
            self._telling = False

    def _succeeds(self, work: Callable[[], None]) -> bool:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - somebody else's tracker: whatever it raises, training goes on
            self._pause = min(max(_FIRST_PAUSE, 2 * self._pause), _LONGEST_PAUSE)
            self._on_fault(self._source, error)
            return False
        self._pause = 0.0
        return True

    def _chosen(self, batch: Batch) -> Batch:
        """Return a batch with the series that the mirror is to be told of."""
        return replace(batch, steps=tuple(self._record(record) for record in batch.steps))

    def _record(self, record: StepRecord) -> StepRecord:
        known = self._columns.get(id(record.keys))
        if known is None or known[0] is not record.keys:
            if len(self._columns) >= _MOST_TUPLES:
                self._columns.clear()
            places = tuple(place for place, key in enumerate(record.keys) if key in self._mirror.selection)
            known = self._columns[id(record.keys)] = record.keys, places, tuple(record.keys[place] for place in places)
        _, places, keys = known
        shapes = tuple(shape for shape in record.histograms if shape.key in self._mirror.selection)
        return StepRecord(record.step, record.time, keys, [record.values[place] for place in places], shapes)
