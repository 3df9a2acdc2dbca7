"""Runs, their series, samples, newest values and events."""

import time
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import Field

from ...analyzer.risk import SIGNAL as RISK
from ...storage.base import Store
from ...storage.records import Run, SeriesKey
from ..reading import OPEN_STATES
from ..vitals import Life, vitals
from .errors import ApiError, documented
from .paging import page
from .shapes import (
    EventPage,
    EventShape,
    NewestValue,
    NewestValues,
    Number,
    Points,
    RunPage,
    RunShape,
    Samples,
    SeriesPage,
    SeriesShape,
)

MOST_RUNS = 10_000
"""Runs that a list knows of: the newest."""
MOST_SERIES = 100
"""Series that samples are read of at once."""
MOST_POINTS, MOST_POINTS_TOGETHER = 10_000, 100_000
"""Points of one series, and of all together, that decimated samples hold at most, about."""
RAW_STEPS = 20_000
"""Steps that one answer with raw samples spans, of all series together."""
LONGEST = 1000
"""Letters of a text in an address: in a URL one takes up to twelve bytes, and the server takes no URL of more than 64 KiB."""
USUAL = ("loss", "gradient.norm", RISK, "monitor.overhead")

Text = Annotated[str | None, Query(max_length=LONGEST)]
Limit = Annotated[int, Query(ge=1, le=200, description="At most this many.")]
Cursor = Annotated[str | None, Query(max_length=600, description="next_cursor of the page before.")]
Step = Annotated[int | None, Query(ge=-(2**63), le=2**63 - 1)]
Place = Annotated[int | None, Query(ge=-1, le=2**31 - 1)]
RunName = Annotated[str, Path(max_length=LONGEST, description="A run's id, or its first 8 letters or more, or its name.")]


def runs_router(source: Callable[[], Store]) -> APIRouter:
    """Return the endpoints that read runs. They run on worker threads: each asks the store."""
    router = APIRouter(tags=["Runs"])

    @router.get("/runs", responses=documented(), summary="List runs, newest first")
    def list_runs(
        project: Annotated[Text, Query(description="Of this project; empty: of none.")] = None,
        name: Annotated[Text, Query(description="Of exactly this name.")] = None,
        contains: Annotated[Text, Query(description="With this in the name, in whatever case.")] = None,
        state: Annotated[list[Life] | None, Query(max_length=10, description="In one of these states.")] = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> RunPage:
        store, now = source(), time.time()
        found = [
            run
            for run in store.runs(project=project, limit=MOST_RUNS)
            if (name is None or run.name == name)
            and (contains is None or contains.lower() in run.name.lower())
            and (not state or vitals(run, now).life in state)
        ]
        chosen, onward = page(found, lambda run: (run.created_at, run.id), cursor, limit, descending=True)
        counts = store.alert_counts(OPEN_STATES)
        return RunPage(runs=[RunShape.of(run, counts.get(run.id, {}), now) for run in chosen], next_cursor=onward)

    @router.get("/runs/{run}", responses=documented(404), summary="One run")
    def get_run(run: RunName) -> RunShape:
        store = source()
        found = store.run(run)
        return RunShape.of(found, store.alert_counts(OPEN_STATES).get(found.id, {}), time.time())

    @router.get("/runs/{run}/series", responses=documented(404), summary="The series that a run has")
    def list_series(
        run: RunName,
        signal: Text = None,
        module: Text = None,
        limit: Annotated[int, Query(ge=1, le=5000)] = 1000,
        cursor: Cursor = None,
    ) -> SeriesPage:
        store = source()
        found = store.series(store.run(run).id, signal=signal, module=module)
        place = {series.id: float(number) for number, series in enumerate(found)}
        chosen, onward = page(found, lambda series: (place[series.id], str(series.id)), cursor, limit, descending=False)
        return SeriesPage(series=[SeriesShape.of(series) for series in chosen], next_cursor=onward)

    @router.get("/runs/{run}/samples", responses=documented(404), summary="Samples of a signal")
    def read_samples(
        run: RunName,
        signal: Annotated[str, Query(max_length=LONGEST, description="A signal's name, such as loss.")],
        module: Annotated[Text, Query(description="Of this module; empty: of the whole model; left out: of all.")] = None,
        head: Annotated[Place, Query(description="Of this attention head; -1: of none.")] = None,
        rank: Annotated[Place, Query(description="Of this rank; -1: of none.")] = None,
        start: Annotated[Step, Query(description="From this step on.")] = None,
        stop: Annotated[Step, Query(description="Before this step.")] = None,
        segment: Annotated[int | None, Query(ge=0, le=2**31 - 1, description="Of this segment alone.")] = None,
        max_points: Annotated[int, Query(ge=3, le=MOST_POINTS, description="About so many points of each series.")] = 1000,
        raw: Annotated[bool, Query(description="Every point, some steps at a time: go on with start=next_start.")] = False,
    ) -> Samples:
        store = source()
        found_run = store.run(run)
        found = [
            series
            for series in store.series(found_run.id, signal=signal, module=module)
            if head in (None, series.key.head) and rank in (None, series.key.rank)
        ]
        if len(found) > MOST_SERIES:
            message = f"{len(found)} series match, and at most {MOST_SERIES} are read at once. Name a module, head or rank."
            raise ApiError(422, "invalid_request", message, where="query.module")
        if not raw:
            share = max(3, min(max_points, MOST_POINTS_TOGETHER // max(1, len(found))))
            read = store.read(found, start=start, stop=stop, segment=segment, max_points=share)
            return Samples(samples=[Points.of(series, data) for series, data in zip(found, read, strict=True)], next_start=None)
        first, end, onward = _window(found_run, start, stop, len(found))
        read = store.read(found, start=first, stop=end, segment=segment)
        return Samples(samples=[Points.of(series, data) for series, data in zip(found, read, strict=True)], next_start=onward)

    @router.get("/runs/{run}/newest", responses=documented(404), summary="The newest values of a run")
    def newest_values(
        run: RunName,
        signal: Annotated[
            list[Annotated[str, Field(max_length=200)]] | None,
            Query(max_length=20, description="These signals; by default the usual ones."),
        ] = None,
        module: Annotated[str, Query(max_length=LONGEST, description="Of this module; empty: of the whole model.")] = "",
        head: Annotated[int, Query(ge=-1, le=2**31 - 1)] = -1,
        rank: Annotated[int, Query(ge=-1, le=2**31 - 1)] = -1,
    ) -> NewestValues:
        store = source()
        found = store.run(run)
        keys = [SeriesKey(name, module, head, rank) for name in dict.fromkeys(signal or USUAL)]
        newest = store.newest([found.id], keys).get(found.id, {})
        values = [
            NewestValue(signal=key.signal, module=module, head=head, rank=rank, value=Number.of(newest[key]))
            for key in keys
            if key in newest
        ]
        return NewestValues(values=values)

    @router.get("/runs/{run}/events", responses=documented(404), summary="What happened to a run, in order of time")
    def list_events(run: RunName, kind: Text = None, limit: Limit = 100, cursor: Cursor = None) -> EventPage:
        store = source()
        found = store.events(store.run(run).id, kind=kind)
        chosen, onward = page(found, lambda event: (event.time, event.id), cursor, limit, descending=False)
        return EventPage(events=[EventShape.of(event) for event in chosen], next_cursor=onward)

    return router


def _window(run: Run, start: int | None, stop: int | None, count: int) -> tuple[int, int, int | None]:
    """Return (first step, step before which to stop, where to go on) of a page of raw samples."""
    first = 0 if start is None else start
    last = run.last_step + 1 if stop is None else min(stop, run.last_step + 1)
    end = min(last, first + max(1, RAW_STEPS // max(1, count)))
    return first, end, end if end < last else None
