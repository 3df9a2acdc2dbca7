"""What a report is asked to show: which steps, and which signals as heatmaps."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..signals import offered

MOST_SIGNALS = 12


class ReportError(ValueError):
    """The report cannot be made as it was asked for; the message says what was given, what is allowed and what mends it."""


class NothingToReportError(ReportError):
    """Nothing has been recorded of the run yet."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the reader asked for.

    Args:
        start, stop: steps ``start <= step < stop``; None for no bound.
        signals: names or patterns (``attention.*``) of the signals drawn layer by layer; empty: those that tell most.
    """

    start: int | None = None
    stop: int | None = None
    signals: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether all steps are wanted."""
        return self.start is None and self.stop is None

    def overlaps(self, first: int, last: int) -> bool:
        """Return whether any step from ``first`` to ``last`` is wanted."""
        return (self.stop is None or first < self.stop) and (self.start is None or last >= self.start)


def wanted_of(steps: str | None, signals: Sequence[str] = ()) -> Wanted:
    """Return what was asked for in words.

    Args:
        steps: ``A:B``, ``A:`` or ``:B``; None or empty for all of them.
        signals: names or patterns, each of which may hold several with commas between them.

    Raises:
        ReportError: the steps are no such range.
    """
    names = [name.strip() for given in signals for name in given.split(",")]
    start, stop = _range(steps) if steps else (None, None)
    return Wanted(start, stop, tuple(dict.fromkeys(name for name in names if name)))


def _range(steps: str) -> tuple[int | None, int | None]:
    found = re.fullmatch(r"\s*(\d{0,18})\s*:\s*(\d{0,18})\s*", steps.replace("_", ""))
    if found is None:
        raise ReportError(f"{steps!r} is no range of steps. Write A:B (B itself is left out), A: or :B, such as 1000:2000.")
    start, stop = (int(part) if part else None for part in found.groups())
    if start is not None and stop is not None and start >= stop:
        raise ReportError(f"The range of steps {steps!r} is empty: write the smaller number first, such as {stop}:{start + 1}.")
    return start, stop


def chosen_signals(patterns: Sequence[str], measured: set[str]) -> list[str]:
    """Return the measured signals that match, in the order in which they were asked for.

    Raises:
        ReportError: a pattern matches none, or all together match too many.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        matching = [name for name in offered(measured) if fnmatchcase(name, pattern)]
        if not matching:
            known = ", ".join(sorted(measured)) or "none yet"
            raise ReportError(f"No signal of this run that is measured by layer matches {pattern!r}. There are: {known}.")
        found.update(dict.fromkeys(matching))
    if len(found) > MOST_SIGNALS:
        raise ReportError(
            f"{len(found)} signals match, and a report draws at most {MOST_SIGNALS}. Name fewer of: {', '.join(found)}."
        )
    return list(found)
