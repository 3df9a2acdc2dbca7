"""What a user gets wrong, and what the message then says."""

import logging
from pathlib import Path
from typing import Any

import foreshock
import pytest
import torch
from foreshock.attach import watch
from foreshock.disabled import DisabledMonitor
from foreshock.lifecycle import AlreadyWatchedError
from foreshock.storage import StoreConfigurationError
from torch import nn


def test_a_second_watch_on_the_same_model_names_the_first(small: Any, url: str) -> None:
    with (
        foreshock.watch(small.model, small.optimizer, run="first", store=url),
        pytest.raises(AlreadyWatchedError, match="already watched as run 'first'; close that monitor first"),
    ):
        foreshock.watch(small.model, small.optimizer, store=url)
    foreshock.watch(small.model, small.optimizer, store=url).close()


def test_a_model_without_linear_layers_is_watched_and_told_so(url: str, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Conv1d(1, 2, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with caplog.at_level(logging.WARNING, "foreshock"), foreshock.watch(model, optimizer, store=url) as monitor:
        loss = model(torch.randn(2, 1, 8)).square().mean()
        loss.backward()
        optimizer.step()
        monitor.step(loss)
    assert "Conv1d has no linear layers: loss, learning rate and gradient norm are watched" in caplog.text
    store = foreshock.open_store(url)
    assert {"loss", "learning_rate", "gradient.norm"} <= set(store.frame(store.runs()[0])["signal"])
    store.close()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"probes": "everything"},
            ValueError,
            r"neither a preset \(light, default, full\) nor a probe \(activations, adam, attention",
        ),
        (
            {"probes": ["spectral", "spectrall"]},
            ValueError,
            "there is no probe 'spectrall'; there are: activations, adam, attention",
        ),
        ({"every": 0}, ValueError, "every"),
        ({"budget": 2.0}, ValueError, "budget"),
        (
            {"interventions": ["stabilised"]},
            ValueError,
            "there is no intervention 'stabilised'; did you mean 'stabilized_attention'",
        ),
        ({"interventions": ["stabilized_attention"] * 2}, ValueError, "'stabilized_attention' is asked for twice"),
        ({"interventions": [3]}, TypeError, "takes names and Intervention objects; got 3"),
        ({"store": "nosuchdb://here"}, StoreConfigurationError, "nosuchdb"),
        ({"store": "not a url"}, StoreConfigurationError, "not a url"),
        ({"store": "sqlite:////no/such/folder/runs.db"}, StoreConfigurationError, "/no/such/folder"),
        ({"optimizer": "adam"}, TypeError, "torch.optim.Optimizer or a list of them"),
        ({"optimizer": 3}, TypeError, "torch.optim.Optimizer or a list of them"),
        ({"resume": "never"}, KeyError, "never"),
        ({"rules": {"no_such_rule": {"severity": "loud"}}}, ValueError, "no_such_rule"),
        ({"config": "missing.toml"}, ValueError, "missing.toml: no such file"),
    ],
)
def test_wrong_arguments_say_what_is_allowed(
    arguments: dict[str, Any], error: type[Exception], message: str, small: Any, url: str
) -> None:
    given = {"optimizer": small.optimizer, "store": url} | arguments
    with pytest.raises(error, match=message):
        watch(small.model, **given)
    # Nothing is left behind: the model can be watched now.
    foreshock.watch(small.model, small.optimizer, store=url).close()


@pytest.mark.parametrize("model", [None, "gpt2", {}, {"a": 3}])
def test_what_is_not_a_model_is_refused(model: Any, url: str) -> None:
    with pytest.raises(TypeError, match=r"watch\(\)"):
        foreshock.watch(model, store=url)


def test_a_closed_monitor_says_so_once_and_does_no_harm(small: Any, url: str, caplog: pytest.LogCaptureFixture) -> None:
    monitor = foreshock.watch(small.model, small.optimizer, store=url)
    monitor.step(small.step())
    monitor.close()
    monitor.close()
    with caplog.at_level(logging.WARNING, "foreshock"):
        for _ in range(5):
            monitor.step(small.step())
    assert caplog.text.count("this monitor is closed") == 1


def test_disabled_by_the_environment(small: Any, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESHOCK_DISABLE", "1")
    with foreshock.watch(small.model, small.optimizer, store=url) as monitor:
        assert isinstance(monitor, DisabledMonitor)
        for _ in range(3):
            monitor.step(small.step(), mark=1.0)
        monitor.log(other=2.0)
        monitor.load_state_dict(monitor.state_dict())
        assert list(monitor.alerts) == []
        assert "FORESHOCK_DISABLE is set" in monitor.figure().layout.annotations[0].text
    assert not (tmp_path / "runs.db").exists()


def test_several_models_under_names_and_an_optimizer_that_is_found(url: str) -> None:
    actor, critic = nn.Linear(4, 2), nn.Linear(4, 1)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=1e-3)
    with foreshock.watch({"actor": actor, "critic": critic}, store=url, every=1) as monitor:
        for _ in range(3):
            loss = actor(torch.randn(8, 4)).square().mean() + critic(torch.randn(8, 4)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            expected = torch.cat([p.grad.flatten() for p in optimizer.param_groups[0]["params"]]).norm().item()
            optimizer.step()
            monitor.step(loss)
    store = foreshock.open_store(url)
    frame = store.frame(store.runs()[0])
    assert {"actor", "critic"} <= set(frame["module"])
    norms = frame[frame["signal"] == "gradient.norm"]["value"].tolist()
    assert norms[-1] == pytest.approx(expected, rel=1e-5)
    assert (frame["signal"] == "learning_rate").sum() == 3
    store.close()
