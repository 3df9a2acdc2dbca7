import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def _quiet_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, a home of its own, and no settings from outside."""
    for name in [name for name in os.environ if name.startswith("FORESHOCK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FORESHOCK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


class SmallRun:
    """A model, its optimizer, and one training step."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)

    def step(self, scale: float = 1.0) -> Tensor:
        loss = F.cross_entropy(self.model(torch.randn(16, 10)), torch.randint(3, (16,))) * scale
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss

    def weights(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])


@pytest.fixture
def small() -> SmallRun:
    return SmallRun()


@pytest.fixture
def fresh_small() -> type[SmallRun]:
    return SmallRun


@pytest.fixture
def eventually() -> Callable[[Callable[[], object], str], None]:
    """Poll a condition until it holds, for at most half a minute."""

    def poll(condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, f"never came: {what}"
            threading.Event().wait(0.02)

    return poll
