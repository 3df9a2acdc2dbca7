"""What the watchdog knows of one run: how long it has been silent or standing still, and how long that may be.

Only differences count: the watchdog's own steady clock, between looks at the store that succeeded. No wall clock is compared with
another, so hosts may disagree on the time, clocks may jump, and a machine that slept has not been silent.
"""

from collections import deque
from dataclasses import dataclass, field
from statistics import median

BEAT_S = 5.0
"""Seconds between a run's signs of life, until seen otherwise (``storage.saving.HEARTBEAT``)."""
LOST_FACTOR, LOST_FLOOR_S = 10.0, 60.0
STALLED_FACTOR, STALLED_FLOOR_S = 20.0, 300.0
START_FACTOR = 6.0
"""Before the first step a run may take this much longer: it compiles, and reads its data."""
_PAUSE_FACTOR = 2.0
_COUNTED = 3.0
_KEPT = 20


@dataclass(slots=True)
class Rhythm:
    """How often something happens, and how long it last did not. Durations in seconds of the watchdog's clock.

    ``alive`` says that it has been seen to happen.
    """

    usual: float
    silence: float = 0.0
    longest: float = 0.0
    alive: bool = False
    _gaps: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def wait(self, seconds: float) -> None:
        """Nothing happened for so long again."""
        self.silence += seconds

    def beat(self, seconds: float) -> None:
        """It happened, within the last so many seconds."""
        gap = self.silence + seconds
        self._gaps.append(gap)
        self.usual = median(self._gaps)
        self.longest = max(self.longest, gap)
        self.silence = 0.0
        self.alive = True


class Pulse:
    """The two rhythms of a run: signs of life, and steps.

    Args:
        step_seconds: what a step has taken so far on average; 0 where unknown.
        stepped: whether the run has made a step.
        lost_floor, stalled_floor: least seconds until the run counts as lost, or as stalled.
    """

    def __init__(
        self,
        sign: tuple[float, int, int],
        *,
        step_seconds: float = 0.0,
        stepped: bool = False,
        lost_floor: float = LOST_FLOOR_S,
        stalled_floor: float = STALLED_FLOOR_S,
    ) -> None:
        self.sign = sign
        self.stepped = stepped
        self.life = Rhythm(BEAT_S)
        self.steps = Rhythm(step_seconds)
        self._lost_floor, self._stalled_floor = lost_floor, stalled_floor

    def look(self, sign: tuple[float, int, int], seconds: float) -> None:
        """Take what the store says now.

        Args:
            sign: heartbeat, last step, place in the ledger of batches. Any change is a sign of life; a change of the ledger is a
                step, of whatever segment.
            seconds: since the last look.
        """
        gap = self.life.silence + seconds
        if sign == self.sign:
            self.life.wait(seconds)
        else:
            # Of a long silence not more counts as standing still than a living run is silent for.
            shown = min(gap, _COUNTED * self.life.usual)
            self.life.beat(seconds)
            if sign[2] == self.sign[2]:
                self.steps.wait(shown)
            else:
                self.steps.beat(shown)
                self.stepped = True
        self.sign = sign

    def forget_silence(self) -> None:
        """The store could not be read: nobody knows what the run did meanwhile."""
        for rhythm in (self.life, self.steps):
            rhythm.silence, rhythm.alive = 0.0, False

    @property
    def lost_after(self) -> float:
        """Seconds of silence after which the run counts as lost."""
        return max(self._lost_floor, LOST_FACTOR * self.life.usual)

    @property
    def stalled_after(self) -> float:
        """Seconds without a step after which the run counts as stalled: longer where it made long pauses before."""
        floor = self._stalled_floor * (1.0 if self.stepped else START_FACTOR)
        return max(floor, STALLED_FACTOR * self.steps.usual, _PAUSE_FACTOR * self.steps.longest)

    @property
    def lost(self) -> bool:
        """Whether the run's heartbeat counts as lost."""
        return self.life.silence >= self.lost_after

    @property
    def stalled(self) -> bool:
        """Whether the run is alive and its steps do not advance."""
        return not self.lost and self.steps.silence >= self.stalled_after
