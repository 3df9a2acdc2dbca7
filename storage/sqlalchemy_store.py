"""The Store over SQLAlchemy Core: SQLite (file and memory), PostgreSQL, MySQL and MariaDB."""

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from . import alerting, charting, history, leasing, numbering, outboxes, reading, runs, schema, silencing, writing
from .base import Envelope, InvalidRecordError, LeaseHeldError, SeriesData, StepHistogram, Store
from .database import Database
from .records import (
    Alert,
    AlertState,
    Batch,
    Changes,
    Event,
    Lease,
    Notification,
    NotificationState,
    Run,
    RunStatus,
    Segment,
    Series,
    Silence,
)

if TYPE_CHECKING:
    import pandas as pd


class SQLAlchemyStore(Store):
    """A store in a SQL database whose schema is in place (``opening.open_store`` sees to that).

    Each method is one transaction around functions of ``runs``, ``writing``, ``reading``, ``history`` and ``alerting``.
    """

    def __init__(self, database: Database) -> None:
        self.url = database.address
        self._database = database
        self._numbers = numbering.SeriesNumbers()

    # -- runs and segments ---------------------------------------------------------------------------------------

    @override
    def create_run(self, run: Run) -> None:
        if self._database.path is not None and self._database.identity() is None:
            self._database.create_file()
            schema.prepare(self._database, create=True)
        with self._database.write() as connection:
            runs.create(connection, run)

    @override
    def update_run(
        self,
        run_id: str,
        *,
        status: RunStatus | None = None,
        heartbeat_at: float | None = None,
        ended_at: float | None = None,
        meta: dict[str, Any] | None = None,
    ) -> None:
        with self._database.write() as connection:
            runs.change(connection, run_id, status=status, heartbeat_at=heartbeat_at, ended_at=ended_at, meta=meta)

    @override
    def runs(self, *, project: str | None = None, limit: int | None = None) -> list[Run]:
        with self._database.read() as connection:
            return runs.listed(connection, project=project, limit=limit)

    @override
    def run(self, reference: str) -> Run:
        with self._database.read() as connection:
            return runs.find(connection, reference)

    @override
    def open_segment(self, run_id: str, start_step: int, started_at: float) -> int:
        with self._database.write() as connection:
            return runs.open_segment(connection, run_id, start_step, started_at)

    @override
    def add_segment(self, segment: Segment) -> None:
        with self._database.write() as connection:
            runs.add_segment(connection, segment)

    @override
    def segments(self, run_id: str) -> list[Segment]:
        with self._database.read() as connection:
            return runs.segments_of(connection, run_id)

    # -- samples -------------------------------------------------------------------------------------------------

    @override
    def write(self, batch: Batch) -> None:
        try:
            self._write(batch)
        except InvalidRecordError:
            self._write(batch, careful=True)

    def _write(self, batch: Batch, *, careful: bool = False) -> None:
        try:
            with self._database.write() as connection:
                identity = connection.info.get("identity")
                known = self._numbers.known(batch.run_id, identity)
                numbers = writing.write_batch(connection, batch, known, careful=careful)
        except BaseException:
            self._numbers.forget()
            raise
        if numbers is not None and numbers is not known:
            self._numbers.remember(batch.run_id, identity, numbers)

    @override
    def series(self, run_id: str, *, signal: str | None = None, module: str | None = None) -> list[Series]:
        with self._database.read() as connection:
            return reading.series_of(connection, run_id, signal=signal, module=module)

    @override
    def read(
        self,
        series: Sequence[Series],
        *,
        start: int | None = None,
        stop: int | None = None,
        segment: int | None = None,
        max_points: int | None = None,
    ) -> list[SeriesData]:
        with self._database.read() as connection:
            if max_points is None:
                return [reading.points(connection, item, start=start, stop=stop, segment=segment) for item in series]
            options = {"start": start, "stop": stop, "segment": segment}
            return list(charting.decimated(connection, series, **options, max_points=max_points))

    @override
    def envelopes(
        self,
        series: Sequence[Series],
        *,
        start: int | None = None,
        stop: int | None = None,
        segment: int | None = None,
        max_points: int = 400,
    ) -> list[Envelope]:
        with self._database.read() as connection:
            options = {"start": start, "stop": stop, "segment": segment}
            return list(charting.envelopes(connection, series, **options, max_points=max_points))

    @override
    def changes(self, run_id: str, after: int = 0) -> Changes:
        with self._database.read() as connection:
            return reading.changes(connection, run_id, after)

    @override
    def step_times(self, run_id: str, *, max_points: int | None = None) -> list[tuple[int, int, float]]:
        with self._database.read() as connection:
            return reading.step_times(connection, run_id, max_points)

    @override
    def histograms(
        self, run_id: str, signal: str, module: str, *, start: int | None = None, stop: int | None = None, limit: int | None = None
    ) -> list[StepHistogram]:
        with self._database.read() as connection:
            return reading.histograms_of(connection, run_id, signal, module, start=start, stop=stop, limit=limit)

    @override
    def batches(self, run_id: str, *, steps_per_batch: int = 1000) -> Iterator[Batch]:
        return history.replay(self._database, run_id, steps_per_batch)

    @override
    def frame(self, run: Run | str, signal: str | None = None, module: str | None = None) -> "pd.DataFrame":
        with self._database.read() as connection:
            return history.frame(connection, _run_id(connection, run), signal, module)

    # -- alerts, events, outbox ----------------------------------------------------------------------------------

    @override
    def save_alerts(
        self, alerts: Sequence[Alert], notifications: Sequence[Notification] = (), *, lease: Lease | None = None
    ) -> None:
        with self._database.write() as connection:
            if lease is not None and not leasing.take(connection, lease):
                raise LeaseHeldError(f"Another process judges this run: it holds {lease.name!r} in {self.url}.")
            alerting.save_alerts(connection, alerts, notifications, time.time())

    @override
    def alerts(
        self, run: Run | str | None = None, *, states: Sequence[AlertState] | None = None, limit: int | None = None
    ) -> list[Alert]:
        with self._database.read() as connection:
            run_id = None if run is None else _run_id(connection, run)
            return alerting.list_alerts(connection, run_id, states=states, limit=limit)

    @override
    def set_alert_state(
        self, alert_id: str, state: AlertState, *, at: float, by: str = "", comment: str = "", until: float | None = None
    ) -> None:
        with self._database.write() as connection:
            alerting.decide(connection, alert_id, state, at=at, by=by, comment=comment, until=until)

    @override
    def add_silence(self, silence: Silence) -> int:
        with self._database.write() as connection:
            return alerting.silence_open(connection, silence)

    @override
    def end_silence(self, silence_id: str, *, at: float, by: str = "") -> int:
        with self._database.write() as connection:
            silencing.end(connection, silence_id, at)
            return alerting.lift(connection, at, by)

    @override
    def silences(self, *, active_at: float | None = None) -> list[Silence]:
        with self._database.read() as connection:
            return silencing.listed(connection, active_at)

    @override
    def lift_silences(self, now: float) -> int:
        with self._database.read() as connection:
            if not alerting.uncovered(connection, now):
                return 0
        with self._database.write() as connection:
            return alerting.lift(connection, now)

    @override
    def add_event(self, event: Event) -> None:
        with self._database.write() as connection:
            alerting.add_event(connection, event)

    @override
    def events(self, run_id: str, *, kind: str | None = None) -> list[Event]:
        with self._database.read() as connection:
            return alerting.list_events(connection, run_id, kind)

    @override
    def due_notifications(self, now: float, *, limit: int = 20) -> list[Notification]:
        with self._database.read() as connection:
            return outboxes.due(connection, now, limit)

    @override
    def claim_notifications(self, wanted: Sequence[Notification], *, until: float) -> list[Notification]:
        with self._database.write() as connection:
            return outboxes.claim(connection, wanted, until)

    @override
    def settle_notification(self, notification: Notification) -> None:
        with self._database.write() as connection:
            outboxes.settle(connection, notification)

    @override
    def retry_notification(self, notification_id: str, *, at: float) -> bool:
        with self._database.write() as connection:
            return outboxes.retry(connection, notification_id, at)

    @override
    def notifications(self, *, states: Sequence[NotificationState] | None = None, limit: int | None = None) -> list[Notification]:
        with self._database.read() as connection:
            return outboxes.listed(connection, states, limit)

    @override
    def note_delivery(self, channel: str, at: float, *, digest: bool) -> None:
        with self._database.write() as connection:
            outboxes.note_delivery(connection, channel, at, digest)

    @override
    def deliveries(self, channel: str, *, since: float) -> list[tuple[float, bool]]:
        with self._database.read() as connection:
            return outboxes.deliveries_of(connection, channel, since)

    @override
    def set_channels(self, run_id: str, channels: Sequence[str]) -> None:
        with self._database.write() as connection:
            outboxes.set_channels(connection, run_id, channels)

    @override
    def channels(self, run_id: str) -> list[str]:
        with self._database.read() as connection:
            return outboxes.channels_of(connection, run_id)

    # -- leases --------------------------------------------------------------------------------------------------

    @override
    def take_lease(self, lease: Lease) -> bool:
        with self._database.write() as connection:
            return leasing.take(connection, lease)

    @override
    def release_lease(self, lease: Lease) -> None:
        with self._database.write() as connection:
            leasing.release(connection, lease)

    # -- the store itself ----------------------------------------------------------------------------------------

    @override
    def check(self) -> None:
        schema.check(self._database)

    @override
    def interrupt(self) -> None:
        self._database.interrupt()

    @override
    def close(self) -> None:
        self._database.close()

    @override
    def abandon(self) -> None:
        self._database.abandon()


def _run_id(connection: Any, run: Run | str) -> str:
    return run.id if isinstance(run, Run) else runs.find(connection, run).id
