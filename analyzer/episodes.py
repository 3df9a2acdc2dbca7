"""The life of an alert: warm-up, persistence, hysteresis, cooldown. The same for every detector, with the rule's numbers."""

import logging
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from .detectors import Detector, Finding
from .rules import Rule

_MOST_DOUBLINGS = 6

log = logging.getLogger("foreshock")


class Turn(Enum):
    """What a sample did to a watcher's alert."""

    FIRED = "fired"
    RESOLVED = "resolved"


class Watcher:
    """One rule on one module: a detector and the state of its alert.

    A rule that keeps firing falls quiet by itself: every episode doubles the cooldown before the next (up to 64 times).
    """

    def __init__(self, rule: Rule, module: str) -> None:
        self.rule = rule
        self.module = module
        self.detector = rule.build()
        self._detect: Callable[..., Finding | None] = self.detector.feed
        self.open = False
        self.episode = -1
        self.finding: Finding | None = None
        self.last_step: int | None = None
        self._interval = rule.interval
        self.due = 0
        self._start = 0
        self._ready = 0
        self._hits = 0
        self._quiet = 0

    @property
    def pending(self) -> bool:
        """Whether something stands out that has not lasted long enough to fire."""
        return self._hits > 0 and not self.open

    @property
    def busy(self) -> bool:
        """Whether an alert is open or pending."""
        return self.open or self._hits > 0

    def feed(self, step: int, value: float, *others: float) -> Turn | None:
        """Take one sample; say whether an alert fired or resolved.

        Samples of steps already seen, or nearer to the last than the rule's interval, are passed over.
        """
        if self.last_step is None:
            self.detector.origin = step
            self._start = step + self.rule.warmup
            self._begin(step, value, *others)
        elif step < self.due:
            return None
        self.last_step = step
        self.due = step + self._interval
        if step < self._start:
            return None
        try:
            finding = self._detect(step, value, *others)
        except Exception as error:  # noqa: BLE001 - anybody's detector may run here, and one that fails must not end the others
            self._give_up(step, error)
            return None
        if finding is None and not self._hits and not self.open:
            return None
        return self._advance(step, finding)

    def _begin(self, *sample: Any) -> None:
        try:
            self.detector.begin(*sample)
        except Exception as error:  # noqa: BLE001 - as in ``feed``
            self._give_up(sample[0], error)

    def _give_up(self, step: int, error: Exception) -> None:
        """The detector failed: say so once, and watch no more."""
        place = f" on {self.module}" if self.module else ""
        log.error(
            "rule %s%s is off from step %d on: its detector %r failed",
            self.rule.name,
            place,
            step,
            self.rule.detector,
            exc_info=error,
        )
        self._detect = _sees_nothing

    def _advance(self, step: int, finding: Finding | None) -> Turn | None:
        if finding is None:
            self._hits = 0
            self._quiet += 1
            if self.open and self._quiet >= self.rule.clear:
                self.open = False
                self._ready = step + self.rule.cooldown * 2 ** min(self.episode, _MOST_DOUBLINGS)
                return Turn.RESOLVED
            return None
        self._quiet = 0
        if not finding.breach:
            self._hits = max(0, self._hits - 1)
            return None
        self._hits += 1
        if self.open or self._hits < self.rule.persistence or step < self._ready:
            return None
        self.open = True
        self.episode += 1
        self.finding = finding
        return Turn.FIRED

    def rewind(self, step: int) -> None:
        """The run resumed at ``step``: steps from there on come again."""
        if self.last_step is None:
            return
        self.last_step = min(self.last_step, step - 1)
        self.due = min(self.due, step)
        self._start = min(self._start, step + self.rule.warmup)  # a rule for broken numbers may have seen its first only later
        self._ready = min(self._ready, step + self.rule.cooldown)
        self._hits = 0
        self.detector.rewind(step)

    def undo(self, step: int) -> None:
        """The run goes on at ``step``, before the alert that is open was raised: it may be raised again at once."""
        self.open = False
        self._hits = self._quiet = 0
        self._ready = step

    def change(self, rule: Rule) -> None:
        """Go on by a changed rule, from the next sample on: what was learned, and an alert that is open or pending, stay.

        The detector is made anew with the new parameters and takes over what the old one learned. A warm-up is counted from where
        the series began; a cooldown that runs is not changed. What ``begins_anew`` names needs a fresh watcher.
        """
        before, self.rule = self.rule, rule
        self._interval = rule.interval
        if self.last_step is not None:
            self.due = self.last_step + rule.interval
            if rule.warmup != before.warmup:
                self._start = self.detector.origin + rule.warmup
        if rule.parameters == before.parameters:
            return
        origin = self.detector.origin
        try:
            learned = self.detector.state_dict()
            self.detector = rule.build()
            self.detector.load_state_dict(learned)
        except Exception as error:  # noqa: BLE001 - as in ``feed``
            self._give_up(self.last_step or 0, error)
        else:
            self._detect = self.detector.feed
        self.detector.origin = origin

    def adopt(self, episode: int, *, still_open: bool) -> None:
        """Go on after an episode that another engine saw."""
        if episode > self.episode:
            self.episode, self.open = episode, still_open

    def drop_pending(self) -> None:
        """The run ended: what has not fired by now never will."""
        if not self.open:
            self._hits = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state of detector and alert as plain data."""
        return {
            "rule": self.rule.name,
            "module": self.module,
            "fingerprint": self.rule.fingerprint,
            "detector": self.detector.state_dict(),
            "origin": self.detector.origin,
            "open": self.open,
            "episode": self.episode,
            "last_step": self.last_step,
            "next": self.due,
            "start": self._start,
            "ready": self._ready,
            "hits": self._hits,
            "quiet": self._quiet,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``; a rule changed since keeps its episodes but learns anew."""
        self.open, self.episode, self.last_step = state["open"], state["episode"], state["last_step"]
        self._start, self._ready, self.due = state["start"], state["ready"], state["next"]
        self.detector.origin = state["origin"]
        if state["fingerprint"] == self.rule.fingerprint:
            self._hits, self._quiet = state["hits"], state["quiet"]
            self.detector.load_state_dict(state["detector"])


def begins_anew(before: Rule, after: Rule) -> bool:
    """Return whether what one rule learned means nothing to the other: it looked at other numbers, or at their other side."""
    if (before.detector, before.signals, before.reduce, before.across) != (
        after.detector,
        after.signals,
        after.reduce,
        after.across,
    ):
        return True
    relearns = Detector.registry[after.detector].RELEARNS
    return any(before.parameters.get(name) != after.parameters.get(name) for name in relearns)


def _sees_nothing(*sample: float) -> None:
    """Stand in for a detector that failed."""
