"""A run with everything that a run can have: two segments, values that are no numbers, histograms, alerts, events, odd names."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from foreshock.storage import Store
from foreshock.storage.records import (
    Alert,
    AlertState,
    Batch,
    Cause,
    Event,
    Evidence,
    Histogram,
    RuleVersion,
    Run,
    RunStatus,
    Segment,
    SeriesKey,
    Severity,
    StepRecord,
    derived_id,
    new_id,
)

LOSS = SeriesKey("loss")
NORM = SeriesKey("gradient.norm", 'h.0.attn, "q"\nk ä')
HEAD = SeriesKey("attention.logits_max", "h.1", 3, 1)
LATE = SeriesKey("late", "only.in.the.second.segment")
SHAPE = SeriesKey("activation.shape", "h.0")


@pytest.fixture
def record_run() -> Callable[..., Run]:
    """Write such a run: ``record_run(store, name="gpt2-bf16", **facts)``."""
    return _record_run


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Poll until something holds; fail when it does not within half a minute."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, "it did not come to hold"
            time.sleep(0.005)

    return wait


def _record_run(store: Store, name: str = "gpt2-bf16", **facts: Any) -> Run:
    """Write such a run, in batches whose ends are not those of any reader, and return it as the store has it."""
    run_id = new_id()
    known = {"host": "node-7", "parameters": 124_000_000, "nested": {"lr": 6e-4}}
    store.create_run(Run(run_id, name, "tests", RunStatus.RUNNING, 1000.5, 1000.5, None, -1, ("bf16", "ü"), known | facts))
    generator = np.random.default_rng(3)
    odd = {17: math.nan, 18: math.inf, 19: -math.inf, 20: 5e-324, 21: 0.1 + 0.2}
    for segment, steps in ((0, range(40)), (1, range(30, 55))):
        store.add_segment(Segment(run_id, segment, steps.start, 1000.0 + steps.start))
        # Some later steps are written first: series appear in another order than their steps say.
        for part in (list(steps)[10:], list(steps)[:10]):
            store.write(Batch(new_id(), run_id, segment, tuple(_step(segment, step, odd, generator) for step in part)))
    store.save_alerts([_alert(run_id, episode) for episode in range(3)])
    store.set_alert_state(derived_id(run_id, "loss_spike", "h.0", 1), AlertState.ACKNOWLEDGED, at=1100.25, by="ada", comment="seen")
    store.add_event(Event(new_id(), run_id, 1, 30, 1030.125, "resume", "went on", {"from": 30, "weird": math.inf}))
    for seen, changes in enumerate(({"parameters": {"z": 9.5}}, {})):
        store.save_rule(RuleVersion(new_id(), "loss_spike", changes, run_id=run_id, created_by="ada", comment="ü"), seen=seen)
    store.update_run(run_id, status=RunStatus.CRASHED, ended_at=1200.75, heartbeat_at=1200.75)
    return store.run(run_id)


def _step(segment: int, step: int, odd: dict[int, float], generator: np.random.Generator) -> StepRecord:
    keys: tuple[SeriesKey, ...] = (LOSS,)
    values = [odd.get(step, float(generator.normal()))]
    shapes: tuple[Histogram, ...] = ()
    if step % 5 == 0:
        keys, values = (HEAD, LOSS, NORM), [float(step), *values, math.exp(step)]
        shapes = (Histogram(SHAPE, -1.5, 2.5, (0, step, 300, 2**40 + step)),)
    if segment == 1:
        keys, values = (*keys, LATE), [*values, -float(step)]
    return StepRecord(step, 1000.0 + step + segment / 3, keys, values, shapes)


def _alert(run_id: str, episode: int) -> Alert:
    evidence = Evidence(NORM, (3, 4, 5), (0.5, math.nan, math.inf), 3.5 if episode else None, None)
    cause = Cause("bf16", "Too little precision", 0.75, ("a", "b"), "use float32", "low-precision-attention")
    return Alert(
        derived_id(run_id, "loss_spike", "h.0", episode),
        run_id,
        "loss_spike",
        "h.0",
        episode,
        Severity.CRITICAL if episode else Severity.WARNING,
        AlertState.RESOLVED if episode == 2 else AlertState.FIRING,
        episode % 2,
        10 + episode,
        12 + episode,
        1050.0,
        1051.5,
        f"the loss spikes ({episode})",
        (None, math.nan, 2.5)[episode],
        (1.0, None, math.inf)[episode],
        (evidence,),
        (cause,),
        "turn it down",
    )
