"""The sender thread: brings what waits in the backlog into the store, and tells those who wait for that."""

import threading
import time
from collections import deque
from collections.abc import Callable

from .backlog import Backlog
from .saving import Saver

RETRY_PAUSE = 0.1
"""Seconds between attempts on a store that is away, when somebody waits for it."""


class Marker:
    """Goes the way of a step, so that ``Writer.flush`` knows when everything before it was handled."""

    def __init__(self) -> None:
        self.judged = threading.Event()
        self.done = threading.Event()
        self.saved = False
        self.number = 0
        """Of the last entry before it."""


class Sender(threading.Thread):
    """Saves what the writer thread lines up. Its attributes are for that thread to set.

    Args:
        pause: seconds between looks when nobody wakes it.
        failed: told of what must not happen; the thread goes on.
        finished: called when everything was saved after ``ending``.
    """

    def __init__(
        self, saver: Saver, backlog: Backlog, *, pause: float, failed: Callable[[Exception], None], finished: Callable[[], None]
    ) -> None:
        super().__init__(name="foreshock-sender", daemon=True)
        self.waiting: deque[Marker] = deque()
        self.hurry_until = 0.0
        self.ending = False
        """Nothing more will come: end when everything is saved."""
        self.all_saved = False
        self._saver = saver
        self._backlog = backlog
        self._pause = pause
        self._failed = failed
        self._finished = finished
        self._go = threading.Event()

    def wake(self) -> None:
        """Look at once."""
        self._go.set()

    def stop(self, patience: float) -> None:
        """Begin nothing more; wait that many seconds for what is going on."""
        self._saver.stopping = True
        self._go.set()
        self.join(patience)

    def run(self) -> None:
        """Save until stopped, or until everything is saved after ``ending``."""
        pause = self._pause
        while not self._saver.stopping:
            self._go.wait(pause)
            self._go.clear()
            ending = self.ending
            asked = len(self.waiting)  # who asks while the attempt is going on is told by the next one
            hurry = time.monotonic() < self.hurry_until
            saved = more = False
            try:
                saved = self._saver.save(hurry=hurry)
                self._answer(asked)
                more = saved and not hurry and self._saver.tidy()
            except Exception as error:  # noqa: BLE001 - the thread must outlive a mistake in any part of it
                self._failed(error)
            if ending and saved:
                self.all_saved = True
                self._finished()
                return
            at_work = more or (self._saver.store_ok and not saved)
            pause = 0.0 if at_work or self.waiting else self._pause
            if hurry and not self._saver.store_ok:  # the writer wakes us more often than a server that is away can be asked
                time.sleep(RETRY_PAUSE)

    def _answer(self, asked: int) -> None:
        """Tell those who wait in ``flush`` for what is saved now; the first ``asked`` of them also when the store is away."""
        first = self._backlog.oldest
        while self.waiting and (first > self.waiting[0].number or (asked > 0 and not self._saver.store_ok)):
            asked -= 1
            marker = self.waiting.popleft()
            marker.saved = first > marker.number
            marker.done.set()
