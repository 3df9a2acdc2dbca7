"""Runs the probes through the steps: ends one step, packs what was measured, and prepares the next."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor
from torch.optim import Optimizer

from ..storage.records import SeriesKey
from .base import Counts, Probe, Scalars
from .buffer import HostCopy, PackedBlocks, PendingStep, pack
from .faults import Faults
from .governor import Governor
from .gradients import GradientNorm
from .model import WatchedModel

Metric = float | int | Tensor
Vitals = Callable[[], Mapping[str, float]]


class Collector:
    """Measures every step a little and some steps thoroughly.

    Args:
        model: what is watched.
        optimizers: may be empty; then the optimizers are found when they first step.
        probes: run on sampled steps.
        governor: chooses these.
        faults: counts what fails.
    """

    def __init__(
        self, model: WatchedModel, optimizers: Sequence[Optimizer], probes: Sequence[Probe], governor: Governor, faults: Faults
    ) -> None:
        self.governor = governor
        self.probes = list(probes)
        self._faults = faults
        self._gradients = GradientNorm(model.parameters(), optimizers, faults.guard("gradient norm"))
        for probe in self.probes:
            probe.guard = faults.guard(_source(probe))
            faults.run(_source(probe), partial(probe.attach, model))
        self._keys_of: dict[tuple[str, ...], tuple[SeriesKey, ...]] = {}
        self._armed = False
        self._next_sample = -1
        # When the last step ended, and the guarded seconds until then: what came since belongs to the step now running.
        self._ended = 0.0
        self._guarded_before = 0.0

    def begin(self, step: int) -> None:
        """Sample ``step``, the first one."""
        self._next_sample = step
        self._prepare(step)

    def end_step(self, step: int, loss: Metric | None, metrics: Mapping[str, Metric], vitals: Vitals) -> PendingStep:
        """End ``step``; return what was measured, on its way to the host.

        Args:
            step: its number.
            loss: a number or a tensor of one element, on any device.
            metrics: more of the same, by signal name.
            vitals: gives the monitor's own numbers, recorded with sampled steps.
        """
        started = time.perf_counter()
        guarded = self._faults.seconds - self._guarded_before
        sampled = self._armed
        values: dict[str, Metric] = {} if loss is None else {"loss": loss}
        norms = self._gradients.take()
        if norms is not None:
            values["gradient.norm"], values["gradient.norm_clipped"] = norms
        if self._gradients.optimizers:
            values["learning_rate"] = self._gradients.optimizers[0].param_groups[0]["lr"]
        values.update(metrics)
        packed: PackedBlocks | None = None
        if sampled:
            packed = self._collect(step)
            values.update(vitals())
            values["system.step_time"] = started - self._ended
            overhead = self.governor.take_overhead()
            if overhead is not None:
                values["monitor.overhead"] = overhead
        pending = self._pend(step, values, packed)
        ended = time.perf_counter()
        account = self.governor.sampled_step if sampled else self.governor.plain_step
        account(ended - self._ended, ended - started + guarded)
        if sampled:
            self._next_sample = self.governor.next_after(step)
        self._prepare(step + 1)
        return pending

    def stop(self) -> None:
        """Remove every hook; the model is as it was."""
        for probe in self.probes:
            self._faults.run(_source(probe), probe.disarm)
        self._gradients.remove()

    def _prepare(self, step: int) -> None:
        self._ended = time.perf_counter()
        self._guarded_before = self._faults.seconds
        if step < self._next_sample:
            return
        self._armed = True
        for probe in self.probes:
            source = _source(probe)
            if not self._faults.is_off(source) and not self._faults.run(source, partial(probe.arm, step)):
                self._faults.run(source, probe.disarm)

    def _collect(self, step: int) -> PackedBlocks | None:
        self._armed = False
        blocks: list[Scalars | Counts] = []
        for probe in self.probes:
            source = _source(probe)
            if self._faults.is_off(source):
                continue
            faults_before = self._faults.total
            self._faults.run(source, lambda probe=probe: blocks.extend(list(probe.collect(step))))  # type: ignore[misc]
            self._faults.run(source, probe.disarm)
            if self._faults.total == faults_before:
                self._faults.succeeded(source)
        packed: list[PackedBlocks | None] = []
        self._faults.run("packing", lambda: packed.append(pack(blocks)))
        return packed[0] if packed else None

    def _pend(self, step: int, values: Mapping[str, Metric], packed: PackedBlocks | None) -> PendingStep:
        host: dict[str, float] = {}
        away: dict[str, Tensor] = {}
        for name, value in values.items():
            if not isinstance(value, Tensor):
                host[name] = float(value)
            elif value.numel() != 1:
                self._faults.note(f"metric {name}", ValueError(f"it has shape {tuple(value.shape)}; pass one number, such as its mean()"))
            elif value.device.type == "cpu":
                host[name] = value.item()  # in host memory already: nothing is waited for
            else:
                away[name] = value
        copy = HostCopy(list(away.values())) if away else None
        return PendingStep(
            step, time.time(), self._keys(tuple(host)), tuple(host.values()), self._keys(tuple(away)), copy, packed
        )

    def _keys(self, names: tuple[str, ...]) -> tuple[SeriesKey, ...]:
        keys = self._keys_of.get(names)
        if keys is None:
            keys = self._keys_of[names] = tuple(SeriesKey(name) for name in names)
        return keys


def _source(probe: Probe) -> str:
    return f"probe {probe.name}"
