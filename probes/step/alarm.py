"""Hears that a loss or gradient norm is not finite, or that the loss has leapt, as soon as the host knows; nothing is waited for.

A value on a device is known when its copy has arrived, a step or two later. Whoever has heard of one is deaf to more of them until
a hundred steps in a row were fine: one sample tells where it comes from, and a loss scale that is being found is no news. A leap is
looked at twice: a single bad batch, which heals, is told from what stays.
"""

import math
from collections import deque
from collections.abc import Iterable

from .buffer import HostCopy, PendingStep

_QUIET_STEPS = 100
_MOST_WAITING = 8
_LOSS, _NORM = "loss", "gradient.norm"
_LISTENED_TO = (_LOSS, _NORM)  # by signal: to hash a key costs a microsecond, and a step may have hundreds


class Leap:
    """Tells a loss that leaps out of its own past: far above its mean in units of its mean deviation, and by half of it. O(1).

    The past is an exponential average over some 50 steps, which moves by a usual deviation at most for a value that stands out.
    """

    MEMORY = 50
    LEAST = 30
    DEVIATIONS = 10.0
    SHARE = 0.5

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._deviation = 0.0

    def __call__(self, loss: float) -> bool:
        """Take the loss of the next step, which is finite; return whether it leapt."""
        count = self._count = self._count + 1
        rise = loss - self._mean
        leapt = rise > self.DEVIATIONS * self._deviation and rise > self.SHARE * abs(self._mean) and count > self.LEAST
        away = min(abs(rise), 3.0 * self._deviation) if leapt else abs(rise)
        weight = 1.0 / min(count, self.MEMORY)
        self._mean += weight * (away if rise > 0.0 else -away)
        self._deviation += weight * (away - self._deviation) if count > 1 else 0.0
        return leapt


class Alarm:
    """Listens to every step and says after which one the next should be sampled: that is news.

    Of a sampled step it takes note, but a value there that is not finite brings no news: what it comes from was seen.
    """

    def __init__(self) -> None:
        self._last = -math.inf
        self._leap = Leap()
        self._leapt_at = -2
        self._waiting: deque[tuple[int, bool, HostCopy, list[tuple[int, str]]]] = deque(maxlen=_MOST_WAITING)

    def hears(self, step: int, loss: float | None, norm: float | None, *, sampled: bool = False) -> bool:
        """Take loss and gradient norm of a step, where there are any; return whether they are news."""
        # Neither is NaN or infinity minus itself; ``math.isfinite`` is three times as slow.
        broken = (norm is not None and norm - norm != 0) or (loss is not None and loss - loss != 0)
        leapt = loss is not None and not broken and self._leap(loss)
        news = step == self._leapt_at + 1
        if broken or leapt:
            if step - self._last > _QUIET_STEPS:
                news |= leapt or not sampled
                self._leapt_at = step if leapt else -2
            self._last = step
        return news

    def listen(self, pending: PendingStep, *, sampled: bool) -> bool:
        """Take a step's values, or wait for them; return whether there is news."""
        keys = zip(pending.host_keys, pending.host_values, strict=True)
        known = [(key.signal, value) for key, value in keys if key.signal in _LISTENED_TO]
        if pending.away is not None:
            places = [(place, key.signal) for place, key in enumerate(pending.away_keys) if key.signal in _LISTENED_TO]
            self._waiting.append((pending.step, sampled, pending.away, places))
        return self._news(pending.step, known, sampled)

    def late_news(self) -> bool:
        """Return whether a copy that has arrived since brings news."""
        news = False
        while self._waiting and self._waiting[0][2].ready():
            step, sampled, copy, places = self._waiting.popleft()
            values = copy.numpy()
            news |= self._news(step, [(signal, float(values[place])) for place, signal in places], sampled)
        return news

    def _news(self, step: int, values: Iterable[tuple[str, float]], sampled: bool) -> bool:
        heard = dict(values)
        return self.hears(step, heard.get(_LOSS), heard.get(_NORM), sampled=sampled)
