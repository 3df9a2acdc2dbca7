"""How fast one tab is fed: it says when it has drawn what it was sent, and rests before it is sent more.

Drawing a figure takes a browser tens of milliseconds, more on a machine that trains beside it. A tab that is sent to before it is
done falls behind and keeps a core busy; so all sections of a tab share one pace. What changes meanwhile is sent together. What a
reader watches (the loss, the verdict) need not rest for as long as heatmaps do.
"""

import asyncio
import sys
import time
from collections.abc import Callable

from .waiting import happens

PERIOD = 0.5
"""Seconds from one round of sending to the next, at least."""
REST = 2.0
"""A tab rests this many times as long as the round before took it: no more than a third of its time goes into drawing."""
MOST_REST = 6.0
QUICK_PERIOD = 0.2
QUICK_REST = 0.5
"""The same for what is quick."""
LEAD = 0.4
"""Seconds for which the other charts let the one that the reader acted on go first, at most."""

_UNSENT = sys.maxsize


class Pace:
    """Whose turn it is: the server's to send, or the tab's to draw. Used on the event loop's thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sent = self._drawn = 0
        self._began = self._rests_until = self._quick_from = float("-inf")
        self._all_quick = True
        self._led_until, self._leader = float("-inf"), _UNSENT
        self._answered = asyncio.Event()

    @property
    def owed(self) -> bool:
        """Whether the tab has not yet drawn what it was sent."""
        return self._drawn < self._sent

    @property
    def owed_for(self) -> float:
        """Seconds since the tab was first sent what it has not yet drawn; 0 where there is no such thing."""
        return self._clock() - self._began if self.owed else 0.0

    async def turn(self, timeout: float, unless: Callable[[], bool] = lambda: False, *, quick: bool = False) -> bool:
        """Return True once the tab may be sent to, False if that takes longer than ``timeout`` seconds.

        Args:
            unless: looked at again after ``hurry``: whether this is for what nobody should wait for.
            quick: whether it is drawn quickly, and watched.
        """
        deadline = self._clock() + timeout
        while (self.owed or self._clock() < self._due(quick)) and not unless():
            remaining = deadline - self._clock()
            if remaining <= 0:
                return False
            self._answered.clear()
            rest = remaining if self.owed else self._due(quick) - self._clock()
            await happens(self._answered, max(0.001, min(rest, remaining)))
        return True

    def _due(self, quick: bool) -> float:
        return self._quick_from if quick else self._rests_until

    def sent(self, *, quick: bool = False) -> int:
        """Note that something was sent; return the number that the tab answers with when it has drawn it."""
        if not self.owed:
            self._began, self._all_quick = self._clock(), True
        self._all_quick = self._all_quick and quick
        self._sent += 1
        return self._sent

    def drawn(self, number: int) -> None:
        """Note that the tab has drawn everything up to a number."""
        if number <= self._drawn:
            return
        self._drawn = min(number, self._sent)
        if number >= self._leader:
            self._led_until = float("-inf")
        if not self.owed:
            now = self._clock()
            took = now - self._began
            self._quick_from = max(self._began + QUICK_PERIOD, now + min(MOST_REST, QUICK_REST * took))
            if not self._all_quick:
                self._rests_until = max(self._began + PERIOD, now + min(MOST_REST, REST * took))
        self._answered.set()

    def hurry(self) -> None:
        """End the tab's rest: its reader waits for an answer."""
        self._rests_until = self._quick_from = float("-inf")
        self._answered.set()

    def lead(self) -> None:
        """Let one chart go first, for ``LEAD`` seconds at most: what it is drawn beside makes its reader wait."""
        self._led_until, self._leader = self._clock() + LEAD, _UNSENT
        self.hurry()

    def leader_sent(self, number: int | None) -> None:
        """Note that the chart which goes first was sent under that number; None: it had nothing to send."""
        self._leader = self._sent if number is None else number
        if number is None:
            self._led_until = float("-inf")
        self._answered.set()

    async def led(self) -> None:
        """Return once the tab has drawn the chart that goes first, or that has taken too long."""
        while (remaining := self._led_until - self._clock()) > 0:
            self._answered.clear()
            await happens(self._answered, max(0.001, remaining))

    def forgive(self) -> None:
        """Take what was sent for drawn: the tab is there, and its answer was lost."""
        self.drawn(self._sent)
