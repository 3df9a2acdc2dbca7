"""``foreshock bench page``: what a reader waits for, in a real browser, from the call in training to pixels.

Live: a network is trained in a process of its own under ``foreshock.watch``; the page of that run is open, and each step's way from
``monitor.step`` to the drawn line of the loss is timed. Paint: the page of a run of ten million points is opened, with an empty
cache and again with a full one. Zoom: a part of its loss is dragged over, and the answer timed from letting go; beside it stands
what plotly alone takes to draw that chart anew. Many: live and zoom again while nineteen readers more follow the live run; they do
without a browser (see ``page_readers``), as the nineteen have machines of their own to draw on.
"""

import json as json_module
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..storage import open_store
from ..zoo.page import LivePage
from .ingest_waiting import at
from .machine import Machine, machine
from .marks import Mark, at_most
from .page_browser import Tab, browsing, until
from .page_readers import Recording, reading
from .places import Places
from .query_data import LONG_RUN, Sizes, build, built

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PARTS = ("live", "paint", "zoom", "many")
LIVE_RUN = "foreshock-bench-live"

LIVE = "monitor.step to pixels"
WORDS_COLD = "first paint of the verdict, nothing cached"
WORDS_WARM = "first paint of the verdict, files cached"
LOOK_COLD = "first look at the loss's line, nothing cached"
LOOK_WARM = "first look at the loss's line, files cached"
PAINT_COLD = "first paint of the loss's chart, nothing cached"
PAINT_WARM = "first paint of the loss's chart, files cached"
ZOOM = "zoom: letting go to the chart's new line"
ZOOM_ALL = "zoom: letting go to all charts' new pictures"
REDRAW = "plotly alone draws that chart anew"
MARKS_MS: Mapping[str, tuple[str, float]] = {
    LIVE: ("p95", 1000.0),
    WORDS_COLD: ("median", 1500.0),
    LOOK_COLD: ("median", 1500.0),
    PAINT_COLD: ("median", 1500.0),
    ZOOM: ("median", 200.0),
}


@dataclass(frozen=True, slots=True)
class Timing:
    """One thing, timed so many times, milliseconds; ``tabs`` were open on the run meanwhile."""

    what: str
    tabs: int
    times: int
    median_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True)
class PageTimes:
    """What was measured, on what."""

    machine: Machine
    points: int
    load_before: float | None
    load_after: float | None
    timings: list[Timing] = field(default_factory=list)
    zoom_to_redraw: float | None = None
    """Median answer of a zoom over the median of plotly's own drawing."""
    marks: list[Mark] = field(default_factory=list)


def measure(
    store: str = "sqlite:///bench.db",
    *,
    sizes: Sizes | None = None,
    updates: int = 60,
    zooms: int = 20,
    paints: int = 5,
    tabs: int = 20,
    pause: float = 0.5,
    parts: Sequence[str] = PARTS,
    keep: bool = False,
    browser: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> PageTimes:
    """Build what is not there, serve it and look at it.

    Args:
        store: where.
        sizes: of the long run; ten million points by default.
        updates: steps that are timed, live.
        zooms, paints: how often each is done.
        tabs: open at once in the part ``many``.
        pause: seconds from one step of the training to the next, about.
        parts: of ``PARTS``.
        keep: leave the long run's store, and use what is there.
        browser: path of the browser.
        say: is told what is going on.

    Raises:
        ValueError: something that cannot be measured, with what mends it.
    """
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"{', '.join(sorted(unknown))}: no part of {', '.join(PARTS)}")
    if min(updates, zooms, paints, tabs) < 1 or pause <= 0:
        raise ValueError(f"updates={updates}, zooms={zooms}, paints={paints}, tabs={tabs}, pause={pause}: at least 1, and a pause")
    sizes = sizes or Sizes(runs=1)
    timings: list[Timing] = []
    with ExitStack() as stack:
        chromium = stack.enter_context(browsing(browser))
        place = stack.enter_context(Places(store))
        measured = machine(
            ("SQLAlchemy", "dash", "plotly", "playwright"), {place.engine: place.version, "Chromium": chromium.version}
        )
        url = place.kept() if keep else place.make()
        _long_run(url, sizes, say)
        place.analyze(url)
        served = stack.enter_context(LivePage(url))
        if not served.wait_until_serving():
            raise ValueError(f"the dashboard over {place.address} did not start")
        long = f"{served.url}run/{LONG_RUN}"
        if "paint" in parts:
            timings += _painted(chromium, long, paints, say)
        if "zoom" in parts:
            timings += _zoomed(chromium, long, zooms, say)
        if {"live", "many"} & set(parts):
            with training(url, pause) as called:
                live = f"{served.url}run/{LIVE_RUN}"
                if "live" in parts:
                    timings += _live(chromium, live, 1, updates, called, say)
                if "many" in parts:
                    timings += _live(chromium, live, tabs, updates, called, say, zooms, long)
    ratio = _ratio(timings)
    after = machine().load
    return PageTimes(measured, sizes.series * sizes.steps, measured.load, after, timings, ratio, list(_marks(timings)))


def _long_run(url: str, sizes: Sizes, say: Callable[[str], None]) -> None:
    with closing(open_store(url)) as store:
        if built(store, sizes) is None:
            say(f"building {sizes.series * sizes.steps:,} points")
            build(store, sizes, say)


@contextmanager
def training(url: str, pause: float) -> Iterator[dict[int, float]]:
    """Train beside; yield step -> time of its ``monitor.step``, which goes on to grow. Raises ValueError where torch is missing."""
    command = [sys.executable, "-P", "-m", f"{__package__}.page_writer", url, LIVE_RUN, str(pause)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    called: dict[int, float] = {}

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                told = json_module.loads(line)
                called[int(told["step"])] = float(told["time"])

    threading.Thread(target=listen, daemon=True).start()
    try:
        until(lambda: len(called) > 3 or process.poll() is not None, 120, "the first steps of the training")
        if process.poll() is not None:
            said = (process.stderr.read().strip() or "nothing was said").splitlines()[-1] if process.stderr else ""
            raise ValueError(f"the training ended: {said}; it needs torch: pip install 'foreshock[train]'")
        yield called
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _painted(chromium: "Browser", address: str, times: int, say: Callable[[str], None]) -> Iterator[Timing]:
    cold, warm = [], []
    for _ in range(times + 1):
        with closing(Tab(chromium, address)) as tab:
            cold.append(tab.paint())
            warm.append(tab.paint())
        words = "painted after {:,.0f}, {:,.0f} and {:,.0f} ms, again after {:,.0f}, {:,.0f} and {:,.0f} ms"
        say(words.format(*cold[-1], *warm[-1]))
    # The first reader of all also pays for what the server imports.
    yield from _paints((WORDS_COLD, LOOK_COLD, PAINT_COLD), 1, cold[1:])
    yield from _paints((WORDS_WARM, LOOK_WARM, PAINT_WARM), 1, warm[1:])


def _paints(what: Sequence[str], tabs: int, painted: Sequence[tuple[float, ...]]) -> Iterator[Timing]:
    """Yield the timings of several things that each paint brings."""
    for name, milliseconds in zip(what, zip(*painted, strict=True), strict=True):
        yield _timing(name, tabs, milliseconds)


def _zoomed(chromium: "Browser", address: str, times: int, say: Callable[[str], None]) -> Iterator[Timing]:
    with closing(Tab(chromium, address)) as tab:
        tab.paint()
        charts = tab.settle()
        tab.zoom(0.4, 0.6, charts)
        found = [tab.zoom(*ends, charts) for ends in _windows(times)]
        redrawn = [tab.redraw() for _ in range(times)]
    say(f"zoomed {times} times")
    yield _timing(ZOOM, 1, [first for first, _ in found])
    yield _timing(ZOOM_ALL, 1, [every for _, every in found])
    yield _timing(REDRAW, 1, redrawn)


def _windows(times: int) -> list[tuple[float, float]]:
    """Return parts of the whole run, 0 to 1, from a fortieth of it (30 pixels: less is no drag) to a third, all over it."""
    source = np.random.default_rng(0)
    widths = np.exp(source.uniform(np.log(0.025), np.log(0.33), times))
    starts = 0.02 + source.random(times) * (0.96 - widths)
    return [(float(start), float(start + width)) for start, width in zip(starts, widths, strict=True)]


def _live(
    chromium: "Browser",
    address: str,
    tabs: int,
    updates: int,
    called: dict[int, float],
    say: Callable[[str], None],
    zooms: int = 0,
    long: str = "",
) -> Iterator[Timing]:
    with closing(Tab(chromium, address)) as tab, ExitStack() as stack:
        tab.paint()
        charts = tab.settle()
        if tabs > 1:
            stack.enter_context(reading(address, Recording.of(tab.told()), tabs - 1))
        tab.forget()
        first = max(called) + 1
        say(f"{tabs} tabs follow {updates} steps")
        until(lambda: max(called) >= first + updates, 600, "the steps of the training")
        timed = {step: called[step] for step in range(first, first + updates)}
        until(lambda: len(tab.latencies(timed)) == updates, 120, "the last step in the tab")
        yield _timing(LIVE, tabs, tab.latencies(timed))
        if zooms:
            yield _timing(ZOOM, tabs, [chart for chart, _ in (tab.zoom(*ends, charts) for ends in _windows(zooms))])
            with closing(Tab(chromium, long)) as newcomer:
                newcomer.paint()
                painted = [newcomer.paint() for _ in range(5)]
            yield from _paints((WORDS_WARM, LOOK_WARM, PAINT_WARM), tabs, painted)


def _timing(what: str, tabs: int, milliseconds: Sequence[float]) -> Timing:
    seconds = [one / 1e3 for one in milliseconds]
    return Timing(what, tabs, len(seconds), at(seconds, 0.5) / 1e3, at(seconds, 0.95) / 1e3)


def _ratio(timings: Sequence[Timing]) -> float | None:
    medians = {one.what: one.median_ms for one in timings if one.tabs == 1}
    return medians[ZOOM] / medians[REDRAW] if {ZOOM, REDRAW} <= medians.keys() else None


def _marks(timings: Sequence[Timing]) -> Iterator[Mark]:
    for one in timings:
        if one.what in MARKS_MS:
            which, most = MARKS_MS[one.what]
            value = one.p95_ms if which == "p95" else one.median_ms
            yield at_most(f"{one.what}, {one.tabs} tab{'s' if one.tabs > 1 else ''}: {which} ms", most, value)


def main(*, json: bool, **wanted: Any) -> int:
    """Run the benchmark and print the figures; return the exit status."""
    found = measure(**wanted, say=lambda line: print(line, file=sys.stderr, flush=True))
    if json:
        print(json_module.dumps(asdict(found), indent=2))
    else:
        from .page_shown import shown

        shown(found)
    return 0
