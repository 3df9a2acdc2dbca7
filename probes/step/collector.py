"""Runs the probes through the steps: ends one step, packs what was measured, and prepares the next.

A step that is not sampled must cost next to nothing while the caches are full of the model's data, where every line of Python
run is paid in cache misses: such a step notes its few numbers and leaves the rest to the writer thread (``PlainStep.resolve``).
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter, time

from torch import Tensor
from torch.optim import Optimizer

from ..base import Block, Probe
from ..distributed.exchange import HEARD_WITHIN_SECONDS, Exchange, JointStep
from ..model import WatchedModel
from ..taps.compiled import EagerStep, release
from .alarm import Alarm
from .buffer import HostCopy, PackedBlocks, PendingStep, PlainStep, keys_of, pack
from .faults import Faults
from .governor import LONGEST_INTERVAL, Governor
from .gradient_norm import GradientNorm, joined

# Of these the first says nothing of what others cost; a long wait for more would leave a wide spacing unexplained.
_SAMPLES_UNTIL_TOLD = 2

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
        vitals: gives the monitor's own numbers, recorded with sampled steps.
    """

    def __init__(
        self,
        model: WatchedModel,
        optimizers: Sequence[Optimizer],
        probes: Sequence[Probe],
        governor: Governor,
        faults: Faults,
        vitals: Vitals = dict,
    ) -> None:
        self.governor = governor
        self.probes = list(probes)
        self.vitals = vitals
        self.exchange: Exchange | None = None
        """In a distributed job, what makes the numbers of all ranks one."""
        self.tell_cadence: Callable[[str], None] = lambda words: None
        """Is told in words when the governor has halved or doubled how often something is measured."""
        self._told_cadence = {probe.name: governor.interval for probe in self.probes}
        self._faults = faults
        self._model = model
        self._eager_step = EagerStep()
        self._gradients = GradientNorm(model.parameters(), optimizers, faults.guard("gradient norm"))
        for probe in self.probes:
            probe.guard = faults.guard(_source(probe))
            faults.run(_source(probe), partial(probe.attach, model))
        self._armed = False
        self._faults_before: dict[str, int] = {}
        self._next_sample = -1
        # What is sampled next as planned, where a sample that was not comes before it.
        self._postponed: int | None = None
        self._alarm = Alarm()
        # The number of the sample that is due next, the probes that run on the one armed, and what each had taken before it.
        self._sample = 0
        self._due: list[Probe] = []
        self._taken: dict[str, float] = {}
        # When the last step ended that is accounted for, and the guarded seconds until then.
        self._ended = 0.0
        self._guarded_before = 0.0
        # When the plain steps since then ended, and what ending the last of them took.
        self._plain_ends: deque[float] = deque(maxlen=2 * LONGEST_INTERVAL)
        self._plain_cost = 0.0

    @property
    def sampling(self) -> bool:
        """Whether the step now running is a sampled one."""
        return self._armed

    def begin(self, step: int) -> None:
        """Sample ``step``, the first one, or the first after the model was set back."""
        for probe in self._due if self._armed else ():
            self._faults.run(_source(probe), probe.disarm)
        self._faults.run("compiled model", self._compile_again)
        self._next_sample, self._sample, self._postponed = step, 0, None
        if self.exchange is not None:
            self.exchange.begin()
        if self._model.meeting is not None:
            self._model.meeting.begin()
        self._ended = perf_counter()
        self._prepare(step)

    def begin_anew(self, step: int) -> None:
        """The weights were replaced from outside: what probes learned of them is void, and ``step`` is sampled."""
        for probe in self.probes:
            self._faults.run(_source(probe), probe.rebind)
        self.begin(step)

    def end_step(self, step: int, loss: Metric | None, metrics: Mapping[str, Metric]) -> PendingStep | PlainStep | JointStep:
        """End ``step``; return what was measured, on its way to the host.

        Args:
            step: its number.
            loss: a number or a tensor of one element, on any device.
            metrics: more of the same, by signal name.
        """
        started = perf_counter()
        if isinstance(loss, Tensor) and loss.is_cpu and loss.numel() == 1:
            loss = loss.item()  # in host memory already: nothing is waited for
        gradients = self._gradients
        rate = gradients.rate
        if self._armed or metrics or isinstance(loss, Tensor) or isinstance(rate, Tensor) or gradients.on_device:
            return self._end_thoroughly(step, loss, rate, metrics, started)
        norms, gradients.norms = gradients.norms, []
        pending = PlainStep((step, time(), loss, norms, rate))
        self._plain_ends.append(started)
        norm = norms[0][0] if norms else None  # on the host, as they all are here
        if self._alarm.hears(step, loss, norm if isinstance(norm, float) else None):
            ends = self._plain_ends
            self._sample_soon(step, (started - ends[0]) / (len(ends) - 1) if len(ends) > 1 else started - self._ended)
        if step + 1 >= self._next_sample:
            self._plain_cost = perf_counter() - started
            self._prepare(step + 1)
        return pending

    def alone(self, step: int, metrics: Mapping[str, Metric]) -> PendingStep:
        """Return metrics that are known only after their ``step`` has ended."""
        return self._pend(step, metrics, None)

    def sample_at(self, step: int) -> None:
        """Sample ``step``, which is yet to come, next."""
        if self._postponed is None:
            self._next_sample = step
        else:
            self._postponed = step

    def sample_also(self, step: int) -> None:
        """Sample ``step``, which is yet to come, with all probes, besides the one that is planned."""
        if step < self._next_sample:
            self._postponed, self._next_sample = self._next_sample, step

    def leave_out_pause(self) -> None:
        """Leave the time since the last step out of the accounts: it was no training."""
        self._settle_plain_steps()
        self._ended = perf_counter()

    def stop(self) -> None:
        """Remove every hook; the model is as it was."""
        for probe in self.probes:
            self._faults.run(_source(probe), probe.disarm)
        self._faults.run("compiled model", self._compile_again)
        release(module for _, module in self._model.named_modules())
        self._gradients.remove()

    def _end_thoroughly(
        self, step: int, loss: Metric | None, rate: Metric | None, metrics: Mapping[str, Metric], started: float
    ) -> PendingStep | JointStep:
        self._settle_plain_steps()
        sampled = self._armed
        news = self._alarm.late_news()
        values: dict[str, Metric] = {} if loss is None else {"loss": loss}
        norms = joined(self._gradients.take())
        shares = list(self._gradients.shares()) if self._armed else []
        if norms is not None:
            values["gradient.norm"], values["gradient.norm_clipped"] = norms
        if rate is not None:
            values["learning_rate"] = rate
        values.update(metrics)
        packed: PackedBlocks | None = None
        if sampled:
            if rate is not None and self._gradients.reach is not None:
                values["learning_rate.effective"] = rate * self._gradients.reach
            packed = self._collect(step, shares)
            values.update(self.vitals())
            values["system.step_time"] = started - self._ended
            overhead = self.governor.take_overhead()
            if overhead is not None:
                values["monitor.overhead"] = overhead
                values["monitor.share"] = self.governor.share or 0.0
        pending = self._pend(step, values, packed)
        ended = perf_counter()
        whole, own = ended - self._ended, ended - started + self._faults.seconds - self._guarded_before
        if sampled:
            self.governor.sampled_step(whole, own, self._parts())
            self._say_cadence()
        else:
            self.governor.plain_step((whole, own))
        self._ended, self._guarded_before = ended, self._faults.seconds
        handed_over: PendingStep | JointStep = pending
        news |= self._alarm.listen(pending, sampled=sampled)
        if sampled:
            self._plan_after(step)
            if self.exchange is not None:
                handed_over = self.exchange.joint(pending)
        if news:
            self._sample_soon(step, whole)
        if step + 1 >= self._next_sample:
            self._prepare(step + 1)
        return handed_over

    def _plan_after(self, step: int) -> None:
        """Settle which step is sampled after ``step``."""
        if self._postponed is not None:
            self._next_sample, self._postponed = max(self._postponed, step + 1), None
            return
        self._next_sample = self.governor.next_after(step)
        if self.exchange is not None:
            due = [probe.name for probe in self.probes if self.governor.is_due(probe.name, self._sample)]
            self.exchange.plan(self._next_sample, due)

    def _sample_soon(self, step: int, seconds: float) -> None:
        """Sample the step after ``step``; in a distributed job the first that all can know of, steps taking so many ``seconds``."""
        soon = step + 1
        if self.exchange is not None:
            soon += math.ceil(HEARD_WITHIN_SECONDS / max(seconds, 1e-5))
            if not self.exchange.calls_samples or soon >= self._next_sample:
                return
            self.exchange.call(soon)
        self.sample_also(soon)

    def _settle_plain_steps(self) -> None:
        """Account for the plain steps since the last account; done late, so that a plain step itself need not."""
        if not self._plain_ends:
            return
        own = self._plain_cost + (self._faults.seconds - self._guarded_before) / len(self._plain_ends)
        for end in self._plain_ends:
            self.governor.plain_step((end - self._ended, own))
            self._ended = end
        self._plain_ends.clear()
        self._guarded_before = self._faults.seconds

    def _prepare(self, step: int) -> None:
        """Arm the probes for ``step``; what that takes counts as that step's."""
        self._settle_plain_steps()
        self._armed = True
        extra = self._postponed is not None
        self._gradients.want_shares()
        self._due = [
            probe
            for probe in self.probes
            if (extra or self.governor.is_due(probe.name, self._sample)) and not self._faults.is_off(_source(probe))
        ]
        # What the planned sample runs was settled before this one came between.
        self._sample += not extra
        if self._model.compiled == "eager":
            self._faults.run("compiled model", self._run_eagerly)
        self._taken = {probe.name: self._faults.seconds_of[_source(probe)] for probe in self._due}
        self._faults_before = {_source(probe): self._faults.count(_source(probe)) for probe in self._due}
        with self._model.being_armed():
            for probe in self._due:
                source = _source(probe)
                if not self._faults.run(source, partial(probe.arm, step)):
                    self._faults.run(source, probe.disarm)

    def _run_eagerly(self) -> None:
        self._eager_step.begin()
        self._model.runs_eagerly = True

    def _compile_again(self) -> None:
        self._eager_step.end()
        self._model.runs_eagerly = False

    def _parts(self) -> dict[str, float]:
        """Seconds that each probe of the last sample took, from arming to collecting."""
        return {probe.name: self._faults.seconds_of[_source(probe)] - self._taken[probe.name] for probe in self._due}

    def _say_cadence(self) -> None:
        if self.governor.fixed or self._sample < _SAMPLES_UNTIL_TOLD:
            return
        now = {name: self.governor.cadence.steps_between(name) for name in self._told_cadence}
        if any(not 0.5 < steps / self._told_cadence[name] < 2.0 for name, steps in now.items()):
            self._told_cadence = now
            each = ", ".join(f"{name} every {steps:,} steps" for name, steps in sorted(now.items(), key=lambda item: item[1]))
            self.tell_cadence(f"To cost at most {100 * self.governor.budget:.3g} % of the training time, probes measure: {each}.")

    def _collect(self, step: int, blocks: list[Block]) -> PackedBlocks | None:
        """Return what the probes measured, and ``blocks``."""
        self._armed = False
        self._faults.run("compiled model", self._compile_again)
        # Collecting runs inside end_step, whose whole time is accounted for: only what came before is "in hooks".
        before = self._faults.seconds
        for probe in self._due:
            source = _source(probe)
            if not self._faults.is_off(source):
                self._faults.run(source, lambda probe=probe: blocks.extend(list(probe.collect(step))))  # type: ignore[misc]
            # Also if its hooks have just had it switched off: they are still in the model.
            self._faults.run(source, probe.disarm)
            if self._faults.count(source) == self._faults_before[source]:
                self._faults.succeeded(source)
        packed: list[PackedBlocks | None] = []
        self._faults.run("packing", lambda: packed.append(pack(blocks)))
        self._guarded_before += self._faults.seconds - before
        return packed[0] if packed else None

    def _pend(self, step: int, values: Mapping[str, Metric], packed: PackedBlocks | None) -> PendingStep:
        host: dict[str, float] = {}
        away: dict[str, Tensor] = {}
        for name, value in values.items():
            if type(value) is float:  # nearly all of them; to ask whether it is a tensor takes longer
                host[name] = value
            elif not isinstance(value, Tensor):
                try:
                    host[name] = float(value)
                except (TypeError, ValueError) as error:
                    self._faults.note(f"metric {name}", error)
            elif value.numel() != 1:
                wrong = ValueError(f"it has shape {tuple(value.shape)}; pass one number, such as its mean()")
                self._faults.note(f"metric {name}", wrong)
            elif value.is_cpu:
                host[name] = value.item()  # in host memory already: nothing is waited for
            else:
                away[name] = value
        device = next(iter(away.values())).device if away else None
        copy = HostCopy([value.to(device, non_blocking=True) for value in away.values()]) if away else None
        return PendingStep(step, time(), keys_of(tuple(host)), tuple(host.values()), keys_of(tuple(away)), copy, packed)


def _source(probe: Probe) -> str:
    return f"probe {probe.name}"
