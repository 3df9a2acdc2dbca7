"""W&B runs written offline by the real package, imported."""

import json
import math
import subprocess
import sys
import time

import pytest
from foreshock.storage.records import RunStatus
from foreshock.storage.transfer.imports.wandb import find
from foreshock.storage.transfer.packages import TransferError

WRITE = """
import math, sys, time
import numpy as np
import wandb

def start(name, **options):
    quiet = wandb.Settings(x_disable_stats=True, x_disable_meta=True, disable_git=True, console="off")
    return wandb.init(project="vision", name=name, dir=".", settings=quiet, **options)

if sys.argv[1:] == ["killed"]:
    run = start("killed", id="killed01")
    while True:
        run.log({"loss": 1.0})

with start("healthy", id="healthy1", config={"lr": 0.1, "model": {"depth": 12}}, tags=["bf16", "gpt2"], notes="first try") as run:
    run.config.update({"lr": 0.2}, allow_val_change=True)
    for step in range(0, 100, 2):
        values = {"train/loss": 1 / (step + 1), "nested": {"deep": {"value": step}}}
        if step == 40:
            values |= {"train/loss": math.nan, "grad_norm": math.inf, "low": -math.inf}
        if step % 10 == 0:
            values |= {"val/loss": 2.0, "trainer/step": step * 8, "ok": True, "word": "text"}
        if step == 50:
            values["even"] = wandb.Histogram(np_histogram=([1, 2, 3], [0.0, 1.0, 2.0, 3.0]))
            values["uneven"] = wandb.Histogram(np_histogram=([1, 2], [0.0, 1.0, 3.0]))
            values["picture"] = wandb.Image(np.zeros((2, 2, 3), np.uint8))
        run.log(values, step=step)

run = start("failed", id="failed01")
run.log({"Loss": 1.0})
run.finish(exit_code=1)

with start("exploding", id="explodes") as run:
    for step in range(400):
        run.log(failing(step), step=step)

for part, steps in enumerate((range(0, 60), range(40, 80))):
    while part and int(time.time()) == began:  # the folder is named by the second, and would be written over
        time.sleep(0.01)
    began = int(time.time())
    with start("resumed", id="resumed1", resume="allow") as run:
        for step in steps:
            run.log({"loss": float(part)}, step=step)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_with):
    """``wandb/`` with a healthy run, a failed one, one that explodes, and one that was resumed at an earlier step."""
    place = tmp_path_factory.mktemp("wandb")
    write_with(WRITE, place)
    return place / "wandb"


def named(name, found):
    (run,) = [run for run in found.runs if run.name == name]
    return run


def test_values_come_back_as_they_were_logged(folder, file_store, bring):
    (imported,) = bring(file_store, [named("healthy", find(folder))])
    frame = file_store.frame(imported.run, signal="loss").set_index("step")["value"]
    assert frame.index.tolist() == list(range(0, 100, 2))
    assert math.isnan(frame.pop(40))
    assert frame.to_dict() == {step: 1 / (step + 1) for step in range(0, 100, 2) if step != 40}
    rare = file_store.frame(imported.run).query("step == 40").set_index("signal")["value"]
    assert (rare["gradient.norm"], rare["low"], rare["nested.deep.value"]) == (math.inf, -math.inf, 40.0)
    assert file_store.frame(imported.run, signal="val/loss")["step"].tolist() == list(range(0, 100, 10))
    (kept,) = file_store.histograms(imported.run.id, "even", "")
    assert (kept.step, kept.histogram.low, kept.histogram.high, kept.histogram.counts) == (50, 0.0, 3.0, (1, 2, 3))
    assert imported.naming.mapped == {"train/loss": "loss", "grad_norm": "gradient.norm"}
    assert imported.survey.skipped == {
        "values that are not numbers": 20,
        "histograms with bins of unequal width": 1,
        "images": 1,
    }


def test_what_is_known_of_a_run_comes_too(folder, file_store, bring):
    runs = {each.run.name: each.run for each in bring(file_store, find(folder).runs)}
    healthy = runs["healthy"]
    assert (healthy.project, healthy.tags, healthy.status) == ("vision", ("bf16", "gpt2"), RunStatus.FINISHED)
    assert healthy.meta["config"] == {"lr": 0.2, "model": {"depth": 12}}
    assert (healthy.meta["notes"], healthy.meta["wandb_id"]) == ("first try", "healthy1")
    assert healthy.created_at <= file_store.step_times(healthy.id)[0][2] <= healthy.ended_at
    assert runs["failed"].status is RunStatus.CRASHED
    assert set(runs) == {"healthy", "failed", "exploding", "resumed"}


def test_a_resumed_run_is_one_run_in_two_segments(folder, file_store, bring):
    (imported,) = bring(file_store, [named("resumed", find(folder))])
    frame = file_store.frame(imported.run)
    assert frame.groupby("segment")["step"].agg(["min", "max"]).values.tolist() == [[0, 59], [40, 79]]
    assert (frame["value"] == frame["segment"]).all()
    (again,) = bring(file_store, [named("resumed", find(folder))])
    assert (again.already, again.counts.read, again.counts.values) == (True, 100, 0)


def test_another_metric_may_count_the_steps(folder, file_store, bring):
    (imported,) = bring(file_store, [named("healthy", find(folder, step_metric="trainer/step"))])
    assert file_store.frame(imported.run, signal="val/loss")["step"].tolist() == list(range(0, 800, 80))
    assert imported.survey.skipped["rows without the step metric trainer/step"] == 40


def test_a_killed_run_gives_what_it_wrote(tmp_path, file_store, bring, quiet):
    process = subprocess.Popen([sys.executable, "-c", WRITE, "killed"], cwd=tmp_path, env=quiet, stdout=subprocess.DEVNULL)
    patience = time.monotonic() + 60
    while sum(file.stat().st_size for file in tmp_path.glob("wandb/*killed01/*.wandb")) < 100_000:
        assert time.monotonic() < patience
        assert process.poll() is None
    process.kill()
    process.wait()
    (imported,) = bring(file_store, find(tmp_path).runs)
    steps = file_store.frame(imported.run)["step"].tolist()
    assert steps == list(range(len(steps)))
    assert len(steps) > 100
    assert imported.run.status is RunStatus.TERMINATED
    assert any("how the run ended" in note for note in imported.survey.notes)


def test_damage_and_short_ends_are_told(folder, tmp_path, file_store, bring):
    (file,) = folder.glob("*healthy1/*.wandb")
    data = bytearray(file.read_bytes())
    place = data.index(b"nested", len(data) // 2)
    data[place] ^= 1
    damaged = tmp_path / "run-healthy1.wandb"
    damaged.write_bytes(data[: data.rindex(b"exit") if b"exit" in data else -9])
    (run,) = find(damaged).runs
    survey = run.survey(lambda size: None)
    assert survey.skipped["damaged records (wrong checksum)"] == 1
    assert survey.labels["train/loss"] in (49, 50)
    assert any("no whole record" in note for note in survey.notes)
    (tmp_path / "run-begun.wandb").write_bytes(data[:7])
    found = find(tmp_path)
    assert [run.name for run in found.runs] == ["healthy"]
    assert "has only just begun" in found.left_out[0]


def test_commands_pick_by_id_and_name(folder, command):
    told = json.loads(command("import", "wandb", folder, "--pick", "failed01", "--json").stdout)
    assert [(run["run"], run["status"], run["mapped"]) for run in told["runs"]] == [("failed", "crashed", {"Loss": "loss"})]
    answer = command("import", "wandb", folder, "--pick", "resumed")
    assert "resumed (" in answer.stdout
    assert "2 segments" in answer.stdout
    assert command("backtest", "resumed").exit_code == 0


def test_backtest_warns_of_the_failure_of_an_imported_run(folder, command, warned_of_failure):
    command("import", "wandb", folder, "--pick", "exploding")
    warned_of_failure("exploding")


def test_nothing_there_and_no_reader_say_what_to_do(tmp_path, command_without):
    with pytest.raises(TransferError, match="No W&B run files"):
        find(tmp_path)
    (tmp_path / "run-x.wandb").write_text("something else")
    with pytest.raises(TransferError, match="does not begin with ':W&B'"):
        find(tmp_path)
    answer = command_without("wandb", "import", "wandb", ".")
    assert answer.returncode == 2
    assert 'pip install "foreshock[wandb]"' in answer.stderr
