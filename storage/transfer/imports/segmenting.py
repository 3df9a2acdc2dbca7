"""Which segment a step belongs to, concluded from the steps themselves.

A run that was resumed writes steps again that it had before: from there on it is another segment. At the beginning of a file of
its own (``Part``) any step that a series has had or has passed says so. Within a file only an earlier step that the series has had
does, for values may come late and out of order. The latest step once more is a value written twice: the last counts.
"""

from array import array
from bisect import bisect_right
from enum import Enum, auto

from .source import Label


class Steps:
    """The steps a series has had, as stretches of equal stride: three numbers for a regular series, however long it is."""

    __slots__ = ("_late", "_starts", "_stops", "_strides", "last", "part")

    def __init__(self, step: int, part: int) -> None:
        self.last = step
        self.part = part
        self._starts, self._stops, self._strides = array("q", [step]), array("q", [step]), array("q", [0])
        self._late: set[int] = set()

    def append(self, step: int) -> None:
        """Take a step beyond the last."""
        stride = step - self.last
        self.last = step
        if stride == self._strides[-1]:
            self._stops[-1] = step
        elif not self._strides[-1]:
            self._strides[-1], self._stops[-1] = stride, step
        else:
            self._starts.append(step)
            self._stops.append(step)
            self._strides.append(0)

    def slip_in(self, step: int) -> None:
        """Take a step that came late."""
        self._late.add(step)

    def __contains__(self, step: int) -> bool:
        at = bisect_right(self._starts, step) - 1
        if at < 0 or step > self._stops[at]:
            return step in self._late
        return (step - self._starts[at]) % (self._strides[at] or 1) == 0 or step in self._late


class Verdict(Enum):
    """What a step that does not go forward means."""

    REPEATED = auto()
    LATE = auto()
    RESTART = auto()


class Segmenter:
    """Follows every series of a run. ``steps`` is read and written by whoever has the quick case, a step that goes forward."""

    def __init__(self) -> None:
        self.steps: dict[Label, Steps] = {}
        self.part = 0

    def judge(self, label: Label, step: int) -> Verdict:
        """Say what a step at or before the series' last means, and take it, unless it begins a new segment."""
        steps = self.steps[label]
        if steps.part != self.part:
            return Verdict.RESTART
        if step == steps.last:
            return Verdict.REPEATED
        if step in steps:
            return Verdict.RESTART
        steps.slip_in(step)
        return Verdict.LATE

    def restart(self) -> None:
        """Begin a new segment: nothing has been in it."""
        self.steps = {}
