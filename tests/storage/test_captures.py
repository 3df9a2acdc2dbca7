"""Files that interventions wrote: known, measured, and deleted with a word about it; and no other file is."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from foreshock.storage import Store
from foreshock.storage.captures import PRUNED, Captured, delete, listed
from foreshock.storage.records import Event, Run, RunStatus, new_id


def told(store: Store, run: Run, intervention: str, path: Path, step: int, host: str = "gpu-7") -> None:
    data = {"intervention": intervention, "path": str(path), "at": step, "host": host}
    store.add_event(Event(new_id(), run.id, 0, step, 1000.0 + step, "intervention", "Saved.", data))


@pytest.fixture
def run(file_store: Store, new_run: Callable[..., Run]) -> Run:
    made = new_run("captured", status=RunStatus.FINISHED)
    file_store.create_run(made)
    return made


@pytest.fixture
def bundle(tmp_path: Path, run: Run) -> Callable[..., Path]:
    def make(name: str, size: int = 100) -> Path:
        folder = tmp_path / "captures" / f"{run.id[:8]}-step-{name}"
        folder.mkdir(parents=True)
        (folder / "bundle.json").write_bytes(b"x" * size)
        return folder

    return make


@pytest.fixture
def checkpoints(tmp_path: Path, run: Run) -> Path:
    """Two checkpoints, of which the first is the good one."""
    folder = tmp_path / "checkpoints" / run.id
    folder.mkdir(parents=True)
    for step in (3, 5):
        (folder / f"step-{step:09d}.pt").write_bytes(b"y" * 10 * step)
    (folder / "good.json").write_text(json.dumps({"file": "step-000000003.pt", "step": 3}))
    return folder


def test_bundles_and_checkpoints_are_known_with_their_size(
    file_store: Store, run: Run, bundle: Callable[..., Path], checkpoints: Path
) -> None:
    told(file_store, run, "capture", bundle("7"), 7)
    bundle("7.part", 30)
    told(file_store, run, "checkpoint", checkpoints / "step-000000003.pt", 3)
    told(file_store, run, "capture", Path("elsewhere/run-step-9"), 9)
    told(file_store, run, "skip_step", checkpoints, 4)
    found = {item.path.name: (item.kind, item.bytes, item.good) for item in listed(file_store)}
    assert found == {
        f"{run.id[:8]}-step-7": ("bundle", 100, False),
        f"{run.id[:8]}-step-7.part": ("bundle", 30, False),
        "step-000000003.pt": ("checkpoint", 30, True),
        "step-000000005.pt": ("checkpoint", 50, False),
        "run-step-9": ("bundle", None, False),
    }
    assert {item.host for item in listed(file_store)} == {"gpu-7"}
    assert "attention" in next(item.holds for item in listed(file_store) if item.kind == "bundle")


def test_deleted_files_are_told_of_and_not_listed_again(
    file_store: Store, run: Run, bundle: Callable[..., Path], tmp_path: Path
) -> None:
    told(file_store, run, "capture", bundle("1"), 1)
    told(file_store, run, "capture", tmp_path / "not-here", 2)
    assert delete(file_store, listed(file_store, run)) == 100
    assert list((tmp_path / "captures").iterdir()) == []
    assert [item.path.name for item in listed(file_store, run)] == ["not-here"]
    (event,) = file_store.events(run.id, kind=PRUNED)
    assert "1 captured files were deleted, 100 bytes" in event.message
    # A run that is resumed writes under the same name again.
    again = Event(new_id(), run.id, 1, 1, time.time() + 1, "intervention", "Saved.", {"intervention": "capture", "path": ""})
    again.data["path"] = str(bundle("1"))  # type: ignore[index]
    file_store.add_event(again)
    assert [item.bytes for item in listed(file_store, run)] == [100, None]


def test_the_last_good_checkpoint_is_spared_while_its_run_is_alive(
    file_store: Store, new_run: Callable[..., Run], run: Run, checkpoints: Path
) -> None:
    file_store.update_run(run.id, status=RunStatus.RUNNING, heartbeat_at=time.time())
    told(file_store, run, "checkpoint", checkpoints / "step-000000003.pt", 3)
    assert delete(file_store, listed(file_store)) == 50
    assert {path.name for path in checkpoints.iterdir()} == {"step-000000003.pt", "good.json"}
    file_store.update_run(run.id, status=RunStatus.FINISHED)
    assert delete(file_store, listed(file_store)) == 30
    assert not checkpoints.exists()


def test_only_what_looks_like_ours_is_deleted(file_store: Store, run: Run, bundle: Callable[..., Path], tmp_path: Path) -> None:
    """Many write into a shared store: an event may name any path."""
    thesis = tmp_path / "home" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("all of it")
    with_notes = bundle("2")
    (with_notes / "notes.txt").write_text("mine")
    weights = tmp_path / "step-000000003.pt"  # ours by its name, but in no folder of the run's
    weights.write_text("weights")
    link = tmp_path / run.id
    link.symlink_to(thesis.parent)
    (thesis.parent / "step-000000001.pt").write_text("linked")
    for intervention, path in [
        ("capture", thesis.parent),
        ("checkpoint", thesis),
        ("checkpoint", weights),
        ("capture", with_notes),
        ("checkpoint", link / "step-000000001.pt"),
    ]:
        told(file_store, run, intervention, path, 1)
    found = listed(file_store)
    assert [item.bytes for item in found] == [None] * len(found)
    lying = [Captured(item.path, item.kind, run.id, run.name, 1, 1.0, "", 10) for item in found]
    assert delete(file_store, lying) == 0
    kept = (thesis, weights, with_notes / "notes.txt", with_notes / "bundle.json", thesis.parent / "step-000000001.pt")
    assert all(path.exists() for path in kept)
