"""The shapes of alerts, of the decisions about them, and of silences."""

import math
from typing import Annotated

from pydantic import Field

from ...analyzer.handling import MOST_LETTERS, Scope
from ...storage.records import Alert, AlertState, Cause, Evidence, Severity, Silence
from .shapes import Kind, Number, Shape, number


class EvidenceShape(Shape):
    """The series around an alert's first step."""

    signal: str
    module: str
    head: int
    rank: int
    steps: list[int]
    values: list[float | None]
    kinds: list[Kind]
    threshold: Number | None
    baseline: Number | None

    @classmethod
    def of(cls, evidence: Evidence) -> "EvidenceShape":
        """Return a piece of evidence."""
        key, values = evidence.key, [float(value) for value in evidence.values]
        return cls(
            signal=key.signal,
            module=key.module,
            head=key.head,
            rank=key.rank,
            steps=list(evidence.steps),
            values=[value if math.isfinite(value) else None for value in values],
            kinds=[Kind.of(value) for value in values],
            threshold=number(evidence.threshold),
            baseline=number(evidence.baseline),
        )


class CauseShape(Shape):
    """A possible cause, with its reasons."""

    name: str
    title: str
    confidence: float
    """0 to 1."""
    reasons: list[str]
    remedy: str
    doc: str
    """Name of its page: ``foreshock explain DOC``."""

    @classmethod
    def of(cls, cause: Cause) -> "CauseShape":
        """Return a cause."""
        return cls(
            name=cause.name,
            title=cause.title,
            confidence=cause.confidence if math.isfinite(cause.confidence) else 0.0,
            reasons=list(cause.reasons),
            remedy=cause.remedy,
            doc=cause.doc,
        )


class AlertShape(Shape):
    """An explained warning."""

    id: str
    run_id: str
    rule: str
    module: str
    """Empty for the whole model."""
    episode: int
    severity: Severity
    state: AlertState
    segment: int
    first_step: int
    last_step: int
    created_at: float
    updated_at: float
    message: str
    value: Number | None
    threshold: Number | None
    remedy: str
    evidence: list[EvidenceShape]
    diagnosis: list[CauseShape]
    """The likeliest cause first."""

    @classmethod
    def of(cls, alert: Alert) -> "AlertShape":
        """Return an alert."""
        return cls(
            id=alert.id,
            run_id=alert.run_id,
            rule=alert.rule,
            module=alert.module,
            episode=alert.episode,
            severity=alert.severity,
            state=alert.state,
            segment=alert.segment,
            first_step=alert.first_step,
            last_step=alert.last_step,
            created_at=alert.created_at,
            updated_at=alert.updated_at,
            message=alert.message,
            value=number(alert.value),
            threshold=number(alert.threshold),
            remedy=alert.remedy,
            evidence=[EvidenceShape.of(piece) for piece in alert.evidence],
            diagnosis=[CauseShape.of(cause) for cause in sorted(alert.diagnosis, key=lambda cause: -cause.confidence)],
        )


class AlertPage(Shape):
    """Some alerts, newest first. A page may hold fewer than asked for, even none, while there is a next one."""

    alerts: list[AlertShape]
    next_cursor: str | None


class SilenceShape(Shape):
    """What is not told for a while. An empty scope means any."""

    id: str
    alert_id: str
    rule: str
    module: str
    run_id: str
    project: str
    until: float | None
    """null: until it is ended."""
    created_at: float
    created_by: str
    comment: str

    @classmethod
    def of(cls, silence: Silence) -> "SilenceShape":
        """Return a silence."""
        return cls(**{name: getattr(silence, name) for name in cls.model_fields})


class Silences(Shape):
    """The silences that hold now, newest first."""

    silences: list[SilenceShape]


Comment = Annotated[str, Field(max_length=MOST_LETTERS)]


class Decision(Shape):
    """Why something was decided."""

    comment: Comment = ""
    """Kept with the decision."""


class SilenceRequest(Decision):
    """For how long an alert is silenced."""

    seconds: float | None = Field(default=3600.0, gt=0, le=366 * 86400.0, allow_inf_nan=False)
    """null: until the silence is ended."""
    scope: Scope = Scope.ALERT
    """How far it reaches: this alert; layer: this rule in this module of this run, the next episodes too; rule; run; project."""


class CommentRequest(Shape):
    """What is said about an alert."""

    comment: Annotated[str, Field(min_length=1, max_length=MOST_LETTERS)]
