"""Synthetic runs, shaped like real ones: a fixture that turns named series into step records."""

import random
from collections.abc import Callable, Mapping, Sequence

import pytest
from foreshock.analyzer.engine import Engine
from foreshock.analyzer.rules import RuleSet
from foreshock.storage.records import Alert, Batch, SeriesKey, Severity, StepRecord

Series = Mapping[SeriesKey, Callable[[int], float]]


def make_records(
    steps: Sequence[int], series: Series, *, every: int = 20, always: Sequence[str] = ("loss", "learning_rate", "gradient.norm")
):
    """Return one record a step: signals in ``always`` at every step, the others at every ``every``-th."""
    dense = tuple(key for key in series if key.signal in always)
    full = tuple(series)
    records = []
    for step in steps:
        keys = full if step % every == 0 else dense
        records.append(StepRecord(step, 1000.0 + 0.1 * step, keys, [series[key](step) for key in keys]))
    return records


def make_batch(records: Sequence[StepRecord], *, segment: int = 0, name: str = "b") -> Batch:
    return Batch(name, "run", segment, tuple(records))


def noisy(function: Callable[[int], float], spread: float, seed: int = 0) -> Callable[[int], float]:
    """Multiply by (1 + spread * normal noise), the same for the same step."""
    return lambda step: function(step) * (1.0 + spread * random.Random(f"{seed}-{step}").gauss(0, 1))


class Judge:
    """Runs an engine over synthetic series."""

    noisy = staticmethod(noisy)
    records = staticmethod(make_records)
    batch = staticmethod(make_batch)

    def run(self, series: Series, steps: int = 1300, *, every: int = 20, rules: RuleSet | None = None, start: int = 0) -> Engine:
        engine = Engine("run", rules)
        engine.feed(make_batch(make_records(range(start, start + steps), series, every=every)))
        return engine

    def loud(self, engine: Engine) -> list[Alert]:
        return [alert for alert in engine.alerts if alert.severity.rank >= Severity.WARNING.rank]

    def fired(self, engine: Engine, rule: str) -> list[Alert]:
        return [alert for alert in engine.alerts if alert.rule == rule]


@pytest.fixture(scope="session")
def judge() -> Judge:
    return Judge()
