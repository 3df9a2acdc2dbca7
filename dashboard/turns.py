"""Whose turn it is to be painted: one interpreter paints for all readers, and a quick chart must not wait for slow pictures.

Nothing is done faster by doing it all at once here: work in Python takes turns anyway, in slices. So it is done a few at a time,
quick work before slow, and before both what a reader has just acted on.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

AT_ONCE = 3
"""Sections that work at once: a store far away is waited for, meanwhile others go on."""
HEAVY_AT_ONCE = 1
PATIENCE = 1.0
"""Seconds after which slow work no longer lets quick work go first."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Who waits for a turn: ``number`` counts them as they come, ``patient_until`` is on the loop's clock."""

    number: int
    heavy: bool
    first: bool
    patient_until: float
    turn: asyncio.Future[None]

    def rank(self, now: float) -> tuple[int, int]:
        """Return what they are sorted by."""
        if self.first:
            return 0, self.number
        return (2 if self.heavy and now < self.patient_until else 1), self.number


class Turns:
    """Gives turns to sections. Used on the event loop's thread."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._numbers = count()
        self._working = self._heavy = 0

    @asynccontextmanager
    async def mine(self, *, heavy: bool, first: bool) -> AsyncIterator[None]:
        """Wait for a turn and hold it.

        Args:
            heavy: it takes long.
            first: a reader waits for just this.
        """
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(_Waiting(next(self._numbers), heavy, first, loop.time() + PATIENCE, turn))
        self._give()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._end(heavy)
            raise
        try:
            yield
        finally:
            self._end(heavy)

    def _end(self, heavy: bool) -> None:
        self._working -= 1
        self._heavy -= heavy
        self._give()

    def _give(self) -> None:
        """Give what turns there are to the foremost who may have one; who was cancelled is passed over."""
        now = asyncio.get_running_loop().time()
        self._waiting = [one for one in self._waiting if not one.turn.done()]
        for one in sorted(self._waiting, key=lambda one: one.rank(now)):
            if self._working >= AT_ONCE:
                return
            quick_goes_first = self._working > self._heavy and now < one.patient_until and not one.first
            if one.heavy and (self._heavy >= HEAVY_AT_ONCE or quick_goes_first):
                continue
            self._working += 1
            self._heavy += one.heavy
            one.turn.set_result(None)
