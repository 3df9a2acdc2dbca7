"""Read a store the way the page needs it: one series per line, a grid per heatmap, bounded in points."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..storage.base import Store
from ..storage.holding import current
from ..storage.records import Alert, AlertState, Run, Series, SeriesKey
from ..storage.results import Envelope, SeriesData, StepHistogram
from .grid import MAX_COLUMNS, Floats, Grid, Points, fill, spacing
from .signals import HISTOGRAM, SignalInfo, Trouble

MAX_POINTS = 2000
MOST_STRETCHES, LEAST_STRETCHES, STRETCHES = 400, 100, 30_000
"""Stretches that a heatmap asks for a series: at most, at least, and of all series together. Ten times as many may come."""
MAX_HISTOGRAMS = 300
_BEFORE = 500
"""Steps before a window, at least, in which the value is looked for that its first cells hold."""

COST, RECENT_COST = "monitor.share", "monitor.overhead"
COSTS = (COST, RECENT_COST)
"""What monitoring cost: of the time since training began or was resumed, and of that since the sample before."""
OPEN_STATES = (AlertState.FIRING, AlertState.ACKNOWLEDGED, AlertState.SILENCED)
SHOWN_STATES = (*OPEN_STATES, AlertState.RESOLVED)


def run_wide(store: Store, run_id: str, signal: str) -> list[Series]:
    """Return the one series that a signal has for the whole run (the lowest rank's), as a list of none or one."""
    found = [series for series in store.series(run_id, signal=signal, module="") if series.key.head < 0]
    return [min(found, key=lambda series: series.key.rank)] if found else []


def line(
    store: Store, run_id: str, signal: str, *, start: int | None = None, max_points: int | None = MAX_POINTS
) -> SeriesData | None:
    """Return the run-wide series of a signal from step ``start`` on, or None where it was never measured."""
    series = run_wide(store, run_id, signal)
    return store.read(series, start=start, max_points=max_points)[0] if series else None


def through_window(store: Store, series: Sequence[Series], window: tuple[int, int] | None, max_points: int) -> list[SeriesData]:
    """Return each series' points from the window's first to its last step, decimated, or those of the whole run.

    Where all points are there, each segment also has its neighbours outside of the window, so that its line reaches the edges.
    """
    if window is None:
        return store.read(series, max_points=max_points)
    first, last = window
    inside = store.read(series, start=first, stop=last + 1, max_points=max_points)
    few = [one for one, data in zip(series, inside, strict=True) if not data.decimated]
    nothing = not any(len(data.steps) for data in inside)
    # As far as the window is wide there are no more points than in it. Where it holds none at all they may be anywhere.
    margin = None if nothing else last - first + 1
    limit = _ENDS if nothing else None
    before = store.read(few, start=None if margin is None else first - margin, stop=first, max_points=limit)
    after = store.read(few, start=last + 1, stop=None if margin is None else last + 1 + margin, max_points=limit)
    around = {one.id: pair for one, pair in zip(few, zip(before, after, strict=True), strict=True)}
    return [
        data if data.decimated else _with_neighbours(around[one.id][0], data, around[one.id][1])
        for one, data in zip(series, inside, strict=True)
    ]


_ENDS = 2
"""Points asked for where only a segment's last or first is wanted: both are among however few."""


def _with_neighbours(before: SeriesData, data: SeriesData, after: SeriesData) -> SeriesData:
    points: list[tuple[int, int, float]] = []
    earlier = {segment: (segment, step, value) for segment, step, value in _rows(before)}
    later = {segment: (segment, step, value) for segment, step, value in reversed(_rows(after))}
    there = {int(segment) for segment in data.segments} | (earlier.keys() & later.keys())
    for segment in sorted(there):
        points += [earlier[segment]] if segment in earlier else []
        points += [row for row in _rows(data) if row[0] == segment]
        points += [later[segment]] if segment in later else []
    segments, steps, values = zip(*points, strict=True) if points else ((), (), ())
    return replace(data, segments=segments, steps=steps, values=values)


def _rows(data: SeriesData) -> list[tuple[int, int, float]]:
    columns = (data.segments, data.steps, data.values)
    return [(int(segment), int(step), float(value)) for segment, step, value in zip(*columns, strict=True)]


def newest_of(store: Store, run_ids: Sequence[str], signals: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return run id -> signal -> newest value of its run-wide series (of rank 0 where there is none for the whole run)."""
    keys = [SeriesKey(signal, rank=rank) for rank in (0, -1) for signal in signals]
    found = store.newest(run_ids, keys)
    return {
        run_id: {key.signal: values[key] for key in keys if key in values}  # the later key, that of the whole run, wins
        for run_id, values in found.items()
    }


def cost_of(values: Mapping[str, float | None]) -> float | None:
    """Return the share of a run's time that monitoring cost, from its newest values; of its newest steps where no more is known."""
    whole = values.get(COST)
    return values.get(RECENT_COST) if whole is None else whole


def signals_and_layers(store: Store, run_id: str) -> tuple[set[str], list[str]]:
    """Return the signals that are measured by layer, and the layers, in the model's order."""
    signals, modules = set(), dict[str, None]()
    reference: list[str] = []
    for series in store.series(run_id):
        if series.key.module:
            signals.add(series.key.signal)
            modules[series.key.module] = None
            if series.key.signal == ORDERED_SIGNAL:
                reference.append(series.key.module)
    return signals, in_model_order(modules, reference)


ORDERED_SIGNAL = "gradient.module_norm"
"""A signal of every module that has parameters, written in the model's order. Others come in the order of their computation."""


def in_model_order(modules: Iterable[str], reference: Sequence[str]) -> list[str]:
    """Sort modules as ``reference`` has them: a part of one (``attn.q``) after it, one that holds others before the first of these.

    What ``reference`` says nothing of comes last, in the order given.
    """
    place = {name: number for number, name in enumerate(reference)}
    first_inside: dict[str, int] = {}
    for name, number in place.items():
        for end in range(1, name.count(".") + 1):
            first_inside.setdefault(name.rsplit(".", end)[0], number)

    def key(name: str) -> tuple[int, int]:
        if name in first_inside and name not in place:
            return first_inside[name], -1
        for end in range(name.count(".") + 1):
            holder = name.rsplit(".", end)[0]
            if holder in place:
                return place[holder], end
        return len(place), 0

    return sorted(modules, key=key)


@dataclass(frozen=True, slots=True)
class LayerPoints:
    """Measurements of one signal in every layer: ``rows[i]`` belongs to ``modules[i]``."""

    modules: tuple[str, ...]
    rows: tuple[Points, ...]


def layer_points(
    store: Store,
    run_id: str,
    info: SignalInfo,
    *,
    start: int | None = None,
    stop: int | None = None,
    window: tuple[int, int] | None = None,
) -> LayerPoints:
    """Return every layer's points of a signal; heads and ranks of a layer are laid together.

    Of a long series they are stretches of steps with the most troubling value of each.

    Args:
        start: from this step on, and then every point.
        stop: with ``start``, to before this one.
        window: first and last step to read; what came shortly before it is there too: a cell holds it until the next.
    """
    series = layer_series(store, run_id, info.name)
    if start is None:
        share = min(MOST_STRETCHES, max(LEAST_STRETCHES, STRETCHES // max(1, len(series))))
        first, end = (None, None) if window is None else (window[0], window[1] + 1)
        found = [_worst(envelope, info) for envelope in store.envelopes(series, start=first, stop=end, max_points=share)]
        if window is not None:
            earlier = window[0] - max(_BEFORE, window[1] - window[0])
            held = store.envelopes(series, start=earlier, stop=window[0], max_points=4)
            found = [_together([_worst(before, info), points]) for before, points in zip(held, found, strict=True)]
    else:
        found = [_points(data) for data in store.read(series, start=start, stop=stop)]
    parts: dict[str, list[Points]] = {}
    for one, points in zip(series, found, strict=True):
        parts.setdefault(one.key.module, []).append(points)
    reference = [one.key.module for one in store.series(run_id, signal=ORDERED_SIGNAL)]
    modules = in_model_order(parts, reference)
    return LayerPoints(tuple(modules), tuple(_together(parts[module]) for module in modules))


def layer_series(store: Store, run_id: str, signal: str) -> list[Series]:
    """Return the series of a signal that are of some layer."""
    return [one for one in store.series(run_id, signal=signal) if one.key.module]


def _points(data: SeriesData) -> Points:
    steps = np.asarray(data.steps, np.int64)
    kept = current(np.asarray(data.segments, np.int64), steps)
    return Points(steps[kept], np.asarray(data.values, np.float64)[kept])


def _worst(found: Envelope, info: SignalInfo) -> Points:
    """Return the most troubling value of each stretch, and nan beside it where a value was not finite."""
    kept = current(np.asarray(found.segment, np.int64), np.asarray(found.start_step, np.int64))
    steps = np.asarray(found.start_step, np.int64)[kept]
    low, high = (np.asarray(ends, np.float64)[kept] for ends in (found.minimum, found.maximum))
    values = {Trouble.HIGH: high, Trouble.LOW: low, Trouble.AWAY: np.where(np.abs(low) > np.abs(high), low, high)}[info.trouble]
    finite, odd = ~np.isnan(values), np.asarray(found.nonfinite)[kept] > 0
    return Points(np.concatenate([steps[finite], steps[odd]]), np.append(values[finite], np.full(int(odd.sum()), np.nan)))


def _together(parts: Sequence[Points]) -> Points:
    if len(parts) == 1:
        return parts[0]
    return Points(np.concatenate([part.steps for part in parts]), np.concatenate([part.values for part in parts]))


def layer_grid(
    points: LayerPoints, info: SignalInfo, window: tuple[int, int] | None = None, *, max_columns: int = MAX_COLUMNS
) -> Grid | None:
    """Lay a signal's points on a grid of their own, or of a window's steps; None where there are none."""
    steps = np.concatenate([np.empty(0, np.int64), *(row.steps for row in points.rows)])
    if not len(steps):
        return None
    if window is None:
        start, width = spacing(steps, max_columns)
        return fill(points.rows, start, width, trouble=info.trouble)
    inside = steps[steps >= window[0]]
    begin, width = (
        spacing(inside, max_columns) if len(inside) else (window[0], max(1, -(-(window[1] - window[0] + 1) // max_columns)))
    )
    start = begin - width * -(-(begin - window[0]) // width)
    before = np.array([_newest_before(row, window[0]) for row in points.rows])
    columns = (max(int(inside.max()) if len(inside) else window[0], window[0]) - start) // width + 1
    return fill(points.rows, start, width, trouble=info.trouble, before=before, columns=columns)


def _newest_before(row: Points, step: int) -> float:
    """Return the last finite value before a step; nan where there is none."""
    steps, values = np.asarray(row.steps, np.int64), np.asarray(row.values, np.float64)
    known = np.flatnonzero((steps < step) & np.isfinite(values))
    return float(values[known[np.argmax(steps[known])]]) if len(known) else math.nan


def histogram_steps(
    store: Store, run_id: str, module: str, *, start: int | None = None, stop: int | None = None
) -> list[StepHistogram]:
    """Return a layer's alignment histograms from step ``start`` to before ``stop``, at most 300 of them."""
    return store.histograms(run_id, HISTOGRAM, module, start=start, stop=stop, limit=MAX_HISTOGRAMS)


def histogram_grid(
    histograms: Sequence[StepHistogram], *, start: int | None = None, width: int | None = None, before: Floats | None = None
) -> Grid | None:
    """Lay histograms on a grid of shares, a row a bin; None where there are none. ``start`` and ``width`` extend an older grid."""
    usable = [one for one in histograms if sum(one.histogram.counts)]
    if not usable:
        return None
    bins = len(usable[-1].histogram.counts)
    usable = [one for one in usable if len(one.histogram.counts) == bins]
    newest = {
        one.step: one.histogram.counts for one in usable
    }  # histograms come in order of (segment, step): the newer segment wins
    steps = sorted(newest)
    shares = np.array([newest[step] for step in steps], dtype=np.float64)
    shares /= shares.sum(axis=1, keepdims=True)
    if start is None or width is None:
        start, width = spacing(steps, MAX_HISTOGRAMS)
    columns = [(step - start) // width for step in steps]
    # One histogram a column, so that shares keep adding up to 1: the last one measured in it.
    chosen = {column: index for index, column in enumerate(columns)}
    picked = sorted(chosen.values())
    places = np.array(steps)[picked]
    rows = [Points(places, shares[picked, row]) for row in range(bins)]
    return fill(rows, start, width, trouble=Trouble.HIGH, before=before)


def shown_alerts(store: Store, run: Run) -> list[Alert]:
    """Return a run's alerts that people should see: all but those still pending."""
    return store.alerts(run, states=SHOWN_STATES)


def is_open(alert: Alert) -> bool:
    """Return whether an alert still stands."""
    return alert.state in OPEN_STATES
