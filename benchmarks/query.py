"""``foreshock bench query``: how long the page waits for what it draws of a run of ten million points, and of a thousand runs.

What is measured are the page's own functions over the Store. *Cold*: the process is warm, the connection is new, so nothing lies in
its caches (the system's cache of the disk is as it is). *Warm*: the same connection again. Each read is of another series. Beside
them stand the same pictures read without rollups, point by point, and one metric of a run of the same size read by trackio.
"""

import contextlib
import json as json_module
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from ..storage import Store, open_store
from ..storage.records import Run
from . import query_trackio
from .ingest_waiting import at
from .machine import Machine, machine
from .marks import Mark, at_most
from .places import Places, bytes_of
from .processes import FailedError, told
from .query_data import SIGNAL, Sizes, build, built

PIXELS = 2_000

SERIES = f"one series at {PIXELS:,} pixels"
HEATMAP = "heatmap: read and laid on its grid"
HEATMAP_DRAWN = "heatmap: the whole picture"
OVERVIEW = "overview: read"
OVERVIEW_TABLE = "overview: the whole table"
SERIES_RAW = "one series, every point"
HEATMAP_RAW = "all layers, every point"
MARKS_MS = {SERIES: 50.0, HEATMAP: 150.0, OVERVIEW: 150.0}

Timed = Callable[[Store, int], Mapping[str, float]]
"""Reads in its so-manieth way and returns the seconds under the names of what was measured."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How long one thing takes to read, milliseconds.

    Attributes:
        what: of the names above, or trackio's.
        where: the engine.
        cold_median_ms, cold_p95_ms: on a new connection.
        warm_median_ms, warm_p95_ms: on one that has read the like.
        times: it was read, each way.
        failure: why there are no figures; empty if there are.
    """

    what: str
    where: str
    cold_median_ms: float | None = None
    cold_p95_ms: float | None = None
    warm_median_ms: float | None = None
    warm_p95_ms: float | None = None
    times: int = 0
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Query:
    """What was measured, on what. ``build_seconds`` and ``bytes`` are by engine; no seconds where the store was there already."""

    machine: Machine
    sizes: Sizes
    layers: int
    points: int
    build_seconds: Mapping[str, float]
    bytes: Mapping[str, int]
    readings: list[Reading]
    marks: list[Mark]


def measure(
    stores: Sequence[str] = ("sqlite:///bench.db",),
    *,
    sizes: Sizes | None = None,
    times: int = 30,
    keep: bool = False,
    peers: bool = True,
    peer_pythons: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Query:
    """Build what is not there and read it.

    Args:
        stores: where, one of each engine.
        sizes: how large; ten million points and a thousand runs by default.
        times: each thing is read, cold and warm.
        keep: leave the stores for the next time, under one name, and use what is there.
        peers: whether to read a run of the same size with trackio, where it is installed.
        peer_pythons: other interpreters in which it is looked for.
        say: is told what is going on.

    Raises:
        ValueError: a store or size that cannot be measured.
    """
    sizes = sizes or Sizes()
    if min(sizes.series, sizes.steps, sizes.runs, times) < 1 or sizes.series < 5:
        raise ValueError(f"{sizes}, times={times}: at least 5 series, and 1 of everything else")
    seconds: dict[str, float] = {}
    taken: dict[str, int] = {}
    readings: list[Reading] = []
    with ExitStack() as stack:
        places = [stack.enter_context(Places(url)) for url in stores]
        engines = {place.engine: place.version for place in places}
        if len(engines) < len(places):
            raise ValueError(f"{len(places)} stores of {len(engines)} engines: name one of each")
        measured = machine(("SQLAlchemy", "psycopg", "pymysql", "numpy", "dash"), engines)
        for place in places:
            url = place.kept() if keep else place.make()
            with closing(open_store(url)) as store:
                run = built(store, sizes)
                if run is None:
                    say(f"{place.engine}: building {sizes.series * sizes.steps:,} points and {sizes.runs:,} runs")
                    began = time.perf_counter()
                    run = build(store, sizes, say)
                    seconds[place.engine] = time.perf_counter() - began
            place.analyze(url)
            taken[place.engine] = bytes_of(url)
            readings += _readings(url, place.engine, run, times, say)
    if peers:
        readings.append(_trackio(sizes, peer_pythons, say))
    marks = [
        at_most(f"{reading.where}, {reading.what}: median ms on a new connection", MARKS_MS[reading.what], reading.cold_median_ms)
        for reading in readings
        if reading.what in MARKS_MS
    ]
    return Query(measured, sizes, sizes.layers, sizes.series * sizes.steps, seconds, taken, readings, marks)


def _readings(url: str, where: str, run: Run, times: int, say: Callable[[str], None]) -> Iterator[Reading]:
    for timed, how_often in ((_series, times), (_heatmap, times), (_overview, times), (_raw_series, times), (_raw_layers, 3)):
        with closing(open_store(url)) as store:
            read = timed(store, run)
            read(store, 0)
            warm = [read(store, number) for number in range(1, how_often + 1)]
        cold = []
        for number in range(1, how_often + 1):
            with closing(open_store(url)) as store:
                cold.append(read(store, number))
        for what in cold[0]:
            new, old = ([one[what] for one in ones] for ones in (cold, warm))
            figures = at(new, 0.5) / 1e3, at(new, 0.95) / 1e3, at(old, 0.5) / 1e3, at(old, 0.95) / 1e3
            say(f"{where}, {what}: median {figures[0]:.1f} ms on a new connection")
            yield Reading(what, where, *figures, times=how_often)


def _series(store: Store, run: Run) -> Timed:
    series = store.series(run.id)

    def read(store: Store, number: int) -> Mapping[str, float]:
        wanted = [series[7 * number % len(series)]]
        began = time.perf_counter()
        store.read(wanted, max_points=PIXELS)
        return {SERIES: time.perf_counter() - began}

    return read


def _raw_series(store: Store, run: Run) -> Timed:
    series = store.series(run.id)

    def read(store: Store, number: int) -> Mapping[str, float]:
        wanted = [series[7 * number % len(series)]]
        began = time.perf_counter()
        store.read(wanted)
        return {SERIES_RAW: time.perf_counter() - began}

    return read


def _raw_layers(store: Store, run: Run) -> Timed:
    series = store.series(run.id, signal=SIGNAL)

    def read(store: Store, number: int) -> Mapping[str, float]:
        began = time.perf_counter()
        store.read(series)
        return {HEATMAP_RAW: time.perf_counter() - began}

    return read


def _heatmap(store: Store, run: Run) -> Timed:
    from ..dashboard.sections import heat

    def read(store: Store, number: int) -> Mapping[str, float]:
        with _measured(heat, "layer_points", "layer_grid") as within:
            began = time.perf_counter()
            heat.Heat(store, run, "heat", SIGNAL, "").paint()
            whole = time.perf_counter() - began
        return {HEATMAP: within(), HEATMAP_DRAWN: whole}

    return read


def _overview(store: Store, run: Run) -> Timed:
    from ..dashboard.sections.overview import Overview

    def read(store: Store, number: int) -> Mapping[str, float]:
        with _measured(
            store, *(name for name in dir(Store) if not name.startswith("_") and callable(getattr(store, name)))
        ) as within:
            began = time.perf_counter()
            Overview(store).paint()
            whole = time.perf_counter() - began
        return {OVERVIEW: within(), OVERVIEW_TABLE: whole}

    return read


@contextmanager
def _measured(owner: Any, *names: str) -> Iterator[Callable[[], float]]:
    """Time every call of some functions of a module or methods of an object; yield what tells the seconds spent in them."""
    spent, depth = 0.0, 0

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal spent, depth
            depth += 1
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                depth -= 1
                if not depth:  # one that calls another counts once
                    spent += time.perf_counter() - began

        return call

    before = {name: (name in vars(owner), getattr(owner, name)) for name in names}
    for name, (_, function) in before.items():
        setattr(owner, name, watched(function))
    try:
        yield lambda: spent
    finally:
        for name, (own, function) in before.items():
            if own:
                setattr(owner, name, function)
            else:
                delattr(owner, name)


def _trackio(sizes: Sizes, pythons: Sequence[str], say: Callable[[str], None]) -> Reading:
    what = f"one metric at {PIXELS:,} points, trackio"
    script = query_trackio.__file__
    for python in (sys.executable, *(os.path.abspath(python) for python in pythons)):
        try:
            version = told([python, "-P", script]).get("trackio")
        except (FailedError, OSError) as error:
            raise ValueError(f"{python!r} is no Python (3.11 or later) that runs trackio: {error}") from None
        if version is None:
            continue
        say(f"trackio {version}: logging {sizes.series * sizes.steps:,} points")
        with tempfile.TemporaryDirectory(prefix="foreshock_bench_") as folder, contextlib.suppress(FailedError):
            answer = told([python, "-P", script, folder, *map(str, (sizes.series, sizes.steps, PIXELS, 5))])
            median, most = (at(answer["seconds"], share) / 1e3 for share in (0.5, 0.95))
            return Reading(f"{what} {version}", "its own file", None, None, median, most, times=5)
        return Reading(what, "its own file", failure="trackio did not keep the run")
    return Reading(what, "its own file", failure="not installed; mend it with: pip install trackio (or --peer-python PATH)")


def main(*, json: bool, **wanted: Any) -> int:
    """Run the benchmark and print the figures; return the exit status."""
    found = measure(**wanted, say=lambda line: print(line, file=sys.stderr, flush=True))
    if json:
        print(json_module.dumps(asdict(found), indent=2))
    else:
        from .query_shown import shown

        shown(found)
    return 0
