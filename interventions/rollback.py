"""``rollback``: on a critical alert the run goes back to the last checkpoint known to be good, and on from there.

``checkpoint`` keeps that state and must be asked for too. Weights, buffers and optimizer states go back in place (restoring.py);
the run goes on in a new segment whose first step is the one after the checkpoint's, so ``monitor.step()`` numbers steps from there
again and both courses are kept. Detectors forget what came after; alerts of the undone course are closed.

The training loop goes on with the batches that come next: those that led to the alert are passed over. Random states stay as they
are. A learning-rate schedule goes on too, unless its scheduler was given to ``Checkpoint(extra={"scheduler": scheduler})``: then it
goes back, and with it the values of the optimizer's groups. ``on_rollback`` tells the loop, on every rank.

Nobody is rolled back more than ``most`` times. Where ``lower_learning_rate`` was asked for, each roll back is two cuts. Where
``stop`` was asked for, it acts once a roll back is no longer possible: none left, or no checkpoint has proved good.

In a distributed job the first rank reads the file and all take the state from it, at the same step. Sharded weights are refused.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.optim.lr_scheduler import LRScheduler
from typing_extensions import override

from ..storage.records import Alert, Severity
from .base import Intervention, Training, Trigger
from .checkpoint import Checkpoint
from .restoring import State, restore


@dataclass(frozen=True, slots=True)
class RolledBack:
    """A roll back.

    Attributes:
        step: at whose end it was made.
        to: the step of the checkpoint; the next step is ``to + 1``.
        rule: whose alert set it off.
    """

    step: int
    to: int
    rule: str


WARNINGS = frozenset({"broken_by_update"})
"""Rules whose warnings are reason enough: their remedy is a roll back and nothing less."""


class Rollback(Intervention):
    """Goes back to the last good checkpoint.

    Args:
        rules: whose alerts set it off; an empty list: any rule's, and the warnings of those in ``WARNINGS``.
        severity: the least.
        most: how often in a run.
        load: loads everything from the path that ``Checkpoint(save=...)`` wrote; needed where that was given.
        on_rollback: called on every rank, on the training thread, once the state is back.

    Raises:
        ValueError: a number is too small.
    """

    name: ClassVar[str] = "rollback"
    on_every_rank: ClassVar[bool] = True

    def __init__(
        self,
        rules: Iterable[str] = (),
        severity: Severity | str = Severity.CRITICAL,
        most: int = 3,
        load: Callable[[Path], object] | None = None,
        on_rollback: Callable[[RolledBack], object] | None = None,
    ) -> None:
        if most < 1:
            raise ValueError(f"Rollback(most={most}): at least 1")
        self._trigger = Trigger.of(rules, severity)
        self._warnings = Trigger(frozenset() if self._trigger.rules else WARNINGS)
        self._most, self._load, self._callback = most, load, on_rollback
        self.done: list[RolledBack] = []
        """The roll backs so far."""
        self._wanted: Alert | None = None
        self._state: State | None = None
        self._under_way = False
        self._told = ""

    @override
    def attach(self, training: Training) -> None:
        super().attach(training)
        checkpoint = next((one for one in training.asked if isinstance(one, Checkpoint)), None)
        if checkpoint is None:
            raise ValueError('rollback goes back to what checkpoint has saved: interventions=["checkpoint", "rollback"]')
        if training.sharded():
            raise ValueError(
                "rollback cannot put sharded weights or optimizers back: every rank holds a part of its own; "
                'ask for "stop" instead, and resume from your own checkpoint'
            )
        if checkpoint.saves_otherwise and self._load is None:
            raise ValueError("Checkpoint(save=...) writes a file of your own: pass Rollback(load=...) that reads it")
        self._checkpoint = checkpoint

    def takes(self, alert: Alert) -> bool:
        """Tell whether an alert leads, or led, to a roll back: then nothing harsher is needed."""
        return self._matches(alert) and (self._under_way or self._wanted is not None)

    def _matches(self, alert: Alert) -> bool:
        return self._trigger.matches(alert) or (bool(self._warnings.rules) and self._warnings.matches(alert))

    # -- deciding, on the first rank -----------------------------------------------------------------------------

    @override
    def on_alert(self, alert: Alert) -> None:
        if self._under_way or self._wanted is not None or not self._matches(alert):
            return
        if (why_not := self._why_not()) == "":
            self._wanted = alert
        elif why_not != self._told:
            self._told = why_not
            self.tell(
                f"Not rolled back after {alert.rule} at step {alert.first_step:,}: {why_not}.", rule=alert.rule, alert=alert.id
            )

    def _why_not(self) -> str:
        if len(self.done) >= self._most:
            return f"the run was rolled back {self._most} times already, which is the most allowed"
        return "" if self._checkpoint.good is not None else "no checkpoint has proved good yet"

    @override
    def after_step(self, step: int) -> None:
        alert, self._wanted = self._wanted, None
        good = self._checkpoint.good
        if alert is None or good is None:
            return
        if self._load is None:
            try:
                # Of extra things we know nothing, so what they save may need more than tensors and plain data.
                self._state = torch.load(good, map_location="cpu", weights_only=not self._checkpoint.extra)
            except Exception as error:  # noqa: BLE001 - a file that cannot be read must not end the run
                self.tell(f"The checkpoint {good} cannot be read, nothing was rolled back: {error}", path=str(good))
                return
        self._under_way = True
        where = f" in {alert.module}" if alert.module else ""
        why = f"{alert.rule} gave a {alert.severity} at step {alert.first_step:,}{where}"
        self.decide(why=why, rule=alert.rule, alert=alert.id, to=self._checkpoint.good_step, path=str(good))

    # -- acting, on every rank alike -----------------------------------------------------------------------------

    @override
    def act(self, step: int, facts: Mapping[str, Any]) -> None:
        self._under_way = False
        to, extra = int(facts["to"]), self._checkpoint.extra
        state, self._state = self._state, None
        if self._load is not None:
            self._load(Path(facts["path"]))
        else:
            restore(
                state,
                self.training.models,
                self.training.optimizers,
                extra,
                groups=any(isinstance(thing, LRScheduler) for thing in extra.values()),
                ranks=self.training.world > 1,
            )
        done = RolledBack(step, to, facts["rule"])
        self.done.append(done)
        self.tell(
            f"Rolled back from step {step:,} to the checkpoint of step {to:,}: {facts['why']}. Training goes on with the batches "
            f"that come. {len(self.done)} of at most {self._most} roll backs.",
            rule=facts["rule"],
            alert=facts["alert"],
            to=to,
            path=facts["path"],
        )
        self.training.rolled_back(to)
        self.training.pause()
        if self._callback is not None:
            self._callback(done)

    @override
    def called_off(self) -> None:
        self._under_way, self._state = False, None
