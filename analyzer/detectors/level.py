"""A value beyond a fixed level: saturated logits, collapsed entropy, lost samples."""

from typing import ClassVar

from .base import Detector, Finding, Parameter


class Level(Detector, name="level"):
    """Sees a value above (or below) ``level``; the way back must pass ``release`` times the level (or the level over it)."""

    SEES: ClassVar = "a value beyond a fixed level"
    PARAMETERS: ClassVar = {
        "level": Parameter(0.0, "units of the signal", "the level"),
        "direction": Parameter("above", "", "which side is flagged", choices=("above", "below")),
        "release": Parameter(0.8, "share of the level", "hysteresis: closed again only beyond this share", 0.01, 1.0),
    }

    def reset(self) -> None:
        """Nothing is learned; only the parameters are read."""
        level, release = self.number("level"), self.number("release")
        self._sign = 1.0 if self.parameters["direction"] == "above" else -1.0
        self._level = level
        # The release level lies on the harmless side: lower for "above", higher for "below", whatever the level's sign.
        self._release = level - self._sign * abs(level) * ((1.0 - release) if self._sign > 0 else (1.0 / release - 1.0))

    def feed(self, step: int, value: float, *others: float) -> Finding | None:
        """Compare."""
        if self._sign * (value - self._level) > 0.0:
            return Finding(value, self._level)
        if self._sign * (value - self._release) > 0.0:
            return Finding(value, self._level, breach=False)
        return None
