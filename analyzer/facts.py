"""What is known of a run beside its findings: the course of loss and learning rate, and signals that were seen to be healthy."""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import traces
from .tracks import Track
from .wording import number, step_number

_LEARNING_RATE_POINTS = 64
_JUMP = 2.5
_RISEN = 1.5
_RECENT_STEPS = 200
_LONG_ENOUGH = 10
"""Steps after which a rate that has not changed says something."""
_HEALTHY_EXCESS = 2.0
_FIRST_LOSSES = 20
_SMOOTHING = 0.95
_NEVER_FELL_STEPS = 100
_NEVER_FELL = 0.8
_BEGAN_WELL = 0.25
LASTING = frozenset({"learning_rate_jump", "learning_rate_rising", "no_warmup", *traces.NAMES})
"""Facts about a moment: true for an alert from then on, though the run moves on."""
_TOLD_BY_ALERTS = {"loss_came_back", "swamped_at_start"}
_TOLD_BY_DIAGNOSIS = {"past_warmup", "query_key_growth"}
NAMES = (
    LASTING
    | _TOLD_BY_ALERTS
    | _TOLD_BY_DIAGNOSIS
    | {"key_shift_healthy", "loss_never_fell", "learning_rate_constant", "began_well", traces.STEADY}
)
"""Every fact there is."""


@dataclass(frozen=True, slots=True)
class Observation:
    """Something seen in a run that speaks for or against a cause: a finding (``name`` is its rule) or a fact.

    ``known`` are numbers that a remedy may name; see ``Facts.known``.
    """

    name: str
    text: str
    step: int
    module: str = ""
    known: Mapping[str, float | int] = field(default_factory=dict)


class Facts:
    """Follows loss and learning rate. O(1) memory; a learning rate that does not change costs one comparison a step."""

    def __init__(self) -> None:
        self.first_step: int | None = None
        self.step = -1
        self.loss = math.nan
        self.rates: deque[tuple[int, float]] = deque(maxlen=_LEARNING_RATE_POINTS)
        self.first_rate = math.nan
        self.highest_rate = 0.0
        self.jump: tuple[int, float, float] | None = None
        # Effective rate: of the first step, the highest, of the last; what momentum makes of the learning rate.
        self.effective: tuple[float, float, float] | None = None
        self.losses = 0
        self.first_loss = math.nan
        self.level = math.nan
        self.lowest = math.inf

    def feed_loss(self, step: int, loss: float) -> None:
        """Take the loss of a step; one that came before, or comes too late, is passed over."""
        if step <= self.step:
            return
        self.step, self.loss = step, loss
        if not math.isfinite(loss):
            return
        self.losses += 1
        if self.losses <= _FIRST_LOSSES:  # their mean
            self.first_loss = self.level = loss if self.losses == 1 else self.level + (loss - self.level) / self.losses
            return
        self.level += (1.0 - _SMOOTHING) * (loss - self.level)
        if self.level < self.lowest:
            self.lowest = self.level

    def feed_rate(self, step: int, rate: float) -> None:
        """Take the learning rate of a step; only changes are kept, thinned to a ring."""
        if self.first_step is None:
            self.first_step, self.first_rate = step, rate
        last = self.rates[-1][1] if self.rates else rate
        if rate == last and self.rates:
            return
        if last > 0.0 and rate > _JUMP * last and step > self.first_step + 10:
            self.jump = (step, last, rate)
        self.rates.append((step, rate))
        self.highest_rate = max(self.highest_rate, rate)

    def feed_effective(self, effective: float) -> None:
        """Take the effective learning rate of a sampled step: rate over ``1 - momentum``."""
        if math.isfinite(effective):
            first, highest, _ = self.effective or (effective, effective, effective)
            self.effective = first, max(highest, effective), effective

    def observations(self, step: int, tracks: Iterable[Track]) -> list[Observation]:
        """Return what the facts say at ``step``."""
        held = list(tracks)
        found = [*self._of_learning_rate(step), *self._of_loss(step), *(Observation(*seen) for seen in traces.observe(held))]
        if known := self.known():
            found.append(Observation("course", "", step, known=known))
        excesses = [
            track.points[-1][1]
            for track in held
            if track.key.signal == "rounding.key_shift_excess" and track.points and math.isfinite(track.points[-1][1])
        ]
        if excesses and max(excesses) < _HEALTHY_EXCESS:
            worst = number(max(excesses))
            text = f"rounding errors in attention cancel as they should (at most {worst} times what random rounding leaves)"
            found.append(Observation("key_shift_healthy", text, step))
        return found

    def known(self) -> dict[str, float | int]:
        """Return numbers for remedies: ``rate``, the learning rate now; ``half`` and ``tenth`` of the rate that was borne; where it
        jumped, the ``jump_step`` and the rate ``before_jump``.
        """
        if not self.rates or self.rates[-1][1] <= 0.0:
            return {}
        rate = self.rates[-1][1]
        borne = self.jump[1] if self.jump else rate
        known: dict[str, float | int] = {"rate": rate, "half": borne / 2, "tenth": borne / 10}
        return {**known, "jump_step": self.jump[0], "before_jump": self.jump[1]} if self.jump else known

    def _of_loss(self, step: int) -> list[Observation]:
        steps = self.losses
        if steps >= _NEVER_FELL_STEPS and 0.0 < self.lowest <= _BEGAN_WELL * self.first_loss:
            text = f"the loss had fallen from {number(self.first_loss)} to {number(self.lowest)} before: the start was sound"
            return [Observation("began_well", text, step)]
        if steps < _NEVER_FELL_STEPS or not self.first_loss > 0.0 or self.lowest <= _NEVER_FELL * self.first_loss:
            return []
        first, best = number(self.first_loss), number(self.lowest)
        text = f"the loss has never fallen far: {first} at the start, at best {best} in {steps:,} steps"
        return [Observation("loss_never_fell", text, step)]

    def _of_learning_rate(self, step: int) -> list[Observation]:
        if not self.rates or self.first_step is None:
            return []
        found: list[Observation] = []
        last = self.rates[-1][1]
        if self.jump and step - self.jump[0] <= _RECENT_STEPS:
            at, before, after = self.jump
            text = f"the learning rate rose from {number(before)} to {number(after)} at step {step_number(at)}"
            found.append(Observation("learning_rate_jump", text, at))
        elif (
            len(self.rates) > 3 and last >= self.highest_rate and last > 1.02 * self.rates[0][1] and step - self.rates[-1][0] <= 10
        ):
            text = f"the learning rate is still rising: {number(last)} at step {step_number(step)}, its highest so far"
            found.append(Observation("learning_rate_rising", text, step, known=self.known()))
        elif self.effective and (rise := self.effective[2] / max(self.effective[0], 1e-300)) >= _RISEN:
            first, highest, effective = self.effective
            if effective >= 0.99 * highest:
                course = f"has risen from {number(first)} to {number(effective)}, {number(rise)} times"
                text = f"momentum makes updates reach ever further: the effective rate {course}"
                found.append(Observation("learning_rate_rising", text, step, known=self.known()))
        if self.first_step <= 5 and self.first_rate >= 0.9 * self.highest_rate > 0.0:
            text = f"the learning rate started at its highest value, {number(self.first_rate)}, without a warm-up"
            found.append(Observation("no_warmup", text, self.first_step))
        if len(self.rates) == 1 and last > 0.0 and step - self.first_step >= _LONG_ENOUGH:
            text = f"the learning rate has been the same all the time, {number(last)}"
            found.append(Observation("learning_rate_constant", text, step))
        return found

    def rewind(self, step: int) -> None:
        """The run resumed at ``step``."""
        self.step = min(self.step, step - 1)
        while self.rates and self.rates[-1][0] >= step:
            self.rates.pop()
        if self.jump and self.jump[0] >= step:
            self.jump = None

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "first_step": self.first_step,
            "step": self.step,
            "loss": self.loss,
            "rates": [list(point) for point in self.rates],
            "first_rate": self.first_rate,
            "highest_rate": self.highest_rate,
            "jump": list(self.jump) if self.jump else None,
            "effective": list(self.effective) if self.effective else None,
            "losses": [self.losses, self.first_loss, self.level, self.lowest],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.first_step, self.step, self.loss = state["first_step"], state["step"], state["loss"]
        self.rates = deque(((step, rate) for step, rate in state["rates"]), maxlen=_LEARNING_RATE_POINTS)
        self.first_rate, self.highest_rate = state["first_rate"], state["highest_rate"]
        self.jump = tuple(state["jump"]) if state["jump"] else None
        effective = state.get("effective")
        self.effective = tuple(effective) if effective else None
        # Of a state written before losses were kept, the course of the loss is learnt anew.
        self.losses, self.first_loss, self.level, self.lowest = state.get("losses", (0, math.nan, math.nan, math.inf))
