"""``foreshock bench ingest`` and ``query`` at tiny sizes: every figure is there and the leftovers are not; speed is not tested."""

import contextlib
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from foreshock.benchmarks import ingest, ingest_contest, ingest_trackers, ingest_waiting, query
from foreshock.benchmarks.ingest_trackers import TRACKERS
from foreshock.benchmarks.places import Places, bytes_of
from foreshock.benchmarks.query_data import LONG_RUN, SIGNAL, Sizes
from foreshock.storage import open_store
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

POSTGRES = os.environ.get("FORESHOCK_TEST_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1:5432/test")
MARIADB = os.environ.get("FORESHOCK_TEST_MARIADB", "mysql+pymysql://root@127.0.0.1/test")


@pytest.fixture(autouse=True)
def _quiet_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESHOCK_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FORESHOCK_STORE", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure in this process what has one of its own, which takes a second or three to start."""

    def told(command: Sequence[str], environment: object = None) -> Any:
        modules = [part for part in command if part.startswith("foreshock.")]
        module = importlib.import_module(modules[0]) if modules else ingest_trackers
        answer = io.StringIO()
        with contextlib.redirect_stdout(answer):
            assert module.main(command[command.index(modules[0]) + 1 :] if modules else command[3:]) == 0
        return json.loads(answer.getvalue())

    for module in (ingest_contest, ingest_waiting):
        monkeypatch.setattr(module, "told", told)


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def url(request: pytest.FixtureRequest) -> str:
    """A place of each kind; a server that is not there is skipped, and missed in CI."""
    address = {"sqlite": "sqlite:///bench.db", "postgresql": POSTGRES, "mysql": MARIADB}[request.param]
    try:
        leftovers(address)
    except (OperationalError, ModuleNotFoundError) as error:
        if os.environ.get("CI"):
            pytest.fail(f"no server at {address}: {error}")
        pytest.skip(f"no server at {address}")
    return address


def leftovers(url: str, pid: int | None = None) -> set[str]:
    """What a process, or this one, has left: folders here, schemas or databases on a server that others use at the same time."""
    mine = f"foreshock_bench_{pid or os.getpid()}_"
    if make_url(url).get_backend_name() == "sqlite":
        return {path.name for path in Path.cwd().iterdir() if path.name.startswith(mine)}
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            names = connection.execute(text("SELECT schema_name AS name FROM information_schema.schemata")).scalars()
            return {name for name in names if name.startswith(mine)}
    finally:
        engine.dispose()


@pytest.mark.usefixtures("in_process")
def test_rates_and_sizes_of_every_side(url: str) -> None:
    said: list[str] = []
    sides = [name for name in ingest_contest.PEERS if name not in TRACKERS]
    found = ingest.measure([url], series=4, steps=60, rounds=1, peers=sides, parts=["rate", "bytes"], say=said.append)
    engine = make_url(url).get_backend_name()
    with_copy = ["copy"] if engine == "postgresql" else []
    assert [rate.contestant for rate in found.rates] == ["foreshock", "sqlalchemy-core", "driver", "driver-sorted", *with_copy]
    assert engine in found.machine.software
    for rate in found.rates:
        assert not rate.failure
        assert rate.durable
        assert rate.steps == 60
        assert rate.points_per_second is not None
        assert rate.points_per_second > 0
        assert rate.bytes_per_point is not None
        assert rate.bytes_per_point > 0
        assert rate.ratio.keys() == {engine}
    assert found.rates[0].ratio[engine] == 1
    assert [(size.every, size.points) for size in found.sizes] == [(1, 240), (50, 240)]
    assert {mark.mark for mark in found.marks} >= {150_000, 250_000}
    assert len(said) == len(found.rates) + len(found.sizes)
    assert not leftovers(url)


@pytest.mark.usefixtures("in_process")
def test_whoever_is_slow_stops_early_and_its_rate_is_of_what_it_did() -> None:
    found = ingest.measure(series=5, steps=20_000, rounds=1, seconds=0.05, peers=["sqlalchemy-core"], parts=["rate"])
    slow = found.rates[1]
    assert 0 < slow.steps < 20_000
    assert slow.points_per_second is not None


@pytest.mark.usefixtures("in_process")
def test_a_tracker_that_is_not_installed_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_trackers, "here", dict)
    found = ingest.measure(series=2, steps=5, rounds=1, peers=["trackio"], parts=["rate"])
    assert "pip install trackio" in found.rates[1].failure
    assert "--peer-python" in found.rates[1].failure
    assert found.rates[1].points_per_second is None


def test_a_tracker_is_measured_by_an_interpreter_that_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its module is a stand-in: what is tested is that another interpreter is asked, measured, and its folder weighed.
    other = _interpreter(tmp_path / "with", {"tensorboard-events": "9.9"})
    monkeypatch.setattr(sys, "executable", _interpreter(tmp_path / "without", {}))
    found = ingest.measure(series=2, steps=5, rounds=1, peers=["tensorboard-events"], peer_pythons=[other], parts=["rate"])
    (rate,) = found.rates[1:]
    assert (rate.version, rate.points_per_second, rate.bytes_per_point) == ("9.9", 10 / 0.5, 0.7)


def _interpreter(path: Path, answer: dict[str, str]) -> str:
    """A program that answers as an interpreter does that runs the trackers' script."""
    lines = [
        f"#!{sys.executable}",
        "import json, pathlib, sys",
        f"if len(sys.argv) == 3: print(json.dumps({answer!r}))",
        "else:",
        "    if '-m' not in sys.argv: (pathlib.Path(sys.argv[4]) / 'kept').write_text('x' * 7)",
        "    print(json.dumps({'seconds': 0.5, 'steps': 5, 'found': None}))",
        "    print('goodbye')",
    ]
    path.write_text("\n".join(lines))
    path.chmod(0o755)
    return str(path)


@pytest.mark.usefixtures("in_process")
def test_what_the_training_thread_waits_is_told_for_each_state_of_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_waiting, "WARM_UP", 5)
    monkeypatch.setattr(ingest_waiting, "DELAY", 0.05)
    monkeypatch.setattr(ingest_waiting, "CALLS", ("put",))  # the other waits for the server that hangs, five seconds at its start
    found = ingest.measure(series=3, waiting_steps=20, parts=["waiting"])
    cases = [(wait.call, wait.state) for wait in found.waits]
    states = ["healthy", "slow", "refused", "hanging"]
    assert cases == [("nothing", ""), *(("put", state) for state in states)]
    for wait in found.waits:
        assert wait.steps == 20
        assert 0 < wait.median_us <= wait.p99_us <= wait.p999_us <= wait.max_us
        assert wait.step_median_us > wait.median_us
        assert wait.dropped == 0
    assert len(found.marks) == 2 * 4


def test_what_a_monitor_costs_the_training_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_waiting, "WARM_UP", 5)
    url = f"sqlite:///{tmp_path / 'bench.db'}"
    found = ingest_waiting.run_case(ingest_waiting.Case("monitor.step", "healthy", url, series=3, steps=20, repeats=2))
    assert 0 < found["median_us"] <= found["p999_us"]
    with contextlib.closing(open_store(url)) as store:  # what was measured did reach the store
        (run,) = store.runs()
        assert "activation.rms" in str(store.series(run.id))


def test_reading_a_large_store(url: str) -> None:
    found = query.measure([url], sizes=Sizes(series=10, steps=120, runs=5), times=1, peers=False)
    assert {reading.what for reading in found.readings} >= {
        *query.MARKS_MS,
        query.HEATMAP_DRAWN,
        query.OVERVIEW_TABLE,
        query.SERIES_RAW,
    }
    for reading in found.readings:
        for figure in (reading.cold_median_ms, reading.cold_p95_ms, reading.warm_median_ms, reading.warm_p95_ms):
            assert figure is not None
            assert figure > 0
    assert len(found.marks) == 3
    assert (found.layers, found.points) == (4, 1_200)
    assert all(taken > 0 for taken in found.bytes.values())
    assert not leftovers(url)


def test_what_was_kept_is_used_again_and_nothing_else_is_touched(tmp_path: Path) -> None:
    path = f"sqlite:///{tmp_path / 'kept.db'}"
    sizes = Sizes(series=10, steps=30, runs=2)
    first, again = (query.measure([path], sizes=sizes, times=1, keep=True, peers=False) for _ in range(2))
    assert first.build_seconds.keys() == {"sqlite"}
    assert not again.build_seconds
    with contextlib.closing(open_store(path)) as store:
        run = store.run(LONG_RUN)
        assert len(store.series(run.id, signal=SIGNAL)) == sizes.layers
        assert sum(len(data.steps) for data in store.read(store.series(run.id))) == 300
    with pytest.raises(ValueError, match="was built with"):
        query.measure([path], sizes=Sizes(series=10, steps=31, runs=2), times=1, keep=True, peers=False)


def test_a_store_of_real_runs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "real.db"
    with contextlib.closing(open_store(path)) as store:
        from foreshock.storage.records import Run, new_id

        store.create_run(Run(new_id(), "real"))
    with pytest.raises(ValueError, match="holds other runs"):
        query.measure([f"sqlite:///{path}"], sizes=Sizes(10, 10, 1), times=1, keep=True, peers=False)
    # Without --keep the file named is not even opened: what is made, here by a process of its own, lies beside it.
    found = ingest.measure([f"sqlite:///{path}"], series=2, steps=5, rounds=1, peers=(), parts=["rate"])
    assert not found.rates[0].failure
    with contextlib.closing(open_store(path)) as store:
        assert [run.name for run in store.runs()] == ["real"]


def test_an_interruption_leaves_nothing(url: str) -> None:
    command = [sys.executable, "-P", "-m", "foreshock", "bench", "ingest", "--store", url, "--steps", "100000", "--peer", "driver"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while not leftovers(url, process.pid):
        assert process.poll() is None
        assert time.monotonic() < deadline
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does, the contestant's process too
    assert process.wait(60) != 0
    assert not leftovers(url, process.pid)


def test_sizes_count_every_table(url: str) -> None:
    with Places(url) as places:
        made = places.make()
        open_store(made).close()
        empty = bytes_of(made)
        engine = create_engine(made)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE big (content TEXT)"))
            connection.execute(text("INSERT INTO big VALUES (:x)"), [{"x": os.urandom(3_000).hex()} for _ in range(60)])
        engine.dispose()
        assert bytes_of(made) >= empty + 300_000


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["ingest", "--store", "oracle://x"], "none of the engines that can be"),
        (["ingest", "--store", "sqlite:///no/such/folder/x.db"], "mkdir -p"),
        (["ingest", "--store", "postgresql://nobody@127.0.0.1:1/x"], "Cannot reach"),
        (["ingest", "--store", "sqlite:///a.db", "--store", "sqlite:///b.db"], "one of each"),
        (["ingest", "--peer", "excel"], "'excel' is none of"),
        (["ingest", "--part", "speed"], "'speed' is none of rate, bytes, waiting"),
        (["ingest", "--peer-python", "/no/python", "--steps", "1"], "'/no/python' is no Python"),
        (["ingest", "--steps", "0"], "'--steps'"),
        (["query", "--series", "2"], "'--series'"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_impossible_wishes_are_explained(command: list[str], message: str) -> None:
    from foreshock.benchmarks.commands import app

    result = CliRunner().invoke(app, command, env={"COLUMNS": "400"})
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.usefixtures("in_process")
def test_json_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = {"series": 2, "steps": 5, "rounds": 1, "peers": (), "parts": ("rate", "bytes")}
    assert ingest.main(json=True, **wanted) == 0
    assert json.loads(capsys.readouterr().out)["rates"][0]["contestant"] == "foreshock"
    assert ingest.main(json=False, **wanted) == 0
    assert "bytes a point" in capsys.readouterr().out
    sizes = Sizes(series=5, steps=20, runs=1)
    assert query.main(json=True, sizes=sizes, times=1, peers=False) == 0
    assert json.loads(capsys.readouterr().out)["points"] == 100
    assert query.main(json=False, sizes=sizes, times=1, peers=False) == 0
    assert "heatmap" in capsys.readouterr().out
