"""Quiet hours: when messages wait, and until when. By a wall clock, days of changed clocks and windows over midnight included."""

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

FORM = (
    "[DAYS] FROM-TO[, [DAYS] FROM-TO ...] ZONE, such as 22:00-07:00 Europe/Berlin or Mon-Fri 22:00-07:00, Sat,Sun 00:00-24:00 UTC"
)
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES = 24 * 60
_WINDOW = re.compile(
    r"(?:(?P<days>[a-z]{3}(?:[-,][a-z]{3})*)\s+)?(?P<start>\d{1,2}:\d{2})\s*-\s*(?P<end>\d{1,2}:\d{2})(?:\s*,\s*|\s+|$)", re.I
)
_LONGEST_S = 15 * 86400.0  # without a gap: every week has one, which changed clocks may skip


class QuietHoursError(ValueError):
    """Not quiet hours; the message says what was given and what is allowed."""


@dataclass(frozen=True, slots=True)
class Window:
    """A span of every week: it begins on ``days`` at ``start`` and ends at ``end``, the next day where that is not later.

    Args:
        days: on which it begins, 0 is Monday.
        start, end: minutes since midnight; ``end`` may be 1440.
    """

    days: frozenset[int]
    start: int
    end: int

    @property
    def length(self) -> int:
        """Minutes from start to end, on a day on which the clocks are left alone."""
        return self.end - self.start if self.end > self.start else self.end - self.start + _DAY_MINUTES


@dataclass(frozen=True, slots=True)
class QuietHours:
    """When a channel wants to hear of nothing but what is critical. Times are seconds since the epoch, UTC.

    A window holds from the first moment at which the clock on the wall has reached its start until the last at which it has not
    reached its end. Where clocks go back over the end, the hour that comes twice is quiet both times; where they skip a start or
    an end, the moment of the skip counts.
    """

    windows: tuple[Window, ...]
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str) -> "QuietHours":
        """Read the form ``FORM``.

        Raises:
            QuietHoursError: it is another.
        """
        return _parsed(text)

    def end(self, at: float) -> float | None:
        """Return when the quiet that holds at ``at`` is over; None where none does. Windows that touch count as one."""
        until = at
        while until < at + _LONGEST_S:
            later = max((end for start, end in self._spans(until) if start <= until < end), default=None)
            if later is None:
                break
            until = later
        return until if until > at else None

    def held(self, at: float) -> bool:
        """Return whether what is due at ``at`` waited for the quiet to end: ``at`` lies in it, or is the very end."""
        return any(start <= at <= end for start, end in self._spans(at))

    def words(self, at: float) -> str:
        """Return a time as the clock on this wall shows it: ``Mon 07:00``."""
        return f"{datetime.fromtimestamp(at, self.zone):%a %H:%M}"

    def _spans(self, at: float) -> Iterator[tuple[float, float]]:
        """Yield start and end of the windows that begin up to two days before ``at``, or on that day or the next."""
        today = datetime.fromtimestamp(at, self.zone).date()
        for offset in (-2, -1, 0, 1):
            day = today + timedelta(days=offset)
            for window in self.windows:
                if day.weekday() in window.days:
                    start, end = self._span(window, day)
                    if start < end:  # a window that lies wholly in an hour that was skipped is none
                        yield start, end

    def _span(self, window: Window, day: date) -> tuple[float, float]:
        begin = datetime.combine(day, time()) + timedelta(minutes=window.start)
        start, _ = _moment(begin, self.zone, 0)
        last, shown = _moment(begin + timedelta(minutes=window.length, seconds=-1), self.zone, 1)
        return start, last + 1.0 if shown else last


def _moment(wall: datetime, zone: ZoneInfo, fold: int) -> tuple[float, bool]:
    """Return when the clock in ``zone`` shows ``wall``, the first (fold 0) or the last time; or when it skips it, and False."""
    given = wall.replace(tzinfo=zone, fold=fold).timestamp()
    if datetime.fromtimestamp(given, zone).replace(tzinfo=None) == wall:
        return given, True
    # By the offset after the skip it would be before it, by the offset before the skip after it: look between.
    first, last = sorted(int(wall.replace(tzinfo=zone, fold=which).timestamp()) for which in (0, 1))
    after = datetime.fromtimestamp(last, zone).utcoffset()
    seconds = range(first, last + 1)
    place = bisect_left(seconds, True, key=lambda at: datetime.fromtimestamp(at, zone).utcoffset() == after)
    return float(seconds[place]), False


@lru_cache(maxsize=256)
def _parsed(text: str) -> QuietHours:
    windows, at = [], 0
    given = text.strip()
    while found := _WINDOW.match(given, at):
        windows.append(Window(_days(found["days"], text), _minutes(found["start"], text), _minutes(found["end"], text)))
        at = found.end()
    zone = given[at:].strip()
    if not windows:
        raise QuietHoursError(f"{text!r} names no quiet hours; allowed: {FORM}")
    if not zone:
        raise QuietHoursError(f"{text!r} names no time zone; allowed: {FORM}")
    for window in windows:
        if window.start in (window.end, _DAY_MINUTES):
            raise QuietHoursError(f"{text!r}: a window begins before 24:00 and ends at another time; a whole day is 00:00-24:00")
    if len(_covered(windows)) == 7 * _DAY_MINUTES:
        raise QuietHoursError(f"{text!r} leaves no time for messages; to send none, leave notify empty")
    return QuietHours(tuple(windows), _zone(zone, text))


def _covered(windows: list[Window]) -> set[int]:
    """Return the minutes of a week that are quiet."""
    starts = [(day * _DAY_MINUTES + window.start, window.length) for window in windows for day in window.days]
    return {minute % (7 * _DAY_MINUTES) for start, length in starts for minute in range(start, start + length)}


def _zone(name: str, text: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise QuietHoursError(
            f"{text!r}: no time zone {name!r} is known here; names are those of the IANA data base: Europe/Berlin, UTC"
        ) from None


def _minutes(clock: str, text: str) -> int:
    hours, minutes = (int(part) for part in clock.split(":"))
    if hours * 60 + minutes > _DAY_MINUTES or minutes > 59:
        raise QuietHoursError(f"{text!r}: there is no time {clock}; allowed: 00:00 to 24:00")
    return hours * 60 + minutes


def _days(text: str | None, whole: str) -> frozenset[int]:
    """Return the days of ``Mon-Fri`` or ``Sat,Sun``; all where none are named."""
    found: set[int] = set()
    for part in text.lower().split(",") if text else ["mon-sun"]:
        first, *last = part.split("-")
        if unknown := [name for name in (first, *last) if name not in _DAYS]:
            raise QuietHoursError(f"{whole!r}: there is no day {unknown[0]!r}; allowed: Mon, Tue, Wed, Thu, Fri, Sat, Sun")
        begin, end = _DAYS.index(first), _DAYS.index(last[-1] if last else first)
        found.update((begin + offset) % 7 for offset in range((end - begin) % 7 + 1))
    return frozenset(found)
