"""Files that interventions wrote: known, measured, and deleted with a word about it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from foreshock.storage import Store
from foreshock.storage.captures import PRUNED, delete, listed
from foreshock.storage.records import Event, Run, new_id


def told(store: Store, run: Run, intervention: str, path: Path, step: int) -> None:
    data = {"intervention": intervention, "path": str(path), "at": step, "host": "gpu-7"}
    store.add_event(Event(new_id(), run.id, 0, step, 1000.0 + step, "intervention", "Saved.", data))


@pytest.fixture
def run(file_store: Store, new_run: Callable[..., Run]) -> Run:
    made = new_run("captured")
    file_store.create_run(made)
    return made


def bundle(folder: Path, size: int = 100) -> Path:
    folder.mkdir(parents=True)
    (folder / "bundle.json").write_bytes(b"x" * size)
    return folder


def test_bundles_and_checkpoints_are_known_with_their_size(file_store: Store, run: Run, tmp_path: Path) -> None:
    whole = bundle(tmp_path / "captures" / "run-step-7")
    bundle(tmp_path / "captures" / "run-step-7.part", 30)
    told(file_store, run, "capture", whole, 7)
    checkpoint = tmp_path / "checkpoints" / "step-3.pt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"y" * 50)
    checkpoint.with_name("step-5.pt").write_bytes(b"y" * 60)
    told(file_store, run, "checkpoint", checkpoint, 3)
    told(file_store, run, "capture", Path("elsewhere/run-step-9"), 9)
    told(file_store, run, "skip_step", tmp_path, 4)
    found = {item.path.name: (item.kind, item.bytes) for item in listed(file_store)}
    assert found == {
        "run-step-7": ("bundle", 100),
        "run-step-7.part": ("bundle", 30),
        "step-3.pt": ("checkpoint", 50),
        "step-5.pt": ("checkpoint", 60),
        "run-step-9": ("bundle", None),
    }
    assert {item.host for item in listed(file_store)} == {"gpu-7"}
    assert "attention" in next(item.holds for item in listed(file_store) if item.kind == "bundle")


def test_deleted_files_are_told_of_and_not_listed_again(file_store: Store, run: Run, tmp_path: Path) -> None:
    told(file_store, run, "capture", bundle(tmp_path / "a"), 1)
    told(file_store, run, "capture", tmp_path / "not-here", 2)
    assert delete(file_store, listed(file_store, run)) == 100
    assert not (tmp_path / "a").exists()
    assert [item.path.name for item in listed(file_store, run)] == ["not-here"]
    (event,) = file_store.events(run.id, kind=PRUNED)
    assert "1 captured files were deleted, 100 bytes" in event.message


def test_a_folder_that_is_no_bundle_is_left_alone(file_store: Store, run: Run, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("all of it")
    told(file_store, run, "capture", tmp_path / "home", 1)
    with pytest.raises(OSError, match="does not look like a bundle"):
        delete(file_store, listed(file_store))
    assert (tmp_path / "home" / "thesis.tex").exists()
