"""``foreshock rules`` and what the store's rules do to ``foreshock backtest``."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from foreshock import open_store
from foreshock.cli import app
from foreshock.storage.records import Batch, Run, SeriesKey, StepRecord
from typer.testing import CliRunner, Result

Command = Callable[..., CompletedProcess[str]]
GIVEN = {"loss_spike": {"warmup": 30}}


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store with a run of two hundred steps, in which the loss jumps to five times its value at step 150."""
    monkeypatch.chdir(tmp_path)
    address = f"sqlite:///{tmp_path / 'runs.db'}"
    store = open_store(address)
    store.create_run(Run("r" * 32, "gpt2", project="language", created_at=1.0, meta={"rules": GIVEN}))
    losses = [(5.0 if step == 150 else 1.0) + 0.01 * (step % 7) for step in range(200)]
    steps = tuple(StepRecord(step, 1.0 * step, (SeriesKey("loss"),), [value]) for step, value in enumerate(losses))
    store.write(Batch("b", "r" * 32, 0, steps))
    store.close()
    return address


def run(url: str, *words: str) -> Result:
    return CliRunner().invoke(app, ["rules", *words, "--store", url])


def test_every_command_helps_with_an_example(foreshock: Command) -> None:
    for command in ("list", "show", "set", "reset", "history"):
        answer = foreshock("rules", command, "--help")
        assert (answer.returncode, f"Example: foreshock rules {command}" in answer.stdout) == (0, True)


def test_a_rule_is_changed_by_scope_shown_with_its_origin_and_taken_back(url: str) -> None:
    made = run(url, "set", "loss_spike", "z=10", "enabled=off", "modules=['*']", "--comment", "noisy", "--json")
    assert made.exit_code == 0, made.output
    saved = json.loads(made.stdout)
    assert (saved["version"], saved["changes"], saved["comment"]) == (1, {"enabled": False, "parameters": {"z": 10}}, "noisy")
    project = run(url, "set", "loss_spike", "z=14", "--project", "language").stdout
    assert "version 1 for the project language: parameters.z = 14" in project
    overruled = run(url, "set", "loss_spike", "z=8", "enabled=true", "--run", "gpt2")
    assert "parameters.z = 8, enabled = on" in overruled.stdout
    shown = json.loads(run(url, "show", "loss_spike", "--run", "gpt2", "--json").stdout)
    fields = shown["fields"]
    assert {path: fields[path]["value"] for path in ("parameters.z", "enabled", "warmup", "clear")} == {
        "parameters.z": 8.0,
        "enabled": True,
        "warmup": 30,
        "clear": 20,
    }
    assert fields["parameters.z"]["from"]["run_id"] == "r" * 32
    assert (fields["warmup"]["from"], fields["clear"]["from"], fields["warmup"]["default"]) == ("file", "default", 20)
    table = run(url, "show", "loss_spike", "--run", "gpt2").stdout
    for words in ("Loss spike (loss_spike): info, on", "A spike that comes back", "robust", "default", "at least 1"):
        assert words in table
    listed = run(url, "list", "--changed", "--project", "language").stdout
    assert "parameters.z 14" in listed
    assert "off" in listed
    assert "gradient_spike" not in listed
    assert len(json.loads(run(url, "list", "--json").stdout)["rules"]) == 45

    assert run(url, "reset", "loss_spike").exit_code == 0
    assert "version 3 for all runs: parameters.z = 10, enabled = off" in run(url, "reset", "loss_spike", "--to", "1").stdout
    told = run(url, "history", "loss_spike").stdout.splitlines()
    assert len(told) == 5
    assert "back to version 1" in told[0]
    assert "nothing changed here  # back to the default" in told[1]
    assert "for all runs" in told[-1]
    assert "# noisy" in told[-1]
    assert len(json.loads(run(url, "history", "--run", "gpt2", "--json").stdout)) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["set", "loss_spike", "z=0.2"], "parameters.z: got 0.2; allowed: a number of robust standard deviations of at least 1"),
        (["set", "loss_spike", "zed=1"], "zed: unknown key"),
        (["set", "loss_spyke", "z=9"], "no rule has that name"),
        (["set", "loss_spike", "z"], "'z' is no FIELD=VALUE"),
        (["set", "loss_spike", "rebaseline=5", "persistence=9"], "must be at least persistence (9)"),
        (["set", "loss_spike", "z=9", "--run", "gpt2", "--project", "p"], "not for both"),
        (["set", "loss_spike", "z=9", "--run", "nobody"], "No run 'nobody'"),
        (["show", "nothing"], "no rule is called 'nothing'"),
        (["reset", "loss_spike"], "nothing was ever changed"),
    ],
)
def test_what_makes_no_sense_is_refused_and_saves_nothing(foreshock: Command, url: str, words: list[str], says: str) -> None:
    answer = foreshock("rules", *words, "--store", url)
    flat = " ".join(answer.stderr.replace("│", " ").split())
    assert (answer.returncode, says in flat) == (2, True), answer.stderr
    assert "No rule was changed." in run(url, "history").stdout


def test_an_older_version_that_is_not_there_or_a_store_that_is_away(url: str) -> None:
    run(url, "set", "loss_spike", "z=9")
    assert "no version 7; there are 1 to 1" in " ".join(run(url, "reset", "loss_spike", "--to", "7").output.split())
    assert run(url, "set", "loss_spike", "z=9").exit_code == 0, "the same again is a version too"


def test_a_backtest_goes_by_what_the_run_was_given_and_what_the_store_changed(url: str, tmp_path: Path) -> None:
    def rules_of(*words: str) -> tuple[list[str], list[str]]:
        answer = CliRunner().invoke(app, ["backtest", "gpt2", "--json", "--store", url, *words])
        assert answer.exit_code == 0, answer.output
        data = json.loads(answer.stdout)
        return [alert["rule"] for alert in data["alerts"]], [each["rule"] for each in data["rules_changed_in_store"]]

    assert rules_of() == (["loss_spike"], [])
    run(url, "set", "loss_spike", "enabled=false", "--project", "language")
    assert rules_of() == ([], ["loss_spike"])
    assert rules_of("--defaults") == (["loss_spike"], [])
    (tmp_path / "mine.toml").write_text("[rules.loss_spike]\nwarmup = 190\n")
    assert rules_of("--rules", "mine.toml", "--defaults") == ([], [])
    told = CliRunner().invoke(app, ["backtest", "gpt2", "--store", url]).stdout
    assert "With what was changed in the store of loss_spike; --defaults leaves that out." in told
