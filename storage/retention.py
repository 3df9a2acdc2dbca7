"""What is kept for how long: signals in classes, and for each class an age after which points are thinned out, or all of it goes.

Data only; ``pruning`` carries it out. By default everything is kept for good.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

CLASSES: Mapping[str, tuple[str, ...]] = {
    "core": ("loss", "learning_rate", "gradient.norm", "gradient.norm_clipped", "risk"),
    "layers": (
        "spectral_alignment.*",
        "weight.*",
        "update.*",
        "adam.*",
        "gradient.module_norm",
        "attention.*",
        "rounding.*",
        "numerics.*",
        "activation.*",
        "output.*",
        "router.*",
        "nonfinite.*",
        "curvature.*",
        "rank.*",
    ),
    "monitor": ("monitor.*", "system.*"),
    "metrics": ("*",),
    "histograms": (),
    "captures": (),
}
"""Patterns of signal names; a signal belongs to the first class that has one for it. The last two hold no signals."""

WORDS: Mapping[str, str] = {
    "core": "Loss, learning rate, gradient norm, risk",
    "layers": "What probes measure of layers, heads and ranks",
    "monitor": "What the monitor tells of itself",
    "metrics": "Your own metrics, and whatever was imported under other names",
    "histograms": "Histograms of spectral alignment, and imported ones",
    "captures": "Files that interventions wrote: bundles and checkpoints",
}

_UNITS = {"h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([hdw])")


@dataclass(frozen=True, slots=True)
class Limit:
    """Ages in seconds. After ``thin``, finite points go that a rollup tells of; after ``keep``, all of the class. None: never."""

    keep: float | None = None
    thin: float | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """The limit of each class that has one."""

    limits: Mapping[str, Limit] = field(default_factory=dict)

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> "Policy":
        """Read the table ``[retention]``.

        Raises:
            ValueError: a class, a key or a span of time is not allowed; the message says which is.
        """
        limits = {}
        for name, given in table.items():
            if name not in CLASSES:
                raise ValueError(f"[retention] has no class {name!r}; allowed: {', '.join(CLASSES)}")
            if not isinstance(given, Mapping):
                raise ValueError(f'retention.{name} = {given!r}: it takes a table, such as {{ keep = "90d" }}')
            allowed = ("keep", "thin") if CLASSES[name] else ("keep",)
            if unknown := [key for key in given if key not in allowed]:
                raise ValueError(f"retention.{name} has no key {unknown[0]!r}; allowed: {', '.join(allowed)}")
            limits[name] = Limit(**{key: seconds_of(value) for key, value in given.items()})
        return cls(limits)

    @classmethod
    def all_after(cls, seconds: float) -> "Policy":
        """Return the policy by which every signal and histogram goes at that age."""
        return cls({name: Limit(keep=seconds) for name in CLASSES if name != "captures"})


def class_of(signal: str) -> str:
    """Return the class that a signal belongs to."""
    return next(name for name, patterns in CLASSES.items() if any(fnmatchcase(signal, pattern) for pattern in patterns))


def seconds_of(span: Any) -> float:
    """Return a span such as ``"90d"``, ``"12h"`` or ``"2w"`` in seconds.

    Raises:
        ValueError: it is none.
    """
    found = _SPAN.fullmatch(span.strip().lower()) if isinstance(span, str) else None
    if found is None or float(found[1]) <= 0:
        raise ValueError(f"{span!r} is no span of time; write hours, days or weeks: 12h, 90d, 2w")
    return float(found[1]) * _UNITS[found[2]]
