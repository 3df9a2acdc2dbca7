"""Sections that are made anew as a whole, no more often than their own cost allows."""

import time
from abc import abstractmethod

from ...storage.base import Store
from ...storage.records import Run
from ..updates import Updates
from .following import RunSection

LEAST_REST = 1.0
"""Seconds between two times that a section is made, at least."""
REST = 20.0
"""It rests so many times as long as making it took: a twentieth of one core at most."""


class PacedSection(RunSection):
    """A section that is painted anew after news, when it has rested. What is due while nothing comes is made with the next tick."""

    def __init__(self, store: Store, run: Run) -> None:
        super().__init__(store, run)
        self._owed = False
        self._ready = 0.0

    @abstractmethod
    def make(self) -> Updates:
        """Return everything the section shows, as the store has it now."""

    def paint(self) -> Updates:
        """Return everything the section shows."""
        self.catch_up()
        self._owed = False
        began = time.monotonic()
        made = self.make()
        ended = time.monotonic()
        self._ready = ended + max(LEAST_REST, REST * (ended - began))
        return made

    def advance(self) -> Updates:
        """Return everything again after news, when it is time."""
        self._owed = self.news() or self._owed
        return self.tick()

    def tick(self) -> Updates:
        """Return what is owed, when it is time. Asks the store then, unlike most ticks."""
        return self.paint() if self._owed and time.monotonic() >= self._ready else {}
