"""``foreshock bench step``: what watching costs, in paired, alternating runs with and without the monitor.

The work is real: a GPT of width 256 with 4 layers and 256 tokens of context learns text with AdamW and gradient clipping. A pair is
a run with the monitor at default settings and one without, alive at the same time and trained in turns of five steps, so that
what slows the machine down falls on both. A pair's ratio is the whole time of the steps with the monitor, sampled steps included,
over that without. The writer thread works in the same process.
"""

import contextlib
import json as json_module
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..attach import watch
from ..monitor import Monitor
from ..storage import open_store
from ..zoo.scenario import Training
from .workloads import small_gpt

WARMUP_STEPS = 12
BLOCK_STEPS = 5


@dataclass(frozen=True, slots=True)
class Overhead:
    """What was measured.

    Attributes:
        ratio: median over pairs of (time with the monitor) / (time without), sampled steps included.
        ratios: the pairs' ratios, in order.
        median_step_ratio: the same of the median step instead of the whole time.
        step_ms: median step without the monitor.
        plain_step_us: median of ``monitor.step()`` on a step that is not sampled, without a loss; less what timing nothing at the
            same place of the runs without a monitor gives (cold caches make even that cost microseconds).
        loss_us: what passing the loss adds to that.
        gradient_norm_us: what the gradient norm costs a step (where ``clip_grad_norm_`` is called, its own norm is used).
        gradient_norm_unclipped_us: the same without clipping: the monitor computes the norm itself.
        sampled_step_ms: what a sampled step takes longer than a plain one (median).
        interval: steps from one sample to the next, as the governor chose, at the end of the last run.
        reported: mean of the monitor's own ``monitor.overhead``, as shown on the page.
    """

    ratio: float
    ratios: list[float]
    median_step_ratio: float
    step_ms: float
    plain_step_us: float
    loss_us: float
    gradient_norm_us: float
    gradient_norm_unclipped_us: float
    sampled_step_ms: float
    interval: int
    reported: float
    pairs: int
    steps: int
    threads: int
    torch: str


def measure(
    pairs: int = 5, steps: int = 60, threads: int | None = None, say: Callable[[str], None] = lambda line: None
) -> Overhead:
    """Run the pairs and return the figures. Raises ValueError for fewer than one pair or twenty steps."""
    if pairs < 1 or steps < 20:
        raise ValueError(f"pairs={pairs}, steps={steps}: at least 1 pair of 20 steps is needed")
    if threads is not None:
        torch.set_num_threads(threads)
    found: list[_Pair] = []
    for number in range(pairs):
        found.append(_pair(number, steps))
        say(f"pair {number + 1} of {pairs}: {sum(found[-1].watched.steps) / sum(found[-1].bare.steps):.4f}")
    watched, bare = [pair.watched for pair in found], [pair.bare for pair in found]
    unclipped = _unclipped_norm()
    ratios = [sum(a.steps) / sum(b.steps) for a, b in zip(watched, bare, strict=True)]
    step = statistics.median(seconds for run in bare for seconds in run.steps)
    nothing = statistics.median(seconds for run in bare for seconds in run.calls_without)
    without = statistics.median(seconds for run in watched for seconds in run.calls_without)
    with_loss = statistics.median(seconds for run in watched for seconds in run.calls_with_loss)
    sampled = [seconds for run in watched for seconds in run.sampled]
    return Overhead(
        ratio=statistics.median(ratios),
        ratios=ratios,
        median_step_ratio=statistics.median(
            statistics.median(a.steps) / statistics.median(b.steps) for a, b in zip(watched, bare, strict=True)
        ),
        step_ms=step * 1e3,
        plain_step_us=(without - nothing) * 1e6,
        loss_us=(with_loss - without) * 1e6,
        gradient_norm_us=statistics.median(seconds for run in watched for seconds in run.gradient) * 1e6,
        gradient_norm_unclipped_us=unclipped * 1e6,
        sampled_step_ms=(statistics.median(sampled) - step) * 1e3 if sampled else 0.0,
        interval=found[-1].interval,
        reported=statistics.mean(pair.reported for pair in found),
        pairs=pairs,
        steps=steps,
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
    )


class _Side:
    """One of the two runs of a pair, with or without a monitor, trained a block of steps at a time."""

    def __init__(self, seed: int, url: str | None, *, clip: bool = True) -> None:
        self.training = small_gpt(seed, clip=clip)
        self.monitor = _watched(self.training, url) if url else None
        self.steps: list[float] = []
        self.sampled: list[float] = []
        self.calls_with_loss: list[float] = []
        self.calls_without: list[float] = []
        self.gradient: list[float] = []
        self._number = 0
        self._arming = 0.0

    def run(self, steps: int, *, count: bool = True) -> None:
        """Train some steps and note their times, if they count."""
        monitor = self.monitor
        if monitor is not None:
            monitor.collector.leave_out_pause()
        for _ in range(steps):
            with_loss = self._number % 2 == 1
            sampled = monitor is not None and monitor.collector.sampling
            guarded = monitor.faults.seconds if monitor is not None else 0.0
            started = time.perf_counter()
            loss = self.training.step(self._number)
            in_hooks = monitor.faults.seconds - guarded if monitor is not None else 0.0
            called = time.perf_counter()
            if monitor is not None:
                monitor.step(loss if with_loss else None)
            else:
                _nothing(None)
            ended = time.perf_counter()
            self._number += 1
            # Where the next step is to be sampled, arming the probes for it was part of this call.
            armed = self._arming
            self._arming = ended - called if monitor is not None and monitor.collector.sampling else 0.0
            if not count:
                continue
            self.steps.append(ended - started)
            if sampled:
                self.sampled.append(ended - started + armed)
            elif monitor is None or not monitor.collector.sampling:
                (self.calls_with_loss if with_loss else self.calls_without).append(ended - called)
                self.gradient.append(in_hooks)


@dataclass(frozen=True, slots=True)
class _Pair:
    watched: _Side
    bare: _Side
    interval: int
    reported: float


def _pair(seed: int, steps: int) -> _Pair:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'bench.db'}"
        watched, bare = _Side(seed, url), _Side(seed, None)
        monitor = watched.monitor
        assert monitor is not None
        for side in (watched, bare):
            side.run(WARMUP_STEPS, count=False)
        for block in range(steps // BLOCK_STEPS):
            # ABBA: what slows the machine down for a while falls on both alike.
            for side in (watched, bare) if block % 2 == 0 else (bare, watched):
                side.run(BLOCK_STEPS)
        monitor.close()
        with contextlib.closing(open_store(url)) as store:
            shares = store.frame(monitor.run.id, "monitor.overhead")["value"]
        return _Pair(watched, bare, monitor.collector.governor.interval, float(shares.mean()) if len(shares) else 0.0)


def _unclipped_norm() -> float:
    """Median seconds that the gradient norm takes where the monitor has to compute it."""
    with tempfile.TemporaryDirectory() as folder:
        side = _Side(0, f"sqlite:///{Path(folder) / 'bench.db'}", clip=False)
        side.run(20)
        assert side.monitor is not None
        side.monitor.close()
    return statistics.median(side.gradient)


def _nothing(loss: Tensor | None) -> None:
    """What a step costs that is not monitored at all."""


def _watched(training: Training, url: str) -> Monitor:
    monitor = watch(training.model, training.optimizer, run="bench", store=url)
    if not isinstance(monitor, Monitor):
        raise ValueError("FORESHOCK_DISABLE is set: there is no monitor to measure; unset it")
    return monitor


def main(*, pairs: int = 5, steps: int = 60, threads: int | None = None, json: bool = False) -> int:
    """Run the benchmark and print the figures; return the exit status."""
    result = measure(pairs, steps, threads, say=lambda line: print(line, file=sys.stderr, flush=True))
    if json:
        print(json_module.dumps(asdict(result), indent=2))
        return 0
    print(
        f"step time with the monitor / without: {result.ratio:.4f} (median of {result.pairs} pairs of {result.steps} steps: "
        f"{', '.join(f'{ratio:.4f}' for ratio in result.ratios)})\n"
        f"a step takes {result.step_ms:.1f} ms; a sampled one {result.sampled_step_ms:.1f} ms more, every {result.interval} steps\n"
        f"monitor.step() on a plain step: {result.plain_step_us:.1f} us, the loss {result.loss_us:.1f} us, "
        f"the gradient norm {result.gradient_norm_us:.1f} us ({result.gradient_norm_unclipped_us:.0f} us without clipping)\n"
        f"the monitor itself reports {result.reported:.2%}"
    )
    return 0
