"""Who makes points durable the fastest, and what a point takes on disk: processes of their own that take turns."""

import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import ingest_trackers
from .ingest_sides import DURABLE, SIDES, sides_of
from .ingest_trackers import TRACKERS
from .places import Places, bytes_of
from .processes import FailedError, told

OURS = "foreshock"
PEERS = (*(name for name in SIDES if name != OURS), *TRACKERS)
SPARSE = 50
"""Steps from one sample to the next in the sparse run whose bytes are measured."""

OWN_FILES = "its own files"

_SCRIPT = Path(ingest_trackers.__file__)


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast one contestant makes points durable.

    Attributes:
        contestant: who.
        where: the engine it writes to; of a tracker, which brings its own: OWN_FILES.
        version: of its package; of the server for those that write to one.
        durable: what its clock waits for.
        points_per_second: median of the rounds.
        spread: lowest and highest.
        ratio: foreshock's points per second over this one's, on each store, medians of the rounds' ratios.
        steps: it did in a round, of those asked for.
        bytes_per_point: on disk at the end; SQLite after a checkpoint.
        failure: why there are no figures; empty if there are.
    """

    contestant: str
    where: str
    version: str
    durable: str
    points_per_second: float | None = None
    spread: tuple[float, float] | None = None
    ratio: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    bytes_per_point: float | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Size:
    """What a point of foreshock's takes on disk, everything else it keeps included.

    Attributes:
        where: the engine.
        every: steps from one sample of each series to the next.
        points, bytes, bytes_per_point: all tables and indexes, rollups too.
    """

    where: str
    every: int
    points: int
    bytes: int
    bytes_per_point: float


class _Contestant:
    """One that takes its turns: what it is, how it is started, and what it took in each round."""

    def __init__(self, name: str, where: str, version: str, durable: str, command: Sequence[str], places: Places | None) -> None:
        self.name, self.where, self.version, self.durable = name, where, version, durable
        self._command, self._places = command, places
        self.rates: list[float] = []
        self.steps = 0
        self.bytes_per_point: float | None = None
        self.failure = ""

    def turn(self, series: int, steps: int, seconds: float, every: int = 1) -> tuple[int, int]:
        """Run once; return the points made durable and the bytes they take. What goes wrong is noted, and it runs no more."""
        if self.failure:
            return 0, 0
        size = [str(series), str(steps), str(seconds)]
        try:
            if self._places is not None:
                url = self._places.make()
                try:
                    answer = told([*self._command, url, *size, str(every)])
                    taken = bytes_of(url)
                finally:
                    self._places.drop(url)
            else:
                with tempfile.TemporaryDirectory(prefix="foreshock_bench_") as folder:
                    answer = told([*self._command, folder, *size])
                    taken = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        except FailedError as error:
            self.failure = str(error)
            return 0, 0
        points = int(answer["steps"]) * series
        if answer["found"] is not None and answer["found"] != points:
            self.failure = f"of {points:,} points {answer['found']:,} are there"
            return 0, 0
        if every == 1:
            self.rates.append(points / answer["seconds"])
            self.steps, self.bytes_per_point = int(answer["steps"]), taken / points
        return points, taken


def rates(
    places: Sequence[Places],
    series: int,
    steps: int,
    rounds: int,
    seconds: float,
    peers: Sequence[str],
    peer_pythons: Sequence[str],
    say: Callable[[str], None],
) -> list[Rate]:
    """Let everyone take their turns.

    Raises:
        ValueError: an interpreter that runs no trackers.
    """
    all_of_them = [side for place in places for side in _sides(place, (OURS, *peers))] + list(_trackers(peers, peer_pythons))
    for round in range(rounds):
        # Back and forth: what slows the machine down for a while falls on all alike.
        for one in all_of_them if round % 2 == 0 else reversed(all_of_them):
            one.turn(series, steps, seconds)
            outcome = one.failure or f"{one.rates[-1]:,.0f} points a second, {one.steps:,} steps"
            say(f"round {round + 1} of {rounds}: {one.name}, {one.where}: {outcome}")
    ours = [one for one in all_of_them if one.name == OURS and not one.failure]
    return [_rate(one, ours) for one in all_of_them]


def _sides(place: Places, wanted: Iterable[str]) -> list[_Contestant]:
    module = f"{__package__}.ingest_sides"
    return [
        _Contestant(
            name,
            place.engine,
            place.version,
            DURABLE[place.engine],
            [sys.executable, "-P", "-m", module, name],
            place,
        )
        for name in sides_of(place.engine)
        if name in wanted
    ]


def _trackers(wanted: Sequence[str], pythons: Sequence[str]) -> Iterable[_Contestant]:
    """Yield the trackers asked for, each with the first interpreter that has it."""
    having: dict[str, tuple[str, str]] = {}
    for python in (sys.executable, *(os.path.abspath(python) for python in pythons)):
        try:
            versions = told([python, "-P", str(_SCRIPT)])
        except (FailedError, OSError) as error:
            raise ValueError(f"{python!r} is no Python (3.11 or later) that runs trackers: {error}") from None
        for name, version in versions.items():
            having.setdefault(name, (python, version))
    for name, tracker in TRACKERS.items():
        if name not in wanted:
            continue
        python, version = having.get(name, ("", ""))
        one = _Contestant(name, OWN_FILES, version, tracker.durable, [python, "-P", str(_SCRIPT), name], None)
        if not python:
            one.failure = f"not installed; mend it with: {tracker.install} (or name an interpreter that has it: --peer-python)"
        yield one


def _rate(one: _Contestant, ours: Sequence[_Contestant]) -> Rate:
    if one.failure:
        return Rate(one.name, one.where, one.version, one.durable, failure=one.failure)
    ratios = {
        mine.where: statistics.median(a / b for a, b in zip(mine.rates, one.rates, strict=True))
        for mine in ours
        if one.where in (mine.where, OWN_FILES)
    }
    return Rate(
        one.name,
        one.where,
        one.version,
        one.durable,
        statistics.median(one.rates),
        (min(one.rates), max(one.rates)),
        ratios,
        one.steps,
        one.bytes_per_point,
    )


def sizes(place: Places, series: int, steps: int, say: Callable[[str], None]) -> Iterable[Size]:
    """Yield what a point takes where every step has a sample of each series, and where one in ``SPARSE`` has.

    Raises:
        ValueError: the store could not be written.
    """
    for every in (1, SPARSE):
        (one,) = _sides(place, [OURS])
        points, taken = one.turn(series, steps, float("inf"), every)
        if one.failure:
            raise ValueError(f"{place.address}: {one.failure}")
        say(f"{place.engine}, a sample every {every} steps: {taken / points:.1f} bytes a point")
        yield Size(place.engine, every, points, taken, taken / points)
