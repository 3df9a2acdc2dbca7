"""What the engine remembers of a series, and the plan by which a step's values reach the watchers.

Steps share their tuple of keys, so the work of finding out which value feeds which rule is done once a tuple; a step then costs one
indexed read a value that is watched, and nothing for the others.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import isfinite, nan
from typing import Any

from ..storage.records import Evidence, SeriesKey
from .episodes import Watcher
from .rules import Rule

EVIDENCE_POINTS = 100


class Track:
    """The last points of one series, as evidence. O(1) memory."""

    __slots__ = ("key", "last_step", "points")

    def __init__(self, key: SeriesKey) -> None:
        self.key = key
        self.last_step: int | None = None
        self.points: deque[tuple[int, float]] = deque(maxlen=EVIDENCE_POINTS)

    def rewind(self, step: int) -> None:
        """Forget points at or after ``step``."""
        while self.points and self.points[-1][0] >= step:
            self.points.pop()
        self.last_step = self.points[-1][0] if self.points else None

    def evidence(self, threshold: float | None = None, baseline: float | None = None) -> Evidence:
        """Return the points held."""
        steps = tuple(step for step, _ in self.points)
        return Evidence(self.key, steps, tuple(float(value) for _, value in self.points), threshold, baseline)

    def state_dict(self) -> dict[str, Any]:
        """Return key and points as plain data."""
        key = [self.key.signal, self.key.module, self.key.head, self.key.rank]
        return {"key": key, "points": [[step, float(value)] for step, value in self.points], "last_step": self.last_step}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Track":
        """Return the track ``state_dict`` described."""
        track = cls(SeriesKey(*state["key"]))
        track.points.extend((step, value) for step, value in state["points"])
        track.last_step = state["last_step"]
        return track


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _third(values: Sequence[float]) -> float:
    return sorted(values)[(len(values) - 1) // 3]


def _median(values: Sequence[float]) -> float:
    """Return the middle one, of an even number the lower: a value that some module has."""
    return sorted(values)[(len(values) - 1) // 2]


_REDUCE: Mapping[str, Callable[[Sequence[float]], float]] = {
    "max": max,
    "min": min,
    "mean": _mean,
    "median": _median,
    "third": _third,
}


@dataclass(slots=True)
class Feed:
    """How one watcher is fed from a step: for each input the places of its values and their tracks, heads side by side."""

    watcher: Watcher
    places: tuple[tuple[int, ...], ...]
    tracks: tuple[tuple[Track, ...], ...]
    known: tuple[Sequence[Track], ...]
    """Where an input is not in this tuple of keys: tracks that may hold its latest value."""

    def inputs(self, values: Sequence[float]) -> list[float] | None:
        """Return one number an input, nan where there is none; None when the driving input has nothing finite."""
        if self.watcher.detector.BY_RANK:
            return self._by_rank(values)
        found: list[float] = []
        for places, known in zip(self.places, self.known, strict=True):
            if len(places) == 1 and isfinite(value := values[places[0]]):  # nearly always: a third of a sampled step's time less
                found.append(value)
                continue
            finite = [value for place in places if isfinite(value := values[place])]
            if not finite and not places:
                finite = [track.points[-1][1] for track in known if track.points and isfinite(track.points[-1][1])]
            if not finite and not found:
                return None
            found.append(_REDUCE[self.watcher.rule.reduce](finite) if finite else nan)
        return found

    def _by_rank(self, values: Sequence[float]) -> list[float] | None:
        """Return rank and value of every rank in turn."""
        both = zip((track.key.rank for track in self.tracks[0]), (values[place] for place in self.places[0]), strict=True)
        return [number for rank, value in both if isfinite(value) for number in (float(rank), value)] or None

    def shown(self) -> list[Track]:
        """Return the tracks to show as evidence, one an input: the head that decided it."""
        chosen: list[Track] = []
        for tracks, known in zip(self.tracks, self.known, strict=True):
            held = [track for track in tracks or known if track.points]
            if not held:
                continue
            finite = [track for track in held if isfinite(track.points[-1][1])]
            if self.watcher.detector.BY_RANK and (finding := self.watcher.finding) is not None:
                chosen.append(next((track for track in held if track.points[-1][1] == finding.value), held[0]))
            elif len(finite) < len(held) and self.watcher.detector.SEES_NON_FINITE:
                chosen.append(next(track for track in held if not isfinite(track.points[-1][1])))
            elif self.watcher.rule.reduce in ("min", "third"):
                chosen.append(min(finite or held, key=lambda track: track.points[-1][1]))
            else:
                chosen.append(max(finite or held, key=lambda track: track.points[-1][1]))
        return chosen


@dataclass(slots=True)
class Plan:
    """What to do with the values of one tuple of keys."""

    tracks: list[tuple[int, Track]] = field(default_factory=list)
    single: list[tuple[Callable[..., Any], int, Feed]] = field(default_factory=list)
    joined: list[Feed] = field(default_factory=list)
    guards: list[Feed] = field(default_factory=list)
    loss: int = -1
    learning_rate: int = -1
    effective: int = -1


def matches(rule: Rule, module: str) -> bool:
    """Say whether a rule watches this module."""
    return rule.modules == ("*",) or any(fnmatchcase(module, pattern) for pattern in rule.modules)


def positions(keys: Iterable[SeriesKey]) -> dict[tuple[str, str], list[int]]:
    """Group the places of keys by (signal, module): heads and ranks side by side."""
    places: dict[tuple[str, str], list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault((key.signal, key.module), []).append(place)
    return places
