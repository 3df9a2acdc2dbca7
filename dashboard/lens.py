"""How a reader looks at charts over steps: which steps, how smooth, on which scale."""

import re
from dataclasses import dataclass

_WINDOW = re.compile(r"(\d{1,15})-(\d{1,15})")
_SCALES = {"log": True, "linear": False}

SMOOTHINGS = (0, 10, 100, 1_000, 10_000)
"""Steps over which lines may be smoothed, as the page offers them; 0 is not at all."""
MOST_SMOOTHING = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Lens:
    """What one chart shows of its data.

    Args:
        window: First and last step of the zoom; None for the whole run, which goes on.
        smoothing: Steps over which lines are smoothed (see ``smoothing``); 0 for not at all.
        log: Whether the y axis is logarithmic; None for the chart's own way.
    """

    window: tuple[int, int] | None = None
    smoothing: int = 0
    log: bool | None = None

    @classmethod
    def of(cls, graph: str, window: object, smoothing: object, scales: object) -> "Lens":
        """Return the lens of a chart from what the page and its address say; what makes no sense is left out.

        Args:
            window: ``FIRST-LAST``.
            smoothing: A number of steps.
            scales: ``GRAPH:log`` or ``GRAPH:linear``, joined by commas.
        """
        choices = dict(part.split(":", 1) for part in str(scales or "").split(",") if ":" in part)
        return cls(window_of(window), _steps_of(smoothing), _SCALES.get(choices.get(graph, "")))

    @property
    def start(self) -> int | None:
        """First step to read; None for all."""
        return None if self.window is None else self.window[0]

    @property
    def stop(self) -> int | None:
        """Step before which reading ends; None for none."""
        return None if self.window is None else self.window[1] + 1

    def is_past(self, step: int) -> bool:
        """Return whether what begins at a step lies beyond what the reader looks at."""
        return self.window is not None and step > self.window[1]


def window_of(written: object) -> tuple[int, int] | None:
    """Return (first, last) of ``FIRST-LAST``; None where it says nothing, or nothing sensible."""
    found = _WINDOW.fullmatch(str(written or ""))
    if found is None or int(found[1]) >= int(found[2]):
        return None
    return int(found[1]), int(found[2])


def _steps_of(written: object) -> int:
    digits = str(written or "")
    return min(int(digits), MOST_SMOOTHING) if re.fullmatch(r"[0-9]{1,15}", digits) else 0
