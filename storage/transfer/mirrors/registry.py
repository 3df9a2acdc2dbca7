"""Which mirrors there are, and ``Mirrors``: those of one run, as the monitor sees them."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import parse_qsl

from ...records import Alert, AlertState, Batch, Run
from ..selection import Selection
from .base import Mirror, MirrorError
from .feeding import Feed, OnFault

GROUP = "foreshock.mirrors"
"""Entry points through which other distributions bring mirrors of their own."""

_BUILT_IN = {
    "tensorboard": "tensorboard:TensorBoardMirror",
    "wandb": "wandb:WandbMirror",
    "mlflow": "mlflow:MLflowMirror",
    "prometheus": "prometheus:PrometheusMirror",
    "otlp": "otlp:OTLPMirror",
}
_COMMON = ("signals", "modules")
_CLOSING = 10.0  # seconds that all mirrors together may take at the end

Given = str | Mirror | Sequence[str | Mirror]


def choose_mirrors(given: Given) -> list[Mirror]:
    """Return the mirrors that are meant; ``NAME[:TARGET][?signals=PATTERN,...&modules=PATTERN,...&OPTION=VALUE]`` names one.

    Raises:
        MirrorError: there is no such mirror or option.
        TransferError: a package is missing; the message has the line that installs it.
    """
    return [mirror_of(one) for one in ([given] if isinstance(given, (str, Mirror)) else given)]


def mirror_of(given: str | Mirror) -> Mirror:
    """Return one mirror. See ``choose_mirrors``."""
    if isinstance(given, Mirror):
        return given
    if not isinstance(given, str):
        raise MirrorError(f"mirror= takes strings such as {_examples()}, or Mirror objects; got {type(given).__name__}")
    address, _, query = given.rpartition("?") if "?" in given else (given, "", "")
    name, _, target = address.partition(":")
    kind = _kind(name, given)
    kind.require_packages()
    options = _options(query, kind)
    patterns = {each: tuple(filter(None, options.pop(each, "").split(","))) for each in _COMMON}
    return kind(target, options, Selection(patterns["signals"], patterns["modules"], run_wide=True))


class Mirrors:
    """The mirrors of one run, none until ``begin``. Nothing here blocks or raises.

    Args:
        on_fault: told of every failure; see ``feeding.OnFault``.
    """

    def __init__(self, on_fault: OnFault) -> None:
        self.feeds: list[Feed] = []
        self._on_fault = on_fault
        self._told: set[str] = set()
        self._fresh: list[Alert] = []

    def begin(self, mirrors: Iterable[Mirror], run: Run, known: Iterable[Alert] = ()) -> None:
        """Start a thread for each mirror.

        Args:
            mirrors: those chosen, and prepared.
            run: whose they are.
            known: alerts of which the trackers know from before.
        """
        self._told.update(alert.id for alert in known)
        for mirror in mirrors:
            mirror.run = run
            self.feeds.append(Feed(mirror, self._on_fault))

    def hear(self, alerts: Iterable[Alert]) -> None:
        """Take note of alerts that changed; those that fire for the first time go out with the next batch."""
        for alert in alerts:
            if alert.state is AlertState.FIRING and alert.id not in self._told:
                self._told.add(alert.id)
                self._fresh.append(alert)

    def after(self, complete: Callable[[Batch], Batch]) -> Callable[[Batch], Batch]:
        """Return ``complete`` with its result mirrored."""

        def completed(batch: Batch) -> Batch:
            whole = complete(batch)
            alerts, self._fresh = self._fresh, []
            for feed in self.feeds:
                feed.put(whole, alerts)
            return whole

        return completed

    def close(self) -> None:
        """Let them finish; waits some seconds at most. May be called twice."""
        deadline = time.monotonic() + _CLOSING
        feeds, self.feeds = self.feeds, []
        for feed in feeds:
            feed.end()
        for feed in feeds:
            feed.close(deadline)


def _kind(name: str, given: str) -> type[Mirror]:
    if name in _BUILT_IN:
        module, _, found = _BUILT_IN[name].partition(":")
        kind: Any = getattr(import_module(f".{module}", __package__), found)
    else:
        points = {point.name: point for point in entry_points(group=GROUP)}
        if name not in points:
            raise MirrorError(f"mirror={given!r}: there is no mirror {name!r}; allowed: {', '.join([*_BUILT_IN, *sorted(points)])}")
        try:
            kind = points[name].load()
        except Exception as error:
            raise MirrorError(
                f"the mirror {name!r} of another package cannot be loaded: {type(error).__name__}: {error}"
            ) from error
    if not (isinstance(kind, type) and issubclass(kind, Mirror)):
        raise MirrorError(f"the entry point {name!r} names {kind!r}; allowed: a subclass of {Mirror.__module__}.Mirror")
    return kind


def _options(query: str, kind: type[Mirror]) -> dict[str, str]:
    options: Mapping[str, str] = dict(parse_qsl(query, keep_blank_values=True))
    if query and not options:
        raise MirrorError(f"mirror={kind.NAME!r}: {query!r} is not of the form option=value")
    unknown = [each for each in options if each not in (*_COMMON, *kind.OPTIONS)]
    if unknown:
        raise MirrorError(f"mirror={kind.NAME!r} has no option {unknown[0]!r}; allowed: {', '.join((*_COMMON, *kind.OPTIONS))}")
    return dict(options)


def _examples() -> str:
    return "'tensorboard:runs/x', 'wandb', 'mlflow' or 'prometheus:9464'"
