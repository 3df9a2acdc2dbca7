"""The course of one run's risk: follows its alerts and its loss, and gives the points of the series ``risk``.

O(1) memory and, while nothing changes, some comparisons a step beside the rule of failure. Everything counts in the run's own
steps, so live and replayed runs, in batches of any size, have the same course.
"""

import logging
from collections.abc import Container, Mapping
from dataclasses import replace
from typing import Any

from ..storage.records import Batch, SeriesKey, Severity, StepRecord
from .failing import MET, OVER, WELL, Failing
from .risk import HIGHEST, SIGNAL, RiskError, RiskModel, default_model

_LEAST_PAUSE = 10
_PAUSES = 100
_FORGOTTEN = 0.01
_DIGITS = 1

_MOST_KEYS = 64
_KEY = SeriesKey(SIGNAL)

log = logging.getLogger("foreshock")


class RiskCourse:
    """Follows one run. Not thread-safe, but for ``value``. Never raises: what fails is logged once, and the risk is None from then.

    Points come where an alert or the rule of failure turns, and else every 10 steps, in long runs every hundredth of their length.
    At the latter alone what is over comes to count less: between them alerts can only raise the value.

    Args:
        model: the fitted model; the package's own when None.
    """

    def __init__(self, model: RiskModel | None = None) -> None:
        self.value: float | None = None
        """The risk now, 0 to 100; None before the first step, or where it cannot be told."""
        self._model = model
        self._failing = Failing()
        self._open: dict[str, set[str]] = {}
        self._over: dict[str, tuple[int, float]] = {}
        self._severities: dict[str, Severity] = {}
        self._last = -1
        self._due = 0
        self._clock = 0
        self._stale = False
        self._stage = WELL
        self._points: list[tuple[int, float]] = []
        self._given_up = False
        if model is None:
            try:
                self._model = default_model()
            except RiskError as error:
                self._give_up(error)

    def turned(self, rule: str, module: str, severity: Severity, step: int, *, fired: bool) -> None:
        """An alert fired at a module, or it is over there. Say so before the step is fed."""
        self._severities[rule] = severity
        members = self._open.setdefault(rule, set())
        if fired:
            members.add(module)
        else:
            members.discard(module)
        if not members:
            del self._open[rule]
            if self._model is not None:
                self._over[rule] = (step, self._model.half_life(step))
        self._stale = True

    def feed(self, step: int, loss: float | None) -> None:
        """A step is over. Steps already passed are ignored.

        Args:
            step: its number.
            loss: None where it was not measured.
        """
        if step <= self._last or self._given_up:
            return
        self._last = step
        try:
            if loss is not None:
                self._failing.feed(step, loss)
            if step >= self._due:
                self._clock, self._due, self._stale = step, step + max(_LEAST_PAUSE, step // _PAUSES), True
            if self._stale or self._failing.stage != self._stage:
                self._move(step)
        except Exception as error:  # noqa: BLE001 - the risk must cost neither samples nor alerts
            self._give_up(error)

    def evidence(self) -> dict[str, float]:
        """Return how much each rule counts now: 1 where an alert of it is open, less the longer the last one is over."""
        found = dict.fromkeys(self._open, 1.0)
        for rule, (ended, half) in self._over.items():
            left = 0.5 ** (max(0, self._clock - ended) / half)
            if rule not in found and left >= _FORGOTTEN:
                found[rule] = left
        return found

    @property
    def met(self) -> bool:
        """Whether the loss meets the rule of failure now."""
        return self._failing.stage != WELL

    def take_points(self) -> list[tuple[int, float]]:
        """Return the points (step, value) since the last call."""
        taken, self._points = self._points, []
        return taken

    def _move(self, step: int) -> None:
        """Tell the value anew and note it as a point."""
        model = self._model
        assert model is not None
        evidence = self.evidence()
        self._over = {rule: ended for rule, ended in self._over.items() if rule in evidence}
        value = model.reading(model.odds(evidence, self._severities))
        self._stage, self._stale = self._failing.stage, False
        if self._stage == MET:
            value = max(value, min(HIGHEST, 100.0 * model.failing))
        elif self._stage == OVER:
            value = 100.0
        self.value = round(value, _DIGITS)
        self._points.append((step, self.value))

    def rewind(self, step: int) -> None:
        """A new segment begins at ``step``; where it goes back, what lay at or after it will come again."""
        if step > self._last:
            return
        self._over = {rule: (min(ended, step), half) for rule, (ended, half) in self._over.items()}
        self._failing.rewind(step)
        self._last, self._due, self._stale = step - 1, step, True

    def state_dict(self) -> dict[str, Any]:
        """Return everything as plain data, but for points not yet taken."""
        return {
            "value": self.value,
            "failing": self._failing.state_dict(),
            "open": {rule: sorted(modules) for rule, modules in self._open.items()},
            "over": {rule: list(ended) for rule, ended in self._over.items()},
            "severities": {rule: str(severity) for rule, severity in self._severities.items()},
            "last": self._last,
            "due": self._due,
            "clock": self._clock,
            "stale": self._stale,
            "stage": self._stage,
        }

    def load_state_dict(self, state: Mapping[str, Any], rules: Container[str]) -> None:
        """Continue from ``state_dict``; alerts of other rules than these are forgotten, for nothing would ever end them."""
        self._failing.load_state_dict(state["failing"])
        self._open = {rule: set(modules) for rule, modules in state["open"].items() if rule in rules}
        self._over = {rule: (ended, half) for rule, (ended, half) in state["over"].items()}
        self._severities = {rule: Severity(severity) for rule, severity in state["severities"].items()}
        self._last, self._due, self._clock = state["last"], state["due"], state["clock"]
        self._stale, self._stage = state["stale"], state["stage"]
        self.value = None if self._given_up else state["value"]

    def _give_up(self, error: Exception) -> None:
        self._given_up, self.value = True, None
        log.error("the risk of this run is not told from here on; alerts go on: %s: %s", type(error).__name__, error)


class RiskPoints:
    """Puts the points of a course into the batch that gave them, as one more value of those steps."""

    def __init__(self) -> None:
        self._longer: dict[int, tuple[tuple[SeriesKey, ...], tuple[SeriesKey, ...]]] = {}

    def added(self, batch: Batch, points: Mapping[int, float]) -> Batch:
        """Return the batch with the series ``risk`` where there is a point; a step that has a metric of that name keeps its own."""
        return replace(batch, steps=tuple(self._record(record, points.get(record.step)) for record in batch.steps))

    def _record(self, record: StepRecord, value: float | None) -> StepRecord:
        if value is None:
            return record
        keys = self._keys(record.keys)
        return record if keys is record.keys else replace(record, keys=keys, values=(*record.values, value))

    def _keys(self, keys: tuple[SeriesKey, ...]) -> tuple[SeriesKey, ...]:
        """Return the keys and ours; the same tuple for the same tuple, so that the store need not resolve it anew."""
        known = self._longer.get(id(keys))
        if known is not None and known[0] is keys:
            return known[1]
        if len(self._longer) >= _MOST_KEYS:
            self._longer.clear()
        longer = keys if _KEY in keys else (*keys, _KEY)
        self._longer[id(keys)] = (keys, longer)
        return longer
