"""A read replica: the same server under another, read-only role, as far as one server can be two."""

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator

import pytest
from foreshock.storage import Store, StoreConfigurationError, StoreUnavailableError, open_store, replica
from foreshock.storage.database import Database
from foreshock.storage.records import Alert, AlertState, Batch, Histogram, Run, SeriesKey, Severity, StepRecord, new_id
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.engine import Connection

MakeRun = Callable[..., Run]
MakeBatch = Callable[..., Batch]
HISTOGRAM = SeriesKey("spectral_alignment.histogram", "layer")


@pytest.fixture
def admin(emptied_postgres_url: str) -> Iterator[Connection]:
    engine = create_engine(emptied_postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture
def replica_url(emptied_postgres_url: str, admin: Connection) -> Iterator[str]:
    """The store under a role that may only read."""
    open_store(emptied_postgres_url).close()
    role = f"foreshock_test_{uuid.uuid4().hex[:8]}"
    schema = admin.execute(text("SELECT current_schema()")).scalar_one()
    admin.execute(text(f"CREATE ROLE {role} LOGIN"))
    admin.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO {role}"))
    admin.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}"))
    named = make_url(emptied_postgres_url).set(username=role).update_query_dict({"application_name": f"replica {role}"})
    yield named.render_as_string(hide_password=False)
    admin.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = :role"), {"role": role})
    admin.execute(text(f"DROP OWNED BY {role}"))
    admin.execute(text(f"DROP ROLE {role}"))


@pytest.fixture
def store(emptied_postgres_url: str, replica_url: str) -> Iterator[Store]:
    with contextlib.closing(open_store(emptied_postgres_url, read_store=replica_url)) as opened:
        yield opened


def written(store: Store, new_run: MakeRun, batch_of: MakeBatch) -> Run:
    run = new_run()
    store.create_run(run)
    store.write(batch_of(run, range(50)))
    packed = Histogram(HISTOGRAM, 0.0, 1.0, (1, 2))
    store.write(Batch(new_id(), run.id, 0, (StepRecord(50, 1.0, (), [], (packed,)),)))
    return run


def test_what_is_large_is_read_from_the_replica(
    store: Store, replica_url: str, admin: Connection, new_run: MakeRun, batch_of: MakeBatch
) -> None:
    run = written(store, new_run, batch_of)
    series = store.series(run.id)
    of_replica = replica_url.split("//")[1].split("@")[0]
    reads: dict[str, Callable[[], object]] = {
        "samples": lambda: store.read(series),
        "rollups": lambda: store.envelopes(series, max_points=3),
        "histograms": lambda: store.histograms(run.id, HISTOGRAM.signal, HISTOGRAM.module),
        "steps": lambda: store.step_times(run.id),
        "batches": lambda: store.changes(run.id),
        "runs": store.runs,
        "frame": lambda: store.frame(run),
        "newest": lambda: store.newest([run.id], [SeriesKey("loss")]),
        "sparklines": lambda: store.sparklines([run.id], SeriesKey("loss")),
        "replay": lambda: list(store.batches(run.id)),
    }
    for name, read in reads.items():
        asked = _statements(store)
        assert read() is not None, name
        assert asked["primary"] == [], name
        assert asked["replica"], name
    backends = text("SELECT count(*) FROM pg_stat_activity WHERE usename = :role AND application_name LIKE 'replica %'")
    assert admin.execute(backends, {"role": of_replica}).scalar_one() >= 1
    assert store.notice == ""


def test_alerts_and_decisions_go_to_the_primary(store: Store, new_run: MakeRun, batch_of: MakeBatch) -> None:
    run = written(store, new_run, batch_of)
    alert = Alert(new_id(), run.id, "r", "", 0, Severity.WARNING, AlertState.FIRING, 0, 1, 1, 1.0, 1.0, "m")
    asked = _statements(store)
    store.save_alerts([alert])
    store.set_alert_state(alert.id, AlertState.ACKNOWLEDGED, at=1.0)
    assert [found.state for found in store.alerts(run)] == [AlertState.ACKNOWLEDGED]
    assert asked["primary"]
    assert asked["replica"] == []


def _statements(store: Store) -> dict[str, list[str]]:
    """Collect what each of the two is asked about tables from now on."""
    from sqlalchemy import event

    asked: dict[str, list[str]] = {"primary": [], "replica": []}
    for name, database in (("primary", store._database), ("replica", store._replica._database)):  # type: ignore[attr-defined]

        def note(_connection: object, _cursor: object, statement: str, *_: object, into: list[str] = asked[name]) -> None:
            if "lsn" not in statement:
                into.append(statement)

        event.listen(database.engine, "before_cursor_execute", note)
    return asked


def test_a_replica_that_is_away_leaves_the_reading_to_the_primary(
    emptied_postgres_url: str, new_run: MakeRun, batch_of: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = make_url(emptied_postgres_url).set(port=1).render_as_string(hide_password=False)
    with contextlib.closing(open_store(emptied_postgres_url, read_store=away)) as store:
        run = written(store, new_run, batch_of)
        assert store.run(run.id).last_step == 50
        assert "cannot be used just now, the primary is read instead" in store.notice
        began = time.monotonic()
        for _ in range(20):
            store.runs()
        assert time.monotonic() - began < 4.0, "it is not knocked at each time"
        monkeypatch.setattr(replica, "TRY_AGAIN", 0.0)
        back = store._replica  # type: ignore[attr-defined]
        back._away_until = back._looked_at = float("-inf")
        back._database.close()
        back._database = Database(make_url(emptied_postgres_url))
        assert store.run(run.id).last_step == 50
        assert store.notice == ""


def test_a_replica_that_lags_is_waited_for_and_then_left(
    store: Store, new_run: MakeRun, batch_of: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One server cannot lag behind itself: what it has replayed is told instead of asked."""
    run = written(store, new_run, batch_of)
    store.runs()
    lagging = store._replica  # type: ignore[attr-defined]
    monkeypatch.setattr(replica, "MOST_LAG", 0.5)
    monkeypatch.setattr(replica, "_LOOK_EVERY", 0.05)
    monkeypatch.setattr(replica, "_REPLAYED", text("SELECT 0"))
    asked = _statements(store)
    with contextlib.closing(store.listen()) as listening:
        began = time.monotonic()
        store.write(batch_of(run, range(60, 70)))
        assert listening.wait(20.0).concerns(run.id)
        assert 0.5 <= time.monotonic() - began < 15.0, "it waits for the replica, but not for ever"
    asked["primary"].clear()
    asked["replica"].clear()
    assert store.run(run.id).last_step == 69
    assert asked["primary"]
    assert not any("FROM runs" in statement for statement in asked["replica"]), "looked at, and not read"
    assert "s behind; the primary is read instead" in store.notice
    monkeypatch.setattr(replica, "_REPLAYED", text("SELECT 9223372036854775807"))
    lagging._looked_at = float("-inf")
    asked["primary"].clear()
    assert store.run(run.id).last_step == 69
    assert asked["replica"]
    assert store.notice == ""


def test_a_run_that_has_not_arrived_is_looked_for_in_the_primary(
    store: Store, new_run: MakeRun, batch_of: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foreshock.storage import runs
    from foreshock.storage.errors import UnknownRunError

    run = written(store, new_run, batch_of)
    find, behind = runs.find, store._replica._database.engine  # type: ignore[attr-defined]

    def late(connection: Connection, reference: str) -> Run:
        if connection.engine is behind:
            raise UnknownRunError("not here yet")
        return find(connection, reference)

    monkeypatch.setattr(runs, "find", late)
    assert store.run(run.id).id == run.id


@pytest.mark.parametrize("given", ["sqlite:///other.db", "mysql://h/d"])
def test_another_kind_of_store_is_no_replica(given: str, emptied_postgres_url: str) -> None:
    with pytest.raises(StoreConfigurationError, match="must be the same kind of server"):
        open_store(emptied_postgres_url, read_store=given)


def test_a_store_that_cannot_be_reached_is_not_served_by_its_replica(replica_url: str) -> None:
    with pytest.raises(StoreUnavailableError):
        open_store("postgresql://nobody@127.0.0.1:1/test", read_store=replica_url)
