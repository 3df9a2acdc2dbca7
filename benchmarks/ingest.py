"""``foreshock bench ingest``: what writing costs, beside other ways of keeping the same numbers, in the same run.

Every contestant is a process of its own that logs the same values, 200 series a step, as fast as it takes them, and stops its clock
when all of them are durable. What durable means for each is said with its figures. All take turns, in an order that alternates
from round to round, so that what slows the machine down falls on each; a ratio is the median of those of the rounds. A contestant
that needs longer than the seconds allowed stops early: its rate is that of the steps it did.
"""

import json as json_module
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import ingest_trackers
from .ingest_sides import DURABLE, SIDES, sides_of
from .ingest_trackers import TRACKERS
from .machine import Machine, machine
from .places import Places, bytes_of

OURS = "foreshock"
PARTS = ("rate", "bytes")
PEERS = (*(name for name in SIDES if name != OURS), *TRACKERS)
SPARSE = 50
"""Steps from one sample to the next in the sparse run whose bytes are measured."""

_PATIENCE = 900.0  # seconds after which a contestant that does not end is given up
_SCRIPT = Path(ingest_trackers.__file__)


@dataclass(frozen=True, slots=True)
class Mark:
    """What is to be reached, and whether it was; never an exit status."""

    what: str
    mark: float
    measured: float | None
    met: bool | None


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast one contestant makes points durable.

    Attributes:
        contestant: who.
        where: the engine it writes to; of a tracker, which brings its own: "its own files".
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


@dataclass(frozen=True, slots=True)
class Ingest:
    """What was measured, on what."""

    machine: Machine
    series: int
    steps: int
    rounds: int
    rates: list[Rate]
    sizes: list[Size]
    marks: list[Mark]


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
                    told = _told([*self._command, url, *size, str(every)])
                    taken = bytes_of(url)
                finally:
                    self._places.drop(url)
            else:
                with tempfile.TemporaryDirectory(prefix="foreshock_bench_") as folder:
                    told = _told([*self._command, folder, *size])
                    taken = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        except _FailedError as error:
            self.failure = str(error)
            return 0, 0
        points = int(told["steps"]) * series
        if told["found"] is not None and told["found"] != points:
            self.failure = f"of {points:,} points {told['found']:,} are there"
            return 0, 0
        if every == 1:
            self.rates.append(points / told["seconds"])
            self.steps, self.bytes_per_point = int(told["steps"]), taken / points
        return points, taken


class _FailedError(Exception):
    """A contestant's process did not do its work."""


def measure(
    stores: Sequence[str] = ("sqlite:///bench.db",),
    *,
    series: int = 200,
    steps: int = 5_000,
    rounds: int = 3,
    seconds: float = 20.0,
    peers: Sequence[str] = PEERS,
    peer_pythons: Sequence[str] = (),
    parts: Sequence[str] = PARTS,
    say: Callable[[str], None] = lambda line: None,
) -> Ingest:
    """Measure what is asked for.

    Args:
        stores: where foreshock and what stands below it write; each gets databases of its own, dropped at the end.
        series, steps: the work, values a step and steps.
        rounds: turns that each contestant takes.
        seconds: after which a contestant begins no more steps.
        peers: of ``PEERS``; who is not installed is told with what installs it.
        peer_pythons: other interpreters in which trackers are looked for that this one does not have.
        parts: of ``PARTS``.
        say: is told what is going on.

    Raises:
        ValueError: a store, peer, part or size that cannot be measured.
    """
    for given, known in ((peers, PEERS), (parts, PARTS)):
        if unknown := [name for name in given if name not in known]:
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(known)}")
    if min(series, steps, rounds) < 1 or seconds <= 0:
        raise ValueError(f"series={series}, steps={steps}, rounds={rounds}, seconds={seconds}: all must be above 0")
    found = machine(("SQLAlchemy", "psycopg", "pymysql", "numpy"))
    rates: list[Rate] = []
    sizes: list[Size] = []
    with ExitStack() as stack:
        places = [stack.enter_context(Places(url)) for url in stores]
        for place in places:
            found = machine(found.software, {**found.software, place.engine: place.version})
        if "rate" in parts:
            rates = _rates(places, series, steps, rounds, seconds, peers, peer_pythons, say)
        if "bytes" in parts:
            sizes = [size for place in places for size in _sizes(place, series, steps, say)]
    return Ingest(found, series, steps, rounds, rates, sizes, _marks(rates, sizes))


def _rates(
    places: Sequence[Places],
    series: int,
    steps: int,
    rounds: int,
    seconds: float,
    peers: Sequence[str],
    peer_pythons: Sequence[str],
    say: Callable[[str], None],
) -> list[Rate]:
    all_of_them = [side for place in places for side in _sides(place, (OURS, *peers))] + list(_trackers(peers, peer_pythons))
    for round in range(rounds):
        # Back and forth: what slows the machine down for a while falls on all alike.
        for one in all_of_them if round % 2 == 0 else reversed(all_of_them):
            one.turn(series, steps, seconds)
            told = one.failure or f"{one.rates[-1]:,.0f} points a second, {one.steps:,} steps"
            say(f"round {round + 1} of {rounds}: {one.name}, {one.where}: {told}")
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
    for python in (sys.executable, *pythons):
        try:
            versions = _told([python, "-P", str(_SCRIPT)])
        except (_FailedError, OSError) as error:
            raise ValueError(f"{python!r} is no Python (3.11 or later) that runs trackers: {error}") from None
        for name, version in versions.items():
            having.setdefault(name, (python, version))
    for name, tracker in TRACKERS.items():
        if name not in wanted:
            continue
        python, version = having.get(name, ("", ""))
        one = _Contestant(name, "its own files", version, tracker.durable, [python, "-P", str(_SCRIPT), name], None)
        if not python:
            one.failure = f"not installed; mend it with: {tracker.install} (or name an interpreter that has it: --peer-python)"
        yield one


def _rate(one: _Contestant, ours: Sequence[_Contestant]) -> Rate:
    told = Rate(one.name, one.where, one.version, one.durable, failure=one.failure)
    if one.failure or not one.rates:
        return told
    ratios = {
        mine.where: statistics.median(a / b for a, b in zip(mine.rates, one.rates, strict=True))
        for mine in ours
        if one.where in (mine.where, "its own files")
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


def _sizes(place: Places, series: int, steps: int, say: Callable[[str], None]) -> Iterable[Size]:
    for every in (1, SPARSE):
        (one,) = _sides(place, [OURS])
        points, taken = one.turn(series, steps, float("inf"), every)
        if one.failure:
            raise ValueError(f"{place.address}: {one.failure}")
        say(f"{place.engine}, a sample every {every} steps: {taken / points:.1f} bytes a point")
        yield Size(place.engine, every, points, taken, taken / points)


def _marks(rates: Sequence[Rate], sizes: Sequence[Size]) -> list[Mark]:
    marks = []
    for rate in rates:
        if rate.contestant == OURS and rate.points_per_second is not None:
            for mark in (150_000, 250_000):
                what = f"{rate.where}: points per second, at least"
                marks.append(Mark(what, mark, rate.points_per_second, rate.points_per_second >= mark))
        elif rate.contestant in TRACKERS:
            for where, ratio in rate.ratio.items():
                marks.append(Mark(f"{where}: points per second over those of {rate.contestant}, above", 1.0, ratio, ratio > 1))
    for size in sizes:
        if size.where == "sqlite":
            what = f"sqlite: bytes a point, a sample every {size.every} steps, at most"
            marks.append(Mark(what, 40.0, size.bytes_per_point, size.bytes_per_point <= 40))
    return marks


def _told(command: Sequence[str]) -> dict[str, Any]:
    """Run a process and return the JSON that it prints last.

    Raises:
        _FailedError: it failed, did not end or printed none.
    """
    environment = os.environ | {"PYTHONSAFEPATH": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise _FailedError(f"no end after {_PATIENCE:.0f} s") from None
    # Trackers may say goodbye after it.
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        last = (done.stderr.strip() or "nothing was said").splitlines()[-1]
        raise _FailedError(f"exit status {done.returncode}: {last}")
    answer: dict[str, Any] = json_module.loads(lines[-1])
    return answer


def main(*, json: bool, **wanted: Any) -> int:
    """Run the benchmark and print the figures; return the exit status."""
    found = measure(**wanted, say=lambda line: print(line, file=sys.stderr, flush=True))
    if json:
        print(json_module.dumps(asdict(found), indent=2))
    else:
        from .ingest_shown import shown

        shown(found)
    return 0
