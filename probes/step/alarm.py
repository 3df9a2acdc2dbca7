"""Hears that a loss or gradient norm is not finite, as soon as that is on the host; nothing is waited for.

A value on a device is known when its copy has arrived, a step or two later. Whoever has heard of one is deaf to more of them until
a hundred steps in a row were fine: one sample tells where it comes from, and a loss scale that is being found is no news.
"""

import math
from collections import deque
from collections.abc import Iterable

from .buffer import HostCopy, PendingStep

_QUIET_STEPS = 100
_MOST_WAITING = 8
_LISTENED_TO = ("loss", "gradient.norm")  # by signal: to hash a key costs a microsecond, and a step may have hundreds


class Alarm:
    """Listens to every step; of one that was sampled it takes note, but it brings no news."""

    def __init__(self) -> None:
        self._last = -math.inf
        self._waiting: deque[tuple[int, bool, HostCopy, list[int]]] = deque(maxlen=_MOST_WAITING)

    def sounds(self, step: int) -> bool:
        """Take note that a value of ``step`` is not finite; return whether that is news."""
        news = step - self._last > _QUIET_STEPS
        self._last = step
        return news

    def listen(self, pending: PendingStep, *, sampled: bool) -> bool:
        """Take a step's values, or wait for them; return whether there is news."""
        known = [value for key, value in zip(pending.host_keys, pending.host_values, strict=True) if key.signal in _LISTENED_TO]
        if pending.away is not None:
            places = [place for place, key in enumerate(pending.away_keys) if key.signal in _LISTENED_TO]
            self._waiting.append((pending.step, sampled, pending.away, places))
        return self._news(pending.step, known) and not sampled

    def late_news(self) -> bool:
        """Return whether a copy that has arrived since brings news."""
        news = False
        while self._waiting and self._waiting[0][2].ready():
            step, sampled, copy, places = self._waiting.popleft()
            news |= self._news(step, copy.numpy()[places].tolist()) and not sampled
        return news

    def _news(self, step: int, values: Iterable[float]) -> bool:
        return not all(map(math.isfinite, values)) and self.sounds(step)
