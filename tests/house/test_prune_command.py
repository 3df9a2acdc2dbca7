"""``foreshock db prune`` in its harder cases: runs by name, their files, what is asked and told."""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from foreshock.cli import app
from foreshock.storage import open_store
from foreshock.storage.base import Store
from foreshock.storage.records import BEING_DELETED, Batch, Event, Run, RunStatus, SeriesKey, StepRecord, new_id
from typer.testing import CliRunner, Result

DAY = 86_400.0
Command = Callable[..., Result]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    for name in ("FORESHOCK_STORE", "FORESHOCK_RETENTION"):
        monkeypatch.delenv(name, raising=False)
    return lambda *arguments, **options: CliRunner().invoke(app, ["db", "prune", *arguments], **options)


def begun(store: Store, folder: Path, name: str, end: float, status: RunStatus) -> Run:
    """A run of 100 steps in the store, with a bundle on disk."""
    run = Run(new_id(), name, status=status, created_at=end - DAY, heartbeat_at=end)
    store.create_run(run)
    records = tuple(StepRecord(step, end - 100 + step, (SeriesKey("loss"),), [1.0]) for step in range(100))
    store.write(Batch(new_id(), run.id, 0, records))
    bundle = folder / f"{run.id[:8]}-step-1-spike"
    bundle.mkdir()
    (bundle / "bundle.json").write_text("{}")
    data = {"intervention": "capture", "path": str(bundle)}
    store.add_event(Event(new_id(), run.id, 0, 1, end, "intervention", "Captured.", data))
    return run


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Run]:
    now = time.time()
    with contextlib.closing(open_store(tmp_path / "foreshock.db")) as store:
        return {
            "old": begun(store, tmp_path, "old", now - 100 * DAY, RunStatus.FINISHED),
            "new": begun(store, tmp_path, "new", now - DAY, RunStatus.CRASHED),
            "living": begun(store, tmp_path, "living", now, RunStatus.RUNNING),
        }


def names(folder: Path) -> set[str]:
    with contextlib.closing(open_store(folder / "foreshock.db")) as store:
        return {run.name for run in store.runs()}


def bundles(folder: Path, runs: dict[str, Run]) -> set[str]:
    return {name for name, run in runs.items() if (folder / f"{run.id[:8]}-step-1-spike").exists()}


def test_a_run_by_its_name_goes_whole_with_its_files(command: Command, runs: dict[str, Run], tmp_path: Path) -> None:
    told = command("--run", "new", "--whole", "--dry-run").stderr
    assert "run new" in told
    assert "all of it" in told
    assert "step-1-spike" in told
    assert names(tmp_path) == {"old", "new", "living"}
    assert command("--run", "new", "--whole", input="y\n").exit_code == 0
    assert names(tmp_path) == {"old", "living"}
    assert bundles(tmp_path, runs) == {"old", "living"}


def test_a_living_run_that_was_named_is_left_and_said_to_be(command: Command, runs: dict[str, Run], tmp_path: Path) -> None:
    done = command("--run", "living", "--run", "new", "--whole", "--yes")
    assert done.exit_code == 1
    assert "1 runs are alive and left alone" in done.stderr
    assert names(tmp_path) == {"old", "living"}
    assert bundles(tmp_path, runs) == {"old", "living"}


def test_old_runs_and_captures_go_together(command: Command, runs: dict[str, Run], tmp_path: Path) -> None:
    assert command("--runs-older-than", "90d", "--captures", "--yes").exit_code == 0
    assert names(tmp_path) == {"new", "living"}
    assert bundles(tmp_path, runs) == {"living"}


def test_captures_alone_leave_the_points(command: Command, runs: dict[str, Run], tmp_path: Path) -> None:
    assert command("--captures", "--older-than", "50d", "--yes").exit_code == 0
    assert bundles(tmp_path, runs) == {"new", "living"}
    (tmp_path / "foreshock.toml").write_text('[retention.captures]\nkeep = "12h"\n')
    assert command("--yes").exit_code == 0
    assert bundles(tmp_path, runs) == {"living"}
    with contextlib.closing(open_store(tmp_path / "foreshock.db")) as store:
        assert len(store.frame("old")) == 100


def test_json_is_data_and_asks_nothing(command: Command, runs: dict[str, Run], tmp_path: Path) -> None:
    done = command("--runs-older-than", "90d", "--json")
    assert (done.exit_code, names(tmp_path)) == (2, {"old", "new", "living"})
    dry = json.loads(command("--runs-older-than", "90d", "--json", "--dry-run").stdout)
    assert ([run["name"] for run in dry["runs"]], dry["alive"], dry["done"]) == (["old"], 1, False)
    assert json.loads(command("--runs-older-than", "90d", "--json", "--yes").stdout)["done"] is True
    empty = json.loads(command("--runs-older-than", "90d", "--json", "--yes").stdout)
    assert (empty["runs"], empty["pieces"], empty["captures"], empty["done"]) == ([], [], [], False)


def test_a_deletion_that_was_interrupted_is_completed(command: Command, runs: dict[str, Run], tmp_path: Path) -> None:
    with contextlib.closing(open_store(tmp_path / "foreshock.db")) as store:
        store.update_run(runs["new"].id, meta={BEING_DELETED: time.time()})
    assert command("--yes").exit_code == 0
    assert names(tmp_path) == {"old", "living"}


@pytest.mark.parametrize("options", [["--whole"], ["--run", "new", "--whole", "--older-than", "3d"]])
def test_what_makes_no_sense_together_is_refused(command: Command, runs: dict[str, Run], options: list[str]) -> None:
    done = command(*options, "--yes")
    assert done.exit_code == 2
    assert "--run NAME --whole" in done.output.replace("\n", " ") or "whatever" in done.output
