"""What the training thread waits a step, with 200 series, while the database is healthy, slow or gone. A process for each case.

A loop does two milliseconds of numpy that lets go of the interpreter again and again, as training does, and then makes the call
that is measured: ``put``, where all 200 values lie on the host and become one ``Writer.put``; or ``monitor.step``, where each is a
keyword metric of ``watch()``'s monitor, rules and all. The call is one part of what is lost: the writer thread also takes the
interpreter from the loop in between. So the whole step is measured too, against that of a loop in which nothing is called.
"""

import gc
import importlib.util
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..storage import Store, open_store
from ..storage.opening import spool_place
from ..storage.records import Run, SeriesKey, StepRecord, new_id
from ..storage.writer import Writer
from .ingest_trackers import names_of, rows_of
from .marks import Mark, at_most
from .places import Places
from .processes import FailedError, told

CALLS = ("put", "monitor.step")
STATES = ("healthy", "slow", "refused", "hanging")
"""Of the database: as it is; every write takes a second longer; nobody listens at its address; somebody does and never answers."""

WORK_MS = 2.0
DELAY = 1.0
"""Seconds that a slow database takes longer for each write."""

MOST_MEDIAN_US, MOST_P999_US = 200.0, 5_000.0
"""The marks of each case."""

WARM_UP = 100
"""Steps of each case that do not count."""

_SIZE = 96


@dataclass(frozen=True, slots=True)
class Wait:
    """What one case costs the training thread, microseconds.

    Attributes:
        call, state, where: which case; ``where`` is the engine, empty where none is reached.
        steps: that counted.
        median_us, p99_us, p999_us, max_us: of the call.
        step_median_us, step_p999_us: of the whole step, work and all.
        collections: of garbage during calls, and the longest of them.
        dropped: steps that the writer refused.
        longer_us, longer_p999_us: of the whole step, than those of the loop in which nothing is called.
    """

    call: str
    state: str
    where: str
    steps: int
    median_us: float
    p99_us: float
    p999_us: float
    max_us: float
    step_median_us: float
    step_p999_us: float
    collections: int
    longest_collection_us: float
    dropped: int
    longer_us: float
    longer_p999_us: float


_DRIVERS = {"psycopg": "postgresql+psycopg", "pymysql": "mysql+pymysql"}


@dataclass(frozen=True, slots=True)
class Case:
    """What a process is to do; ``call`` may be ``nothing``."""

    call: str
    state: str
    url: str
    series: int
    steps: int
    repeats: int


def waits(places: Sequence[Places], series: int, steps: int, say: Callable[[str], None] = lambda line: None) -> list[Wait]:
    """Measure every case: healthy and slow in each place, and both ways of being gone.

    Raises:
        ValueError: a case could not be measured.
    """
    # One thread: what is measured is who waits for whom, not how many cores the work can use.
    alone = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}

    def process(*arguments: str) -> dict[str, Any]:
        try:
            return told([sys.executable, "-P", "-m", f"{__package__}.ingest_waiting", *arguments], alone)
        except FailedError as error:
            raise ValueError(f"what the training thread waits ({' '.join(arguments)}): {error}") from None

    size = [str(series), str(steps), str(process()["repeats"])]
    bare = Wait("nothing", "", "", **process("nothing", "", "", *size), longer_us=0.0, longer_p999_us=0.0)
    found = [bare]
    for call in CALLS:
        for state, place in _cases(places):
            url = place.make() if place is not None else _server()
            told_of = process(call, state, url, *size)
            if place is not None:
                place.drop(url)
            longer = told_of["step_median_us"] - bare.step_median_us, told_of["step_p999_us"] - bare.step_p999_us
            where = place.engine if place is not None else ""
            found.append(Wait(call, state, where, **told_of, longer_us=longer[0], longer_p999_us=longer[1]))
            say(f"{call}, {state} {where}: median {found[-1].median_us:.0f} us, p99.9 {found[-1].p999_us:.0f} us")
    return found


def _cases(places: Sequence[Places]) -> Iterator[tuple[str, Places | None]]:
    yield from ((state, place) for place in places for state in STATES[:2])
    if _server():
        yield from ((state, None) for state in STATES[2:])


def _server() -> str:
    """Return the scheme of a server whose driver is here; empty where none is."""
    return next((scheme for module, scheme in _DRIVERS.items() if importlib.util.find_spec(module) is not None), "")


def waiting_marks(found: Sequence[Wait]) -> list[Mark]:
    """Return the marks of every case."""
    marks = []
    for wait in found[1:]:
        case = f"{wait.call}, database {wait.state}{f' ({wait.where})' if wait.where else ''}"
        marks.append(at_most(f"{case}: median microseconds a step", MOST_MEDIAN_US, wait.median_us))
        marks.append(at_most(f"{case}: p99.9", MOST_P999_US, wait.p999_us))
    return marks


def calibrated() -> int:
    """Return how often the piece of work is to be repeated to last ``WORK_MS``."""
    work = _work()
    times = []
    for _ in range(20):
        started = time.perf_counter()
        work(50)
        times.append((time.perf_counter() - started) / 50)
    return max(1, round(WORK_MS / 1e3 / statistics.median(times)))


def run_case(case: Case) -> dict[str, Any]:
    """Do it and return the figures, microseconds."""
    names, rows = names_of(case.series), rows_of(case.series, 100)
    work = _work()
    calls, steps = [], []
    with _collections() as collected, _called(case, names) as (call, dropped):
        for step in range(-WARM_UP, case.steps):
            given = rows[step % 100]
            # As training's own numbers do, they come into being in this step.
            values: Any = dict(zip(names, given, strict=True)) if case.call == "monitor.step" else [*given]
            if step == 0:
                collected.clear()
            began = time.perf_counter()
            work(case.repeats)
            asked = time.perf_counter()
            call(step + WARM_UP, values)
            ended = time.perf_counter()
            if step >= 0:
                calls.append((asked, ended))
                steps.append(ended - began)
        found = dropped()
    pauses = [end - start for start, end in collected if any(start >= asked and end <= ended for asked, ended in calls)]
    waits = [ended - asked for asked, ended in calls]
    return {
        "steps": len(waits),
        "median_us": at(waits, 0.5),
        "p99_us": at(waits, 0.99),
        "p999_us": at(waits, 0.999),
        "max_us": at(waits, 1.0),
        "step_median_us": at(steps, 0.5),
        "step_p999_us": at(steps, 0.999),
        "collections": len(pauses),
        "longest_collection_us": at(pauses, 1.0) if pauses else 0.0,
        "dropped": found,
    }


def at(seconds: Sequence[float], share: float) -> float:
    """Return the value under which a share of them lies, in microseconds."""
    return sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))] * 1e6


Called = tuple[Callable[[int, Any], object], Callable[[], int]]


@contextmanager
def _called(case: Case, names: Sequence[str]) -> Iterator[Called]:
    """Yield what is called in each step with its number and values, and what tells how many steps were refused."""
    with ExitStack() as stack:
        if case.call == "nothing":
            yield lambda step, values: None, lambda: 0
            return
        url = stack.enter_context(_address(case))
        # At a server that is away the store is opened by the writer, as in a run.
        store = None if case.state in ("refused", "hanging") else stack.enter_context(closing(open_store(url)))
        if store is not None and case.state == "slow":
            _slow_down(store)
        make = _put if case.call == "put" else _step
        yield stack.enter_context(make(url, store, names))


@contextmanager
def _put(url: str, store: Store | None, names: Sequence[str]) -> Iterator[Called]:
    keys = tuple(SeriesKey(signal, module) for module, _, signal in (name.partition("/") for name in names))
    run = Run(new_id(), "bench", created_at=time.time())
    # With a spool, as a monitor's writer has.
    spool = spool_place(".", 2**30, url)
    writer = Writer(store if store is not None else lambda: open_store(url), run, 0, analyze=lambda batch: (), spool=spool)
    writer.start()
    try:
        yield lambda step, values: writer.put(StepRecord(step, time.time(), keys, values)), lambda: writer.stats.steps_dropped
    finally:
        writer.close(timeout=1.0)


@contextmanager
def _step(url: str, store: Store | None, names: Sequence[str]) -> Iterator[Called]:
    from torch import nn

    from ..attach import watch
    from ..monitor import Monitor

    # Probes are `foreshock bench step`'s business; here it is about the numbers given.
    monitor = watch(nn.Linear(2, 2), run="bench", store=store if store is not None else url, probes=[], every=1_000_000)
    if not isinstance(monitor, Monitor):
        raise ValueError("FORESHOCK_DISABLE is set: there is no monitor to measure; unset it")
    try:
        yield lambda step, values: monitor.step(1.0, **values), lambda: monitor._writer.stats.steps_dropped
    finally:
        # Without waiting for what is left: what there was to measure was measured.
        monitor._writer.close(timeout=1.0)
        monitor.abandon()


@contextmanager
def _address(case: Case) -> Iterator[str]:
    """Yield the store's URL; for a server that is away that of a port where nobody listens, or nobody answers."""
    if case.state not in ("refused", "hanging"):
        yield case.url
        return
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        if case.state == "hanging":
            port.listen(128)
        yield f"{case.url}://bench@127.0.0.1:{port.getsockname()[1]}/bench"


def _slow_down(store: Store) -> None:
    write = store.write

    def slow(batch: Any) -> None:
        time.sleep(DELAY)
        write(batch)

    store.write = slow  # type: ignore[method-assign]


def _work() -> Callable[[int], None]:
    a = np.random.default_rng(0).standard_normal((_SIZE, _SIZE))
    b, out = a.copy(), np.empty_like(a)

    def work(repeats: int) -> None:
        for _ in range(repeats):
            np.matmul(a, b, out=out)
            np.tanh(out, out=out)

    return work


@contextmanager
def _collections() -> Iterator[list[tuple[float, float]]]:
    """Yield a list of the garbage collector's runs, begin and end, that grows while the block runs."""
    seen: list[tuple[float, float]] = []
    began = 0.0

    def note(phase: str, _: dict[str, int]) -> None:
        nonlocal began
        if phase == "start":
            began = time.perf_counter()
        else:
            seen.append((began, time.perf_counter()))

    gc.callbacks.append(note)
    try:
        yield seen
    finally:
        gc.callbacks.remove(note)


def main(arguments: Sequence[str]) -> int:
    """Measure one case: ``CALL STATE URL SERIES STEPS REPEATS`` (of a server that is away, its scheme), or, without arguments, the
    piece of work; print a line of JSON."""
    if not arguments:
        print(json.dumps({"repeats": calibrated()}))
        return 0
    call, state, url, series, steps, repeats = arguments
    print(json.dumps(run_case(Case(call, state, url, int(series), int(steps), int(repeats)))), flush=True)
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    # A thread that waits for a server that never answers must not hold up the next case.
    os._exit(status)
