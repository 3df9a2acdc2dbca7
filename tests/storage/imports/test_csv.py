"""CSV files, imported: those we write ourselves come back as they were."""

import contextlib
import gzip
import json
import math
import os

import numpy as np
import pandas as pd
import pytest
from foreshock.cli import app
from foreshock.storage import open_store
from foreshock.storage.records import Batch, Segment, SeriesKey, StepRecord, new_id
from foreshock.storage.transfer.imports.csv import find
from foreshock.storage.transfer.imports.intake import import_run
from foreshock.storage.transfer.packages import TransferError
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

KEYS = (
    SeriesKey("loss"),
    SeriesKey("weight.norm", 'h.0, "q"\nfirst'),
    SeriesKey("attention.max_logit", "h.0", head=3),
    SeriesKey("rank.loss", rank=0),
    SeriesKey("rank.loss", rank=1),
)


@pytest.fixture
def written(file_store, new_run):
    """A run of two segments, some of whose values are not finite."""
    run = new_run("original")
    file_store.create_run(run)
    for segment, steps in enumerate((range(60), range(40, 90))):
        file_store.add_segment(Segment(run.id, segment, steps.start, 1000.0))
        rows = []
        for step in steps:
            values = [step / 7, 1e-300 * step, math.nan if step == 50 else 1.0, math.inf, -math.inf]
            rows.append(StepRecord(step, 1000.0 + step, KEYS, values))
        file_store.write(Batch(new_id(), run.id, segment, tuple(rows)))
    return file_store.frame(run)


@pytest.fixture(scope="module")
def memory():
    with contextlib.closing(open_store("sqlite://")) as opened:
        yield opened


def stored(store, source):
    return store.frame(import_run(store, source, source.survey(lambda size: None)).run)


@pytest.mark.parametrize("options", [{"index": False}, {}, {"index": False, "sep": ";"}, {"index": False, "na_rep": "nan"}])
@pytest.mark.parametrize("name", ["run.csv", "run.csv.gz"])
def test_a_frame_comes_back_as_it_was(tmp_path, memory, written, name, options):
    written.to_csv(tmp_path / name, **options)
    (run,) = find(tmp_path / name).runs
    assert run.name == "run"
    pd.testing.assert_frame_equal(stored(memory, run), written)


@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz"])
def test_what_foreshock_exports_comes_back(tmp_path, memory, file_store, written, monkeypatch, name):
    monkeypatch.setenv("FORESHOCK_STORE", file_store.url)
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(app, ["export", "original", "--to", name], catch_exceptions=False)
    assert answer.exit_code == 0
    (run,) = find(tmp_path / name).runs
    pd.testing.assert_frame_equal(stored(memory, run), written)


def test_without_a_column_of_segments_they_are_seen_from_the_steps(tmp_path, memory, written):
    written.drop(columns=["segment", "kind"]).to_csv(tmp_path / "run.csv", index=False, na_rep="nan")
    (run,) = find(tmp_path / "run.csv").runs
    pd.testing.assert_frame_equal(stored(memory, run), written)


number = st.floats(width=64)
name = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=8).map(
    lambda text: f"<{text}>"
)  # none that is in the table of usual names


@settings(max_examples=40)
@given(st.data())
def test_any_frame_comes_back_as_it_was(tmp_path_factory, memory, data):
    keys = data.draw(
        st.lists(
            st.builds(SeriesKey, name, st.text("ab.,\"'", max_size=4), st.integers(-1, 3), st.integers(-1, 3)),
            max_size=4,
            unique=True,
        )
    )
    rows = [
        (step, segment, key.signal, key.module, key.head, key.rank, data.draw(number))
        for segment in range(2)
        for step in sorted(data.draw(st.sets(st.integers(-(2**62), 2**62), max_size=4)))
        for key in keys
    ]
    frame = pd.DataFrame(rows, columns=["step", "segment", "signal", "module", "head", "rank", "value"])
    frame["kind"] = [
        "finite"
        if math.isfinite(value)
        else "nan"
        if math.isnan(value)
        else "positive_infinity"
        if value > 0
        else "negative_infinity"
        for value in frame["value"]
    ]
    file = tmp_path_factory.mktemp("csv") / "run.csv"
    frame.to_csv(file, index=False)
    (run,) = find(file).runs
    back = stored(memory, run)
    want = {tuple(row[:6]): repr(row[6] + 0.0) for row in rows}
    assert {tuple(row)[:6]: repr(tuple(row)[6] + 0.0) for row in back.itertuples(index=False)} == want


def test_a_column_a_metric(tmp_path, file_store, bring):
    (tmp_path / "log.csv").write_text(
        "Iteration,Loss/train,lr,note,wall time\n"
        "0,2.5,0.1,warm-up,2024-01-01T00:00:00\n"
        "10,nan,,still,2024-01-01T00:00:10Z\n"
        "\n"
        "20.0,-Infinity,0.2,,2024-01-01T00:00:20+00:00\n"
    )
    (imported,) = bring(file_store, find(tmp_path / "log.csv").runs)
    frame = file_store.frame(imported.run)
    assert frame[["step", "signal"]].values.tolist() == [
        [0, "loss"], [0, "learning_rate"], [10, "loss"], [20, "loss"], [20, "learning_rate"],
    ]  # fmt: skip
    np.testing.assert_array_equal(frame["value"], [2.5, 0.1, math.nan, -math.inf, 0.2])
    assert [time for _, _, time in file_store.step_times(imported.run.id)] == [1704067200.0, 1704067210.0, 1704067220.0]
    assert imported.survey.skipped == {"cells of columns of text": 2}
    assert imported.counts.segments == 1


def test_times_are_made_up_where_there_are_none_and_that_is_told(tmp_path, file_store, bring):
    file = tmp_path / "log.csv"
    file.write_text("step,loss\n0,1\n100,2\n")
    os.utime(file, (5000.0, 5000.0))
    (imported,) = bring(file_store, find(file).runs)
    assert file_store.step_times(imported.run.id) == [(0, 0, 4900.0), (0, 100, 5000.0)]
    assert any("no times" in note for note in imported.survey.notes)


def test_bad_cells_are_named_and_nothing_is_imported(tmp_path, command):
    file = tmp_path / "log.csv"
    file.write_text("step,loss,acc\n0,1.0,1\n1,abc,2\n2.5,1.0,3\n3,1.0,\n4,1.0,x\n")
    with pytest.raises(TransferError) as caught:
        command("import", "csv", file)
    for said in ("line 4, column step: '2.5'", "line 3, column loss: 'abc'", "line 6, column acc: 'x'", "Nothing was imported"):
        assert said in str(caught.value)
    assert not (tmp_path / "store.db").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("step,loss\n0,1.0\n1\n", "line 3: 1 cells, but 2 columns"),
        ("iteration_number,loss\n0,1.0\n", r"it has iteration_number, loss. Name it with --step-column"),
        ("step,loss,loss\n0,1,2\n", "the column 'loss' comes more than once"),
        ("step,time\n0,1\n", "no column of values"),
        ("step,signal,value,kind\n0,loss,,odd\n", "line 2, column value: '' is no number of kind odd"),
        ("step,signal,value,head\n0,loss,1,x\n", "line 2, column head: 'x' is no whole number"),
        ("step,loss\n99999999999999999999,1\n", "line 2, column step: '99999999999999999999'"),
        ("step,loss,time\n1,1,yesterday\n", "line 2, column time: 'yesterday' is no time"),
    ],
)
def test_a_file_that_makes_no_sense_says_where(tmp_path, text, said):
    file = tmp_path / "log.csv"
    file.write_text(text)
    with pytest.raises(TransferError, match=said):
        [run.survey(lambda size: None) for run in find(file).runs]


def test_a_broken_archive_is_no_traceback(tmp_path):
    whole = gzip.compress(b"step,loss\n" + b"".join(b"%d,1.25\n" % step for step in range(10_000)))
    (tmp_path / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TransferError, match="cannot be read as CSV"):
        find(tmp_path / "cut.csv.gz").runs[0].survey(lambda size: None)


def test_several_runs_in_a_column_or_a_folder(tmp_path, command):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "both.csv").write_text("run,step,loss\na,0,1\nb,0,2\na,1,3\n")
    (tmp_path / "logs" / "alone.tsv").write_text("step\tmine\n0\t1\n")
    told = json.loads(command("import", "csv", tmp_path / "logs", "--json").stdout)
    assert {run["run"]: (run["values"], run["segments"]) for run in told["runs"]} == {"alone": (1, 1), "a": (2, 1), "b": (1, 1)}
    answer = command("import", "csv", tmp_path / "logs", "--pick", "alone", "--map", "loss=mine")
    assert "already imported" in answer.stdout
    answer = command("import", "csv", tmp_path / "logs", "--pick", "alone", "--run", "other")
    assert "It keeps the name 'alone'" in answer.stdout


def test_a_file_that_grew_and_was_mended(tmp_path, file_store, bring):
    file = tmp_path / "log.csv"
    file.write_text("step,loss,time\n0,1.0,1\n1,2.0,2\n")
    bring(file_store, find(file).runs)
    file.write_text("step,loss,time\n0,1.0,1\n1,2.5,2\n2,3.0,3\n")
    (imported,) = bring(file_store, find(file).runs)
    assert (imported.counts.values, imported.counts.steps, imported.counts.changed) == (1, 1, 1)
    assert file_store.frame(imported.run)["value"].tolist() == [1.0, 2.5, 3.0]
