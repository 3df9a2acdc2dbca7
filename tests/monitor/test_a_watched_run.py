"""What a user gets who does everything right."""

import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreshock
import pytest
import torch
import torch.nn.functional as F
from foreshock.storage.records import Alert
from torch import Tensor, nn


def test_every_step_has_loss_norm_rate_and_metrics_and_sampled_steps_have_the_rest(small: Any, url: str) -> None:
    losses, norms = [], []
    with foreshock.watch(small.model, small.optimizer, run="plain", project="p", store=url, every=10, tags=["a"]) as monitor:
        for number in range(45):
            loss = small.step()
            losses.append(loss.item())
            norms.append(torch.cat([p.grad.flatten() for p in small.model.parameters()]).norm().item())
            monitor.log(noted=torch.tensor(float(number)))
            monitor.step(loss, mark=number)
    store = foreshock.open_store(url)
    (run,) = store.runs()
    assert (run.name, run.project, run.tags, run.status, run.last_step) == ("plain", "p", ("a",), "finished", 44)
    assert run.meta["parameters"] == sum(p.numel() for p in small.model.parameters())
    frame = store.frame(run)
    by_signal = {str(name): group for name, group in frame.groupby("signal")}
    assert by_signal["loss"]["value"].tolist() == losses
    assert by_signal["gradient.norm"]["value"].tolist() == pytest.approx(norms, rel=1e-5)
    assert by_signal["learning_rate"]["value"].tolist() == [0.05] * 45
    assert by_signal["mark"]["value"].tolist() == by_signal["noted"]["value"].tolist() == list(range(45))
    sampled = by_signal["spectral_alignment.sign_diversity"]
    assert sorted(set(sampled["step"])) == [0, 10, 20, 30, 40]
    assert set(sampled["module"]) == {"0", "2"}
    assert sorted(set(by_signal["weight.spectral_growth"]["step"])) == [10, 20, 30, 40]
    assert {"monitor.overhead", "monitor.share", "monitor.queue_depth", "monitor.dropped", "monitor.errors"} <= set(by_signal)
    assert "system.step_time" in by_signal
    assert len(store.histograms(run.id, "spectral_alignment.histogram", "0")) == 5
    store.close()


def test_who_sits_before_a_terminal_is_told_once_that_the_run_is_watched(
    small: Any, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with foreshock.watch(small.model, small.optimizer, run="piped", store=url) as monitor:
        monitor.step(small.step())
    assert capsys.readouterr().err == "", "a log is spared it"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for more in ({"run": "seen"}, {"resume": "seen"}):
        with foreshock.watch(small.model, small.optimizer, store=url, **more) as monitor:
            monitor.step(small.step())
    assert capsys.readouterr().err == (
        f"foreshock watches run 'seen'; to see it: foreshock dashboard --store {url}\n"
        f"foreshock goes on with run 'seen'; to see it: foreshock dashboard --store {url}\n"
    )


def test_the_same_name_is_a_new_run_and_resume_goes_on_with_the_old(small: Any, url: str) -> None:
    for _ in range(2):
        with foreshock.watch(small.model, small.optimizer, run="again", store=url, every=4) as monitor:
            for _ in range(10):
                monitor.step(small.step())
    first = monitor.run.id
    with foreshock.watch(small.model, small.optimizer, store=url, resume="again", every=4) as monitor:
        for _ in range(5):
            monitor.step(small.step())
    assert monitor.run.id == first
    store = foreshock.open_store(url)
    assert len(store.runs()) == 2
    frame = store.frame(first, "loss")
    assert frame["step"].tolist() == list(range(15))
    assert frame["segment"].tolist() == [0] * 10 + [1] * 5
    store.close()


def test_a_checkpoint_carries_step_and_detector_state(small: Any, url: str) -> None:
    with foreshock.watch(small.model, small.optimizer, run="long", store=url) as monitor:
        for _ in range(60):
            monitor.step(small.step())
        state = monitor.state_dict()
        for _ in range(20):
            monitor.step(small.step())
    with foreshock.watch(small.model, small.optimizer, resume="long", store=url) as monitor:
        monitor.load_state_dict(state)
        for _ in range(10):
            monitor.step(small.step())
    store = foreshock.open_store(url)
    frame = store.frame("long", "loss")
    assert frame[frame["segment"] == 1]["step"].tolist() == list(range(60, 70))
    assert len(frame) == 90
    store.close()


def test_an_alert_reaches_store_console_and_callback_on_the_training_thread(
    small: Any, url: str, capsys: pytest.CaptureFixture[str], eventually: Callable[[Callable[[], object], str], None]
) -> None:
    seen: list[tuple[Alert, threading.Thread]] = []
    with foreshock.watch(
        small.model, small.optimizer, store=url, on_alert=lambda alert: seen.append((alert, threading.current_thread()))
    ) as monitor:
        for _ in range(50):
            monitor.step(small.step())
        monitor.step(float("inf"))
        monitor._writer.flush(10)
        monitor.step(small.step())
        assert [alert.rule for alert in monitor.alerts] == ["non_finite"]
    ((alert, thread),) = seen
    assert thread is threading.main_thread()
    assert (alert.first_step, alert.severity) == (50, "critical")
    assert "foreshock CRITICAL step 50" in capsys.readouterr().err
    store = foreshock.open_store(url)
    (stored,) = store.alerts(store.runs()[0])
    assert stored.message
    assert stored.remedy
    assert stored.evidence
    store.close()


def test_alerts_are_queued_for_the_channels(small: Any, url: str) -> None:
    with foreshock.watch(small.model, small.optimizer, store=url, notify="json://127.0.0.1:1/nobody") as monitor:
        monitor.step(float("nan"))
        assert monitor._writer.flush(10)
        store = foreshock.open_store(url)
        (alert,) = store.alerts(monitor.run)
        (waiting,) = store.due_notifications(now=2e12)
        assert waiting.alert_id == alert.id
        store.close()


class HandWritten(nn.Module):
    def __init__(self, tell: Callable[..., None]) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        self.tell = tell

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).view(4, 8, 2, 8).transpose(1, 2) for p in (self.q, self.k, self.v))
        p = torch.softmax(q @ k.transpose(-2, -1) / 8**0.5, -1)
        out = p @ v
        self.tell(q, k, v, out, name="mine")
        return out.transpose(1, 2).reshape(4, 8, 16)


def test_hand_written_attention_is_told(url: str) -> None:
    told: list[Any] = []
    model = HandWritten(lambda *args, **kwargs: told[0](*args, **kwargs))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with foreshock.watch(model, optimizer, store=url, every=2) as monitor:
        told.append(monitor.attention)
        for _ in range(4):
            loss = F.mse_loss(model(torch.randn(4, 8, 16)), torch.randn(4, 8, 16))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.step(loss)
        assert monitor.faults.total == 0
    store = foreshock.open_store(url)
    frame = store.frame(store.runs()[0])
    seen = frame[frame["module"] == "mine"]
    assert set(seen["signal"]) == {
        "attention.max_logit",
        "attention.entropy_mean",
        "attention.entropy_min",
        "attention.common_logit_shift",
        "rounding.key_shift_residual",
        "rounding.key_shift_excess",
    }
    assert sorted(set(seen["step"])) == [0, 2]
    assert seen[seen["signal"] == "rounding.key_shift_residual"]["value"].max() < 1e-5
    store.close()


def test_a_store_object_stays_open_for_its_owner(small: Any, url: str, tmp_path: Path) -> None:
    store = foreshock.open_store(url)
    with foreshock.watch(small.model, small.optimizer, store=store) as monitor:
        monitor.step(small.step())
    assert store.runs()[0].id == monitor.run.id
    store.close()


def test_several_optimizers_accumulation_and_frozen_parameters(url: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    model[1].requires_grad_(False)
    optimizers = [torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.Adam(model[2].parameters(), lr=0.01)]
    expected = []
    with foreshock.watch(model, optimizers, store=url, every=1) as monitor:
        for _ in range(6):
            for _ in range(3):
                loss = model(torch.randn(5, 6)).square().mean() / 3
                loss.backward()
            expected.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm().item())
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            monitor.step(loss)
        assert monitor.faults.total == 0
    store = foreshock.open_store(url)
    frame = store.frame(store.runs()[0])
    assert frame[frame["signal"] == "gradient.norm"]["value"].tolist() == pytest.approx(expected, rel=1e-5)
    assert (frame["signal"] == "spectral_alignment.mean").sum() == 3 * 6
    store.close()


class TinyAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part[:, None] for part in self.qkv(x).chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v)[:, 0])


def test_a_compiled_model_is_watched_without_compiling_it_anew(url: str) -> None:
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    plain = TinyAttention()
    model = torch.compile(plain, backend=backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with foreshock.watch(model, optimizer, store=url, every=2) as monitor:
        for _ in range(6):
            loss = model(torch.randn(4, 6, 8)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.step(loss)
        assert monitor.faults.total == 0
    assert len(graphs) == 1
    store = foreshock.open_store(url)
    frame = store.frame(store.runs()[0])
    assert (frame["signal"] == "weight.spectral_norm").sum() == 4 * 3
    assert (frame["signal"] == "spectral_alignment.mean").sum() == 3 * 4
    assert not frame["signal"].str.startswith("attention.").any()
    store.close()


def test_a_frozen_encoder_keeps_its_fused_path(url: str) -> None:
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0).eval().requires_grad_(False)
    model = nn.Sequential(encoder, nn.Linear(16, 1))
    model.train()
    encoder.eval()
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
    x = torch.randn(4, 6, 16)
    expected = model(x).detach()
    with foreshock.watch(model, optimizer, store=url, every=1) as monitor:
        assert monitor.collector.sampling
        assert torch.equal(model(x).detach(), expected)


def test_a_roll_back_is_sampled_at_once_and_a_strangers_state_gives_the_step_only(small: Any, url: str) -> None:
    with foreshock.watch(small.model, small.optimizer, run="one", store=url, every=10) as monitor:
        for _ in range(25):
            monitor.step(small.step())
        state = monitor.state_dict()
        for _ in range(25):
            monitor.step(small.step())
        monitor.load_state_dict(state)
        assert monitor.collector.sampling
        for _ in range(5):
            monitor.step(small.step())
        assert monitor.faults.total == 0
    with foreshock.watch(small.model, small.optimizer, run="two", store=url) as monitor:
        monitor.load_state_dict({})
        monitor.load_state_dict(state)
        monitor.step(float("nan"))
        monitor._writer.flush(10)
        assert [(alert.rule, alert.first_step) for alert in monitor.alerts] == [("non_finite", 25)]
        monitor.load_state_dict({"step": "x"})
        assert monitor.faults.total == 1


def test_what_is_half_set_up_leaves_nothing_behind(small: Any, url: str) -> None:
    with pytest.raises(KeyError):
        foreshock.watch(small.model, small.optimizer, store=url, resume="no such run")
    assert not small.optimizer._optimizer_step_pre_hooks
    assert torch.nn.utils.clip_grad._get_total_norm.__module__ == "torch.nn.utils.clip_grad"


def test_an_optimizer_without_a_learning_rate_and_a_metric_that_is_none(small: Any, url: str) -> None:
    small.optimizer.param_groups[0]["rate"] = small.optimizer.param_groups[0]["lr"]

    class Rateless(torch.optim.Optimizer):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {})

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            with torch.no_grad():
                for parameter in self.param_groups[0]["params"]:
                    parameter -= 0.01 * parameter.grad

    optimizer = Rateless(small.model.parameters())
    with foreshock.watch(small.model, optimizer, store=url) as monitor:
        loss = F.cross_entropy(small.model(torch.randn(16, 10)), torch.randint(3, (16,)))
        loss.backward()
        optimizer.step()
        monitor.step(loss, accuracy=None)  # type: ignore[arg-type]
        monitor.step(loss)
    store = foreshock.open_store(url)
    frame = store.frame(store.runs()[0])
    assert (frame["signal"] == "loss").sum() == 2
    assert (frame["signal"] == "gradient.norm").sum() == 1
    store.close()


def test_sys_exit_inside_the_loop_is_a_normal_end(small: Any, url: str) -> None:
    def script() -> None:
        with foreshock.watch(small.model, small.optimizer, store=url) as monitor:
            monitor.step(small.step())
            sys.exit(0)

    with pytest.raises(SystemExit):
        script()
    store = foreshock.open_store(url)
    assert store.runs()[0].status == "finished"
    store.close()


def test_a_cadence_that_the_budget_stretches_is_told(small: Any, url: str) -> None:
    with foreshock.watch(small.model, small.optimizer, store=url, budget=1e-6) as monitor:
        for _ in range(15):
            monitor.step(small.step())
    store = foreshock.open_store(url)
    (told,) = [event for event in store.events(monitor.run.id) if event.kind == "cadence"]
    assert told.message.startswith("To cost at most 0.0001 % of the training time, probes measure: ")
    assert re.search(r"spectral every [0-9]+,000 steps", told.message)
    store.close()


def test_a_figure_is_drawn_while_the_run_goes_on_and_after(small: Any, url: str) -> None:
    with foreshock.watch(small.model, small.optimizer, run="drawn", store=url, every=10) as monitor:
        for _ in range(25):
            monitor.step(small.step())
        assert list(monitor.figure().data[3].x) == list(range(25))
        assert len(monitor.figure("weight.spectral_norm").data[0].y) == 2
        with pytest.raises(ValueError, match=r"has no signal 'los'. Did you mean 'loss'"):
            monitor.figure("los")
        monitor.step(small.step())
    assert len(monitor.figure().data[3].x) == 26
    assert len(foreshock.figure("drawn", "gradient.norm", store=url).data[3].x) == 26
