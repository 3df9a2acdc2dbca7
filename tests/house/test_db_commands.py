"""``foreshock db``: what is in a store, what may go, what is due."""

import contextlib
import json
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from foreshock.cli import app
from foreshock.storage import StoreConfigurationError, open_store
from foreshock.storage.records import Batch, Event, Run, RunStatus, Segment, SeriesKey, StepRecord, new_id
from foreshock.storage.schema import HEAD
from foreshock.storage.spool import SpoolFile, SpoolPlace
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
    assert (told["points"], told["series"]) == ({"rows": 400, "exact": True}, 4)
    assert told["runs"] == {"finished": 1, "running": 1}
    assert told["rollups"] == {"1": {"rows": 40, "exact": True}, "2": {"rows": 4, "exact": True}}
    assert (told["schema"], told["upgrade_due"]) == (told["schema_of_program"], False)
    assert told["size"]["total"] == store.stat().st_size > 0
    assert (told["spools"], told["captures"]) == ([], [])
    words = " ".join(command("info").stdout.split())
    for line in ("runs 1 finished, 1 running", "points 400", "level 1: 40, level 2: 4", "up to date", "none captured"):
        assert line in words


def test_info_lists_what_lies_beside_the_store(command: Callable[..., Result], store: Path, tmp_path: Path) -> None:
    with contextlib.closing(open_store(store)) as opened:
        run = opened.run("living")
        bundle = tmp_path / "captures" / f"{run.id[:8]}-step-000000007-spike"
        bundle.mkdir(parents=True)
        (bundle / "bundle.json").write_bytes(b"x" * 2048)
        for path in (bundle, Path("/elsewhere/checkpoints/step-000000007.pt")):
            data = {"intervention": "capture" if path == bundle else "checkpoint", "path": str(path), "host": "far"}
            opened.add_event(Event(new_id(), run.id, 0, 7, time.time(), "intervention", "captured", data))
        spool = SpoolFile.create(SpoolPlace(tmp_path, 2**20, opened.url), run, [Segment(run.id, 0, 0, 0.0)], [])
        spool.close(keep=True)
    told = json.loads(command("info", "--json").stdout)
    assert [(one["path"], one["bytes"], one["run_name"]) for one in told["captures"] if one["kind"] == "bundle"] == [
        (str(bundle), 2048, "living")
    ]
    assert [(one["run"], one["state"]) for one in told["spools"]] == [("living", "left")]
    done = command("info")
    words = "".join(done.stdout.split())  # a long path is folded where the line ends
    assert "".join(f"{bundle}: 2.0 KiB, run living, step 7; slices of attention inputs".split()) in words
    assert "step-000000007.pt:notfoundfromhere,writtenonfar" in words
    assert f"waitforsqlite:///{store}" in words
    assert "foreshock db drain" in done.stderr


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_info_of_an_old_store_says_what_is_due_and_changes_nothing(
    command: Callable[..., Result], tmp_path: Path, revision: str
) -> None:
    shutil.copy(ASSETS / f"revision_{revision}.sqlite", tmp_path / "foreshock.db")
    told = json.loads(command("info", "--json").stdout)
    assert (told["schema"], told["upgrade_due"], told["points"]["rows"]) == (revision, True, 10)
    assert "foreshock db upgrade" in command("info").stderr
    done = command("compact")
    assert isinstance(done.exception, StoreConfigurationError)
    assert "foreshock db upgrade" in str(done.exception)
    assert (tmp_path / "foreshock.db").read_bytes() == (ASSETS / f"revision_{revision}.sqlite").read_bytes()


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
    assert "before" in command("compact").stderr


def test_compact_refuses_while_a_run_writes(foreshock: Callable[..., CompletedProcess[str]], store: Path) -> None:
    done = foreshock("db", "compact", FORESHOCK_STORE=f"sqlite:///{store}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Run living is being written" in done.stderr


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_upgrade_tells_what_is_due_and_does_it(command: Callable[..., Result], tmp_path: Path, revision: str) -> None:
    shutil.copy(ASSETS / f"revision_{revision}.sqlite", tmp_path / "foreshock.db")
    done = command("upgrade", "--check")
    assert done.exit_code == 1
    assert f"has schema {revision}; this foreshock's is {HEAD}. Due:" in done.stderr
    assert (tmp_path / "foreshock.db").read_bytes() == (ASSETS / f"revision_{revision}.sqlite").read_bytes()
    done = command("upgrade")
    assert done.exit_code == 0
    assert "0003  Rollups" in done.stderr
    assert "Done: " in done.stderr
    done = command("upgrade", "--check", "--json")
    told = json.loads(done.stdout)
    assert (done.exit_code, told["due"], told["revisions"]) == (0, False, [])
    assert "Nothing to do" in command("upgrade").stderr


def test_upgrade_says_as_json_what_it_did(command: Callable[..., Result], tmp_path: Path) -> None:
    shutil.copy(ASSETS / "revision_0002.sqlite", tmp_path / "foreshock.db")
    told = json.loads(command("upgrade", "--json").stdout)
    assert (told["found"], told["wanted"], told["done"]) == ("0002", HEAD, True)
    assert [one["number"] for one in told["revisions"]] == [f"{number:04}" for number in range(3, int(HEAD) + 1)]


def test_upgrade_leaves_alone_what_holds_no_store(foreshock: Callable[..., CompletedProcess[str]], tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "theirs.db")) as connection:
        connection.execute("CREATE TABLE notes (words TEXT)")
    for name, says in (("theirs.db", "holds no foreshock store"), ("missing.db", "There is no store")):
        done = foreshock("db", "upgrade", "--store", str(tmp_path / name))
        assert done.returncode == 2
        assert says in done.stderr
    assert not (tmp_path / "missing.db").exists()


def test_upgrade_refuses_what_is_newer(command: Callable[..., Result], store: Path) -> None:
    with contextlib.closing(sqlite3.connect(store)) as connection:
        connection.execute("UPDATE foreshock_schema SET version_num = '9999'")
        connection.commit()
    done = command("upgrade")
    assert done.exit_code != 0
    assert "newer foreshock" in done.stderr + str(done.exception)
