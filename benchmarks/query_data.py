"""The store that ``foreshock bench query`` reads: a long run with many series, and many short runs, through the contract."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..storage import Store, UnknownRunError
from ..storage.records import Alert, AlertState, Batch, Run, RunStatus, SeriesKey, Severity, StepRecord, derived_id, new_id

SIGNAL = "activation.rms"
"""What the heatmap shows."""

LONG_RUN = "foreshock-bench-long"
_WHOLE_RUN = ("loss", "monitor.overhead", "risk")
_OTHERS = ("gradient.module_norm", "weight.norm", "update.ratio", "activation.max")
_STEPS_A_BATCH = 500  # 250,000 points with 500 series, what the writer takes at most
_SHORT_STEPS = 100
_ODD = 1e-4  # share of the long run's values that are not finite
_ALERTED = 4  # one in so many short runs has open alerts
_META = "foreshock_bench"


@dataclass(frozen=True)
class Sizes:
    """How large the store is: series and steps of the long run, and how many short runs stand beside it."""

    series: int = 500
    steps: int = 20_000
    runs: int = 1_000

    @property
    def layers(self) -> int:
        """How many of the long run's series are one signal, layer by layer: 200 of 500."""
        return min(200, max(1, 2 * self.series // 5))

    @cached_property
    def keys(self) -> tuple[SeriesKey, ...]:
        """The long run's series."""
        names = [f"model.layers.{number}.mlp" for number in range(self.layers)]
        keys = [SeriesKey(signal) for signal in _WHOLE_RUN] + [SeriesKey(SIGNAL, name) for name in names]
        rest = (SeriesKey(signal, name) for round in range(self.series) for signal in _others(round) for name in names)
        while len(keys) < self.series:
            keys.append(next(rest))
        return tuple(keys)


def _others(round: int) -> list[str]:
    return [signal if not round else f"{signal}.{round}" for signal in _OTHERS]


def build(store: Store, sizes: Sizes, say: Callable[[str], None] = lambda line: None) -> Run:
    """Fill an empty store; return the long run."""
    now = time.time()
    for number in range(sizes.runs):
        _short_run(store, number, now)
        if (number + 1) % 250 == 0:
            say(f"{number + 1:,} of {sizes.runs:,} runs")
    long = Run(new_id(), LONG_RUN, "bench", created_at=now, heartbeat_at=now)
    store.create_run(long)
    for batch in _long_run(long, sizes, now):
        store.write(batch)
        done = batch.steps[-1].step + 1
        if done % (10 * _STEPS_A_BATCH) == 0:
            say(f"{done * sizes.series:,} of {sizes.steps * sizes.series:,} points")
    # Last: where this stands everything before it does.
    store.update_run(long.id, status=RunStatus.FINISHED, ended_at=now, meta={_META: asdict(sizes)})
    return store.run(long.id)


def built(store: Store, sizes: Sizes) -> Run | None:
    """Return the long run of a store that was built before; None where the store is empty.

    Raises:
        ValueError: it holds something else.
    """
    try:
        found = store.run(LONG_RUN)
    except UnknownRunError:
        if not store.runs(limit=1):
            return None
        raise ValueError(f"{store.url} holds other runs; name a place of the benchmark's own with --store") from None
    kept: Any = found.meta.get(_META)
    if kept != asdict(sizes):
        what = f"was built with {kept}" if kept else "was not built to its end"
        raise ValueError(f"{store.url} {what}, {asdict(sizes)} is wanted: delete it or name another place with --store")
    return found


def _long_run(run: Run, sizes: Sizes, now: float) -> Iterator[Batch]:
    """Yield the long run's batches: random walks, positive, here and there not finite."""
    source = np.random.default_rng(0)
    walk_K = source.standard_normal(sizes.series)
    for first in range(0, sizes.steps, _STEPS_A_BATCH):
        count = min(_STEPS_A_BATCH, sizes.steps - first)
        walks_SK = walk_K + np.cumsum(source.standard_normal((count, sizes.series)) * 0.02, axis=0)
        walk_K = walks_SK[-1]
        values_SK = np.exp(walks_SK / 4)
        odd_SK = source.random((count, sizes.series)) < _ODD
        values_SK[odd_SK] = source.choice([math.nan, math.inf, -math.inf], int(odd_SK.sum()), p=[0.8, 0.1, 0.1])
        records = [
            StepRecord(first + place, now + 0.1 * (first + place), sizes.keys, row) for place, row in enumerate(values_SK.tolist())
        ]
        yield Batch(new_id(), run.id, 0, tuple(records))


def _short_run(store: Store, number: int, now: float) -> None:
    source = np.random.default_rng(number)
    created = now - 60.0 * (number + 1)
    run = Run(new_id(), f"run-{number:04}", f"project-{number % 7}", created_at=created, heartbeat_at=created)
    store.create_run(run)
    keys = tuple(SeriesKey(signal) for signal in _WHOLE_RUN)
    losses = 2 + np.cumsum(source.standard_normal(_SHORT_STEPS) * 0.05)
    records = [
        StepRecord(step, created + step, keys, [loss, 0.01, 100 * source.random()]) for step, loss in enumerate(losses.tolist())
    ]
    store.write(Batch(new_id(), run.id, 0, tuple(records)))
    if number % _ALERTED == 0:
        severities = (Severity.WARNING, Severity.CRITICAL, Severity.INFO)[: 1 + number // _ALERTED % 3]
        store.save_alerts([_alert(run, severity, created) for severity in severities])
    status = (RunStatus.FINISHED, RunStatus.FINISHED, RunStatus.CRASHED, RunStatus.RUNNING)[number % 4]
    store.update_run(run.id, status=status, ended_at=created + _SHORT_STEPS if status is not RunStatus.RUNNING else None)


def _alert(run: Run, severity: Severity, at: float) -> Alert:
    rule = f"bench_{severity}"
    words = "The loss rises."
    return Alert(
        derived_id(run.id, rule, "", 0), run.id, rule, "", 0, severity, AlertState.FIRING, 0, 50, 60, at, at, words, value=1.0
    )
