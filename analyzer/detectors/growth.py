"""Exponential growth: a value that rises faster than a healthy run's slow drift, and when it will reach a limit."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from .base import Detector, Fact, Finding, Parameter
from .rolling import Learnt, Milestones, Trend
from .theil_sen import Slope

_FAR = 1e9
"""Steps beyond which no time to the limit is told."""


class Schedule:
    """What is known of learning rate and momentum at the samples of a series. O(1).

    Attributes:
        travel: sum of the effective rates over all steps so far, this one too.
        rate: effective learning rate now; 0 where none is known.
        reach: what momentum makes of the learning rate: effective rate over it.
    """

    def __init__(self) -> None:
        self.step: int | None = None
        self.travel = self.rate = 0.0
        self.reach = 1.0

    def push(self, step: int, origin: int, rate: float, effective: float) -> None:
        """Take the rates of a sample; between samples the rate is taken to be the mean of theirs."""
        if not rate > 0.0:
            return
        if effective > 0.0:
            self.reach = effective / rate
        now = rate * self.reach
        steps = step - (origin - 1 if self.step is None else self.step)
        self.travel += steps * 0.5 * (now + (now if self.step is None else self.rate))
        self.step, self.rate = step, now

    def rewind(self, step: int, origin: int) -> None:
        """The run went back to ``step``: as large a share of the travel is taken off as of the steps."""
        if self.step is not None and self.step > step:
            self.travel *= max(step - origin, 0) / (self.step - origin + 1)
            self.step = max(step, origin) - 1

    def state_dict(self) -> dict[str, float | int | None]:
        """Return everything as plain data."""
        return {"step": self.step, "travel": self.travel, "rate": self.rate, "reach": self.reach}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.step, self.travel, self.rate, self.reach = (state[name] for name in ("step", "travel", "rate", "reach"))


class Growth(Detector, name="growth"):
    """Fits a line to log(value) over the last samples and sees a value above ``level`` whose growth is fast for the run's age.

    Whether it grows steadily is asked of the least-squares line and its R squared; how fast, and when a limit is reached, of the
    Theil-Sen line, which no single sample can turn.

    Fast is free of scale: ``exponent = growth rate per step * steps since the series began``, the local power of time by which it
    grows. Weights under a bounded update drift at most linearly, exponent 1 or below; in exponential growth it rises without bound.

    What a schedule explains can be taken off with ``discount``. By ``travel`` growth is also asked for as a power of the learning
    rate travelled, the sum of the (effective) rates so far, and the smaller of the two exponents counts: whatever the schedule,
    weights grow by the power 1 of it at most. By ``momentum`` values are divided by what momentum makes of the learning rate:
    updates grow with it as they should.
    """

    SEES: ClassVar = "exponential growth, faster than steady training can explain"
    INPUTS: ClassVar = ("value", "loss", "rate", "effective")
    OPTIONAL: ClassVar = frozenset({"loss", "rate", "effective"})
    PARAMETERS: ClassVar = {
        "window": Parameter(12, "samples", "length of the fit", 4, 512),
        "level": Parameter(0.0, "units of the signal", "smaller values are not judged", 0.0),
        "exponent": Parameter(1.0, "growth rate times age", "slower growth is not flagged", 0.0),
        "min_rise": Parameter(0.1, "log units over the window", "a smaller rise is not flagged", 0.0, 50.0),
        "min_fit": Parameter(0.6, "R squared", "growth less steady than this is not flagged", 0.0, 1.0),
        "limit": Parameter(0.0, "units of the signal", "the time to reach this value is told; 0 for none", 0.0),
        "min_age": Parameter(0, "steps", "a younger series is learnt from and not judged", 0),
        "discount": Parameter("none", "", "what the schedule explains of the growth", choices=("none", "travel", "momentum")),
        "learnt": Parameter(
            1e-3, "share of the first loss", "a run whose loss was lower has learnt all and is not judged", 0.0, 1.0
        ),
    }
    FACTS: ClassVar = {
        "start_value": "value where the growth began",
        "start_step": "step where the growth began",
        "factor": "value over start_value",
        "doubling": "steps to double at this rate",
        "rate": "growth per 100 steps, in percent",
        "exponent": "growth rate times age",
        "limit": "the limit",
        "limit_step": "step at which the limit is reached at this rate; n/a beyond it",
        "limit_first": "earliest such step by the 95 % interval of the rate; n/a where it has no latest",
        "limit_last": "latest such step by it",
    }
    STATE: ClassVar = ("trend", "past", "learnt", "schedule", "travelled")
    RELEARNS: ClassVar = frozenset({"discount"})

    def reset(self) -> None:
        """Forget all samples."""
        self.trend = Trend(self.count("window"))
        self.past = Milestones()
        self.learnt = Learnt(self.number("learnt"))
        self.schedule = Schedule()
        self.travelled = Trend(self.count("window"))
        self._discount = str(self.parameters["discount"])
        self._level, self._exponent = self.number("level"), self.number("exponent")
        self._min_rise, self._min_fit = self.number("min_rise"), self.number("min_fit")
        self._limit, self._min_age = self.number("limit"), self.count("min_age")

    def begin(self, step: int, value: float, *others: float) -> None:
        """Note where the loss began."""
        if others and others[0] == others[0]:
            self.learnt.begin(others[0])

    def rewind(self, step: int) -> None:
        """Forget samples at or after ``step``."""
        self.trend.rewind(step)
        self.past.rewind(step)
        self.schedule.rewind(step, self.origin)
        self.travelled.rewind(step)

    def feed(self, step: int, value: float, *others: float) -> Finding | None:
        """Add the sample; fit only where level and rise already say that it could matter."""
        trend = self.trend
        schedule = self.schedule
        if self._discount != "none" and len(others) == 3:
            schedule.push(step, self.origin, others[1], others[2])
            self.travelled.push(step, schedule.travel)
        trend.push(step, value / schedule.reach if self._discount == "momentum" else value)
        if value > 0.0:
            self.past.push(step, value)
        if others and self.learnt.all(others[0]):
            return None
        if value < self._level or not trend.full or trend.rise() < self._min_rise or step - self.origin < self._min_age:
            return self._band(value)
        rate, fit = trend.fit()
        exponent = rate * (trend.middle() - self.origin)
        if self._discount == "travel" and (power := trend.power_of(self.travelled)) is not None:
            exponent = min(exponent, power)
        if rate <= 0.0 or fit < self._min_fit or exponent < self._exponent:
            return self._band(value)
        slope = trend.slope()
        if slope.middle <= 0.0:  # one sample alone turned the other line upwards
            return self._band(value)
        return Finding(value, self._level or None, self._start(value)[1], facts=self._facts(step, value, slope, exponent))

    def _band(self, value: float) -> Finding | None:
        """Stay open while the value is still near or above its level, however slowly it moves now."""
        if self._level and value >= 0.8 * self._level:
            return Finding(value, self._level, breach=False)
        return None

    def _start(self, value: float) -> tuple[int, float]:
        return self.past.last_below(value / 8.0) or (self.origin, value)

    def _facts(self, step: int, value: float, slope: Slope, exponent: float) -> dict[str, Fact]:
        start_step, start_value = self._start(value)
        rate = slope.middle
        facts: dict[str, Fact] = {
            "start_value": start_value,
            "start_step": start_step,
            "factor": value / start_value,
            "doubling": max(1, round(min(math.log(2.0) / rate, _FAR))),
            "rate": 100.0 * math.expm1(min(100.0 * rate, 50.0)),
            "exponent": exponent,
            "limit": self._limit,
        }
        if self._limit > value:
            far = math.log(self._limit / value)
            reached = {"limit_step": rate, "limit_first": slope.high, "limit_last": slope.low}
            facts |= {name: step + round(far / rate) for name, rate in reached.items() if rate > far / _FAR}
            if "limit_last" not in facts:
                facts.pop("limit_first", None)
        return facts
