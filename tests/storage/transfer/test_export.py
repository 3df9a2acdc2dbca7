"""What is exported reads back as the frame that the store gives, in little memory, and never stands there half."""

import csv
import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from foreshock.storage import Store
from foreshock.storage.records import Batch, Run, SeriesKey, StepRecord, new_id
from foreshock.storage.transfer import points
from foreshock.storage.transfer.export import COLUMNS, Format, export_run, format_of
from foreshock.storage.transfer.packages import TransferError
from foreshock.storage.transfer.selection import Selection

Record = Callable[..., Run]


def read_csv(path: Path) -> pd.DataFrame:
    """Read as docs/exporting.md says."""
    names = dict.fromkeys(("signal", "module", "kind"), "str")
    exactly: Any = {} if pd.__version__ >= "3" else {"float_precision": "round_trip"}  # pandas 3 reads exactly by default
    return pd.read_csv(path, dtype=names, keep_default_na=False, na_values={"value": ["nan"]}, **exactly)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven steps at a time, so that a small run has many chunks."""
    monkeypatch.setattr("foreshock.storage.transfer.export.steps_per_batch", lambda series: 7)


@pytest.mark.parametrize("name", ["run.parquet", "run.csv", "run.csv.gz"])
@pytest.mark.usefixtures("small_chunks")
def test_an_export_reads_back_as_the_frame(store: Store, tmp_path: Path, name: str, record_run: Record) -> None:
    run = record_run(store)
    expected = store.frame(run)
    written = export_run(store, run, tmp_path / name, format=format_of(name))
    found = pd.read_parquet(tmp_path / name) if name.endswith("parquet") else read_csv(tmp_path / name)
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    assert tuple(found) == COLUMNS
    assert written.points == len(expected) > 60
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("run.") or "partial" in each.name].count(name) == 1
    assert not list(tmp_path.glob(".*partial"))


@pytest.mark.parametrize("name", ["run.parquet", "run.csv"])
@pytest.mark.usefixtures("small_chunks")
def test_patterns_choose_series(file_store: Store, tmp_path: Path, name: str, record_run: Record) -> None:
    run = record_run(file_store)
    selection = Selection(signals=("gradient.*", "attention.*"), modules=("h.1",))
    written = export_run(file_store, run, tmp_path / name, format=format_of(name), selection=selection)
    found = pd.read_parquet(tmp_path / name) if name.endswith("parquet") else read_csv(tmp_path / name)
    expected = file_store.frame(run, "attention.logits_max").reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    assert (written.points, written.series) == (len(expected), 1)


def test_names_stand_once_in_the_dictionary_and_the_file_says_whose_it_is(
    file_store: Store, tmp_path: Path, record_run: Record
) -> None:
    run = record_run(file_store)
    export_run(file_store, run, tmp_path / "run.parquet", format=Format.PARQUET)
    file = pq.ParquetFile(tmp_path / "run.parquet")
    assert file.metadata.metadata[b"foreshock.run_id"] == run.id.encode()
    group = file.metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert {name for name, each in columns.items() if "RLE_DICTIONARY" in each.encodings} == set(COLUMNS) - {"step", "value"}
    assert {each.compression for each in columns.values()} == {"ZSTD"}


def test_a_pattern_that_matches_nothing_names_what_there_is(file_store: Store, tmp_path: Path, record_run: Record) -> None:
    run = record_run(file_store)
    with pytest.raises(TransferError, match=r"No series .* matches --signal los\. Its signals: activation.shape, .* loss"):
        export_run(file_store, run, tmp_path / "run.csv", format=Format.CSV, selection=Selection(("los",)))
    assert list(tmp_path.glob("run.csv*")) == []


def test_a_file_that_is_there_stays_unless_force(file_store: Store, tmp_path: Path, record_run: Record) -> None:
    run = record_run(file_store)
    target = tmp_path / "run.csv"
    target.write_text("mine")
    with pytest.raises(TransferError, match=r"run\.csv is there already.*--force"):
        export_run(file_store, run, target, format=Format.CSV)
    assert target.read_text() == "mine"
    export_run(file_store, run, target, format=Format.CSV, force=True)
    assert len(read_csv(target)) == len(file_store.frame(run))


def test_an_export_that_fails_leaves_nothing(file_store: Store, tmp_path: Path, record_run: Record) -> None:
    run = record_run(file_store)

    def full(steps: int) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        export_run(file_store, run, tmp_path / "run.parquet", format=Format.PARQUET, progress=full)
    assert {each.name for each in tmp_path.iterdir()} <= {"runs.db", "runs.db-wal", "runs.db-shm"}


@pytest.mark.parametrize(
    ("name", "asked", "words"),
    [("run.txt", None, "end it in .parquet"), ("-", Format.PARQUET, "cannot be written to standard output")],
)
def test_what_is_to_be_written_must_be_clear(name: str, asked: Format | None, words: str) -> None:
    with pytest.raises(TransferError, match=words):
        format_of(name, asked)


def test_without_pyarrow_the_message_says_what_to_install(
    file_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_run: Record
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name in [name for name in sys.modules if name.startswith("pyarrow.")]:
        monkeypatch.delitem(sys.modules, name)
    run = record_run(file_store)
    with pytest.raises(TransferError, match=r'needs pyarrow, which is not installed: pip install "foreshock\[parquet\]"'):
        export_run(file_store, run, tmp_path / "run.parquet", format=Format.PARQUET)


def test_a_long_run_goes_by_in_pieces(
    file_store: Store, tmp_path: Path, new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No chunk holds more than a quarter of a million points, and however many series there are, some steps."""
    run = new_run()
    file_store.create_run(run)
    keys = tuple(SeriesKey("weight.spectral_norm", f"h.{i}") for i in range(300))
    file_store.write(Batch(new_id(), run.id, 0, tuple(StepRecord(step, 1.0, keys, [0.5] * 300) for step in range(2000))))
    sizes: list[int] = []
    original = points.points

    def counted(*arguments: object) -> points.Points:
        found = original(*arguments)  # type: ignore[arg-type]
        sizes.append(len(found))
        return found

    monkeypatch.setattr("foreshock.storage.transfer.export.points", counted)
    written = export_run(file_store, run, tmp_path / "run.parquet", format=Format.PARQUET)
    assert written.points == sum(sizes) == 600_000
    assert max(sizes) <= 250_000
    assert (tmp_path / "run.parquet").stat().st_size < 600_000  # under a byte a point, where all values are the same


def _foreshock(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    code = "import sys; from foreshock.cli import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-P", "-W", "error", "-c", code, *arguments], capture_output=True, text=True, timeout=60)


def test_the_command(file_store: Store, tmp_path: Path, record_run: Record) -> None:
    run = record_run(file_store)
    count = len(file_store.frame(run, "loss"))
    common = ("--store", file_store.url, "--signal", "loss")
    told = _foreshock("export", "gpt2-bf16", "--to", str(tmp_path / "loss.csv.gz"), *common, "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout).items() >= {"run_id": run.id, "format": "csv", "points": count, "series": 1}.items()
    with gzip.open(tmp_path / "loss.csv.gz", "rt", newline="") as file:
        assert len(list(csv.reader(file))) == count + 1
    piped = _foreshock("export", run.id[:8], "--to", "-", *common)
    assert piped.stdout.startswith("step,segment,signal,module,head,rank,value,kind\n0,0,loss,,-1,-1,")
    assert piped.stdout.count("\n") == count + 1
    refused = _foreshock("export", "gpt2-bf16", "--to", str(tmp_path / "loss.csv.gz"), *common)
    assert refused.returncode == 2
    assert "is there already" in refused.stderr
    assert "Traceback" not in refused.stderr
