"""NaN or infinity: the run is already broken, there is nothing to weigh."""

import math
from typing import ClassVar

from .base import Detector, Finding


class NonFinite(Detector, name="non_finite"):
    """Sees any value that is NaN or infinite."""

    SEES: ClassVar = "NaN or infinity"
    FACTS: ClassVar = {"kind": "NaN, +infinity or -infinity"}
    SEES_NON_FINITE: ClassVar = True

    def feed(self, step: int, value: float, *others: float) -> Finding | None:
        """Return a finding for a value that is not finite."""
        if math.isfinite(value):
            return None
        kind = "NaN" if math.isnan(value) else "+infinity" if value > 0 else "-infinity"
        return Finding(value=value, facts={"kind": kind})

    def reset(self) -> None:
        """Nothing is learned, nothing is forgotten."""
