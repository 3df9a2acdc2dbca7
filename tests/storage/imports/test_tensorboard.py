"""TensorBoard runs written by SummaryWriter, imported."""

import json
import math
import struct

import numpy as np
import pytest
from foreshock.storage import open_store
from foreshock.storage.records import RunStatus
from foreshock.storage.transfer.imports import intake
from foreshock.storage.transfer.imports.tensorboard import find
from foreshock.storage.transfer.imports.tfscalar import scalar
from foreshock.storage.transfer.packages import TransferError
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

WRITTEN = 1_700_000_000.0


def write(folder, tags, start=WRITTEN):
    """Write {tag: {step: value}} in order of the steps, to an event file named as if each were opened a second after the last."""
    before = set(folder.glob("*")) if folder.exists() else set()
    writer = SummaryWriter(str(folder))
    for step, tag in sorted((step, tag) for tag, values in tags.items() for step in values):
        writer.add_scalar(tag, tags[tag][step], step, walltime=start + step)
    writer.close()
    (written,) = set(folder.glob("*")) - before
    return written.rename(folder / f"events.out.tfevents.{1_700_000_000 + len(before)}.host.1.0")


def test_values_come_back_as_they_were_written(tmp_path, file_store, bring):
    loss = {step: 1 / (step + 1) for step in range(100)} | {40: math.nan, 41: math.inf, 42: -math.inf}
    write(tmp_path / "gpt", {"train/loss": loss, "val/loss": dict.fromkeys(range(0, 100, 25), 2.0), "lr": {7: 0.1}})
    (imported,) = bring(file_store, find(tmp_path / "gpt").runs)
    frame = file_store.frame(imported.run, signal="loss").set_index("step")["value"]
    assert frame.index.tolist() == list(range(100))
    np.testing.assert_array_equal(frame.to_numpy(), np.array(list(loss.values()), np.float32).astype(np.float64))
    assert file_store.frame(imported.run, signal="val/loss")["step"].tolist() == [0, 25, 50, 75]
    assert file_store.frame(imported.run, signal="learning_rate")["value"].tolist() == [np.float32(0.1)]
    assert imported.run.name == "gpt"
    assert imported.run.status is RunStatus.FINISHED
    assert (imported.run.created_at, imported.run.ended_at, imported.run.last_step) == (WRITTEN, WRITTEN + 99, 99)
    assert file_store.step_times(imported.run.id)[:2] == [(0, 0, WRITTEN), (0, 1, WRITTEN + 1)]
    assert imported.naming.mapped == {"train/loss": "loss", "lr": "learning_rate"}


def test_a_resumed_run_begins_a_new_segment(tmp_path, file_store, bring):
    write(tmp_path, {"loss": dict.fromkeys(range(100), 1.0), "eval": {0: 1.0, 50: 1.0}})
    write(tmp_path, {"loss": dict.fromkeys(range(61, 120), 2.0), "eval": {100: 2.0}})
    write(tmp_path, {"loss": dict.fromkeys(range(120, 130), 3.0)})
    (imported,) = bring(file_store, find(tmp_path).runs)
    frame = file_store.frame(imported.run)
    assert frame.groupby("segment")["step"].agg(["min", "max"]).values.tolist() == [[0, 99], [61, 129]]
    assert frame.groupby("value")["segment"].unique().map(list).to_dict() == {1.0: [0], 2.0: [1], 3.0: [1]}
    assert [segment.start_step for segment in file_store.segments(imported.run.id)] == [0, 61]


def test_steps_out_of_order_and_written_twice(tmp_path, file_store, bring):
    writer = SummaryWriter(str(tmp_path))
    for step, value in [(0, 1.0), (10, 2.0), (20, 3.0), (15, 9.0), (30, 4.0), (30, 5.0)]:
        writer.add_scalar("loss", value, step)
    writer.close()
    (imported,) = bring(file_store, find(tmp_path).runs)
    assert file_store.frame(imported.run)[["segment", "step", "value"]].values.tolist() == [
        [0, 0, 1.0],
        [0, 10, 2.0],
        [0, 15, 9.0],
        [0, 20, 3.0],
        [0, 30, 5.0],
    ]
    assert (imported.counts.late, imported.counts.repeated) == (1, 1)


def test_a_run_that_went_back_within_one_file(tmp_path, file_store, bring):
    """Rolled back to step 50: the values from before are kept beside those from after."""
    writer = SummaryWriter(str(tmp_path))
    for step, value in [*((step, 1.0) for step in range(0, 100, 10)), *((step, 2.0) for step in range(50, 150, 10))]:
        writer.add_scalar("loss", value, step)
        writer.add_scalar("epoch", 0.0, step // 100)  # another count of steps, which must not look like one
    writer.close()
    (imported,) = bring(file_store, find(tmp_path).runs)
    frame = file_store.frame(imported.run, signal="loss")
    assert frame.groupby("segment")["step"].agg(["min", "max"]).values.tolist() == [[0, 90], [50, 140]]
    assert imported.counts.segments == 2


def test_a_run_that_grew(tmp_path, file_store, bring, points):
    run = tmp_path / "run"
    write(run, {"loss": dict.fromkeys(range(50), 1.0)})
    (before,) = bring(file_store, find(run).runs)
    (again,) = bring(file_store, find(run).runs)
    assert (before.already, again.already) == (False, True)
    assert (again.counts.read, again.counts.values, again.counts.steps, again.counts.changed) == (50, 0, 0, 0)
    cursor = file_store.changes(before.run.id).cursor
    bring(file_store, find(run).runs)
    assert file_store.changes(before.run.id, cursor).ranges == ()

    write(run, {"loss": dict.fromkeys(range(50, 80), 2.0), "acc": {60: 0.5}})
    (grown,) = bring(file_store, find(run).runs)
    assert (grown.counts.values, grown.counts.steps, grown.run.last_step) == (31, 30, 79)
    assert grown.run.id == before.run.id
    assert grown.run.ended_at == WRITTEN + 79
    fresh = open_store("sqlite://")
    (whole,) = bring(fresh, find(run).runs)
    assert points(fresh, whole.run) == points(file_store, grown.run)
    fresh.close()


def test_an_import_that_was_cut_off_is_finished_by_the_next(tmp_path, file_store, bring, points, monkeypatch):
    write(tmp_path, {tag: dict.fromkeys(range(100), math.nan if tag == "a" else 1.0) for tag in "abc"})
    whole = open_store("sqlite://")
    (expected,) = bring(whole, find(tmp_path).runs)
    monkeypatch.setattr(intake, "VALUES_PER_BATCH", 64)

    def pulled(values):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring(file_store, find(tmp_path).runs, progress=pulled)
    assert 0 < len(file_store.frame(expected.run.id)) < 300
    (finished,) = bring(file_store, find(tmp_path).runs)
    assert finished.already
    assert finished.counts.values == 300 - 64
    assert points(file_store, finished.run) == points(whole, expected.run)
    whole.close()


def test_what_is_no_number_is_counted(tmp_path, file_store, bring):
    writer = SummaryWriter(str(tmp_path))
    writer.add_scalar("loss", 1.0, 0)
    writer.add_scalar("plugin", 0.25, 3, new_style=True)
    writer.add_scalar("precise", 1e300, 3, new_style=True, double_precision=True)
    writer.add_text("note", "hello", 0)
    writer.add_image("picture", np.zeros((3, 2, 2), np.uint8), 0)
    writer.add_pr_curve("curve", np.array([0, 1]), np.array([0.2, 0.8]), 0)
    writer.add_histogram("weights", np.arange(10.0), 0)  # bins that grow
    writer.add_histogram("even", np.arange(10.0), 5, bins=np.linspace(0.0, 10.0, 6))
    writer.close()
    (imported,) = bring(file_store, find(tmp_path).runs)
    assert imported.survey.skipped == {
        "texts": 1,
        "images": 1,
        "values of kind pr_curves": 1,
        "histograms with bins of unequal width": 1,
    }
    frame = file_store.frame(imported.run)
    assert frame.set_index("signal")["value"].to_dict() == {"loss": 1.0, "plugin": 0.25, "precise": 1e300}
    (kept,) = file_store.histograms(imported.run.id, "even", "")
    assert (kept.step, kept.histogram.low, kept.histogram.high, kept.histogram.counts) == (5, 0.0, 10.0, (2, 2, 2, 2, 2))
    (again,) = bring(file_store, find(tmp_path).runs)
    assert (imported.counts.histograms, again.counts.histograms) == (1, 0)


def test_newer_histograms_of_equal_bins_are_kept(tmp_path, file_store, bring):
    from tensorboard.plugins.histogram import metadata

    bins = np.array([[0.0, 0.5, 3.0], [0.5, 1.0, 4.0]])
    writer = SummaryWriter(str(tmp_path))
    for step, table in enumerate((bins, bins * [[1, 1, 1], [1, 3, 1]])):
        value = Summary.Value(tag="activations", metadata=metadata.create_summary_metadata("activations", None))
        value.tensor.dtype = 2
        value.tensor.tensor_shape.dim.add(size=2)
        value.tensor.tensor_shape.dim.add(size=3)
        value.tensor.double_val.extend(table.ravel())
        writer.file_writer.add_summary(Summary(value=[value]), step)
    writer.close()
    (imported,) = bring(file_store, find(tmp_path).runs)
    (kept,) = file_store.histograms(imported.run.id, "activations", "")
    assert (kept.step, kept.histogram.low, kept.histogram.high, kept.histogram.counts) == (0, 0.0, 1.0, (3, 4))
    assert imported.survey.skipped == {"histograms with bins of unequal width": 1}


def test_hyperparameters_become_facts_of_the_run(tmp_path, file_store, bring):
    writer = SummaryWriter(str(tmp_path))
    writer.add_hparams({"lr": 0.1, "name": "adam", "amsgrad": True}, {"best": 1.0}, run_name=".")
    writer.close()
    (imported,) = bring(file_store, find(tmp_path).runs)
    assert imported.run.meta["config"] == {"amsgrad": True, "lr": 0.1, "name": "adam"}
    assert imported.run.status is RunStatus.FINISHED


def test_a_file_cut_short_gives_what_is_whole(tmp_path, file_store, bring):
    file = write(tmp_path, {"loss": dict.fromkeys(range(50), 1.0)})
    file.write_bytes(file.read_bytes()[:-10])
    (imported,) = bring(file_store, find(tmp_path).runs)
    assert imported.counts.values == 49
    (note,) = imported.survey.notes
    assert "are no whole record" in note


@pytest.mark.parametrize(("offset", "kept"), [(12 + 20, 49), (8, 0)])
def test_a_damaged_record_is_told_not_believed(tmp_path, file_store, bring, offset, kept):
    """A flipped bit in a value costs that value; one in a length costs what follows it."""
    file = write(tmp_path, {"loss": dict.fromkeys(range(50), 1.0)})
    data = bytearray(file.read_bytes())
    (first,) = struct.unpack_from("<Q", data)
    data[first + 16 + offset] ^= 1
    file.write_bytes(bytes(data))
    (run,) = find(tmp_path).runs
    survey = run.survey(lambda size: None)
    assert survey.values == kept
    told = survey.skipped["damaged records (wrong checksum)"], len(survey.notes)
    assert told == ((1, 0) if kept else (0, 1))


@given(
    tag=st.text(max_size=200),
    step=st.integers(-(2**63), 2**63 - 1),
    moment=st.floats(allow_nan=False),
    value=st.floats(width=32),
    twice=st.booleans(),
)
def test_scalars_are_read_from_bytes_as_protobuf_reads_them(tag, step, moment, value, twice):
    each = Summary.Value(tag=tag, simple_value=value)
    data = Event(wall_time=moment, step=step, summary=Summary(value=[each] * (1 + twice))).SerializeToString()
    event = Event.FromString(data)
    found = scalar(data)
    if found is None:
        assert twice or len(tag.encode()) > 110 or not tag or moment == 0
        return
    assert not twice
    assert found[:3] == (event.summary.value[0].tag, event.step, event.wall_time)
    assert struct.pack("<f", found[3]) == struct.pack("<f", event.summary.value[0].simple_value)


def test_a_folder_of_runs_and_a_choice_among_them(tmp_path, command):
    for name in ("gpt2/a", "gpt2/b", "bert"):
        write(tmp_path / "runs" / name, {"train/loss": dict.fromkeys(range(5), 1.0), "custom": {0: 1.0}})
    answer = command("import", "tensorboard", tmp_path / "runs", "--pick", "gpt2/*", "--project", "mine", "--json")
    told = json.loads(answer.stdout)
    assert [(run["run"], run["project"], run["steps"]) for run in told["runs"]] == [("gpt2/a", "mine", 5), ("gpt2/b", "mine", 5)]
    answer = command("import", "tensorboard", tmp_path / "runs", "--pick", "bert", "--run", "small", "--map", "loss=custom")
    assert "small (" in answer.stdout
    assert "custom is loss" in answer.stdout
    assert {run["name"] for run in json.loads(command("runs", "--json").stdout)} == {"gpt2/a", "gpt2/b", "small"}
    for wrong, said in {
        ("--pick", "gpt3"): "no run is called that. There are bert, gpt2/a, gpt2/b.",
        ("--run", "one"): "--run one names one run, and these are 3",
        ("--map", "loss=train/los"): "nothing is called 'train/los' there. Near it: train/loss",
        ("--map", "loss"): "give SIGNAL=THEIRNAME",
    }.items():
        with pytest.raises(TransferError, match=said.replace(".", r"\.")):
            command("import", "tensorboard", tmp_path / "runs", *wrong)


def test_backtest_finds_the_explosion_of_an_imported_run(tmp_path, command):
    rng = np.random.default_rng(0)
    loss = {step: 2.0 + math.exp(-step / 100) + 0.02 * rng.standard_normal() for step in range(600)}
    loss |= {step: min(1e4, loss[step] * math.exp((step - 500) / 8)) for step in range(500, 560)} | dict.fromkeys(
        range(560, 600), math.nan
    )
    write(tmp_path / "exploding", {"Loss/train": loss, "grad_norm": {step: 1.0 + 0.1 * rng.random() for step in range(600)}})
    command("import", "tensorboard", tmp_path / "exploding")
    found = json.loads(command("backtest", "exploding", "--json").stdout)
    assert found["outcome"] == "diverged"
    assert 500 <= found["failure_step"] <= 560
    rules = {alert["rule"] for alert in found["alerts"]}
    assert {"loss_spike", "non_finite"} <= rules
    assert min(alert["step"] for alert in found["alerts"] if alert["severity"] != "info") >= 500


def test_backtest_warns_of_growing_gradients_too(tmp_path, command, write_with, warned_of_failure):
    script = """
from torch.utils.tensorboard import SummaryWriter
with SummaryWriter("exploding") as writer:
    for step in range(400):
        for name, value in failing(step).items():
            writer.add_scalar(f"train/{name}", value, step)
"""
    write_with(script, tmp_path)
    command("import", "tensorboard", tmp_path / "exploding")
    warned_of_failure("exploding")


def test_nothing_there_and_no_reader_say_what_to_do(tmp_path, command_without):
    with pytest.raises(TransferError, match="No TensorBoard event files"):
        find(tmp_path)
    answer = command_without("tensorboard", "import", "tensorboard", ".")
    assert answer.returncode == 2
    assert 'pip install "foreshock[tensorboard]"' in answer.stderr
