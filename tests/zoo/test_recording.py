"""Recordings: a monitored run beside its outcome, resumable; and the commands that make them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import foreshock
import pytest
from foreshock.cli import app
from foreshock.zoo.check import Checked, check, read, spread, write
from foreshock.zoo.recording import load, record, recordings, store_url
from foreshock.zoo.scenario import scenario, scenarios
from typer.testing import CliRunner

BAD_IMAGE = scenario("nan-in-data")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with one recording, of a run that fails at step 350; a call before it was interrupted."""
    folder = tmp_path_factory.mktemp("recordings")
    (folder / "train").mkdir()
    (folder / "train" / "nan-in-data-0.db").write_text("half a store")
    (folder / "train" / "nan-in-data-0.db-wal").write_text("and its log")
    (made,) = record([BAD_IMAGE], 1, folder, jobs=1)
    assert made.outcome == "diverged"
    return folder


def test_a_recording_says_how_the_run_ended_and_which_alerts_came_when(folder: Path) -> None:
    (found,) = recordings(folder)
    assert (found.scenario, found.seed, found.split, found.family) == ("nan-in-data", 0, "train", "corrupt_data")
    assert (found.failure_step, found.kind, found.steps) == (350, "non_finite", 370)
    assert found.faults == 0
    assert found.lead == 0
    first = min((alert for alert in found.alerts if alert["severity"] != "info"), key=lambda alert: int(alert["step"]))
    assert (first["step"], first["lead"]) == (350, 0)


def test_its_store_holds_the_loss_of_every_step_and_samples_of_all_probes(folder: Path) -> None:
    (found,) = recordings(folder)
    store = foreshock.open_store(store_url(folder, found))
    try:
        run = store.run(found.run)
        assert run.tags == ("zoo", "train", "corrupt_data")
        losses = store.frame(run, signal="loss")
        assert losses["step"].tolist() == list(range(370))
        signals = {series.key.signal for series in store.series(run.id)}
        assert {"weight.alpha", "spectral_alignment.sign_diversity", "activation.dead_fraction", "update.ratio"} <= signals
        assert len(store.alerts(run)) == len(found.alerts)
    finally:
        store.close()


def test_what_is_there_is_not_recorded_again(folder: Path) -> None:
    store = folder / "train" / "nan-in-data-0.db"
    before = store.stat().st_mtime_ns, sorted(path.name for path in folder.rglob("*"))
    (again,) = record([BAD_IMAGE], 1, folder, jobs=1)
    assert (store.stat().st_mtime_ns, sorted(path.name for path in folder.rglob("*"))) == before
    assert again == load(folder / "train" / "nan-in-data-0.json")
    assert again.bytes == store.stat().st_size


def told(*arguments: str) -> Any:
    result = CliRunner().invoke(app, ["zoo", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_list_tells_split_onset_and_outcome() -> None:
    listed = told("list")
    assert [each["name"] for each in listed] == list(scenarios())
    assert all(each["split"] == "held_out" for each in told("list", "--split", "held_out"))
    shown = CliRunner().invoke(app, ["zoo", "list"]).stdout
    assert all(name in shown for name in scenarios())


def test_a_single_run_goes_into_the_store_that_was_named(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'one.db'}"
    found: Mapping[str, Any] = told("run", "nan-in-data", "--seed", "1", "--store", url)
    assert (found["outcome"], found["failure_step"], found["lead"]) == ("diverged", 350, 0)
    store = foreshock.open_store(url)
    assert store.run(found["run"]).last_step == 369
    store.close()


def test_an_unknown_scenario_is_wrong_usage() -> None:
    for command in (["run", "nope"], ["check", "nope"], ["record", "nope", "--out", "x"]):
        result = CliRunner().invoke(app, ["zoo", *command])
        assert result.exit_code == 2
        assert "nope" in result.stderr


def test_a_check_goes_on_where_it_was_and_fails_where_a_scenario_does_not_do_as_it_says(tmp_path: Path) -> None:
    file = tmp_path / "checked.json"
    known = [Checked("nan-in-data", seed, "diverged", 350, "non_finite", False, 1.2, None, None, True, 2.0) for seed in (0, 1)]
    write(file, known)
    assert list(check([BAD_IMAGE], 2, file)) == read(file) == known
    arguments = ["zoo", "check", "nan-in-data", "--seeds", "2", "--out", str(file)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert "2 of 2" in result.stdout
    wrong = Checked("nan-in-data", 1, "survived", None, "", False, 1.2, 1.3, None, False, 2.0)
    write(file, [known[0], wrong])
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "diverged, survived" in result.stdout


def test_spread_names_the_ends() -> None:
    assert spread([3, None, 1, 2]) == "1 to 3"
    assert spread([2.0, 2.0]) == "2"
    assert spread([None]) == "-"
