"""Sections that are made anew as a whole, no more often than their own cost allows, and once for all tabs that show the same."""

import threading
import time
import weakref
from abc import abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, field

from ...storage.base import Store
from ...storage.records import Run
from ..access.reader import underneath
from ..updates import Updates
from .following import RunSection

LEAST_REST = 1.0
"""Seconds between two times that a section is made, at least."""
REST = 20.0
"""It rests so many times as long as making it took: a twentieth of one core at most."""
_KEPT = 64
"""So many things are kept for other tabs."""


@dataclass
class _Made:
    """What was made last, of what was written up to ``cursor``; it is made anew from ``ready`` on."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    updates: Updates | None = None
    cursor: int = 0
    ready: float = 0.0


class _Shared:
    """What the tabs of one store have in common. Any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[Hashable, _Made] = {}

    def of(self, key: Hashable) -> _Made:
        """Return the entry of a key; the one that was asked for longest ago goes when there are too many."""
        with self._lock:
            made = self._made.pop(key, None) or _Made()
            self._made[key] = made
            if len(self._made) > _KEPT:
                del self._made[next(iter(self._made))]
            return made


_of_stores: weakref.WeakKeyDictionary[Store, _Shared] = weakref.WeakKeyDictionary()


class PacedSection(RunSection):
    """A section that is painted anew after news, when it has rested. What is due while nothing comes is made with the next tick."""

    def __init__(self, store: Store, run: Run) -> None:
        super().__init__(store, run)
        self._owed = False
        self._ready = 0.0
        self._common = _of_stores.setdefault(underneath(store), _Shared())

    @abstractmethod
    def make(self) -> Updates:
        """Return everything the section shows, as the store has it now."""

    def alike(self) -> Hashable | None:
        """Return what is equal in sections of this class and run that show the same; None: no other does.

        One that is asked to paint while what another made still rests shows that.
        """
        return None

    def paint(self) -> Updates:
        """Return everything the section shows."""
        self.catch_up()
        alike = self.alike()
        made = self._common.of((type(self), self.run.id, alike)) if alike is not None else _Made()
        with made.lock:  # whoever shows the same waits for it, rather than make it too
            if made.updates is None or time.monotonic() >= made.ready:
                cursor, began = self._cursor, time.monotonic()
                made.updates = self.make()
                ended = time.monotonic()
                made.cursor, made.ready = cursor, ended + max(LEAST_REST, REST * (ended - began))
            self._owed, self._ready = made.cursor < self._cursor, made.ready
            return made.updates

    def advance(self) -> Updates:
        """Return everything again after news, when it is time."""
        self._owed = self.news() or self._owed
        return self.tick()

    def tick(self) -> Updates:
        """Return what is owed, when it is time. Asks the store then, unlike most ticks."""
        return self.paint() if self._owed and time.monotonic() >= self._ready else {}
