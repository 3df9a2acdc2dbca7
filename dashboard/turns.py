"""Whose turn it is to be painted: one interpreter paints for all readers, and a quick chart must not wait for slow pictures.

Nothing is done faster by doing it all at once here: work in Python takes turns anyway, in slices. So it is done a few at a time,
quick work before slow, and before both what a reader has just acted on.
"""

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

AT_ONCE = 3
"""Sections that work at once: a store far away is waited for, meanwhile others go on."""
HEAVY_AT_ONCE = 1
PATIENCE = 1.0
"""Seconds after which slow work no longer lets quick work go first."""


class Turns:
    """Gives turns to sections. Used on the event loop's thread."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, float, bool, asyncio.Future[None]]] = []
        self._order = count()
        self._working = self._heavy = 0

    @asynccontextmanager
    async def mine(self, *, heavy: bool, first: bool) -> AsyncIterator[None]:
        """Wait for a turn and hold it.

        Args:
            heavy: it takes long.
            first: a reader waits for just this.
        """
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        heapq.heappush(self._waiting, (0 if first else 1 + heavy, next(self._order), loop.time() + PATIENCE, heavy, turn))
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
        held = []
        now = asyncio.get_running_loop().time()
        while self._waiting and self._working < AT_ONCE:
            entry = heapq.heappop(self._waiting)
            _, _, patient_until, heavy, turn = entry
            if turn.done():
                continue
            quick_goes_first = self._working > self._heavy and now < patient_until
            if heavy and (self._heavy >= HEAVY_AT_ONCE or quick_goes_first):
                held.append(entry)
                continue
            self._working += 1
            self._heavy += heavy
            turn.set_result(None)
        for entry in held:
            heapq.heappush(self._waiting, entry)
