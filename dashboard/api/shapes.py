"""The shapes of the API. Numbers that JSON cannot write stand as null, and their kind beside them says what they are."""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from ...storage.records import Event, Run, Series, Severity
from ...storage.records import Kind as StoredKind
from ...storage.results import SeriesData
from ..vitals import Life, vitals


class Shape(BaseModel):
    """What every shape has in common."""

    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid")


class Kind(StrEnum):
    """What a value is. Only a finite one stands beside it as a number."""

    FINITE = "finite"
    POSITIVE_INFINITY = "positive_infinity"
    NEGATIVE_INFINITY = "negative_infinity"
    NAN = "nan"

    @classmethod
    def of(cls, value: float) -> "Kind":
        """Return the kind of a value."""
        return cls(StoredKind.of(value).name.lower())


class Number(Shape):
    """A number with its kind: in an unstable run nan and infinities are the signal, and JSON knows neither."""

    value: float | None
    """null unless it is finite."""
    kind: Kind

    @classmethod
    def of(cls, value: float) -> "Number":
        """Return a number."""
        return cls(value=value if math.isfinite(value) else None, kind=Kind.of(value))


class ErrorDetail(Shape):
    """One thing that is wrong with a request."""

    where: str
    """Which part: ``query.limit``, ``body.comment``."""
    message: str


class ErrorBody(Shape):
    """What went wrong."""

    code: str
    """For programs: not_found, invalid_request, not_signed_in, may_only_read, illegal_transition, store_unavailable, ..."""
    message: str
    """For people: what was given, what is allowed, what mends it."""
    details: list[ErrorDetail]


class ErrorShape(Shape):
    """The one shape of every error."""

    error: ErrorBody


class RunShape(Shape):
    """A training run."""

    id: str
    name: str
    project: str
    status: str
    """As its own process said last: running, finished, crashed, terminated."""
    state: Life
    """As its heartbeat says too: a run that calls itself running may be stale (10 s) or lost (30 s)."""
    created_at: float
    """Seconds since the epoch, UTC, like every time here."""
    heartbeat_at: float
    ended_at: float | None
    last_step: int
    """-1 before the first."""
    tags: list[str]
    meta: dict[str, Any]
    """Facts noted by the run: host, torch version, size of the model. Numbers that are not finite are written as text."""
    open_alerts: dict[Severity, int]

    @classmethod
    def of(cls, run: Run, open_alerts: dict[Severity, int], now: float) -> "RunShape":
        """Return a run as it is at ``now``."""
        return cls(
            id=run.id,
            name=run.name,
            project=run.project,
            status=run.status.value,
            state=vitals(run, now).life,
            created_at=run.created_at,
            heartbeat_at=run.heartbeat_at,
            ended_at=run.ended_at,
            last_step=run.last_step,
            tags=list(run.tags),
            meta=plain(dict(run.meta)),
            open_alerts=open_alerts,
        )


class RunPage(Shape):
    """Some runs, newest first."""

    runs: list[RunShape]
    next_cursor: str | None
    """Give it as ``cursor`` to get the next page; null on the last."""


class SeriesShape(Shape):
    """One series of a run: a signal, of a module, head and rank where it has them."""

    id: int
    signal: str
    module: str
    """Empty for the whole model."""
    head: int
    """-1: none."""
    rank: int
    """-1: none."""

    @classmethod
    def of(cls, series: Series) -> "SeriesShape":
        """Return a series."""
        key = series.key
        return cls(id=series.id, signal=key.signal, module=key.module, head=key.head, rank=key.rank)


class SeriesPage(Shape):
    """Some series of a run, in order of first appearance."""

    series: list[SeriesShape]
    next_cursor: str | None


class Points(Shape):
    """Points of a series as columns of one length, in order of (segment, step)."""

    series: SeriesShape
    segments: list[int]
    """Rises each time the run resumed or rolled back, so that steps seen twice are both kept."""
    steps: list[int]
    values: list[float | None]
    """null where the value is not finite."""
    kinds: list[Kind]
    decimated: bool
    """Whether points were left out; extremes and values that are not finite are kept."""

    @classmethod
    def of(cls, series: Series, data: SeriesData) -> "Points":
        """Return what was read of a series."""
        values = [float(value) for value in data.values]
        return cls(
            series=SeriesShape.of(series),
            segments=[int(segment) for segment in data.segments],
            steps=[int(step) for step in data.steps],
            values=[value if math.isfinite(value) else None for value in values],
            kinds=[Kind.of(value) for value in values],
            decimated=data.decimated,
        )


class Samples(Shape):
    """Samples of a run."""

    samples: list[Points]
    next_start: int | None
    """With ``raw``: give it as ``start`` to read on; null when there is no more."""


class NewestValue(Shape):
    """The newest value of a series."""

    signal: str
    module: str
    head: int
    rank: int
    value: Number


class NewestValues(Shape):
    """Newest values of a run."""

    values: list[NewestValue]


class EventShape(Shape):
    """Something that happened to a run."""

    id: str
    run_id: str
    segment: int
    step: int
    time: float
    kind: str
    message: str
    data: dict[str, Any]

    @classmethod
    def of(cls, event: Event) -> "EventShape":
        """Return an event."""
        return cls(
            id=event.id,
            run_id=event.run_id,
            segment=event.segment,
            step=event.step,
            time=event.time,
            kind=event.kind,
            message=event.message,
            data=plain(dict(event.data)),
        )


class EventPage(Shape):
    """Some events of a run, in order of time."""

    events: list[EventShape]
    next_cursor: str | None


class Health(Shape):
    """How the server is."""

    status: str
    version: str
    store: str
    """Its address, without a password."""
    notice: str
    """What readers should know of the store just now; usually empty."""


class Me(Shape):
    """Who asks, as far as the server knows."""

    name: str
    may_write: bool
    signed_in: bool
    """False where nobody has to sign in."""
    expires_at: float | None


def number(value: float | None) -> Number | None:
    """Return a number, or None where there is none."""
    return None if value is None else Number.of(value)


def plain(value: Any) -> Any:
    """Return facts as JSON can write them: what is not finite becomes text, ``"nan"``, ``"inf"``, ``"-inf"``."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value
