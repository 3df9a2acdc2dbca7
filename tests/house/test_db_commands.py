"""``foreshock db``: what is in a store, what may go, what is due."""

import contextlib
import json
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from foreshock.cli import app
from foreshock.storage import open_store
from foreshock.storage.records import Batch, Run, RunStatus, SeriesKey, StepRecord, new_id
from typer.testing import CliRunner, Result

ASSETS = Path(__file__).parents[1] / "storage" / "assets"
DAY = 86_400.0


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    for name in ("FORESHOCK_STORE", "FORESHOCK_RETENTION"):
        monkeypatch.delenv(name, raising=False)
    return lambda *arguments, **options: CliRunner().invoke(app, ["db", *arguments], **options)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two runs of 100 steps, one that ended 100 days ago and one that is alive."""
    path = tmp_path / "foreshock.db"
    now = time.time()
    with contextlib.closing(open_store(path)) as opened:
        for name, end, status in (("old", now - 100 * DAY, RunStatus.FINISHED), ("living", now, RunStatus.RUNNING)):
            run = Run(
                new_id(), name, status=status, created_at=end - DAY, heartbeat_at=end, ended_at=end if name == "old" else None
            )
            opened.create_run(run)
            keys = (SeriesKey("loss"), SeriesKey("mark"))
            opened.write(
                Batch(new_id(), run.id, 0, tuple(StepRecord(step, end - 100 + step, keys, [1.0, 2.0]) for step in range(100)))
            )
    return path


def points(path: Path) -> dict[str, int]:
    with contextlib.closing(open_store(path)) as opened:
        return {run.name: len(opened.frame(run)) for run in opened.runs()}


def test_info_tells_what_a_store_holds(command: Callable[..., Result], store: Path) -> None:
    done = command("info", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["points"], told["points_exact"], told["series"]) == (400, True, 4)
    assert told["runs"] == {"finished": 1, "running": 1}
    assert told["rollups"] == {"1": 40, "2": 4}
    assert told["schema"] == told["schema_known"]
    assert told["bytes"] > 0
    words = command("info").stdout
    assert "400" in words
    assert "40 of 10, 4 of 100" in words


def test_prune_tells_and_asks_and_leaves_the_living_alone(command: Callable[..., Result], store: Path) -> None:
    done = command("prune", "--older-than", "90d", "--dry-run")
    assert done.exit_code == 0
    assert "100 points of core" in done.stderr
    assert "1 runs are alive and left alone" in done.stderr
    assert command("prune", "--older-than", "90d", input="n\n").exit_code == 1
    assert points(store) == {"old": 200, "living": 200}
    done = command("prune", "--older-than", "90d", input="y\n")
    assert "Deleted 200 points" in done.stderr
    assert points(store) == {"old": 0, "living": 200}


def test_prune_follows_the_settings(command: Callable[..., Result], store: Path, tmp_path: Path) -> None:
    assert "foreshock.toml has no [retention]" in command("prune").stderr
    (tmp_path / "foreshock.toml").write_text('[retention.metrics]\nkeep = "30d"\n')
    done = command("prune", "--yes", "--json")
    assert json.loads(done.stdout)["pieces"][0]["name"] == "metrics"
    assert points(store) == {"old": 100, "living": 200}
    (tmp_path / "foreshock.toml").write_text('[retention.metric]\nkeep = "30d"\n')
    done = command("prune")
    assert done.exit_code == 2
    assert "no class 'metric'; allowed: core" in done.stderr


def test_prune_takes_whole_runs(command: Callable[..., Result], store: Path) -> None:
    assert command("prune", "--runs-older-than", "99d", "--yes").exit_code == 0
    assert points(store) == {"living": 200}
    assert command("prune", "--runs-older-than", "soon", "--yes").exit_code == 2


def test_compact_gives_room_back(command: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "foreshock.db"
    with contextlib.closing(open_store(path)) as opened:
        run = Run(new_id(), "large", status=RunStatus.FINISHED)
        opened.create_run(run)
        records = tuple(StepRecord(step, 0.0, (SeriesKey("loss"),), [float(step)]) for step in range(20_000))
        opened.write(Batch(new_id(), run.id, 0, records))
        opened.delete_run(run.id)
    done = command("compact", "--json")
    told = json.loads(done.stdout)
    assert told["after"] < told["before"] / 2
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        done = command("compact", "--store", f"sqlite:///{path}?timeout=0.1")
    assert done.exit_code != 0
    assert "another process holds its lock" in done.stderr + str(done.exception)


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_upgrade_tells_what_is_due_and_does_it(command: Callable[..., Result], tmp_path: Path, revision: str) -> None:
    shutil.copy(ASSETS / f"revision_{revision}.sqlite", tmp_path / "foreshock.db")
    done = command("upgrade", "--check")
    assert done.exit_code == 1
    assert f"due to be upgraded from schema {revision}" in done.stderr
    done = command("upgrade")
    assert done.exit_code == 0
    assert "0003: Rollups" in done.stderr
    done = command("upgrade", "--check", "--json")
    assert (done.exit_code, json.loads(done.stdout)["due"]) == (0, [])


def test_upgrade_refuses_what_is_newer(command: Callable[..., Result], store: Path) -> None:
    with contextlib.closing(sqlite3.connect(store)) as connection:
        connection.execute("UPDATE foreshock_schema SET version_num = '9999'")
        connection.commit()
    done = command("upgrade")
    assert done.exit_code != 0
    assert "newer foreshock" in done.stderr + str(done.exception)
