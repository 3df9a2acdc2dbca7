"""What each signal means to a reader of the page: its title, unit, which direction is trouble, and how its colours are scaled.

The words themselves stand in ``signals.toml``.
"""

import tomllib
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from typing import Any


class Scale(StrEnum):
    """How values are mapped to colours: evenly, by their logarithm, or evenly over the fixed range 0 to 1."""

    LINEAR = "linear"
    LOG = "log"
    UNIT = "unit"


class Trouble(StrEnum):
    """Which values of a signal are the worrying ones: large ones, small ones, or those far from 0 on either side."""

    HIGH = "high"
    LOW = "low"
    AWAY = "away"

    def order(self, value: float) -> float:
        """Return a number that is the larger, the more worrying a value is."""
        return {Trouble.HIGH: value, Trouble.LOW: -value, Trouble.AWAY: abs(value)}[self]


@dataclass(frozen=True, slots=True)
class SignalInfo:
    """One signal in words.

    Args:
        unit: Unit or reading of the value, for axis titles.
        recognise: The trouble that a picture of this signal lets the reader recognise, one plain sentence.
        trouble: Which values are the worrying ones.
        span: Smallest range of values that the colours stand for (of powers of ten on a logarithmic scale), so that harmless
            differences stay dark.
        probe: The probe that measures it; empty for what a reader logs.
    """

    name: str
    title: str
    unit: str
    recognise: str
    trouble: Trouble = Trouble.HIGH
    scale: Scale = Scale.LINEAR
    span: float = 1.0
    probe: str = ""

    @property
    def axis_title(self) -> str:
        """Return title and unit as one axis title."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def preset(self) -> str:
        """Return the smallest preset whose probes measure it; empty where none does."""
        return PRESETS.get(self.probe, "")


def _read() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath("signals.toml").read_text("utf-8"))


def _info(name: str, told: dict[str, Any]) -> SignalInfo:
    trouble, scale = Trouble(told.get("trouble", "high")), Scale(told.get("scale", "linear"))
    return SignalInfo(
        name, told["title"], told.get("unit", ""), told["recognise"], trouble, scale, float(told.get("span", 1.0)), told["probe"]
    )


_TOLD = _read()

PRESETS: dict[str, str] = _TOLD["presets"]
"""Probe -> the smallest preset that it runs in."""

CATALOGUE: dict[str, SignalInfo] = {name: _info(name, told) for name, told in _TOLD["signals"].items()}
"""Signals with words of their own, in the order in which the page offers them."""

HISTOGRAM = "spectral_alignment.histogram"
SPECTRUM = "weight.spectrum"
DISTRIBUTIONS = frozenset({HISTOGRAM, SPECTRUM})
"""Signals that are distributions and no numbers: they have pictures of their own."""
FIRST_SIGNAL = "spectral_alignment.sign_diversity"
SECOND_SIGNAL = "weight.spectral_norm"


def describe(name: str) -> SignalInfo:
    """Return the words for a signal; one without an entry is described by its own name."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    title = name.replace(".", " · ").replace("_", " ")
    return SignalInfo(name, title, "", "A change of colour shows which layer changes, and when.")


def offered(present: set[str]) -> list[str]:
    """Return the given signals in the order in which the page offers them: those of the catalogue first, then by name."""
    return [name for name in CATALOGUE if name in present] + sorted(present - CATALOGUE.keys())
