"""Believable runs, written into a store without training anything: a failing one, a healthy one, and one that keeps growing.

Run as a script it is the training process that a live page watches: it writes step after step until it is told to stop.
"""

import math
import random
import signal
import sys
import time
from collections.abc import Iterator

from foreshock.storage import open_store
from foreshock.storage.base import Store
from foreshock.storage.records import (
    Alert,
    AlertState,
    Batch,
    Cause,
    Event,
    Evidence,
    Histogram,
    Run,
    RunStatus,
    SeriesKey,
    Severity,
    StepRecord,
    derived_id,
    new_id,
)

BINS, EDGE = 64, 6.0
EVERY = 10
TURN = 1000


def layers(count: int = 12) -> list[str]:
    """Names as a small GPT has them."""
    parts = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down")
    return [f"blocks.{index // len(parts)}.{parts[index % len(parts)]}" for index in range(count)]


class Simulation:
    """The numbers of a run of 12 layers. A failing one has its second layer's alignment collapse long before the loss turns."""

    def __init__(self, *, failing: bool, modules: list[str] | None = None, seed: int = 0) -> None:
        self.failing = failing
        self.modules = modules if modules is not None else layers()
        self._random = random.Random(seed)

    def steps(self, start: int, stop: int) -> Iterator[StepRecord]:
        """Yield one record per step; layers are measured every tenth."""
        for step in range(start, stop):
            keys = [SeriesKey("loss"), SeriesKey("gradient.norm")]
            values = [self.loss(step), self.gradient(step)]
            histograms: list[Histogram] = []
            if step % EVERY == 0:
                for index, module in enumerate(self.modules):
                    for name, value in self.layer(index, step).items():
                        keys.append(SeriesKey(name, module))
                        values.append(value)
                    histograms.append(self.histogram(index, step))
                keys.append(SeriesKey("risk"))
                values.append(3.0 + 95.0 * max(self._collapse(index, step) for index in range(len(self.modules))))
                keys += [SeriesKey(f"monitor.{name}") for name in ("overhead", "queue_depth", "dropped", "errors")]
                values += [0.008 + 0.002 * self._random.random(), 0.0, 0.0, 0.0]
            yield StepRecord(step, 0.0, tuple(keys), values, tuple(histograms))

    def loss(self, step: int) -> float:
        falling = 0.35 + 5.2 * math.exp(-step / 140) + 0.04 * self._random.gauss(0, 1) * math.exp(-step / 900)
        if self.failing and step > TURN:
            falling += 0.9 * (1 - math.exp(-(step - TURN) / 220)) + 0.12 * abs(self._random.gauss(0, 1))
        if self.failing and step in (1390, 1391, 1405):
            return math.nan
        return max(0.01, falling)

    def gradient(self, step: int) -> float:
        grown = math.exp(min(5.0, (step - 850) / 180)) if self.failing and step > 850 else 1.0
        return grown * 0.8 * math.exp(0.25 * self._random.gauss(0, 1))

    def _collapse(self, index: int, step: int) -> float:
        """How far a layer's alignment has collapsed, 0 to 1."""
        if not self.failing:
            return 0.0
        begin = {0: 620, 6: 450, 7: 700}.get(index, 1050 + 25 * index)
        return 1 / (1 + math.exp(-(step - begin - 150) / 60))

    def layer(self, index: int, step: int) -> dict[str, float]:
        gone, noise = self._collapse(index, step), self._random.gauss(0, 1)
        diversity = min(1.0, max(0.0, (0.9 - 0.03 * (index % 4)) * (1 - 0.93 * gone) + 0.02 * noise))
        spectral = (
            (1.2 + 0.15 * (index % 5)) * (1 + 0.25 * (1 - math.exp(-step / 500))) * math.exp(2.6 * gone * min(1, step / 1400))
        )
        values = {
            "spectral_alignment.sign_diversity": diversity,
            "spectral_alignment.mean_abs": 0.05 + 0.5 * gone,
            "weight.spectral_norm": spectral,
            "weight.spectral_growth": 1e-4 * (1 + 40 * gone * (1 - gone)) + 2e-5 * noise,
        }
        if ".attn.q" in self.modules[index]:
            values["attention.max_logit"] = 8 * math.exp(7.5 * gone + 0.1 * noise)
            values["attention.entropy_mean"] = 2.2 * (1 - 0.95 * gone) + 0.03 * noise
            values["rounding.key_shift_excess"] = 1 + 14 * gone + 0.1 * abs(noise)
        return values

    def histogram(self, index: int, step: int) -> Histogram:
        gone = self._collapse(index, step)
        centre, width = 3.2 * gone, 0.9 - 0.35 * gone
        counts = []
        for bin_number in range(BINS):
            middle = -EDGE + (bin_number + 0.5) * 2 * EDGE / BINS
            counts.append(int(800 * math.exp(-(((middle - centre) / width) ** 2) / 2)))
        key = SeriesKey("spectral_alignment.histogram", self.modules[index])
        return Histogram(key, -EDGE, EDGE, tuple(counts))


def write_steps(
    store: Store, run_id: str, simulation: Simulation, start: int, stop: int, segment: int = 0, size: int = 100
) -> None:
    """Write steps in batches, the way the writer thread does."""
    for first in range(start, stop, size):
        records = tuple(simulation.steps(first, min(first + size, stop)))
        store.write(Batch(new_id(), run_id, segment, records))


def begin_run(store: Store, name: str, *, project: str = "demo", at: float | None = None) -> Run:
    """Create a run with its first segment."""
    now = time.time() if at is None else at
    run = Run(new_id(), name, project, RunStatus.RUNNING, now, now, meta={"host": "gpu-7", "model": "GPT, 12 layers"})
    store.create_run(run)
    store.open_segment(run.id, 0, now)
    return run


def failing_alerts(run_id: str, module: str = "blocks.1.attn.q") -> list[Alert]:
    """The alerts that a failing run would have raised."""
    now = time.time()
    cause = Cause(
        "rounding_bias",
        "One-signed rounding error in low-precision attention",
        0.82,
        ("The key-shift residual is 12 times what random rounding leaves.", "Max logit doubles every 140 steps in the same layer."),
        "Compute delta in the attention backward pass from a float32 output.",
    )
    entropy = SeriesKey("attention.entropy_mean", module)
    evidence = Evidence(entropy, (500, 510, 520), (1.9, 1.1, 0.3), threshold=0.4)

    def alert(rule: str, severity: Severity, where: str, step: int, message: str, state: AlertState = AlertState.FIRING) -> Alert:
        return Alert(
            derived_id(run_id, rule, where, 0),
            run_id,
            rule,
            where,
            0,
            severity,
            state,
            0,
            step,
            step + 120,
            now,
            now,
            message,
            value=0.08,
            threshold=0.4,
            evidence=(evidence,),
            diagnosis=(cause,) if severity is Severity.CRITICAL else (),
            remedy="Switch to the stabilised attention kernel, or raise the precision of its output.",
        )

    return [
        alert(
            "alignment_collapse",
            Severity.WARNING,
            module,
            560,
            f"Sign diversity of {module} fell from 0.90 to 0.12 since step 500.",
        ),
        alert("logit_growth", Severity.CRITICAL, module, 640, f"Max attention logit of {module} doubles every 140 steps, now 820."),
        alert("gradient_spike", Severity.INFO, "", 310, "The gradient norm was 3.1 times its usual level.", AlertState.RESOLVED),
    ]


def write_failing_run(store: Store, name: str = "gpt2-bf16", steps: int = 1500) -> Run:
    """Write a run that collapses, is resumed once, and ends badly."""
    began = time.time() - 600
    run = begin_run(store, name, at=began)
    simulation = Simulation(failing=True)
    write_steps(store, run.id, simulation, 0, min(steps, 1200))
    if steps > 1200:
        segment = store.open_segment(run.id, 1150, time.time())
        store.add_event(Event(new_id(), run.id, segment, 1150, time.time(), "resume", "Resumed from the checkpoint of step 1,150."))
        write_steps(store, run.id, simulation, 1150, steps, segment)
    store.save_alerts(failing_alerts(run.id))
    store.update_run(run.id, status=RunStatus.CRASHED, ended_at=time.time())
    return store.run(run.id)


def write_healthy_run(store: Store, name: str = "gpt2-fp32", steps: int = 1500) -> Run:
    """Write a run in which nothing happens."""
    run = begin_run(store, name, at=time.time() - 900)
    write_steps(store, run.id, Simulation(failing=False, seed=1), 0, steps)
    store.update_run(run.id, status=RunStatus.FINISHED, ended_at=time.time())
    return store.run(run.id)


def keep_writing(url: str, name: str, start: int, pause: float) -> None:
    """Be a training process: write ten steps, rest, and go on until SIGTERM; the run then finishes."""
    store = open_store(url)
    run = store.run(name)
    simulation = Simulation(failing=True, seed=2)
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    step = start
    print("writing", flush=True)
    while not stopping:
        write_steps(store, run.id, simulation, step, step + EVERY)
        store.update_run(run.id, heartbeat_at=time.time())
        step += EVERY
        signal.sigtimedwait([signal.SIGUSR1], pause)
    store.update_run(run.id, status=RunStatus.FINISHED, ended_at=time.time())
    store.close()


if __name__ == "__main__":
    keep_writing(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
