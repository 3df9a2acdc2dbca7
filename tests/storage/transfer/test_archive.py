"""A run that was archived comes back equal in every way that a store can be asked, in any store; a damaged archive adds nothing."""

import json
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from foreshock.commands.archiving import add_commands
from foreshock.storage import Store, StoreUnavailableError, open_store
from foreshock.storage.records import Alert, Batch, Run, RunStatus, SeriesKey, StepRecord, new_id
from foreshock.storage.transfer import archive as archiving
from foreshock.storage.transfer.archive import Archive, archive_run, archives_in, remove_archived
from foreshock.storage.transfer.packages import TransferError
from foreshock.storage.transfer.restore import Outcome, restore_run
from typer.testing import CliRunner

Record = Callable[..., Run]


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven steps a row group, so that a small run has many."""
    monkeypatch.setattr("foreshock.storage.transfer.archive.steps_per_batch", lambda series: 7)


def everything(store: Store, run_id: str) -> dict[str, Any]:
    """Return what every reading method of the contract says of a run, numbers of series and cursors aside."""
    series = store.series(run_id)
    ranges = store.changes(run_id).ranges
    return {
        "run": store.run(run_id),
        "runs": [each for each in store.runs() if each.id == run_id],
        "segments": store.segments(run_id),
        "series": [each.key for each in series],
        "one_signal": [each.key for each in store.series(run_id, signal="loss")],
        "read": store.read(series),
        "read_part": store.read(series, start=5, stop=35, segment=0, max_points=8),
        "changes": [(each.segment, each.first_step, each.last_step) for each in ranges],
        "step_times": store.step_times(run_id),
        "envelopes": store.envelopes(series, max_points=9),
        "histograms": store.histograms(run_id, "activation.shape", "h.0"),
        "batches": [(each.segment, each.steps) for each in store.batches(run_id, steps_per_batch=11)],
        "frame": store.frame(run_id).to_csv(),
        "alerts": store.alerts(run_id),
        "events": store.events(run_id),
        "rules": store.rule_history(run_id=run_id),
    }


def through(source: Store, target: Store, run: Run, folder: Path) -> Run:
    folder.mkdir()
    return restore_run(target, Archive(archive_run(source, run, folder))).run


def test_a_run_goes_round_all_engines_and_comes_back_equal(
    tmp_path: Path, postgres_url: str, mariadb_url: str, record_run: Record
) -> None:
    urls = (f"sqlite:///{tmp_path / 'a.db'}", postgres_url, mariadb_url, f"sqlite:///{tmp_path / 'b.db'}")
    with closing(open_store(urls[0])) as first:
        run = record_run(first, odd=float("nan"))
        expected = everything(first, run.id)
    assert len(expected["alerts"]) == 3
    assert len(expected["events"]) >= 2
    assert len(expected["rules"]) == 2
    for place, (source, target) in enumerate(pairwise(urls)):
        with closing(open_store(source)) as one, closing(open_store(target)) as other:
            through(one, other, run, tmp_path / str(place))
            found = everything(other, run.id)
            one.delete_run(run.id)  # the servers are the next test's too
        for name, value in expected.items():
            assert repr(found[name]) == repr(value), (target, name)


def test_restoring_twice_adds_nothing(file_store: Store, tmp_path: Path, record_run: Record) -> None:
    archived = Archive(archive_run(file_store, record_run(file_store), tmp_path))
    with closing(open_store("sqlite://")) as other:
        assert restore_run(other, archived).outcome is Outcome.RESTORED
        before, cursor = repr(everything(other, archived.run.id)), other.changes(archived.run.id).cursor
        assert restore_run(other, archived).outcome is Outcome.ALREADY_THERE
        assert repr(everything(other, archived.run.id)) == before
        assert other.changes(archived.run.id).cursor == cursor
        assert len(other.runs()) == 1


def test_a_run_without_anything_comes_back(file_store: Store, tmp_path: Path, new_run: Callable[..., Run]) -> None:
    run = new_run("../empty/ ü", status=RunStatus.FINISHED, ended_at=1001.0)
    file_store.create_run(run)
    folder = archive_run(file_store, run, tmp_path)
    assert folder.parent == tmp_path
    with closing(open_store("sqlite://")) as other:
        assert repr(restore_run(other, Archive(folder)).run) == repr(run)


def test_a_series_without_samples_and_the_order_of_series_stay(
    file_store: Store, tmp_path: Path, new_run: Callable[..., Run]
) -> None:
    run = new_run(status=RunStatus.FINISHED)
    file_store.create_run(run)
    keys = [SeriesKey("pruned"), SeriesKey("b"), SeriesKey("a")]
    file_store.add_series(run.id, keys)
    file_store.write(Batch(new_id(), run.id, 0, (StepRecord(0, 1.0, (SeriesKey("a"), SeriesKey("new")), [1.0, 2.0]),)))
    file_store.add_series(run.id, keys[::-1])
    order = ["pruned", "b", "a", "new"]
    assert [each.key.signal for each in file_store.series(run.id)] == order
    with closing(open_store("sqlite://")) as other:
        restore_run(other, Archive(archive_run(file_store, file_store.run(run.id), tmp_path)))
        assert [each.key.signal for each in other.series(run.id)] == order


# -- what is damaged ---------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 3)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("table", ["samples", "histograms", "alerts"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [(cut, "bytes instead of"), (flip, "its checksum is not the one"), (Path.unlink, "No such file")],
)
def test_a_damaged_archive_is_refused(
    file_store: Store, tmp_path: Path, record_run: Record, table: str, damage: Callable[[Path], None], words: str
) -> None:
    folder = archive_run(file_store, record_run(file_store), tmp_path)
    damage(folder / f"{table}.parquet")
    with pytest.raises(TransferError, match=rf"{table}\.parquet .*{words}.* Nothing was restored; use another copy"):
        Archive(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "manifest.json cannot be read"),
        ("[]", "is not the manifest of a foreshock run archive"),
        ('{"format": "foreshock run archive", "version": 1}', "manifest.json is damaged: KeyError"),
        (
            '{"format": "foreshock run archive", "version": 2, "written_by": "9.0"}',
            "version 2, and this foreshock reads version 1. It was written by foreshock 9.0; mend it with: pip install --upgrade",
        ),
    ],
)
def test_a_manifest_that_is_not_ours_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(TransferError) as refused:
        Archive(tmp_path)
    assert words in str(refused.value)


def test_files_beyond_those_of_an_archive_are_not_opened(file_store: Store, tmp_path: Path, record_run: Record) -> None:
    folder = archive_run(file_store, record_run(file_store), tmp_path)
    text = json.loads((folder / "manifest.json").read_text())
    text["files"]["../../secrets"] = text["files"].pop("alerts")
    (folder / "manifest.json").write_text(json.dumps(text))
    with pytest.raises(TransferError, match="is damaged: ValueError: its files are"):
        Archive(folder)


class Failing:
    """A store whose events cannot be written: the last of what a restore does."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def add_event(self, event: object) -> None:
        raise StoreUnavailableError("the server went away")


def test_a_restore_that_fails_leaves_nothing(file_store: Store, tmp_path: Path, record_run: Record) -> None:
    archived = Archive(archive_run(file_store, record_run(file_store), tmp_path))
    with closing(open_store("sqlite://")) as other:
        with pytest.raises(StoreUnavailableError, match="went away"):
            restore_run(Failing(other), archived)  # type: ignore[arg-type]
        assert other.runs() == []


def test_what_a_killed_restore_left_is_completed(file_store: Store, tmp_path: Path, record_run: Record) -> None:
    run = record_run(file_store)
    archived = Archive(archive_run(file_store, run, tmp_path))
    with closing(open_store("sqlite://")) as other:
        other.create_run(run)  # as far as a kill let it come
        other.write(next(archived.batches()))
        assert restore_run(other, archived).outcome is Outcome.COMPLETED
        assert repr(everything(other, run.id)) == repr(everything(file_store, run.id))


def test_a_run_that_went_on_is_left_as_it_is(
    file_store: Store, tmp_path: Path, record_run: Record, batch_of: Callable[..., Batch]
) -> None:
    run = record_run(file_store)
    archived = Archive(archive_run(file_store, run, tmp_path))
    file_store.write(batch_of(run, range(100, 105), segment=1))
    before = repr(everything(file_store, run.id))
    with pytest.raises(TransferError, match="went on after it was archived; it is left as it is"):
        restore_run(file_store, archived)
    assert repr(everything(file_store, run.id)) == before


# -- archiving ---------------------------------------------------------------------------------------------------


def test_a_run_that_is_still_written_is_not_archived(file_store: Store, tmp_path: Path, new_run: Callable[..., Run]) -> None:
    import time

    run = new_run(heartbeat_at=time.time())
    file_store.create_run(run)
    with pytest.raises(TransferError, match=r"still being written.*foreshock export"):
        archive_run(file_store, run, tmp_path)
    lost = replace(run, heartbeat_at=time.time() - 2 * archiving.LIVE)
    assert not archiving.is_live(lost)


def test_an_archive_that_is_not_what_the_store_has_is_not_kept(
    file_store: Store, tmp_path: Path, record_run: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should Parquet, the disk or we ourselves write something else, it is noticed before anything is removed."""
    run = record_run(file_store)
    original = archiving.Tables.streamed

    def wrong(self: archiving.Tables, batch: Batch) -> dict[str, Any]:
        first = batch.steps[0]
        other = replace(first, values=[value + 1e-9 for value in first.values])
        return original(self, replace(batch, steps=(other, *batch.steps[1:])))

    monkeypatch.setattr(archiving.Tables, "streamed", wrong)
    with pytest.raises(TransferError, match=r"is not what the store has \(samples of segment 0 from step 0 on\); it was not kept"):
        archive_run(file_store, run, tmp_path)
    assert {each.name.split(".db")[0] for each in tmp_path.iterdir()} == {"runs"}


def test_an_archive_that_is_there_stays_unless_force(file_store: Store, tmp_path: Path, record_run: Record) -> None:
    run = record_run(file_store)
    folder = archive_run(file_store, run, tmp_path)
    (folder / "note.txt").write_text("mine")
    with pytest.raises(TransferError, match="is there already"):
        archive_run(file_store, run, tmp_path)
    assert (folder / "note.txt").exists()
    archive_run(file_store, run, tmp_path, force=True)
    assert sorted(each.name for each in folder.iterdir()) == sorted(
        [
            "manifest.json",
            *(f"{name}.parquet" for name in ("alerts", "events", "histograms", "samples", "segments", "series", "steps")),
        ]
    )
    assert not list(tmp_path.glob(".*"))


def test_no_channel_address_is_archived(file_store: Store, tmp_path: Path, record_run: Record) -> None:
    run = record_run(file_store)
    file_store.set_channels(run.id, ["slack://T0KEN/secret", "mailto://me:pass@host"])
    folder = archive_run(file_store, run, tmp_path)
    assert Archive(folder).manifest.channels == ("slack://***", "mailto://***")
    assert not [path for path in folder.iterdir() if b"T0KEN" in path.read_bytes() or b"pass@" in path.read_bytes()]


def test_removing_deletes_the_run_and_restoring_brings_it_back(store: Store, tmp_path: Path, record_run: Record) -> None:
    run, kept = record_run(store), record_run(store, name="kept")
    expected, cursor = repr(everything(store, run.id)), store.changes(run.id).cursor
    folder = archive_run(store, run, tmp_path)
    remove_archived(store, run, cursor)
    assert [each.id for each in store.runs()] == [kept.id]
    restore_run(store, Archive(folder))
    assert repr(everything(store, run.id)) == expected


def test_a_run_that_went_on_while_it_was_archived_is_not_removed(
    file_store: Store, tmp_path: Path, record_run: Record, batch_of: Callable[..., Batch]
) -> None:
    run = record_run(file_store)
    cursor = file_store.changes(run.id).cursor
    archive_run(file_store, run, tmp_path)
    file_store.write(batch_of(run, range(100, 101), segment=1))
    with pytest.raises(TransferError, match=r"went on while it was archived\. It stays in the store"):
        remove_archived(file_store, run, cursor)
    assert file_store.run(run.id).last_step == 100


def test_archives_are_found_by_manifest_folder_and_folder_of_folders(file_store: Store, tmp_path: Path, record_run: Record) -> None:
    (tmp_path / "all").mkdir()
    folders = sorted(archive_run(file_store, record_run(file_store, name=name), tmp_path / "all") for name in ("a", "b"))
    assert archives_in(folders[0]) == archives_in(folders[0] / "manifest.json") == [folders[0]]
    assert archives_in(tmp_path / "all") == folders
    for wrong in (tmp_path, folders[0] / "samples.parquet", tmp_path / "nowhere"):
        with pytest.raises(TransferError, match="no archive"):
            archives_in(wrong)


def test_alerts_come_back_with_their_evidence(file_store: Store, tmp_path: Path, record_run: Record) -> None:
    archived = Archive(archive_run(file_store, record_run(file_store), tmp_path))
    alerts: list[Alert] = archived.alerts
    assert [repr(each.value) for each in alerts] == ["None", "2.5", "nan"]
    assert all(each.evidence and each.diagnosis for each in alerts)


# -- the commands ------------------------------------------------------------------------------------------------


@pytest.fixture
def db() -> Callable[..., Result]:
    """Run a command of the group ``db``."""
    app = typer.Typer()
    add_commands(app)

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(each) for each in arguments])

    return run


def test_the_commands(file_store: Store, tmp_path: Path, record_run: Record, db: Callable[..., Result]) -> None:
    runs = [record_run(file_store, name=name) for name in ("one", "two")]
    told = db("archive", "one", "two", "one", "--to", tmp_path / "new" / "archives", "--store", file_store.url, "--json")
    assert told.exit_code == 0, told.output
    facts = json.loads(told.stdout)
    assert [(each["run"], each["run_id"], each["removed"]) for each in facts] == [(run.name, run.id, False) for run in runs]
    assert all(Path(each["folder"]).is_dir() and each["bytes"] > 0 for each in facts)
    assert "verified" in told.stderr
    other = f"sqlite:///{tmp_path / 'other.db'}"
    for outcome in ("restored", "already there"):
        told = db("restore", tmp_path / "new" / "archives", "--store", other, "--json")
        assert [(each["run"], each["outcome"]) for each in json.loads(told.stdout)] == [("one", outcome), ("two", outcome)]
    with closing(open_store(other)) as restored:
        assert repr(everything(restored, runs[1].id)) == repr(everything(file_store, runs[1].id))


def test_one_damaged_archive_of_several_stops_all_of_them(
    file_store: Store, tmp_path: Path, record_run: Record, db: Callable[..., Result]
) -> None:
    for name in ("one", "two"):
        folder = archive_run(file_store, record_run(file_store, name=name), tmp_path)
    cut(folder / "samples.parquet")
    told = db("restore", tmp_path, "--store", tmp_path / "other.db")
    assert isinstance(told.exception, TransferError)
    assert "two" in str(told.exception)
    assert not (tmp_path / "other.db").exists()
