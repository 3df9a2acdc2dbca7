"""The tracker with the real Accelerator."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from foreshock.integrations.accelerate import ForeshockTracker
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(autouse=True)
def _a_state_of_its_own() -> Iterator[None]:
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


class Training:
    """A loop as Accelerate's documentation writes it."""

    def __init__(self, tracker: ForeshockTracker | None, folder: Path, *, lr: float = 1e-2, precision: str = "no") -> None:
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
        self.accelerator = Accelerator(
            cpu=True,
            gradient_accumulation_steps=2,
            mixed_precision=precision,
            log_with=tracker,
            project_dir=str(folder),
        )
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Dropout(0.1), nn.Linear(32, 3))
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
        x = torch.randn(160, 8)
        loader = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=4)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(model, optimizer, loader)
        self.losses: list[float] = []
        if tracker is not None:
            self.accelerator.register_for_checkpointing(tracker)
            tracker.watch(self.model, self.optimizer)
            self.accelerator.init_trackers("any", config={"batch": 4})

    def epoch(self) -> None:
        self.model.train()
        for x, y in self.loader:
            with self.accelerator.accumulate(self.model):
                loss = F.cross_entropy(self.model(x).float(), y)
                self.losses.append(loss.item())
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), 0.5)
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.model.eval()
        with torch.no_grad():
            right = (self.model(x).argmax(-1) == y).float().mean()
        self.accelerator.log({"accuracy": right.item(), "loss": loss.item(), "note": "text"}, step=len(self.losses))

    def weights(self) -> list[torch.Tensor]:
        return [p.detach().clone() for p in self.model.parameters()]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_every_step_metrics_and_bit_identical_training(precision: str, url: str, stored: Callable[[], Any], tmp_path: Path) -> None:
    plain = Training(None, tmp_path, precision=precision)
    plain.epoch(), plain.epoch()
    tracker = ForeshockTracker(store=url, run="mine", every=4)
    watched = Training(tracker, tmp_path, precision=precision)
    watched.epoch(), watched.epoch()
    watched.accelerator.end_training()
    assert all(torch.equal(a, b) for a, b in zip(plain.weights(), watched.weights(), strict=True))
    assert tracker.monitor.faults.total == 0
    run, frame = stored()
    assert (run.name, run.status, run.last_step, run.tags) == ("mine", "finished", 39, ("accelerate",))
    assert run.meta["config"] == {"batch": 4}
    signal = {str(name): part for name, part in frame.groupby("signal")}
    means = torch.tensor(watched.losses).view(40, 2).mean(1).tolist()
    assert signal["loss"]["value"].tolist() == pytest.approx(means, rel=1e-5)
    assert signal["gradient.norm_clipped"]["value"].max() <= 0.5001
    assert signal["accuracy"]["step"].tolist() == [20, 39]
    assert signal["logged.loss"]["step"].tolist() == [20, 39]
    assert sorted(set(signal["spectral_alignment.mean"]["step"])) == list(range(0, 40, 4))
    assert "step" not in vars(watched.optimizer)


def test_load_state_goes_on_with_the_run(url: str, stored: Callable[[], Any], tmp_path: Path) -> None:
    whole = Training(None, tmp_path)
    whole.epoch()
    first = ForeshockTracker(store=url)
    part = Training(first, tmp_path)
    part.epoch()
    part.accelerator.save_state(str(tmp_path / "state"))
    part.epoch()
    part.accelerator.end_training()
    again = Training(ForeshockTracker(store=url), tmp_path)
    again.accelerator.load_state(str(tmp_path / "state"))
    assert all(torch.equal(a, b) for a, b in zip(whole.weights(), again.weights(), strict=True))
    again.epoch()
    again.accelerator.end_training()
    run, frame = stored()
    losses = frame[frame["signal"] == "loss"]
    assert run.id == first.monitor.run.id
    assert losses["step"].tolist() == [*range(40), *range(20, 40)]
    assert losses["segment"].tolist() == [0] * 40 + [1] * 20


def test_a_learning_rate_far_too_high_raises_the_alert(url: str, alerts: Callable[[], Any], tmp_path: Path) -> None:
    training = Training(ForeshockTracker(store=url, every=1), tmp_path, lr=100.0)
    for _ in range(3):
        training.epoch()
    training.accelerator.end_training()
    assert alerts()


def test_what_was_not_prepared_is_told(url: str, tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"what accelerator\.prepare\(\) returned"):
        ForeshockTracker(store=url).watch(model, torch.optim.SGD(model.parameters(), lr=0.1))  # type: ignore[arg-type]
