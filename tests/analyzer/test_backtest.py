"""A real training run, watched and stored, gives the same alerts when its history is fed to the engine again."""

import json
import logging

import pytest
import torch
from foreshock import watch
from foreshock.analyzer.backtest import backtest
from foreshock.analyzer.rules import RuleSet
from foreshock.cli import app
from foreshock.storage import open_store
from foreshock.storage.records import Alert, AlertState, Batch, Run, SeriesKey, Severity, StepRecord, derived_id
from torch import nn
from typer.testing import CliRunner

STEPS = 260


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A small net whose learning rate is multiplied by 3,000 at step 200, and that meets a bad batch at step 120."""
    url = f"sqlite:///{tmp_path_factory.mktemp('backtest')}/runs.db"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    inputs = torch.randn(64, 8)
    targets = inputs.sum(1, keepdim=True) + 0.3 * torch.randn(64, 1)
    logging.getLogger("foreshock").setLevel(logging.CRITICAL)
    with watch(model, optimizer, run="real", store=url, every=5, notify=[]) as monitor:
        for step in range(STEPS):
            if step == 200:
                optimizer.param_groups[0]["lr"] *= 3000
            picked = torch.arange(step % 4, 64, 4)
            loss = nn.functional.mse_loss(model(inputs[picked]), (2.5 if step == 120 else 1.0) * targets[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.step(loss)
    logging.getLogger("foreshock").setLevel(logging.NOTSET)
    return url, monitor.run.id, monitor.alerts


def told(alerts):
    return [(alert.rule, alert.module, alert.episode, alert.first_step, alert.severity, alert.message) for alert in alerts]


def test_replay_of_a_real_run_equals_what_the_monitor_said_live(recorded):
    url, run_id, live = recorded
    store = open_store(url)
    found = backtest(store, store.run(run_id))
    assert {"loss_spike", "non_finite"} <= {alert.rule for alert in live}
    assert told(found.alerts) == told(live)
    assert [pair.verdict for pair in found.pairs] == ["same"] * len(live)
    assert {alert.id: alert.state for alert in found.alerts} == {alert.id: alert.state for alert in store.alerts(run_id)}
    assert found.outcome == "diverged"
    assert found.failure.step >= 200
    assert found.lead == found.stored_lead
    assert found.steps == STEPS
    risk = store.frame(run_id, signal="risk").set_index("step")["value"]
    assert found.highest_risk == risk[risk.index < found.failure.step].max() < risk.max() == 100.0
    store.close()


def test_other_rules_give_other_alerts_beside_those_stored(recorded):
    url, run_id, _ = recorded
    store = open_store(url)
    rules = RuleSet.load(
        {"loss_spike": {"enabled": False}, "early": {"detector": "level", "signals": {"value": "loss"}, "persistence": 3}}
    )
    found = backtest(store, store.run(run_id), rules)
    verdicts = {pair.alert.rule: pair.verdict for pair in found.pairs}
    assert verdicts["loss_spike"] == "gone"
    assert verdicts["early"] == "new"
    assert verdicts["non_finite"] == "same"
    assert found.lead == found.failure.step - 2
    store.close()


def test_the_command_prints_alerts_lead_and_failure(recorded, tmp_path):
    url, run_id, live = recorded
    plain = CliRunner().invoke(app, ["backtest", "real", "--store", url])
    assert plain.exit_code == 0, plain.output
    assert "The run failed at step" in plain.stdout
    assert "loss_spike" in plain.stdout
    assert "Highest risk before it: " in plain.stdout
    rules = tmp_path / "mine.toml"
    rules.write_text("[rules.loss_spike]\nenabled = false\n")
    asked = CliRunner().invoke(app, ["backtest", run_id[:12], "--rules", str(rules), "--store", url, "--json"])
    data = json.loads(asked.stdout)
    assert data["outcome"] == "diverged"
    assert data["steps"] == STEPS
    assert {alert["verdict"] for alert in data["alerts"] if alert["rule"] == "loss_spike"} == {"gone"}
    assert len(data["alerts"]) == len(live)


@pytest.mark.parametrize(("text", "said"), [("[rules.loss_spike]\nz = 3\n", "line 2"), (None, "No such file")])
def test_rules_that_cannot_be_used_are_a_usage_error(recorded, tmp_path, text, said):
    path = tmp_path / "bad.toml"
    if text is not None:
        path.write_text(text)
    result = CliRunner().invoke(app, ["backtest", "real", "--rules", str(path), "--store", recorded[0]])
    assert result.exit_code == 2
    assert said in result.stderr


def test_alerts_of_the_wall_clock_are_listed_apart_and_a_resumed_run_is_dated_by_its_last_word(tmp_path):
    store = open_store(f"sqlite:///{tmp_path}/runs.db")
    store.create_run(Run("r", "resumed", created_at=1.0))
    keys = (SeriesKey("loss"),)

    def segment(number, start, stop, loss):
        assert store.open_segment("r", start, 1.0) == number
        store.write(
            Batch(f"b{number}", "r", number, tuple(StepRecord(step, 1.0 + step, keys, (loss,)) for step in range(start, stop)))
        )

    segment(0, 0, 200, 2.0)
    store.write(Batch("spoilt", "r", 0, tuple(StepRecord(step, 1.0, keys, (9.0,)) for step in range(200, 300))))
    segment(1, 200, 400, 1.9)
    lost = Alert(
        derived_id("lost"),
        "r",
        "lost_from_elsewhere",
        "",
        0,
        Severity.CRITICAL,
        AlertState.FIRING,
        0,
        250,
        250,
        1.0,
        1.0,
        "No sign of life.",
    )
    store.save_alerts([lost])
    found = backtest(store, store.run("r"))
    assert [alert.rule for alert in found.live_only] == ["lost_from_elsewhere"]
    assert (found.failure, found.outcome) == (None, "survived")
    assert found.steps == 500
    store.close()
