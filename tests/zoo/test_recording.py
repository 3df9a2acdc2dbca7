"""Recordings: a monitored run beside its outcome, resumable; and the commands that make them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import foreshock
from foreshock.cli import app
from foreshock.zoo.check import Checked, check, read, spread, write
from foreshock.zoo.recording import record, recordings, store_url
from foreshock.zoo.scenario import scenario, scenarios
from typer.testing import CliRunner

BAD_IMAGE = scenario("nan-in-data")


def test_a_recording_is_a_store_beside_its_outcome_and_is_made_once(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    store = tmp_path / "train" / "nan-in-data-0.db"
    for left in (store, store.with_name(f"{store.name}-wal")):  # by a call that was interrupted
        left.write_text("half a store")
    (made,) = record([BAD_IMAGE], [0], tmp_path, jobs=1)

    # It says how the run ended, and which alerts came when.
    assert recordings(tmp_path) == [made]
    assert (made.scenario, made.seed, made.split, made.family) == ("nan-in-data", 0, "train", "corrupt_data")
    assert (made.outcome, made.failure_step, made.kind, made.steps) == ("diverged", 350, "non_finite", 370)
    assert (made.faults, made.lead) == (0, 0)
    first = min((alert for alert in made.alerts if alert["severity"] != "info"), key=lambda alert: int(alert["step"]))
    assert (first["step"], first["lead"]) == (350, 0)

    # Its store holds the loss of every step and samples of all probes.
    opened = foreshock.open_store(store_url(tmp_path, made))
    try:
        run = opened.run(made.run)
        assert run.tags == ("zoo", "train", "corrupt_data")
        assert opened.frame(run, signal="loss")["step"].tolist() == list(range(370))
        signals = {series.key.signal for series in opened.series(run.id)}
        assert {"weight.alpha", "spectral_alignment.sign_diversity", "activation.dead_fraction", "update.ratio"} <= signals
        assert len(opened.alerts(run)) == len(made.alerts)
    finally:
        opened.close()

    # What is there is not recorded again.
    before = store.stat().st_mtime_ns, sorted(path.name for path in tmp_path.rglob("*"))
    assert list(record([BAD_IMAGE], [0], tmp_path, jobs=1)) == [made]
    assert (store.stat().st_mtime_ns, sorted(path.name for path in tmp_path.rglob("*"))) == before
    assert made.bytes == store.stat().st_size


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
