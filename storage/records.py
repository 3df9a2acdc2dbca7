"""What is kept: the plain records that pass between the rooms. Standard library only, immutable, no behaviour beyond checks.

Keys never hold None: ``''`` and ``-1`` stand where a module, head or rank does not apply, because a NULL in a unique key lets
duplicates in. Times are seconds since the epoch, UTC (``time.time()``).
"""

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any


class Kind(IntEnum):
    """What a stored value is. Non-finite values are kept as themselves: in an unstable run they are the signal."""

    FINITE = 0
    POSITIVE_INFINITY = 1
    NEGATIVE_INFINITY = 2
    NAN = 3

    @classmethod
    def of(cls, value: float) -> "Kind":
        """Return the kind of ``value``."""
        if math.isfinite(value):
            return cls.FINITE
        if math.isnan(value):
            return cls.NAN
        return cls.POSITIVE_INFINITY if value > 0 else cls.NEGATIVE_INFINITY


LOST_AFTER = 30.0
"""Seconds without a heartbeat after which a run that calls itself running counts as lost."""

BEING_DELETED = "being_deleted"
"""Key in a run's ``meta``: the time at which its deletion began. What is left of such a run is not whole."""


class RunStatus(StrEnum):
    """State of a run as its own process last reported it. A *lost* run is one still ``running`` whose heartbeat stopped."""

    RUNNING = "running"
    FINISHED = "finished"
    CRASHED = "crashed"
    TERMINATED = "terminated"


class Severity(StrEnum):
    """How bad a finding is; ``Severity.WARNING.rank`` orders them (0, 1, 2)."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """Place in the order of severities: 0, 1, 2."""
        return list(Severity).index(self)


class AlertState(StrEnum):
    """Lifecycle of an alert. Acknowledged and silenced alerts still count as open; both are told no more."""

    PENDING = "pending"
    FIRING = "firing"
    ACKNOWLEDGED = "acknowledged"
    SILENCED = "silenced"
    RESOLVED = "resolved"

    @property
    def successors(self) -> tuple["AlertState", ...]:
        """The states that may follow this one. A resolved alert is over: what comes later is a new episode."""
        return tuple(AlertState(name) for name in _SUCCESSORS[self.value].split())


_SUCCESSORS = {
    "pending": "firing silenced resolved",
    "firing": "acknowledged silenced resolved",
    "acknowledged": "firing silenced resolved",
    "silenced": "firing acknowledged resolved",
    "resolved": "",
}


class NotificationState(StrEnum):
    """State of an outbox entry. ``failed`` ones are the dead letters; ``cancelled`` ones were overtaken by a person's decision."""

    WAITING = "waiting"
    SENT = "sent"
    FAILED = "failed"
    CANCELLED = "cancelled"


def new_id() -> str:
    """Return a fresh 32-character id. Ids are made by the client so that every retry is harmless."""
    return uuid.uuid4().hex


def derived_id(*parts: object) -> str:
    """Return the 32-character id that always belongs to these parts (the same alert of two analyzers, say)."""
    return uuid.uuid5(uuid.NAMESPACE_OID, "\x1f".join(str(part) for part in parts)).hex


@dataclass(frozen=True, slots=True)
class SeriesKey:
    """Names one series within a run: signal (SIGNALS name), module path, attention head, rank."""

    signal: str
    module: str = ""
    head: int = -1
    rank: int = -1


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts over equal bins of [low, high]; values outside fall in the outermost bins."""

    key: SeriesKey
    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StepRecord:
    """Everything measured in one step. ``keys[i]`` names ``values[i]``; steps share one ``keys`` tuple where they can,
    so that the store resolves it to row ids once.

    Raises:
        ValueError: ``keys`` and ``values`` differ in length.
    """

    step: int
    time: float
    keys: tuple[SeriesKey, ...]
    values: Sequence[float]
    histograms: tuple[Histogram, ...] = ()

    def __post_init__(self) -> None:
        if len(self.keys) != len(self.values):
            raise ValueError(f"step {self.step}: {len(self.keys)} keys for {len(self.values)} values")


@dataclass(frozen=True, slots=True)
class Batch:
    """The unit of writing: some steps of one segment of one run, under a client-made id. Writing it twice equals once."""

    id: str
    run_id: str
    segment: int
    steps: tuple[StepRecord, ...]

    @property
    def points(self) -> int:
        """Number of scalar samples in the batch."""
        return sum(len(step.values) for step in self.steps)


@dataclass(frozen=True, slots=True)
class Run:
    """One training run. ``meta`` holds facts for people (host, pid, torch version, model size), JSON-serialisable."""

    id: str
    name: str
    project: str = ""
    status: RunStatus = RunStatus.RUNNING
    created_at: float = 0.0
    heartbeat_at: float = 0.0
    ended_at: float | None = None
    last_step: int = -1
    tags: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    def alive(self, now: float) -> bool:
        """Return whether it calls itself running and was heard of lately, at ``now``, seconds since the epoch."""
        return self.status is RunStatus.RUNNING and now - max(self.heartbeat_at, self.created_at) <= LOST_AFTER


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a run between two (re)starts. Steps seen again after a resume or roll-back belong to a higher segment."""

    run_id: str
    segment: int
    start_step: int
    started_at: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """The series around an alert's first step, as drawn beside it. ``threshold`` and ``baseline`` are n/a when None."""

    key: SeriesKey
    steps: tuple[int, ...]
    values: tuple[float, ...]
    threshold: float | None = None
    baseline: float | None = None


@dataclass(frozen=True, slots=True)
class Cause:
    """A possible cause with its reasons. ``confidence`` (0 to 1) ranks causes; ``doc`` names the page, analyzer/causes/<doc>.md."""

    name: str
    title: str
    confidence: float
    reasons: tuple[str, ...]
    remedy: str
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Alert:
    """One explained warning: at most one per (run, rule, module, episode). ``id`` is ``derived_id`` of those four."""

    id: str
    run_id: str
    rule: str
    module: str
    episode: int
    severity: Severity
    state: AlertState
    segment: int
    first_step: int
    last_step: int
    created_at: float
    updated_at: float
    message: str
    value: float | None = None
    threshold: float | None = None
    evidence: tuple[Evidence, ...] = ()
    diagnosis: tuple[Cause, ...] = ()
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class AlertQuery:
    """Which alerts are looked for. Each part narrows; one that is empty does not.

    Args:
        cause: name of the likeliest cause, the first of the diagnosis.
        text: stands in the message, the rule, the module or the run's name, whatever its capital letters (ASCII ones on SQLite).
        steps: the first and the last step at which it may have begun.
    """

    states: tuple[AlertState, ...] = ()
    severities: tuple[Severity, ...] = ()
    run_id: str = ""
    project: str = ""
    rule: str = ""
    module: str = ""
    cause: str = ""
    text: str = ""
    steps: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a run: resume, intervention, failing probe, lost samples, a store that came back."""

    id: str
    run_id: str
    segment: int
    step: int
    time: float
    kind: str
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Notification:
    """An outbox entry: one alert to one channel (an Apprise URL), delivered off the training thread with retries.

    ``next_attempt_at`` is when it is tried next; once it was sent or given up, when that was.
    """

    id: str
    alert_id: str
    channel: str
    title: str
    body: str
    state: NotificationState = NotificationState.WAITING
    attempts: int = 0
    next_attempt_at: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Silence:
    """What is not to be told for a while. Each of the five scopes narrows it; ``''`` means any, and at least one must be given.

    ``until`` is when it ends by itself, None: not at all; ``ended_at`` is when a person ended it before.

    Raises:
        ValueError: no scope is given.
    """

    id: str
    alert_id: str = ""
    rule: str = ""
    module: str = ""
    run_id: str = ""
    project: str = ""
    until: float | None = None
    created_at: float = 0.0
    created_by: str = ""
    comment: str = ""
    ended_at: float | None = None

    def __post_init__(self) -> None:
        if not (self.alert_id or self.rule or self.module or self.run_id or self.project):
            raise ValueError("a silence needs a scope: an alert, rule, module, run or project (disable=... turns everything off)")

    def active(self, now: float) -> bool:
        """Return whether it holds at ``now``, seconds since the epoch."""
        return self.ended_at is None and (self.until is None or now < self.until)

    def covers(self, alert: "Alert", project: str) -> bool:
        """Return whether it is about this alert of a run of this project."""
        scopes = (
            (self.alert_id, alert.id),
            (self.rule, alert.rule),
            (self.module, alert.module),
            (self.run_id, alert.run_id),
            (self.project, project),
        )
        return all(wanted in ("", given) for wanted, given in scopes)


@dataclass(frozen=True, slots=True)
class RuleVersion:
    """What a person changed of one rule, in one scope: all runs of the store, those of a project, or one run.

    ``changes`` is all that differs there, as TOML has it (``{"enabled": False, "parameters": {"z": 9.0}}``), not what differs from
    the version before; empty: nothing does, and what lies below holds. ``version`` counts from 1 in each scope and is the store's.

    Raises:
        ValueError: no rule is named, or both a project and a run are.
    """

    id: str
    rule: str
    changes: Mapping[str, Any]
    project: str = ""
    run_id: str = ""
    version: int = 0
    created_at: float = 0.0
    created_by: str = ""
    comment: str = ""

    def __post_init__(self) -> None:
        if not self.rule:
            raise ValueError("a rule's version needs the name of its rule")
        if self.project and self.run_id:
            raise ValueError("a rule is changed for a project or for one run, not for both: leave one of them empty")

    @property
    def scope(self) -> tuple[str, str]:
        """Project and run, each empty where it does not apply."""
        return self.project, self.run_id


@dataclass(frozen=True, slots=True)
class Lease:
    """A right that one process at a time has, for ``seconds`` from when it was last taken, by the store's clock.

    Who has a higher ``precedence`` takes it from one with a lower: the training process from a re-analysis, a later segment of the
    run from an earlier one.
    """

    name: str
    owner: str
    precedence: int = 0
    seconds: float = 30.0


def analyzer_lease(run_id: str, owner: str, segment: int = -1) -> Lease:
    """Return the right to judge a run; ``segment`` is that of the training process, -1 for a re-analysis."""
    return Lease(f"analyzer:{run_id}", owner, precedence=segment + 1)


@dataclass(frozen=True, slots=True)
class Series:
    """A series as listed by the store: its key and the store's own number for it."""

    id: int
    run_id: str
    key: SeriesKey


@dataclass(frozen=True, slots=True)
class Change:
    """A range of steps of one segment in which something was written after a cursor."""

    segment: int
    first_step: int
    last_step: int


@dataclass(frozen=True, slots=True)
class Changes:
    """What was written after a cursor. Pass ``cursor`` to the next call; ranges may overlap what was read before."""

    cursor: int
    ranges: tuple[Change, ...]
