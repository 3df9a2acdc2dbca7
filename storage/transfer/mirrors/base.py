"""What a mirror is: a tracker that is told, live, what the store is given. Read ``feeding`` for how it is kept apart from training.

A mirror of one's own is a subclass of ``Mirror`` and an entry point; ``watch(mirror="my-tracker:TARGET?option=value")`` finds it::

    [project.entry-points."foreshock.mirrors"]
    my-tracker = "my_package.mirror:MyMirror"
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from ...records import Alert, Batch, Histogram, Run, SeriesKey
from ..packages import TransferError, require
from ..selection import Selection

PREFIX = "foreshock"


class MirrorError(TransferError):
    """A mirror cannot be used as it was asked for; the message says what is allowed and what mends it."""


class Mirror(ABC):
    """A tracker. ``prepare`` is called by ``watch()``; everything else on a thread that this mirror has to itself.

    Args:
        target: where to, as the tracker understands it.
        options: what else was given, its names being among ``OPTIONS``.
        selection: which series it is told of; by default those about the whole run.
    """

    NAME: ClassVar[str] = "mirror"
    """What it is called in messages."""
    PACKAGES: ClassVar[tuple[tuple[str, str], ...]] = ()
    """(module, extra of foreshock that installs it) of what it needs."""
    OPTIONS: ClassVar[tuple[str, ...]] = ()
    """Names of its options."""

    def __init__(self, target: str = "", options: Mapping[str, str] | None = None, selection: Selection | None = None) -> None:
        self.target = target
        self.options = dict(options or {})
        self.selection = selection or Selection(run_wide=True)
        self.run = Run("", "")
        """The run that is mirrored; known from ``open`` on."""

    @classmethod
    def require_packages(cls) -> None:
        """Check, without importing them, that the packages it needs are there.

        Raises:
            TransferError: one is not; the message has the line that installs it.
        """
        for module, extra in cls.PACKAGES:
            require(module, extra, f"mirror={cls.NAME!r}")

    def prepare(self) -> None:  # noqa: B027 - most have nothing to do
        """Look at what was given, and at what the tracker is doing now in the thread that trains. Quick, and without a network.

        Raises:
            MirrorError: the user has to do something first.
        """

    @abstractmethod
    def open(self) -> None:
        """Begin. Called again, later and later, when it raised.

        What draws random numbers here or in ``take`` must not draw them from the global generators (see ``randomness``).
        """

    @abstractmethod
    def take(self, batch: Batch, alerts: Sequence[Alert]) -> None:
        """Tell the tracker. What this raises is counted and told; it may take its time, batches wait and then are dropped.

        Args:
            batch: steps with the chosen series only.
            alerts: those that are new.
        """

    @abstractmethod
    def close(self) -> None:
        """End, with everything told. Not called when ``open`` never succeeded."""


def label(key: SeriesKey) -> str:
    """Return what a series is called in a tracker: ``foreshock/<signal>[/<module>][/head 3][/rank 0]``."""
    parts = [
        PREFIX,
        key.signal,
        key.module,
        f"head {key.head}" if key.head >= 0 else "",
        f"rank {key.rank}" if key.rank >= 0 else "",
    ]
    return "/".join(part for part in parts if part)


def alert_title(alert: Alert) -> str:
    """Return an alert in a few words."""
    return f"{alert.severity}: {alert.rule} at step {alert.first_step}{f' in {alert.module}' if alert.module else ''}"


def alert_text(alert: Alert) -> str:
    """Return an alert with its likely cause and remedy, as Markdown."""
    lines = [f"**{alert_title(alert)}**", alert.message]
    if alert.diagnosis:
        lines.append(f"Likely cause: {alert.diagnosis[0].title} ({alert.diagnosis[0].confidence:.0%})")
    if remedy := (alert.diagnosis[0].remedy if alert.diagnosis else "") or alert.remedy:
        lines.append(f"Remedy: {remedy}")
    return "\n\n".join(lines)


def newest(batch: Batch) -> dict[SeriesKey, float]:
    """Return the last value of each series in a batch."""
    return {key: float(value) for record in batch.steps for key, value in zip(record.keys, record.values, strict=True)}


def edges(histogram: Histogram) -> list[float]:
    """Return the bounds of a histogram's bins, one more than there are bins."""
    count = len(histogram.counts)
    width = (histogram.high - histogram.low) / max(1, count)
    return [histogram.low + width * number for number in range(count)] + [histogram.high]


def finite(values: Iterable[float]) -> bool:
    """Return whether all are finite."""
    return all(math.isfinite(value) for value in values)
