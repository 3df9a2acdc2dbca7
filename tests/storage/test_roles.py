"""The roles of docs/storage.md: the very SQL that stands there, then a run by the writer and a page by the reader."""

import contextlib
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from foreshock.analyzer.watchdog import Watchdog
from foreshock.dashboard import decisions, factory
from foreshock.dashboard.router import page_at
from foreshock.storage import ReadOnlyStoreError, Store, StoreConfigurationError, open_store, schema
from foreshock.storage.records import (
    Alert,
    AlertState,
    Batch,
    Event,
    Lease,
    Run,
    RunStatus,
    SeriesKey,
    Severity,
    StepRecord,
    new_id,
)
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import ProgrammingError

DOCUMENT = Path(__file__).parents[2] / "docs" / "storage.md"
ROLES = ("owner", "writer", "reader")


@dataclass(frozen=True)
class Server:
    """A database of the test's own with roles of its own, as the document makes them."""

    admin: str
    names: dict[str, str]

    def url(self, role: str) -> str:
        return make_url(self.admin).set(username=self.names[role]).render_as_string(hide_password=False)

    def run(self, role: str, statement: str) -> None:
        engine = create_engine(self.url(role) if role else self.admin, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.execute(text(statement))
        finally:
            engine.dispose()


def blocks() -> tuple[str, str]:
    """The SQL of the document: before and after the tables are made."""
    section = DOCUMENT.read_text().split("### Roles\n")[1].split("\n### ")[0]
    first, second = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    return first, second


@pytest.fixture(scope="module")
def server(postgres_url: str) -> Iterator[Server]:
    mark = uuid.uuid4().hex[:8]
    outside = make_url(postgres_url).set(query={})
    names = {role: f"foreshock_test_{mark}_{role}" for role in ROLES}
    admin = outside.set(database=f"foreshock_test_{mark}")
    before, after = (re.sub(r"\bforeshock_(owner|writer|reader)\b", lambda found: names[found[1]], block) for block in blocks())
    maker = Server(outside.render_as_string(hide_password=False), names)
    maker.run("", f"CREATE DATABASE foreshock_test_{mark}")
    made = Server(admin.render_as_string(hide_password=False), names)
    try:
        made.run("", before)
        open_store(made.url("owner")).close()
        made.run("", after)
        yield made
    finally:
        maker.run("", f"DROP DATABASE foreshock_test_{mark} WITH (FORCE)")
        for name in names.values():
            maker.run("", f"DROP ROLE IF EXISTS {name}")


@pytest.fixture
def writer(server: Server) -> Iterator[Store]:
    with contextlib.closing(open_store(server.url("writer"))) as store:
        yield store


@pytest.fixture
def reader(server: Server) -> Iterator[Store]:
    with contextlib.closing(open_store(server.url("reader"), create=False)) as store:
        yield store


def watched(store: Store, new_run: Callable[..., Run]) -> tuple[Run, Alert]:
    """Do everything that a run's monitor does to a store."""
    run = new_run(status=RunStatus.RUNNING)
    store.create_run(run)
    segment = store.open_segment(run.id, 0, 1.0)
    keys = (SeriesKey("loss"), SeriesKey("gradient.module_norm", "layer"), SeriesKey("weight.spectral_norm", "layer"))
    for first in (0, 40):
        records = tuple(StepRecord(step, 1000.0 + step, keys, [1.0, 2.0, 3.0]) for step in range(first, first + 60))
        store.write(Batch(new_id(), run.id, segment, records))  # the second overlaps the first
    alert = Alert(new_id(), run.id, "r", "layer", 0, Severity.WARNING, AlertState.FIRING, 0, 1, 1, 1.0, 1.0, "m")
    store.set_channels(run.id, ["json://somewhere"])
    store.set_channels(run.id, ["json://elsewhere"])
    store.save_alerts([alert], lease=Lease(f"analyzer:{run.id}", "me"))
    store.note_delivery("json://elsewhere", 1.0, digest=False)
    store.add_event(Event(new_id(), run.id, 0, 1, 1.0, "resume", "m"))
    store.set_alert_state(alert.id, AlertState.ACKNOWLEDGED, at=2.0)
    store.update_run(run.id, heartbeat_at=5.0, meta={"a": 1})
    return run, alert


def test_the_writer_trains(writer: Store, new_run: Callable[..., Run]) -> None:
    writer.check()
    run, _ = watched(writer, new_run)
    assert len(writer.read(writer.series(run.id, signal="loss"))[0].steps) == 100


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM samples",
        "DELETE FROM runs",
        "DROP TABLE samples",
        "CREATE TABLE mine (x int)",
        "UPDATE foreshock_schema SET version_num = '0'",
    ],
)
def test_the_writer_can_neither_delete_nor_change_tables(server: Server, statement: str) -> None:
    with pytest.raises(ProgrammingError, match=r"permission denied|must be owner"):
        server.run("writer", statement)


def test_the_reader_reads_everything_and_hears_news(writer: Store, reader: Store, new_run: Callable[..., Run]) -> None:
    reader.check(write=False)
    with contextlib.closing(reader.listen()) as listening:
        run, alert = watched(writer, new_run)
        assert listening.wait(20.0).concerns(run.id)
    assert reader.run(run.id).last_step == 99
    assert len(reader.frame(run.id, "loss")) == 100
    assert [found.id for found in reader.alerts(run)] == [alert.id]
    assert [len(batch.steps) for batch in reader.batches(run.id)] == [100]
    for page in (page_at(reader, "/", ""), page_at(reader, f"/run/{run.id}", "")):
        assert "cannot be read" not in str(page)
    for section in (factory.head(reader, run.id), factory.loss(reader, run.id), factory.overview(reader, "")):
        section.paint()
        section.advance()


def test_the_reader_is_told_clearly_that_it_cannot_write(
    server: Server, writer: Store, reader: Store, new_run: Callable[..., Run]
) -> None:
    run, alert = watched(writer, new_run)
    words = r"may be read at this address, not written \(.*docs/storage.md"
    for write in (
        reader.check,
        lambda: reader.create_run(new_run()),
        lambda: reader.write(Batch(new_id(), run.id, 0, (StepRecord(200, 1.0, (SeriesKey("loss"),), [1.0]),))),
        lambda: reader.set_alert_state(alert.id, AlertState.RESOLVED, at=1.0),
        lambda: reader.take_lease(Lease("watchdog", "me")),
    ):
        with pytest.raises(ReadOnlyStoreError, match=words):
            write()
    for button in ("resolved", "silence-8h"):
        assert "not written" in decisions._told(lambda choice=button: decisions.record(reader, alert.id, choice))  # type: ignore[misc]
    watchdog = Watchdog(reader, every=0.05)
    watchdog.start()
    for thread in watchdog._threads:
        thread.join(20.0)
        assert not thread.is_alive(), "it stands aside"
    watchdog.close()


def test_an_old_schema_is_for_its_owner_to_mend(server: Server, reader: Store) -> None:
    server.run("", "UPDATE foreshock.foreshock_schema SET version_num = '0002'")
    try:
        for role in ("writer", "reader"):
            with pytest.raises(StoreConfigurationError, match=r"\(schema 0002; .* needs .*foreshock db upgrade"):
                open_store(server.url(role), create=False)
            with pytest.raises(StoreConfigurationError, match=r"\(schema 0002; .*may be read.*db upgrade .*as a role that .*owns"):
                open_store(server.url(role))
    finally:
        server.run("", f"UPDATE foreshock.foreshock_schema SET version_num = '{schema.HEAD}'")


def test_partitions_are_made_as_the_writer_comes_to_them(server: Server, writer: Store, new_run: Callable[..., Run]) -> None:
    server.run("", "ALTER SEQUENCE foreshock.series_id_seq RESTART 12000")  # the third partition, not the next
    later, _ = watched(writer, new_run)
    assert min(series.id for series in writer.series(later.id)) >= 12000
    assert len(writer.read(writer.series(later.id, signal="loss"))[0].steps) == 100
