"""Read several runs so that they can be laid over each other: one x axis for all, and what their configurations differ in."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..storage.base import Store
from ..storage.errors import UnknownRunError
from ..storage.records import Run, Series, SeriesKey
from ..storage.results import SeriesData
from .paths import Comparison
from .searching import settings
from .signals import SignalInfo

MOST_RUNS = 12
"""Runs that are compared at once: as many as there are pairs of colour and dash that can be told apart."""
MOST_POINTS = 6000
"""Points that a chart of a comparison draws, of all runs together."""
STRETCHES = 200
"""Stretches of the axis over which losses are averaged before one is subtracted from another."""
_MOST_NAMES = 50  # that are looked up
_TIMES = 2000
_PASSING = {"pid"}  # differs between any two runs and says nothing

Floats = npt.NDArray[np.float64]
LETTERS = "ABCDEFGHIJKL"


@dataclass(frozen=True, slots=True)
class Compared:
    """The runs of a comparison: those that are there, the names that lead to none, and the ids of those that are too many."""

    runs: tuple[Run, ...]
    missing: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()


def compared(store: Store, comparison: Comparison) -> Compared:
    """Return the first runs that a comparison names, as many as can be drawn."""
    runs: dict[str, Run] = {}
    missing = []
    for name in comparison.runs[:_MOST_NAMES]:
        try:
            run = store.run(name)
        except UnknownRunError:
            missing.append(name)
            continue
        runs.setdefault(run.id, run)
    found = tuple(runs.values())
    return Compared(found[:MOST_RUNS], tuple(missing), tuple(run.id for run in found[MOST_RUNS:]) + comparison.runs[_MOST_NAMES:])


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """One run's values over the axis: arrays of shape (n,), ``values`` with nan and infinities as themselves.

    ``began`` are the places at which a segment begins: a line does not run on across them.
    """

    x: Floats
    values: Floats
    began: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.x)


NOTHING = Course(np.empty(0), np.empty(0), np.empty(0, np.bool_))


def course(store: Store, run: Run, data: SeriesData | None, axis: str) -> Course:
    """Return a series over training steps, seconds since the first step, or percent of the run; nothing where that is unknown."""
    if data is None or not len(data.steps):
        return NOTHING
    segments, steps = np.asarray(data.segments, np.int64), np.asarray(data.steps, np.float64)
    values = np.asarray(data.values, np.float64)
    began = np.diff(segments, prepend=segments[0]) != 0
    if axis == "time":
        x = _seconds(store, run, segments, steps)
    elif axis == "share":
        x = 100.0 * steps / max(1, run.last_step)
    else:
        x = steps
    known = np.isfinite(x)
    return Course(x[known], values[known], began[known])


def _seconds(store: Store, run: Run, segments: npt.NDArray[np.int64], steps: Floats) -> Floats:
    """Return the seconds from the run's first step to each of these; nan where no times were told."""
    told = np.array(store.step_times(run.id, max_points=_TIMES), np.float64).reshape(-1, 3)
    found = np.full(len(steps), np.nan)
    told = told[told[:, 2] > 0]
    if not len(told):
        return found
    for segment in np.unique(segments):
        of_segment = told[told[:, 0] == segment]
        if len(of_segment):
            mine = segments == segment
            found[mine] = np.interp(steps[mine], of_segment[:, 1], of_segment[:, 2]) - told[:, 2].min()
    return found


def read_signal(store: Store, run_id: str, info: SignalInfo, module: str, max_points: int) -> SeriesData | None:
    """Return a signal of a run or of one of its layers; where it is measured by head, the most troubling head of each stretch."""
    found = store.series(run_id, signal=info.name, module=module)
    whole = [one for one in found if one.key.head < 0]
    if whole:
        return store.read([min(whole, key=lambda one: one.key.rank)], max_points=max_points)[0]
    return _worst_of(store, found, info, max_points) if found else None


def _worst_of(store: Store, heads: Sequence[Series], info: SignalInfo, max_points: int) -> SeriesData:
    """Heads are measured at the same steps, so that their stretches are the same ones."""
    worst: dict[tuple[int, int], float] = {}
    for found in store.envelopes(heads, max_points=max(1, max_points // 10)):
        ends = zip(found.minimum, found.maximum, strict=True)
        extremes = [max(pair, key=info.trouble.order) for pair in ends]
        for segment, step, value, odd in zip(found.segment, found.start_step, extremes, found.nonfinite, strict=True):
            place, shown = (int(segment), int(step)), float("nan") if odd else float(value)
            before = worst.get(place)
            if before is None or math.isnan(shown):
                worst[place] = shown
            elif not math.isnan(before):
                worst[place] = max(before, shown, key=info.trouble.order)
    places = sorted(worst)
    key = SeriesKey(info.name, heads[0].key.module)
    return SeriesData(key, [place[0] for place in places], [place[1] for place in places], [worst[place] for place in places])


def differences(courses: Sequence[Course], baseline: int) -> list[Course]:
    """Return each course minus that of the baseline, both averaged over the same stretches of the axis.

    A stretch in which either has no finite value is left out, and so is what only one of them has.
    """
    reference = courses[baseline]
    lengths = [one.x.max() for one in courses if len(one)]
    if not lengths or not len(reference):
        return [NOTHING for _ in courses]
    # Where there are few steps, a stretch is a step: of short runs the differences are exact.
    width = max(max(lengths) / STRETCHES, float(np.median(np.diff(np.unique(reference.x)))) if len(reference) > 1 else 1.0)
    means = [_means(one, width) for one in courses]
    found = []
    for mean in means:
        common = np.array(sorted(mean.keys() & means[baseline].keys()), np.float64)
        values = np.array([mean[key] - means[baseline][key] for key in common.astype(np.int64).tolist()])
        found.append(Course(common * width, values, np.zeros(len(common), np.bool_)))
    return found


def _means(one: Course, width: float) -> dict[int, float]:
    finite = np.isfinite(one.values)
    stretches = np.round(one.x[finite] / width).astype(np.int64)
    names, which = np.unique(stretches, return_inverse=True)
    sums, counts = np.bincount(which, one.values[finite], len(names)), np.bincount(which, minlength=len(names))
    return dict(zip(names.tolist(), (sums / np.maximum(counts, 1)).tolist(), strict=True))


def signals_of(store: Store, runs: Sequence[Run]) -> dict[str, tuple[str, ...]]:
    """Return signal -> the layers in which any of the runs has it, in order of appearance; ``""`` stands for the whole run."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for one in store.series(run.id):
            if "histogram" not in one.key.signal:
                found.setdefault(one.key.signal, {})[one.key.module] = None
    return {signal: tuple(modules) for signal, modules in found.items()}


def configuration(runs: Sequence[Run]) -> dict[str, list[str | None]]:
    """Return name of a setting -> its value in each run, for those that differ; None where a run has none of that name."""
    known = [{"project": run.project, "tags": ", ".join(run.tags), **settings(run.meta)} for run in runs]
    names = dict.fromkeys(name for one in known for name in one if name not in _PASSING)
    rows = {name: [one.get(name) for one in known] for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}
