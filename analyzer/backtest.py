"""A stored run once more through the engine: which alerts would these rules have given, when, and how long before the failure?

The engine is the one that judges a live run, so what it finds here it would have found there. Alerts about the wall clock (a lost
heartbeat) come from elsewhere and cannot be replayed: such stored ones are listed apart.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..storage import Store
from ..storage.records import Alert, Batch, Run
from .engine import Engine
from .failure import Failure, date_failure, lead_steps, outcome
from .rules import RuleSet


@dataclass(frozen=True, slots=True)
class Pair:
    """An alert as the rules give it now beside the one that was stored; None where there is none."""

    now: Alert | None
    stored: Alert | None

    @property
    def alert(self) -> Alert:
        """Whichever there is, as the rules give it now for choice."""
        found = self.now or self.stored
        assert found is not None
        return found

    @property
    def verdict(self) -> str:
        """``same``, ``moved`` (another step), ``reworded``, ``new``, or ``gone``."""
        if self.now is None or self.stored is None:
            return "gone" if self.now is None else "new"
        if self.now.first_step != self.stored.first_step:
            return "moved"
        same = (self.now.message, self.now.severity) == (self.stored.message, self.stored.severity)
        return "same" if same else "reworded"


@dataclass(frozen=True, slots=True)
class Backtest:
    """What a backtest found.

    Attributes:
        run: the run.
        pairs: alerts now and then, by step.
        live_only: stored alerts of rules that cannot be replayed.
        failure: of the run, dated from its loss; None where it did not fail.
        outcome: ``diverged``, ``degraded`` or ``survived``.
        lead: steps from the first warning of these rules to the failure; None where one of them is missing.
        stored_lead: the same of the alerts stored.
        highest_risk: before the failure, or of the whole run where there is none; None where nothing was measured.
        steps, samples: replayed.
        seconds: taken, reading included.
    """

    run: Run
    pairs: tuple[Pair, ...]
    live_only: tuple[Alert, ...]
    failure: Failure | None
    outcome: str
    lead: int | None
    stored_lead: int | None
    highest_risk: float | None
    steps: int
    samples: int
    seconds: float

    @property
    def alerts(self) -> list[Alert]:
        """The alerts these rules give."""
        return [pair.now for pair in self.pairs if pair.now is not None]

    @property
    def failed(self) -> bool:
        """Whether the run failed for good."""
        return self.failure is not None and not self.failure.transient

    def plain(self) -> dict[str, Any]:
        """Return it as plain data, fit for JSON."""
        return {
            "run": self.run.name,
            "run_id": self.run.id,
            "outcome": self.outcome,
            "failure_step": self.failure.step if self.failure else None,
            "failure_kind": self.failure.kind if self.failure else None,
            "transient": bool(self.failure and self.failure.transient),
            "lead_steps": self.lead,
            "stored_lead_steps": self.stored_lead,
            "highest_risk": self.highest_risk,
            "steps": self.steps,
            "samples": self.samples,
            "seconds": round(self.seconds, 3),
            "alerts": [_plain_pair(pair) for pair in self.pairs],
            "live_only": [_plain_alert(alert) for alert in self.live_only],
        }


def backtest(store: Store, run: Run, rules: RuleSet | None = None, *, progress: Callable[[int], object] | None = None) -> Backtest:
    """Replay a stored run. Memory: two numbers a step beside the engine; nothing is written.

    Args:
        store: where the run is.
        run: as ``store.run`` returns it.
        rules: to judge it by; the package's own when None.
        progress: called with the number of steps of each batch.

    Raises:
        StoreError: see ``Store.batches``.
    """
    rules = rules if rules is not None else RuleSet.default()
    engine, losses, risks = Engine(run.id, rules), dict[int, float](), list[tuple[int, float]]()
    steps = samples = 0
    started, last = time.perf_counter(), run.created_at
    for batch in store.batches(run.id):
        engine.feed(batch)
        risks += engine.risk.take_points()
        note_losses(losses, batch)
        steps, samples, last = steps + len(batch.steps), samples + batch.points, batch.steps[-1].time
        if progress is not None:
            progress(len(batch.steps))
    engine.finish(last)
    stored = store.alerts(run)
    known = [alert for alert in stored if alert.rule in rules]
    dated = sorted(losses.items())
    failure = date_failure([step for step, _ in dated], [loss for _, loss in dated])
    step = None if failure is None or failure.transient else failure.step
    return Backtest(
        run=run,
        pairs=_paired(engine.alerts, known),
        live_only=tuple(alert for alert in stored if alert.rule not in rules),
        failure=failure,
        outcome=outcome(failure),
        lead=lead_steps(step, engine.alerts),
        stored_lead=lead_steps(step, stored),
        highest_risk=max((risk for at, risk in risks if step is None or at < step), default=None),
        steps=steps,
        samples=samples,
        seconds=time.perf_counter() - started,
    )


def note_losses(losses: dict[int, float], batch: Batch) -> None:
    """Take the loss of each step; where a run resumed at an earlier one, what came later counts, what lay behind is forgotten."""
    first = batch.steps[0].step
    if losses and next(reversed(losses)) >= first:
        for step in [step for step in losses if step >= first]:
            del losses[step]
    for record in batch.steps:
        for key, value in zip(record.keys, record.values, strict=True):
            if key.signal == "loss" and not key.module:
                losses[record.step] = value
                break


def _paired(now: list[Alert], stored: list[Alert]) -> tuple[Pair, ...]:
    """Pair alerts of the same rule, module and episode, in order of their steps."""
    of_now = {(alert.rule, alert.module, alert.episode): alert for alert in now}
    of_stored = {(alert.rule, alert.module, alert.episode): alert for alert in stored}
    pairs = [Pair(of_now.get(key), of_stored.get(key)) for key in {**of_now, **of_stored}]
    return tuple(sorted(pairs, key=lambda pair: (pair.alert.segment, pair.alert.first_step)))


def _plain_pair(pair: Pair) -> dict[str, Any]:
    return {
        **_plain_alert(pair.alert),
        "verdict": pair.verdict,
        "step": pair.now.first_step if pair.now else None,
        "stored_step": pair.stored.first_step if pair.stored else None,
    }


def _plain_alert(alert: Alert) -> dict[str, Any]:
    names = ("rule", "module", "episode", "message")
    return {name: getattr(alert, name) for name in names} | {
        "severity": str(alert.severity),
        "segment": alert.segment,
        "step": alert.first_step,
        "causes": [cause.name for cause in alert.diagnosis],
    }
