"""Abrupt failures meet skip_step, and what is recommended is tried: real runs of the zoo, cut short."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from foreshock.cli import app
from foreshock.zoo import rescue
from foreshock.zoo.rescue import Rescue, line, read, recommended, rescue_one, summed
from foreshock.zoo.scenarios import corrupt_data, learning_rate_kick
from foreshock.zoo.scenarios.corrupt_data import NAN_IN_DATA
from foreshock.zoo.scenarios.learning_rate_kick import LEARNING_RATE_KICK
from typer.testing import CliRunner

SEED = 100


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same scenarios with the trouble early on."""
    monkeypatch.setenv("FORESHOCK_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(corrupt_data, "BAD", 70)
    monkeypatch.setattr(learning_rate_kick, "CHANGE", 60)
    known = {"nan-in-data": replace(NAN_IN_DATA, steps=140), "learning-rate-kick": replace(LEARNING_RATE_KICK, steps=95)}
    monkeypatch.setattr(rescue, "scenario", known.__getitem__)


def test_a_nan_in_the_data_never_reaches_the_weights() -> None:
    found = rescue_one("nan-in-data", SEED, ["skip_step", "checkpoint"])
    assert (found.alone, found.cause, found.outcome, found.saved, found.faults) == ("diverged", "bad_batch", "survived", True, 0)
    assert found.finite, "after every single step"
    assert found.update is not None
    assert found.update[0] < 5.0
    assert found.done[0] == [70, "Skipped the update of step 70: its gradients are not finite. 1 skipped so far."]


def test_skip_step_holds_a_kicked_rate_back_for_as_long_as_it_lasts() -> None:
    """The gradients of the first kicked step are ordinary, its update is not."""
    found = rescue_one("learning-rate-kick", SEED, ["skip_step", "checkpoint"])
    skipped = [step for step, message in found.done if message.startswith("Skipped")]
    assert skipped[:10] == list(range(60, 70))
    assert "though its gradients are usual" in found.done[0][1]
    assert any("Training stands still" in message for _, message in found.done)
    assert found.finite
    assert found.update is not None
    assert found.update[1] < 60, "the largest update was made before the kick"


def test_what_a_cause_recommends() -> None:
    assert recommended("low_precision_attention") == ["stabilized_attention"]
    assert recommended("bad_batch") == ["checkpoint", "skip_step", "rollback"]
    assert recommended(None) == []


def made(scenario: str, **fields: Any) -> Rescue:
    plain = Rescue(scenario, 0, "train", "family", "slow", "diverged", "bad_batch", ["stop"], "survived", 1.0, 1.0, True, None, 9,
                   True, [1.5, 40.0], [], 0)  # fmt: skip
    return replace(plain, **fields)


def test_the_sum_counts_what_failed_alone_and_the_table_says_how_it_went(tmp_path: Path) -> None:
    results = [
        made("a"),
        made("a", seed=1, saved=False, outcome="diverged", final=None, finite=False),
        made("b", saved=False, stopped=12, family="other"),
        made("c", alone="survived"),
    ]
    whole = {"runs": 3, "saved": 1, "stopped": 1}
    family, other = {"runs": 2, "saved": 1, "stopped": 0}, {"runs": 1, "saved": 0, "stopped": 1}
    assert summed(results) == {"train": {**whole, "families": {"family": family, "other": other}}}
    assert line(results[0])[5:] == ("survived", "1", "1", "1.5 x at 40", "yes")
    assert line(results[1])[5:] == ("diverged", "-", "1", "not finite", "no")
    assert line(results[2])[5] == "stopped at 12"


def test_the_command_keeps_what_it_found_and_does_not_make_it_again(tmp_path: Path) -> None:
    kept = made("nan-in-data", seed=SEED)
    file = tmp_path / "RESCUE.json"
    file.write_text(json.dumps([asdict(kept)]))
    assert read(file) == [kept]
    arguments = ["zoo", "rescue", "nan-in-data", "--seeds", "1", "--first-seed", str(SEED), "--out", str(file)]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["splits"]["train"]["saved"] == 1
    assert "train: 1 of 1 failing runs saved, 0 stopped" in CliRunner().invoke(app, arguments).stdout
