"""MLflow runs written by the real package into both of its stores, imported without it."""

import json
import math

import pytest
from foreshock.storage.records import RunStatus
from foreshock.storage.transfer.imports.mlflow import find
from foreshock.storage.transfer.packages import TransferError
from sqlalchemy import create_engine, text

WRITE = """
import math, os
from mlflow.entities import Metric, RunStatus
from mlflow.tracking import MlflowClient

for uri in (f"file:{os.path.abspath('mlruns')}", "sqlite:///mlflow.db"):
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("language models")
    start = 1_700_000_000_000

    def begin(name):
        return client.create_run(experiment, start_time=start, run_name=name).info.run_id

    healthy = begin("healthy")
    client.log_param(healthy, "lr", 0.1)
    client.set_tag(healthy, "team", "x")
    client.set_tag(healthy, "keep", "")
    rare = [math.nan, math.inf, -math.inf, 1e300]
    client.log_batch(healthy, [Metric("train/loss", 1 / (step + 1), start + 1000 * step, step) for step in range(50)])
    client.log_batch(healthy, [Metric("rare", value, start + 1000 * step, 10 * step) for step, value in enumerate(rare)])
    for value in (5.0, 4.0, 3.0):
        client.log_metric(healthy, "stepless", value, timestamp=start + int(1000 * (10 - value)))
    client.set_terminated(healthy, end_time=start + 60_000)

    resumed = begin("resumed")
    for part, steps in enumerate((range(60), range(40, 80))):
        for first in range(0, len(steps), 20):
            some = steps[first : first + 20]
            time = start + 1_000_000 * part
            client.log_batch(resumed, [Metric("loss", float(part), time + 1000 * step, step) for step in some])
            client.log_batch(resumed, [Metric("acc", float(part), time + 1000 * step, step) for step in some if step % 5 == 0])
    client.set_terminated(resumed, "FAILED")

    exploding = begin("exploding")
    metrics = [Metric(name, value, start + 1000 * step, step) for step in range(400) for name, value in failing(step).items()]
    client.log_batch(exploding, metrics)
    client.set_terminated(exploding)

    client.set_terminated(begin("killed"), "KILLED")
    client.log_metric(begin("going on"), "loss", 1.0, step=3)
    client.delete_run(begin("gone"))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_with):
    """``mlruns/`` and ``mlflow.db`` with the same runs."""
    place = tmp_path_factory.mktemp("mlflow")
    write_with(WRITE, place)
    return place


@pytest.fixture(params=["mlruns", "mlflow.db"])
def kept(request, folder):
    """The path of one of MLflow's two stores."""
    return str(folder / request.param)


def named(name, path):
    (run,) = [run for run in find(path).runs if run.name == name]
    return run


def test_values_come_back_as_they_were_logged(kept, file_store, bring):
    (imported,) = bring(file_store, [named("healthy", kept)])
    frame = file_store.frame(imported.run, signal="loss").set_index("step")["value"]
    assert frame.to_dict() == {step: 1 / (step + 1) for step in range(50)}
    rare = file_store.frame(imported.run, signal="rare")
    assert rare["step"].tolist() == [0, 10, 20, 30]
    assert rare["kind"].tolist() == ["nan", "positive_infinity", "negative_infinity", "finite"]
    assert rare["value"].tolist()[3] == 1e300
    assert file_store.frame(imported.run, signal="stepless")[["step", "value"]].values.tolist() == [[0, 5.0], [1, 4.0], [2, 3.0]]
    assert any("without a step" in note and "stepless" in note for note in imported.survey.notes)
    assert (0, 49, 1_700_000_049.0) in file_store.step_times(imported.run.id)


def test_what_is_known_of_a_run_comes_too(kept, file_store, bring):
    found = find(kept)
    assert found.left_out == ["deleted runs: 1"]
    runs = {each.run.name: each.run for each in bring(file_store, found.runs)}
    healthy = runs["healthy"]
    assert (healthy.project, healthy.status, set(healthy.tags)) == ("language models", RunStatus.FINISHED, {"team=x", "keep"})
    assert (healthy.created_at, healthy.ended_at) == (1_700_000_000.0, 1_700_000_060.0)
    assert healthy.meta["config"] == {"lr": "0.1"}
    assert {name: run.status for name, run in runs.items()} == {
        "healthy": RunStatus.FINISHED,
        "resumed": RunStatus.CRASHED,
        "exploding": RunStatus.FINISHED,
        "killed": RunStatus.TERMINATED,
        "going on": RunStatus.TERMINATED,
    }


def test_a_resumed_run_is_one_run_in_two_segments(kept, file_store, bring, points):
    (imported,) = bring(file_store, [named("resumed", kept)])
    frame = file_store.frame(imported.run)
    assert frame.groupby(["signal", "segment"])["step"].agg(["min", "max"]).values.tolist() == [
        [0, 55],
        [40, 75],
        [0, 59],
        [40, 79],
    ]
    assert (frame["value"] == frame["segment"]).all()
    before = points(file_store, imported.run)
    (again,) = bring(file_store, [named("resumed", kept)])
    assert (again.already, again.counts.values, again.counts.changed) == (True, 0, 0)
    assert points(file_store, again.run) == before


def test_one_run_of_a_file_store_by_its_folder(folder, command):
    (experiment,) = [meta.parent for meta in folder.glob("mlruns/*/meta.yaml") if "language" in meta.read_text()]
    (run,) = [meta.parent for meta in experiment.glob("*/meta.yaml") if "run_name: resumed" in meta.read_text()]
    assert [each.name for each in find(str(run)).runs] == ["resumed"]
    assert len(find(str(experiment)).runs) == 5
    told = json.loads(command("import", "mlflow", run, "--json").stdout)
    assert [(each["run"], each["segments"]) for each in told["runs"]] == [("resumed", 2)]


def test_a_url_and_an_id_name_a_run_and_empty_ones_are_told(folder, command):
    with create_engine(f"sqlite:///{folder / 'mlflow.db'}").connect() as connection:
        (wanted,) = connection.execute(text("SELECT run_uuid FROM runs WHERE name = 'healthy'")).scalars()
    url = f"sqlite:///{folder / 'mlflow.db'}"
    answer = command("import", "mlflow", url, "--pick", wanted, "--project", "other")
    assert "healthy (" in answer.stdout
    assert "train/loss is loss" in answer.stdout
    assert command("backtest", "healthy").exit_code == 0
    assert "Nothing to import in killed." in command("import", "mlflow", url, "--pick", "killed").stderr


def test_backtest_warns_of_the_failure_of_an_imported_run(kept, command, warned_of_failure):
    command("import", "mlflow", kept, "--pick", "exploding")
    warned_of_failure("exploding")


def test_it_reads_without_mlflow(folder, tmp_path, command_without):
    for kept in ("mlruns", "mlflow.db"):
        answer = command_without("mlflow", "import", "mlflow", folder / kept, "--store", f"sqlite:///{tmp_path / kept}.db")
        assert answer.returncode == 0, answer.stderr
        assert "resumed (" in answer.stdout


def test_what_is_no_store_says_what_to_give(tmp_path):
    for path, said in {
        str(tmp_path): "No MLflow runs in",
        str(tmp_path / "none.db"): "No MLflow runs in",
        f"sqlite:///{tmp_path}/none.db": "There is no file",
        "http://localhost:5000": "is a tracking server",
    }.items():
        with pytest.raises(TransferError, match=said):
            find(path)
    (tmp_path / "other.db").write_bytes(b"not a database at all, and long enough to be seen as none" * 20)
    with pytest.raises(TransferError, match="cannot be read as a database of MLflow's"):
        find(str(tmp_path / "other.db"))


def test_a_bad_line_is_named(tmp_path):
    run = tmp_path / "mlruns" / "0" / "a"
    (run / "metrics").mkdir(parents=True)
    (run / "meta.yaml").write_text("run_id: a\nstatus: 3\nlifecycle_stage: active\n")
    (run / "metrics" / "loss").write_text("1700000000000 1.0 0\n1700000000000 one 1\n")
    (source,) = find(str(tmp_path / "mlruns")).runs
    with pytest.raises(TransferError, match=r"loss, line 2: '1700000000000 one 1'"):
        source.survey(lambda size: None)
    (run / "metrics" / "loss").write_text("1700000000000 nan\n")  # as the oldest stores have it: no step
    survey = source.survey(lambda size: None)
    assert survey.labels == {"loss": 1}
    ((_, step, time, value),) = [item for item in source.stream() if isinstance(item, tuple)]
    assert (step, time) == (0, 1_700_000_000.0)
    assert math.isnan(value)
