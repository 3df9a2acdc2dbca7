"""``lower_learning_rate``: on a warning the learning rate is cut, and rises again by itself once no warning is open.

The cut holds from the optimizer's step pre-hook to its post-hook: there every group's rate is multiplied by ``factor``, and after
it the rate is what it was, to the bit. So schedulers, checkpoints and whoever else looks at ``group["lr"]`` between steps see the
user's own rate and may set it as they like; training is, bit for bit, what it would be had the user multiplied the rate himself.

``learning_rate`` is recorded as the user has it; what it is multiplied by is recorded beside it, as ``learning_rate.factor``, on
every step on which that is not 1.

    cut        at a warning, if the last cut is 20 steps or more ago; and again where one is open ``patience`` steps after a cut
    never below factor ** most
    recovery   ``patience`` steps after the last cut and the last open warning; geometrically, over ``recover`` steps, to 1
    relapse    a warning during a recovery, or within ``recover`` steps after it, says that the rate was too high still: from then
               on a recovery ends at ``factor`` times what the one before aimed at
    roll back  two cuts at once, and a relapse: what went wrong at this rate would again
"""

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from ..storage.records import Alert, Severity
from .base import Handles, Intervention, Training, Trigger

RULES = (
    "attention_entropy_collapse",
    "attention_logit_growth",
    "attention_logit_saturation",
    "dead_units",
    "learning_rate_overreach",
    "loss_degradation",
    "loss_stays_high",
    "second_moment_lag",
    "spectral_alignment_collapse",
    "spectral_norm_growth",
)
"""Rules whose remedy is a lower rate. Of the others some would be made worse by it (``stale_updates``), some not mended."""

_SOURCE = "intervention lower_learning_rate"
_ONE_TROUBLE = 20
"""Steps: alerts nearer together tell of one trouble."""


class LowerLearningRate(Intervention):
    """Multiplies every group's learning rate by ``factor`` on a warning, and lets it recover.

    Args:
        rules: whose alerts set it off; an empty list: any rule's.
        severity: the least.
        factor: of one cut.
        most: cuts upon each other.
        patience: steps after which a cut that did not help is followed by another, and steps without a warning before recovery.
        recover: steps that the recovery takes.

    Raises:
        ValueError: a number makes no sense.
    """

    name: ClassVar[str] = "lower_learning_rate"
    on_every_rank: ClassVar[bool] = True

    def __init__(
        self,
        rules: Iterable[str] = RULES,
        severity: Severity | str = Severity.WARNING,
        factor: float = 0.5,
        most: int = 6,
        patience: int = 200,
        recover: int = 500,
    ) -> None:
        if not (0 < factor < 1 and most >= 1 and patience >= 1 and recover >= 1):
            raise ValueError(
                f"LowerLearningRate(factor={factor}, most={most}, patience={patience}, recover={recover}): "
                "factor between 0 and 1, the others at least 1"
            )
        self._trigger = Trigger.of(rules, severity)
        self._cut_by, self._most, self._patience, self._recover = factor, most, patience, recover
        self.factor = 1.0
        """What rates are multiplied by in the step now running."""
        # Steps are counted here: the run's own numbers go back when it is rolled back.
        self._now = 0
        self._goal = 1.0
        self._last_cut: int | None = None
        self._recovering: tuple[int, float] | None = None
        self._recovered_at: int | None = None
        # On the first rank: the alert that asks for a cut, whether something decided is yet to be done, since when it is calm.
        self._asking: Alert | None = None
        self._under_way = False
        self._calm_since = 0
        self._scaled: list[_Scaled] = []
        self._handles = Handles()

    @override
    def attach(self, training: Training) -> None:
        super().attach(training)
        if not training.optimizers:
            raise ValueError("lower_learning_rate acts on the optimizer and must know it: watch(model, optimizer, ...)")
        self._scaled = [_Scaled() for _ in training.optimizers]
        for optimizer, scaled in zip(training.optimizers, self._scaled, strict=True):
            before, after = (torch.compiler.disable(partial(hook, scaled)) for hook in (self._before, self._after))
            self._handles.handles += [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]

    # -- deciding, on the first rank -----------------------------------------------------------------------------

    @override
    def on_alert(self, alert: Alert) -> None:
        if self._trigger.matches(alert):
            self._asking = self._asking or alert

    @override
    def after_step(self, step: int) -> None:
        self._now += 1
        for scaled in self._scaled:  # of an optimizer whose step raised
            scaled.put_back()
        if self._recovering is not None:
            self._rise(*self._recovering)
        if self.training.rank == 0:
            self._consider()
        if self.factor != 1.0:
            self._note()

    def _consider(self) -> None:
        asking, self._asking = self._asking, None
        if self._under_way or (asking is None and self.factor == 1.0):
            return
        since = math.inf if self._last_cut is None else self._now - self._last_cut
        still_open = next((alert for alert in self.training.open_alerts() if self._trigger.matches(alert)), None)
        if asking is not None or still_open is not None:
            self._calm_since = self._now
        if asking is None and self._recovering is None and since >= self._patience:
            asking = still_open
        if asking is not None and since >= min(_ONE_TROUBLE, self._patience) and self.factor > self._least:
            self._under_way = True
            where = f" in {asking.module}" if asking.module else ""
            why = f"{asking.rule} gave a {asking.severity} at step {asking.first_step:,}{where}"
            self.decide(do="cut", why=why, rule=asking.rule, alert=asking.id)
        elif self._recovering is None and self.factor < self._goal and min(since, self._now - self._calm_since) >= self._patience:
            self._under_way = True
            self.decide(do="recover")

    # -- acting, on every rank alike -----------------------------------------------------------------------------

    @override
    def act(self, step: int, facts: Mapping[str, Any]) -> None:
        self._under_way = False
        if facts["do"] == "cut":
            self._cut(facts["why"], rule=facts["rule"], alert=facts["alert"])
        else:
            self._recovering = self._now, self.factor
            self.tell(
                f"No warning is open any more: the learning rate rises from {self.factor:.3g} to {self._goal:.3g} times "
                f"its own over {self._recover:,} steps.",
                factor=self.factor,
                goal=self._goal,
            )

    @override
    def called_off(self) -> None:
        self._under_way = False

    @override
    def on_rollback(self, step: int) -> None:
        self._cut("the run was rolled back", times=2)

    def _cut(self, why: str, times: int = 1, **data: Any) -> None:
        again = self._recovered_at is not None and self._now - self._recovered_at <= self._recover
        if again or self._recovering is not None or times > 1:
            self._goal = max(self._goal * self._cut_by, self._least)
        self._recovering = self._recovered_at = None
        self._last_cut, before = self._now, self.factor
        self.factor = max(self.factor * self._cut_by**times, self._least)
        self._note()
        if self.factor < before:
            self.tell(f"Learning rates are multiplied by {self.factor:.3g} from here on: {why}.", factor=self.factor, **data)

    @property
    def _least(self) -> float:
        return float(self._cut_by**self._most)

    def _rise(self, began: int, low: float) -> None:
        share = (self._now - began) / self._recover
        self.factor = self._goal if share >= 1.0 else float(low * (self._goal / low) ** share)
        if share >= 1.0:
            self._recovering, self._recovered_at = None, self._now
            self._note()

    def _note(self) -> None:
        """Record the factor with the step that comes next."""
        self.training.log(**{"learning_rate.factor": self.factor})

    # -- hooks ---------------------------------------------------------------------------------------------------

    def _before(self, scaled: "_Scaled", optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self.factor != 1.0 or scaled:
            self.training.guard(_SOURCE, partial(scaled.scale, optimizer, self.factor))

    def _after(self, scaled: "_Scaled", optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if scaled:
            self.training.guard(_SOURCE, scaled.put_back)

    @override
    def close(self) -> None:
        self._handles.remove()
        for scaled in self._scaled:
            scaled.put_back()


class _Scaled:
    """The rates of one optimizer while they are multiplied, and what they were."""

    def __init__(self) -> None:
        self._groups: list[tuple[dict[str, Any], Any, Any]] = []
        self._tensors: list[tuple[Tensor, Tensor]] = []

    def __bool__(self) -> bool:
        return bool(self._groups or self._tensors)

    @torch.no_grad()
    def scale(self, optimizer: Optimizer, factor: float) -> None:
        """Multiply the rates; tensors in place, for compiled code holds on to them, and one that groups share once."""
        self.put_back()  # where the step before raised
        if factor == 1.0:
            return
        for group in optimizer.param_groups:
            rate = group["lr"]
            if not isinstance(rate, Tensor):
                group["lr"] = rate * factor
                self._groups.append((group, rate, group["lr"]))
            elif not any(rate is other for other, _ in self._tensors):
                self._tensors.append((rate, rate.clone()))
                rate.mul_(factor)

    @torch.no_grad()
    def put_back(self) -> None:
        """Put the rates back, but for one that somebody has set since."""
        while self._groups:
            group, before, ours = self._groups.pop()
            if group["lr"] is ours:
                group["lr"] = before
        while self._tensors:
            rate, was = self._tensors.pop()
            rate.copy_(was)
