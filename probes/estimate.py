"""A dry run: what a preset would cost on a model, in time and in device memory, probe by probe.

Plain and sampled steps of the real training take turns, so that both see the same machine. Memory is counted tensor by tensor as
the probes make them, on any device: what they hold from one sample to the next, and the most that was alive at once.
"""

import math
import statistics
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .base import Counts, Guard, Probe
from .model import WatchedModel
from .registry import PRESETS, choose_probes
from .step.buffer import pack
from .step.governor import LONGEST_INTERVAL, SHORTEST_INTERVAL

_PLAIN_STEPS, _COLD_SAMPLES = 3, 2


@dataclass(frozen=True, slots=True)
class ProbeCost:
    """What one probe costs.

    Attributes:
        milliseconds: of its own in a sampled step (median).
        held_bytes, peak_bytes: device memory that it holds between samples, and at most within one.
        statistics: numbers it gives a sample, histograms counted as one each.
    """

    name: str
    milliseconds: float
    held_bytes: int
    peak_bytes: int
    statistics: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a preset costs on one model.

    Attributes:
        preset: its name.
        step_ms: a step that is not sampled.
        sampled_ms: what a sampled step takes longer (median), its probes' work and what that does to the step.
        interval: steps between two samples that keep to the budget, if all probes keep the same cadence.
        probes: by probe.
    """

    preset: str
    step_ms: float
    sampled_ms: float
    interval: int
    probes: tuple[ProbeCost, ...]

    @property
    def held_bytes(self) -> int:
        """Device memory held all the time."""
        return sum(probe.held_bytes for probe in self.probes)

    @property
    def peak_bytes(self) -> int:
        """An upper bound of the device memory within a sampled step: the probes' peaks need not coincide."""
        return sum(probe.peak_bytes for probe in self.probes)

    @property
    def statistics(self) -> int:
        """Numbers stored a sample."""
        return sum(probe.statistics for probe in self.probes)


def estimate(
    model: nn.Module | Mapping[str, nn.Module],
    step: Callable[[], object],
    *,
    presets: Sequence[str] = PRESETS,
    samples: int = 5,
    budget: float = 0.01,
) -> list[Estimate]:
    """Measure what presets would cost; returns one estimate a preset.

    **It trains for real**: ``step()`` is called some twenty times a preset. Give a model that you can throw away.

    Args:
        model: as ``watch()`` takes it.
        step: runs one whole training step, optimizer included.
        presets: which to measure.
        samples: sampled steps that count; two more come before, cold.
        budget: share of the training time, for ``interval``.

    Raises:
        ValueError: an unknown preset, fewer than one sample, or a budget outside (0, 1].
    """
    if samples < 1 or not 0 < budget <= 1:
        raise ValueError(f"samples={samples}, budget={budget}: at least 1 sample and a budget above 0 and up to 1 are needed")
    watched = WatchedModel(model)
    probes = {preset: choose_probes(preset) for preset in presets}
    for _ in range(_PLAIN_STEPS):
        step()
    return [_of_preset(preset, probes[preset], watched, step, samples, budget) for preset in presets]


def _of_preset(
    preset: str, probes: list[Probe], model: WatchedModel, step: Callable[[], object], samples: int, budget: float
) -> Estimate:
    clock: defaultdict[str, float] = defaultdict(float)
    memory = {probe.name: _Memory() for probe in probes}
    for probe in probes:
        probe.guard = _timed(probe.name, clock)
        probe.attach(model)
    plain: list[float] = []
    sampled: list[float] = []
    own: dict[str, list[float]] = {probe.name: [] for probe in probes}
    for number in range(_COLD_SAMPLES + samples):
        plain.append(_seconds(step))
        clock.clear()
        whole = _sampled_step(probes, step, number)
        if number >= _COLD_SAMPLES:
            sampled.append(whole)
            for name, seconds in own.items():
                seconds.append(clock[name])
    for probe in probes:
        probe.guard = _timed(probe.name, clock, memory[probe.name])
    counts = _sampled_step_counted(probes, step, _COLD_SAMPLES + samples, memory)
    for probe in probes:
        probe.disarm()
    usual, extra = statistics.median(plain), max(0.0, statistics.median(sampled) - statistics.median(plain))
    interval = min(LONGEST_INTERVAL, max(SHORTEST_INTERVAL, math.ceil(extra / (budget * usual))))
    costs = tuple(
        ProbeCost(
            probe.name,
            statistics.median(own[probe.name]) * 1e3,
            memory[probe.name].held,
            memory[probe.name].peak,
            counts[probe.name],
        )
        for probe in probes
    )
    return Estimate(preset, usual * 1e3, extra * 1e3, interval, costs)


def _seconds(step: Callable[[], object]) -> float:
    _settle()
    started = perf_counter()
    step()
    _settle()
    return perf_counter() - started


def _sampled_step(probes: Sequence[Probe], step: Callable[[], object], number: int) -> float:
    _settle()
    started = perf_counter()
    for probe in probes:
        probe.guard(lambda probe=probe: probe.arm(number))  # type: ignore[misc]
    step()
    for probe in probes:
        probe.guard(lambda probe=probe: _packed(probe, number))  # type: ignore[misc]
        probe.disarm()
    _settle()
    return perf_counter() - started


def _packed(probe: Probe, number: int) -> None:
    pack(list(probe.collect(number)))


def _sampled_step_counted(
    probes: Sequence[Probe], step: Callable[[], object], number: int, memory: Mapping[str, "_Memory"]
) -> dict[str, int]:
    """One more sampled step with every tensor of the probes counted: what is held over from before it counts by its renewal."""
    found: dict[str, int] = {}
    for probe in probes:
        probe.rebind()
        probe.guard(lambda probe=probe: probe.arm(number))  # type: ignore[misc]
    step()
    for probe in probes:

        def collect(probe: Probe = probe) -> None:
            blocks = list(probe.collect(number))
            found[probe.name] = sum(len(block.keys) for block in blocks)
            assert all(isinstance(block, Counts) or block.keys for block in blocks)

        probe.guard(collect)
        probe.disarm()
    for each in memory.values():  # once all have let go: probes share what they saw of attention
        each.settle()
    return found


def _timed(name: str, clock: "defaultdict[str, float]", memory: "_Memory | None" = None) -> Guard:
    def guard(work: Callable[[], None]) -> None:
        started = perf_counter()
        if memory is None:
            work()
        else:
            with memory:
                work()
        clock[name] += perf_counter() - started

    return guard


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class _Memory(TorchDispatchMode):
    """Counts the bytes of the storages that are made inside it, and how long they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = self.peak = self.held = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        before = {id(x.untyped_storage()): x for x in _tensors(args) | _tensors((kwargs or {}).values())}
        out = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in before.values()}
        for tensor in _tensors(out if isinstance(out, (tuple, list)) else (out,)):
            storage = tensor.untyped_storage()
            # A view shares its storage with an argument, or with something made before.
            if storage.data_ptr() in given or storage.data_ptr() in self._known or not storage.nbytes():
                continue
            self._known.add(storage.data_ptr())
            self.alive += storage.nbytes()
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._gone, storage.data_ptr(), storage.nbytes())
        return out

    def settle(self) -> None:
        """What is alive now, the step being over, is held until the next sample."""
        self.held = self.alive

    def _gone(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.alive -= size


def _tensors(values: Any) -> set[Tensor]:
    return {value for value in values if isinstance(value, Tensor)}
