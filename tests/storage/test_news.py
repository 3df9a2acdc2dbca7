"""Hearing of new rows: what every engine promises, and what LISTEN/NOTIFY adds on PostgreSQL."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from foreshock.storage import Store, news, open_store
from foreshock.storage.base import Listener
from foreshock.storage.records import Alert, AlertState, Batch, Event, Run, RunStatus, Severity, Silence, new_id
from foreshock.storage.results import News
from sqlalchemy import create_engine, make_url, text

MakeRun = Callable[..., Run]
MakeBatch = Callable[..., Batch]
LONG, SHORT = 20.0, 0.4


@pytest.fixture
def listener(store: Store) -> Iterator[Listener]:
    with contextlib.closing(store.listen()) as listening:
        yield listening


@contextlib.contextmanager
def opened(url: str) -> Iterator[Store]:
    with contextlib.closing(open_store(url)) as store:
        yield store


def until(listening: Listener, condition: Callable[[News], bool], patience: float = LONG) -> News:
    """Wait for news that meet a condition."""
    deadline = time.monotonic() + patience
    while not condition(heard := listening.wait(SHORT)):
        assert time.monotonic() < deadline, f"heard nothing of the kind, last {heard}"
    return heard


def quiet(listening: Listener) -> None:
    """Hear out what is still on its way."""
    while listening.wait(2.5 * news.SERVER_PERIOD):
        pass


def test_every_write_is_heard(store: Store, listener: Listener, new_run: MakeRun, batch_of: MakeBatch) -> None:
    run = new_run()
    alert = Alert(new_id(), run.id, "rule", "", 0, Severity.WARNING, AlertState.FIRING, 0, 1, 1, 1.0, 1.0, "m")
    writes: list[Callable[[], object]] = [
        lambda: store.create_run(run),
        lambda: store.open_segment(run.id, 0, 1.0),
        lambda: store.write(batch_of(run, range(3))),
        lambda: store.save_alerts([alert]),
        lambda: store.add_event(Event(new_id(), run.id, 0, 1, 1.0, "resume", "m")),
        lambda: store.set_alert_state(alert.id, AlertState.ACKNOWLEDGED, at=1.0),
        lambda: store.update_run(run.id, status=RunStatus.FINISHED, ended_at=5.0),
    ]
    for write in writes:
        write()
        assert until(listener, bool).concerns(run.id)
    with contextlib.closing(store.listen()) as late:
        assert late.wait(0.0) == News(), "what was there before is not news"


def test_nothing_is_heard_where_nothing_was_written(store: Store, listener: Listener, new_run: MakeRun) -> None:
    began = time.monotonic()
    assert not listener.wait(SHORT)
    assert time.monotonic() - began >= SHORT
    with pytest.raises(KeyError):
        store.update_run("nobody", heartbeat_at=1.0)  # rolled back
    assert not listener.wait(SHORT)


def test_a_closed_listener_waits_no_more(store: Store) -> None:
    listening = store.listen()
    threading.Timer(0.2, listening.close).start()
    began = time.monotonic()
    assert not listening.wait(60.0)
    assert time.monotonic() - began < 20.0
    listening.close()
    assert not listening.wait(60.0)


def test_another_file_in_its_place_is_news(tmp_path: Path, file_store: Store, new_run: MakeRun) -> None:
    with contextlib.closing(file_store.listen()) as listening:
        path = tmp_path / "runs.db"
        path.unlink()
        assert listening.wait(LONG).everything, "a reader wants to say that it is gone"
        assert not listening.wait(SHORT)
        file_store.create_run(new_run())
        assert listening.wait(LONG).everything


# -- PostgreSQL --------------------------------------------------------------------------------------------------


def test_the_run_that_was_written_to_is_named(emptied_postgres_url: str, new_run: MakeRun, batch_of: MakeBatch) -> None:
    with opened(emptied_postgres_url) as store, contextlib.closing(store.listen()) as listening:
        first, second = new_run("a"), new_run("b")
        for run in (first, second):
            store.create_run(run)
        until(listening, lambda heard: second.id in heard.runs)
        store.write(batch_of(second, range(3)))
        heard = until(listening, bool)
        assert (heard.concerns(second.id), heard.concerns(first.id), heard.everything) == (True, False, False)
        store.add_silence(Silence(new_id(), rule="r", created_at=1.0))
        assert until(listening, bool).everything, "whom it concerns only the store knows"


def test_stores_in_one_database_do_not_wake_each_other(emptied_postgres_url: str, new_run: MakeRun) -> None:
    schema = f"foreshock_test_{new_id()[:8]}"
    url = make_url(emptied_postgres_url)
    neighbour = url.update_query_dict({"options": f"-csearch_path={schema}"}).render_as_string(hide_password=False)
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    try:
        with opened(emptied_postgres_url) as store, opened(neighbour) as other, contextlib.closing(store.listen()) as listening:
            other.create_run(new_run())
            assert not listening.wait(SHORT)
            mine = new_run()
            store.create_run(mine)
            assert until(listening, bool).runs == {mine.id}
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
        engine.dispose()


def test_a_listener_that_was_cut_off_listens_again(emptied_postgres_url: str, new_run: MakeRun) -> None:
    engine = create_engine(emptied_postgres_url, isolation_level="AUTOCOMMIT")
    with opened(emptied_postgres_url) as store, contextlib.closing(store.listen()) as listening, engine.connect() as connection:
        process = listening._connection.info.backend_pid  # type: ignore[attr-defined]
        connection.execute(text("SELECT pg_terminate_backend(:process)"), {"process": process})
        store.create_run(new_run())
        assert until(listening, bool).everything
        quiet(listening)
        run = new_run()
        store.create_run(run)
        assert run.id in until(listening, bool).runs
    engine.dispose()


def test_waiting_costs_the_server_nothing(emptied_postgres_url: str) -> None:
    engine = create_engine(emptied_postgres_url)
    with opened(emptied_postgres_url) as store, contextlib.closing(store.listen()) as listening, engine.connect() as connection:
        process = listening._connection.info.backend_pid  # type: ignore[attr-defined]
        last = text("SELECT state, query, query_start FROM pg_stat_activity WHERE pid = :process")
        before = connection.execute(last, {"process": process}).one()
        connection.rollback()
        assert not listening.wait(2.5)
        assert connection.execute(last, {"process": process}).one() == before
        assert before.query.startswith("LISTEN")
    engine.dispose()


def test_where_notifications_do_not_come_through_it_looks(
    emptied_postgres_url: str, new_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pooler in transaction mode gives the statement to one connection and the waiting to another."""
    monkeypatch.setattr(news, "_PROBE_WAIT", 0.2)
    monkeypatch.setattr(news, "_LISTEN", 'LISTEN "somewhere else"')
    with opened(emptied_postgres_url) as store, contextlib.closing(store.listen()) as listening:
        assert not listening.wait(SHORT)
        store.create_run(new_run())
        assert until(listening, bool).everything
