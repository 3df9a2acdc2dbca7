"""Rules tried on a stored run: what each would have fired on, and what other thresholds would have changed.

The engine that judges live runs is fed the stored history once, for one set of rules or for two side by side. Only what the rules
in question look at is read. Nothing is written.
"""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from ..storage import Store
from ..storage.records import Alert, Run, SeriesKey
from .backtest import note_losses
from .engine import Engine
from .failure import Failure, date_failure, lead_steps, outcome
from .rules import RuleSet

STEPS_AT_ONCE = 500
"""Steps of a batch: after each the caller is told, and may break off."""

_ALWAYS = ("loss", "learning_rate")


@dataclass(frozen=True, slots=True)
class Replay:
    """A run once more through engines.

    Attributes:
        engines: as they were given, having seen the run.
        failure: dated from the loss; None where it did not fail as far as it was replayed.
        steps, samples: replayed.
        last_step: replayed; None where the run has no steps.
        whole: whether that is all of it; else the time was up.
        seconds: taken.
    """

    engines: tuple[Engine, ...]
    failure: Failure | None
    steps: int
    samples: int
    last_step: int | None
    whole: bool
    seconds: float

    @property
    def failed_at(self) -> int | None:
        """Step at which the run failed for good."""
        return None if self.failure is None or self.failure.transient else self.failure.step

    @property
    def outcome(self) -> str:
        """``diverged``, ``degraded`` or ``survived``."""
        return outcome(self.failure)


@dataclass(frozen=True, slots=True)
class Move:
    """An alert by the rules as they are beside the one by the rules that are tried; None where there is none."""

    before: Alert | None
    after: Alert | None

    @property
    def alert(self) -> Alert:
        """Whichever there is, the one that is tried for choice."""
        found = self.after or self.before
        assert found is not None
        return found

    @property
    def steps(self) -> int:
        """How much later the alert comes; negative: earlier; 0 where one of them is missing."""
        return self.after.first_step - self.before.first_step if self.after and self.before else 0

    @property
    def verdict(self) -> str:
        """``new``, ``gone``, ``earlier``, ``later``, ``changed`` (another severity) or ``same``."""
        if self.before is None or self.after is None:
            return "new" if self.before is None else "gone"
        if self.steps:
            return "earlier" if self.steps < 0 else "later"
        return "same" if self.before.severity == self.after.severity else "changed"


@dataclass(frozen=True, slots=True)
class Trial:
    """What other rules would have changed in a run.

    Attributes:
        moves: alerts of the rules in question, by step.
        lead_before, lead_after: steps from their first warning to the failure; None where one of them is missing.
    """

    run: Run
    replay: Replay
    moves: tuple[Move, ...]
    lead_before: int | None
    lead_after: int | None

    def count(self, verdict: str) -> int:
        """Return how many alerts are new, gone, ..."""
        return sum(move.verdict == verdict for move in self.moves)


def replay(
    store: Store,
    run: Run,
    rules: Sequence[RuleSet],
    *,
    progress: Callable[[int], object] = lambda steps: None,
    seconds: float | None = None,
) -> Replay:
    """Feed a stored run to an engine for each set of rules.

    Args:
        progress: called with the number of steps of each batch; what it raises breaks off.
        seconds: after which it ends with what it has seen so far; None: never.

    Raises:
        StoreError: see ``Store.batches``.
    """
    engines = tuple(Engine(run.id, each) for each in rules)
    losses: dict[int, float] = {}
    steps = samples = 0
    started, last, whole = time.perf_counter(), run.created_at, True
    last_step: int | None = None
    for batch in store.batches(run.id, steps_per_batch=STEPS_AT_ONCE, keys=_looked_at(store, run, rules)):
        for engine in engines:
            engine.feed(batch)
            engine.risk.take_points()
        note_losses(losses, batch)
        steps, samples, last = steps + len(batch.steps), samples + batch.points, batch.steps[-1].time
        last_step = batch.steps[-1].step
        progress(len(batch.steps))
        if seconds is not None and time.perf_counter() - started > seconds and last_step < run.last_step:
            whole = False
            break
    for engine in engines:
        engine.finish(last)
    dated = sorted(losses.items())
    failure = date_failure([step for step, _ in dated], [loss for _, loss in dated])
    return Replay(engines, failure, steps, samples, last_step, whole, time.perf_counter() - started)


def try_rules(
    store: Store,
    run: Run,
    before: RuleSet,
    after: RuleSet,
    names: Collection[str],
    *,
    progress: Callable[[int], object] = lambda steps: None,
    seconds: float | None = None,
) -> Trial:
    """Try some rules as they are and as they might be on a run. The others are left out: they do not depend on these.

    Args:
        names: of the rules in question.
        progress, seconds: see ``replay``.

    Raises:
        StoreError: see ``Store.batches``.
    """
    found = replay(store, run, (before.only(names), after.only(names)), progress=progress, seconds=seconds)
    old, new = (engine.alerts for engine in found.engines)
    at = found.failed_at
    return Trial(run, found, paired(old, new), lead_steps(at, old), lead_steps(at, new))


def paired(before: Sequence[Alert], after: Sequence[Alert]) -> tuple[Move, ...]:
    """Pair alerts about the same trouble: of the same rule and module, over steps that overlap. By step.

    Not by episode: where the first one goes, every later one would seem to have moved.
    """
    left = list(after)
    moves = []
    for old in before:
        same = [new for new in left if (new.rule, new.module, new.segment) == (old.rule, old.module, old.segment)]
        near = [new for new in same if new.first_step <= old.last_step and old.first_step <= new.last_step]
        match = min(near, key=lambda new: abs(new.first_step - old.first_step), default=None)
        if match is not None:
            left.remove(match)
        moves.append(Move(old, match))
    moves += [Move(None, new) for new in left]
    return tuple(sorted(moves, key=lambda move: (move.alert.segment, move.alert.first_step, move.alert.rule, move.alert.module)))


def _looked_at(store: Store, run: Run, rules: Iterable[RuleSet]) -> frozenset[SeriesKey]:
    """Return the series that the rules look at, and those from which a failure is dated."""
    signals = {name for each in rules for rule in each.active for names in rule.signals.values() for name in names}
    return frozenset(series.key for series in store.series(run.id) if series.key.signal in signals or series.key.signal in _ALWAYS)
