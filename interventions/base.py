"""What an intervention is, and the step on one page as it sees it.

    watch(interventions=[...])    attach(training): refuse what cannot be done, with the reason; place hooks

    ┌─ one training step ──────────────────────────────────────────────────────────────────────────────────────────────
    │ forward, backward, clip
    │ optimizer.step              pre-hooks of skip_step and lower_learning_rate, placed by attach()
    │ monitor.step(loss)          on_batch(step, batch), if it is given
    │                             before_end(step), of a sampled step: the probes still hold what they saw
    │                             ... the step is measured and handed to the writer thread, where alerts are raised ...
    │                             on_alert(alert), for each new alert: mostly of some steps ago
    │                             after_step(step)
    │                             act(step, facts), for what was decided: on every rank at the same step; after a roll back
    │                             on_rollback(step)
    └──────────────────────────────────────────────────────────────────────────────────────────────────────────────────
    monitor.close()               close(): what was switched is switched back, hooks are removed

All of it runs on the training thread and may change the training; that was asked for. What fails is counted as a fault of the
monitor and never raises into training; the others go on. Whatever is done becomes an event of the run, of kind "intervention".

Alerts are known to the first rank of a distributed job alone. So on_alert and after_step only *decide*; what changes training is
done in act, which all ranks run at the same step or none does (ladder.py). A process that is alone acts at once.
"""

import sys
from abc import ABC
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn
from torch.optim import Optimizer

from ..storage.records import Alert, AlertState, Run, Severity, StepRecord

CLOSED = frozenset({AlertState.RESOLVED, AlertState.SILENCED})
"""Alerts in these states do not count as open here: who silences one says that it is no reason to act."""


def _tells_nobody(kind: str, message: str, **data: Any) -> None:
    pass


def _does_nothing(*_: Any, **__: Any) -> None:
    pass


def _acts(one: "Intervention", facts: Mapping[str, Any]) -> None:
    one.act(one.training.step(), facts)


def _runs(source: str, work: Callable[[], None]) -> bool:
    work()
    return True


@dataclass
class Training:
    """The run as interventions see it.

    Attributes:
        models: by name, as given to ``watch()``.
        optimizers: as given to ``watch()``; empty if none was.
        run: the run.
        rank, world: of this process in a distributed job.
        tell: records an event: kind, message, and data as keywords.
        guard: runs a piece of work under a name; what it raises is counted; tells whether it succeeded.
        step: the number of the step now running.
        sampled: whether that is a sampled one.
        pause: leaves the time since the step ended out of what the monitor says its steps take: something long was done.
        alerts: every alert of the run so far; empty on other ranks than the first.
        judged: the last step whose alerts are known: judging lags behind training.
        segment: the stretch of the run, since it began, resumed or was rolled back, that is now running.
        log: records metrics with the step that comes next.
        asked: every intervention asked for, in order; also those that run on the first rank alone.
        decide: has an intervention act, with these facts (plain data), on every rank.
        rewind: the monitor's part of a roll back: the weights are those after this step again.
        rolled_back: the same, and tells the interventions.
        stop: ends training, for a reason; by raising, or by a flag alone.
        attention: what the probes saw of attention in the sampled step that is about to end, cut to so many bytes.
    """

    models: Mapping[str, nn.Module]
    optimizers: Sequence[Optimizer]
    run: Run
    rank: int = 0
    world: int = 1
    tell: Callable[..., None] = _tells_nobody
    guard: Callable[[str, Callable[[], None]], bool] = _runs
    step: Callable[[], int] = lambda: 0
    sampled: Callable[[], bool] = lambda: False
    pause: Callable[[], None] = lambda: None
    alerts: Callable[[], Sequence[Alert]] = tuple
    attention: Callable[[int], Sequence[Any]] = lambda most_bytes: ()

    judged: Callable[[], int] = lambda: sys.maxsize
    segment: Callable[[], int] = lambda: 0
    log: Callable[..., None] = _does_nothing
    asked: Sequence["Intervention"] = ()
    decide: Callable[["Intervention", Mapping[str, Any]], None] = _acts
    rewind: Callable[[int], None] = _does_nothing
    rolled_back: Callable[[int], None] = _does_nothing
    stop: Callable[[str, bool], None] = _does_nothing

    def sharded(self) -> bool:
        """Tell whether this rank holds a part of weights or optimizer states, and not the whole."""
        parameters = (p for model in self.models.values() for p in model.parameters())
        return any(hasattr(p, "device_mesh") for p in parameters) or any(hasattr(o, "optim") for o in self.optimizers)

    def open_alerts(self, least: Severity = Severity.WARNING) -> list[Alert]:
        """Return the open alerts of this severity and worse."""
        return [alert for alert in self.alerts() if alert.severity.rank >= least.rank and alert.state not in CLOSED]


@dataclass(frozen=True, slots=True)
class Trigger:
    """Which alerts set an intervention off.

    Attributes:
        rules: names of rules; empty for all.
        severity: the least.
    """

    rules: frozenset[str] = frozenset()
    severity: Severity = Severity.WARNING

    @classmethod
    def of(cls, rules: Iterable[str], severity: Severity | str) -> "Trigger":
        """Make one of what users write.

        Raises:
            TypeError: ``rules`` is one string.
            ValueError: there is no such severity.
        """
        if isinstance(rules, str):
            raise TypeError(f"rules is {rules!r}; pass names of rules in a list, or an empty one for all rules")
        return cls(frozenset(rules), Severity(severity))

    def matches(self, alert: Alert) -> bool:
        """Tell whether this alert is one of those."""
        return alert.severity.rank >= self.severity.rank and (not self.rules or alert.rule in self.rules)


class Intervention(ABC):
    """Something done to a run. A new one is a file in this folder and a line in ``registry.py``."""

    name: ClassVar[str]
    """What users write in ``watch(interventions=[...])``."""
    on_every_rank: ClassVar[bool] = False
    """Whether it runs on all ranks of a distributed job; otherwise on the first alone, which keeps run and alerts."""

    training: Training

    def attach(self, training: Training) -> None:
        """Learn the run and place hooks.

        Raises:
            ValueError: it cannot be done here; the message says why, and what mends it.
        """
        self.training = training

    def on_alert(self, alert: Alert) -> None:  # noqa: B027
        """Take a new alert."""

    def on_records(self, records: Sequence[StepRecord]) -> None:  # noqa: B027
        """Take what was measured, on the writer thread."""

    def on_batch(self, step: int, batch: object) -> None:  # noqa: B027
        """Take what the user says of the batch of the step that is about to end."""

    def before_end(self, step: int) -> None:  # noqa: B027
        """A sampled step is about to end."""

    def after_step(self, step: int) -> None:  # noqa: B027
        """A step has ended. Its alerts are yet to come."""

    def act(self, step: int, facts: Mapping[str, Any]) -> None:  # noqa: B027
        """Do what was decided; every rank does at the end of the same step."""

    def called_off(self) -> None:  # noqa: B027
        """What was decided is not done after all: the ranks could not be brought together."""

    def on_rollback(self, step: int) -> None:  # noqa: B027
        """The weights are those after ``step`` again, the next step is the one after it; on every rank."""

    def close(self) -> None:  # noqa: B027
        """Undo what lasts beyond the run; called once, also where ``attach`` raised."""

    def decide(self, **facts: Any) -> None:
        """Have ``act`` run on every rank, soon; ``facts`` are plain data."""
        self.training.decide(self, facts)

    def tell(self, message: str, **data: Any) -> None:
        """Record what was done."""
        self.training.tell("intervention", message, intervention=self.name, **data)


@dataclass
class Handles:
    """Hooks that are removed together."""

    handles: list[Any] = field(default_factory=list)

    def remove(self) -> None:
        """Remove them all; twice without harm."""
        while self.handles:
            self.handles.pop().remove()
