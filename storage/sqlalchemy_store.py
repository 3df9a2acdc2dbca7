"""The Store over SQLAlchemy Core: SQLite (file and memory), PostgreSQL, MySQL and MariaDB."""

import time
from collections.abc import Callable, Container, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection
from typing_extensions import override

from . import (
    alerting,
    charting,
    deleting,
    history,
    leasing,
    newest,
    news,
    numbering,
    outboxes,
    progress,
    reading,
    rule_versions,
    runs,
    schema,
    searching,
    silencing,
    writing,
)
from .base import Listener, Store, Tally
from .database import Database
from .errors import InvalidRecordError, LeaseHeldError
from .records import (
    Alert,
    AlertQuery,
    AlertState,
    Batch,
    Changes,
    Event,
    Lease,
    Notification,
    NotificationState,
    RuleVersion,
    Run,
    RunStatus,
    Segment,
    Series,
    SeriesKey,
    Severity,
    Silence,
)
from .replica import PatientListener, Replica
from .results import AlertLine, Envelope, SeriesData, StepHistogram

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


class SQLAlchemyStore(Store):
    """A store in a SQL database whose schema is in place (``opening.open_store`` sees to that).

    Each method is one transaction around functions of ``runs``, ``writing``, ``reading``, ``history`` and ``alerting``.
    """

    def __init__(self, database: Database, replica: Replica | None = None) -> None:
        self.url = database.address
        self._database = database
        self._replica = replica
        self._numbers = numbering.SeriesNumbers()

    @property
    @override
    def notice(self) -> str:
        return self._replica.notice if self._replica is not None else ""

    def _ask(self, question: Callable[[Connection], T]) -> T:
        """Answer from the replica, where there is one: samples, histograms, step times, changes, lists of runs, frames."""
        if self._replica is not None:
            return self._replica.ask(question)
        with self._database.read() as connection:
            return question(connection)

    @property
    def database(self) -> Database:
        """The connections, for upkeep (``pruning``, ``inventory``, ``compacting``). No part of the contract of stores."""
        return self._database

    # -- runs and segments ---------------------------------------------------------------------------------------

    @override
    def create_run(self, run: Run) -> None:
        if self._database.path is not None and self._database.identity() is None:
            self._database.create_file()
            schema.prepare(self._database, create=True)
        with self._database.write() as connection:
            runs.create(connection, run)
            news.announce(connection, run.id)

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
            news.announce(connection, run_id)

    @override
    def runs(self, *, project: str | None = None, ids: Sequence[str] | None = None, limit: int | None = None) -> list[Run]:
        return self._ask(lambda connection: runs.listed(connection, project=project, ids=ids, limit=limit))

    @override
    def run_marks(self) -> dict[str, Hashable]:
        return self._ask(progress.run_marks)

    @override
    def run(self, reference: str) -> Run:
        return self._ask(lambda connection: runs.find(connection, reference))

    @override
    def delete_run(self, run_id: str) -> None:
        deleting.delete_run(self._database, run_id)
        self._numbers.forget()

    @override
    def open_segment(self, run_id: str, start_step: int, started_at: float) -> int:
        with self._database.write() as connection:
            number = runs.open_segment(connection, run_id, start_step, started_at)
            news.announce(connection, run_id)
            return number

    @override
    def add_segment(self, segment: Segment) -> None:
        with self._database.write() as connection:
            runs.add_segment(connection, segment)
            news.announce(connection, segment.run_id)

    @override
    def segments(self, run_id: str) -> list[Segment]:
        return self._ask(lambda connection: runs.segments_of(connection, run_id))

    # -- samples -------------------------------------------------------------------------------------------------

    @override
    def write(self, batch: Batch) -> None:
        self.write_together([batch])

    @override
    def write_together(self, batches: Sequence[Batch]) -> None:
        try:
            self._write(batches)
        except InvalidRecordError:
            self._write(batches, careful=True)

    def _write(self, batches: Sequence[Batch], *, careful: bool = False) -> None:
        run_id = batches[0].run_id
        try:
            with self._database.write() as connection:
                identity = connection.info.get("identity")
                known = self._numbers.known(run_id, identity)
                numbers = writing.write_batches(connection, batches, known, careful=careful)
                news.announce(connection, run_id)
        except BaseException:
            self._numbers.forget()
            raise
        if numbers is not None and numbers is not known:
            self._numbers.remember(run_id, identity, numbers)

    @override
    def add_series(self, run_id: str, keys: Sequence[SeriesKey]) -> None:
        with self._database.write() as connection:
            run_key = runs.key_of(connection, run_id)
            if keys:
                numbering.add_series(connection, numbering.Numbers(run_key, {}), keys)

    @override
    def series(self, run_id: str, *, signal: str | None = None, module: str | None = None) -> list[Series]:
        return self._ask(lambda connection: reading.series_of(connection, run_id, signal=signal, module=module))

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
        place = {"start": start, "stop": stop, "segment": segment}
        if max_points is None:
            return self._ask(lambda connection: [reading.points(connection, item, **place) for item in series])
        return self._ask(lambda connection: list(charting.decimated(connection, series, **place, max_points=max_points)))

    @override
    def envelopes(
        self,
        series: Sequence[Series],
        *,
        start: int | None = None,
        stop: int | None = None,
        segment: int | None = None,
        max_points: int = 400,
        means: bool = False,
    ) -> list[Envelope]:
        wanted: dict[str, Any] = {"start": start, "stop": stop, "segment": segment, "max_points": max_points, "means": means}
        return self._ask(lambda connection: list(charting.envelopes(connection, series, **wanted)))

    @override
    def newest(self, run_ids: Sequence[str], keys: Sequence[SeriesKey]) -> dict[str, dict[SeriesKey, float]]:
        return self._ask(lambda connection: newest.newest(connection, run_ids, keys))

    @override
    def sparklines(self, run_ids: Sequence[str], key: SeriesKey, *, points: int = 60) -> dict[str, list[float]]:
        return self._ask(lambda connection: newest.sparklines(connection, run_ids, key, points))

    @override
    def changes(self, run_id: str, after: int = 0) -> Changes:
        return self._ask(lambda connection: reading.changes(connection, run_id, after))

    @override
    def step_times(self, run_id: str, *, max_points: int | None = None) -> list[tuple[int, int, float]]:
        return self._ask(lambda connection: reading.step_times(connection, run_id, max_points))

    @override
    def step_rates(self, run_ids: Sequence[str], *, window: int = 50) -> dict[str, float]:
        return self._ask(lambda connection: progress.step_rates(connection, run_ids, window))

    @override
    def histograms(
        self, run_id: str, signal: str, module: str, *, start: int | None = None, stop: int | None = None, limit: int | None = None
    ) -> list[StepHistogram]:
        place = {"start": start, "stop": stop, "limit": limit}
        return self._ask(lambda connection: reading.histograms_of(connection, run_id, signal, module, **place))

    @override
    def batches(self, run_id: str, *, steps_per_batch: int = 1000, keys: Container[SeriesKey] | None = None) -> Iterator[Batch]:
        database = self._replica.database() if self._replica is not None else self._database
        return history.replay(database, run_id, steps_per_batch, keys)

    @override
    def frame(self, run: Run | str, signal: str | None = None, module: str | None = None) -> "pd.DataFrame":
        return self._ask(lambda connection: history.frame(connection, _run_id(connection, run), signal, module))

    # -- alerts, events, outbox ----------------------------------------------------------------------------------

    @override
    def save_alerts(
        self, alerts: Sequence[Alert], notifications: Sequence[Notification] = (), *, lease: Lease | None = None
    ) -> None:
        with self._database.write() as connection:
            if lease is not None and not leasing.take(connection, lease):
                raise LeaseHeldError(f"Another process judges this run: it holds {lease.name!r} in {self.url}.")
            alerting.save_alerts(connection, alerts, notifications, time.time())
            for run_id in sorted({alert.run_id for alert in alerts} or {""}):
                news.announce(connection, run_id)

    @override
    def alerts(
        self, run: Run | str | None = None, *, states: Sequence[AlertState] | None = None, limit: int | None = None
    ) -> list[Alert]:
        with self._database.read() as connection:
            run_id = None if run is None else _run_id(connection, run)
            return alerting.list_alerts(connection, run_id, states=states, limit=limit)

    @override
    def alert_counts(self, states: Sequence[AlertState], *, run_ids: Sequence[str] | None = None) -> dict[str, dict[Severity, int]]:
        with self._database.read() as connection:
            return newest.alert_counts(connection, states, run_ids)

    @override
    def alert(self, reference: str) -> Alert:
        with self._database.read() as connection:
            return searching.named(connection, reference)

    @override
    def find_alerts(self, query: AlertQuery, *, by_run: bool = False, limit: int = 50, offset: int = 0) -> list[AlertLine]:
        with self._database.read() as connection:
            return searching.find(connection, query, by_run=by_run, limit=limit, offset=offset)

    @override
    def tally_alerts(self, query: AlertQuery, by: Sequence[Tally], *, limit: int | None = None) -> dict[tuple[str, ...], int]:
        with self._database.read() as connection:
            return searching.tally(connection, query, by, limit)

    @override
    def alert_events(self, alert_id: str) -> list[Event]:
        with self._database.read() as connection:
            return alerting.events_of_alert(connection, alert_id)

    @override
    def set_alert_state(
        self,
        alert_id: str,
        state: AlertState,
        *,
        at: float,
        by: str = "",
        comment: str = "",
        until: float | None = None,
        seen: AlertState | None = None,
    ) -> None:
        with self._database.write() as connection:
            alerting.decide(connection, alert_id, state, at=at, by=by, comment=comment, until=until, seen=seen)
            news.announce(connection)

    @override
    def add_silence(self, silence: Silence) -> int:
        with self._database.write() as connection:
            news.announce(connection)
            return alerting.silence_open(connection, silence)

    @override
    def end_silence(self, silence_id: str, *, at: float, by: str = "") -> int:
        with self._database.write() as connection:
            silencing.end(connection, silence_id, at)
            news.announce(connection)
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
            news.announce(connection)
            return alerting.lift(connection, now)

    @override
    def add_event(self, event: Event) -> None:
        with self._database.write() as connection:
            alerting.add_event(connection, event)
            news.announce(connection, event.run_id)

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
            news.announce(connection)

    @override
    def retry_notification(self, notification_id: str, *, at: float) -> bool:
        with self._database.write() as connection:
            news.announce(connection)
            return outboxes.retry(connection, notification_id, at)

    @override
    def notifications(
        self, *, states: Sequence[NotificationState] | None = None, alert_id: str | None = None, limit: int | None = None
    ) -> list[Notification]:
        with self._database.read() as connection:
            return outboxes.listed(connection, states, alert_id, limit)

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

    # -- rules that people changed -------------------------------------------------------------------------------

    @override
    def save_rule(self, version: RuleVersion, *, seen: int) -> RuleVersion:
        with self._database.write() as connection:
            news.announce(connection)
            return rule_versions.save(connection, version, seen)

    @override
    def rule_history(
        self, rule: str | None = None, *, project: str | None = None, run_id: str | None = None, limit: int | None = None
    ) -> list[RuleVersion]:
        with self._database.read() as connection:
            return rule_versions.history(connection, rule, project, run_id, limit)

    @override
    def rule_overrides(self, *, project: str = "", run_id: str = "") -> list[RuleVersion]:
        with self._database.read() as connection:
            return rule_versions.newest(connection, project, run_id)

    @override
    def rules_revision(self) -> str:
        with self._database.read() as connection:
            return rule_versions.revision(connection)

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
    def listen(self) -> Listener:
        listener = news.listen(self._database)
        return PatientListener(listener, self._replica) if self._replica is not None else listener

    @override
    def check(self, *, write: bool = True) -> None:
        schema.check(self._database, write=write)

    @override
    def interrupt(self) -> None:
        self._database.interrupt()

    @override
    def close(self) -> None:
        self._database.close()
        if self._replica is not None:
            self._replica.close()

    @override
    def abandon(self) -> None:
        self._database.abandon()
        if self._replica is not None:
            self._replica.abandon()


def _run_id(connection: Connection, run: Run | str) -> str:
    return run.id if isinstance(run, Run) else runs.find(connection, run).id
