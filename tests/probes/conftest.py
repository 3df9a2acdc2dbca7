"""One thread: these tensors are small, and the machine is shared. Property tests repeat exactly and have no deadline."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from foreshock.probes.base import Probe
from foreshock.probes.model import WatchedModel
from foreshock.probes.step.buffer import PendingStep, pack
from foreshock.storage.records import SeriesKey, StepRecord
from hypothesis import settings
from torch import Tensor, nn

settings.register_profile("foreshock", deadline=None, derandomize=True, database=None)
settings.load_profile("foreshock")


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_function_mode_left_behind():
    yield
    assert torch.overrides._get_current_function_mode_stack() == []


class Measured(dict[tuple[str, str, int], float]):
    """What a sampled step's record holds, by (signal, module, head); ``histograms`` by module."""

    def __init__(self, record: StepRecord) -> None:
        super().__init__({(key.signal, key.module, key.head): value for key, value in zip(record.keys, record.values, strict=True)})
        assert len(self) == len(record.keys), "a series was measured twice"
        self.record = record
        self.histograms = {histogram.key.module: histogram for histogram in record.histograms}

    def of(self, signal: str, module: str) -> float:
        return self[signal, module, -1]

    def heads(self, signal: str, module: str) -> Tensor:
        found = [value for (s, m, head), value in sorted(self.items()) if (s, m) == (signal, module) and head >= 0]
        return torch.tensor(found, dtype=torch.float64)

    def modules(self, signal: str) -> set[str]:
        return {module for s, module, _ in self if s == signal}


class Sampler:
    """Runs one probe over sampled steps the way the collector does, its faults unguarded."""

    def __init__(self, probe: Probe, model: nn.Module | dict[str, nn.Module]) -> None:
        self.probe, self.step = probe, 0
        probe.attach(WatchedModel(model))

    def collect(self) -> Measured:
        packed = pack(list(self.probe.collect(self.step)))
        self.probe.disarm()
        return Measured(PendingStep(self.step, 0.0, (), (), (), None, packed).resolve())

    def sample(self, train: Callable[[], Any], after: int = 10) -> Measured:
        """Arm, call ``train``, collect; the next sample comes ``after`` steps later."""
        self.probe.arm(self.step)
        train()
        measured = self.collect()
        self.step += after
        return measured


@pytest.fixture(scope="session")
def sampler() -> type[Sampler]:
    return Sampler


@pytest.fixture(scope="session")
def key() -> type[SeriesKey]:
    return SeriesKey
