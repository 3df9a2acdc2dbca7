"""``foreshock bench overhead``: what each preset costs on several models, eager and compiled, and what others' ways cost.

For every model, compiled or not, runs that are alike but for what watches them are alive at the same time and trained in turns of a
few steps, in an order that alternates: one with nothing, one for each preset, one with a loop of ``.item()`` hooks that computes
norms and means, as many as the default preset has statistics if the model has so many, one with hooks that compute that preset's
own statistics of linear layers plainly, and, where it is installed, one with Weights & Biases' ``watch``. All sample at the same
cadence. A ratio is that of the medians: (steps between two samples x a plain step + a sampled step) over as many plain steps of the
run that nothing watches. The spread is that of the same ratio over blocks of the run.
"""

import contextlib
import json as json_module
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..attach import watch
from ..monitor import Monitor
from ..probes.registry import PRESETS
from ..storage import open_store
from ..zoo.scenario import Training
from .peers import ItemHooks, SameStatistics, Tool, WandbWatch
from .workloads import WORKLOADS

MODES = ("eager", "compile")
TURN_STEPS = 5


@dataclass(frozen=True, slots=True)
class Cost:
    """What one way of watching costs on one model.

    Attributes:
        model, mode, watched_by: which.
        every: steps from one sample to the next; for the governor, where it came to rest.
        ratio: time of the steps over that of a run that nothing watches, samples included.
        spread: lowest and highest ratio over the quarters of the run.
        plain_step_ms, sampled_step_ms: medians.
        statistics: numbers a sample gives.
        microseconds_per_statistic: what a sampled step takes longer than a plain one, per statistic.
    """

    model: str
    mode: str
    watched_by: str
    every: int
    ratio: float
    spread: tuple[float, float]
    plain_step_ms: float
    sampled_step_ms: float
    statistics: int
    microseconds_per_statistic: float


class Side:
    """One of the runs that take turns; the base class is the one that nothing watches."""

    name = "nothing"
    statistics = 0

    def __init__(self, training: Training) -> None:
        self.training = training
        self.steps: list[tuple[float, bool]] = []
        self.number = 0

    @property
    def sampled(self) -> bool:
        """Whether the step to come is sampled."""
        return False

    @property
    def every(self) -> int:
        """Steps from one sample to the next."""
        return 1

    def run(self, steps: int) -> None:
        """Train, and note how long each step took."""
        for _ in range(steps):
            sampled = self.sampled
            started = time.perf_counter()
            self.before()
            loss = self.training.step(self.number)
            self.after(loss)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.steps.append((time.perf_counter() - started, sampled))
            self.number += 1

    def before(self) -> None:
        """What is called before a step."""

    def after(self, loss: torch.Tensor) -> None:
        """What is called at the end of a step."""

    def begin_turn(self) -> None:
        """Called before the run trains again after a pause."""

    def close(self) -> None:
        """Let go of the run."""


class Watched(Side):
    """A run under our monitor."""

    def __init__(self, training: Training, preset: str, every: int | None, folder: Path) -> None:
        super().__init__(training)
        self.name = preset if every is not None else f"{preset}, governor"
        self._url = f"sqlite:///{folder / 'bench.db'}"
        monitor = watch(training.model, training.optimizer, run=self.name, store=self._url, probes=preset, every=every)
        if not isinstance(monitor, Monitor):
            raise ValueError("FORESHOCK_DISABLE is set: there is no monitor to measure; unset it")
        self.monitor = monitor

    @property
    def sampled(self) -> bool:
        """Whether the step to come is sampled."""
        return self.monitor.collector.sampling

    @property
    def every(self) -> int:
        """Steps from one sample to the next."""
        return self.monitor.collector.governor.interval

    def after(self, loss: torch.Tensor) -> None:
        """End the step. Arming the probes for the next one is part of it, as in a real run."""
        self.monitor.step(loss)

    def begin_turn(self) -> None:
        """Leave the pause out of the governor's accounts."""
        self.monitor.collector.leave_out_pause()

    def count(self) -> int:
        """Note and return how many numbers a sample gives, beyond those of every step."""
        self.monitor._writer.flush(10.0)
        with contextlib.closing(open_store(self._url)) as store:
            series = store.series(self.monitor.run.id)
        plain = ("loss", "gradient.norm", "learning_rate", "monitor.", "system.")
        self.statistics = sum(not one.key.signal.startswith(plain) for one in series)
        return self.statistics

    def close(self) -> None:
        """End the run."""
        self.monitor.close()


class Peer(Side):
    """A run watched by another tool."""

    def __init__(self, training: Training, tool: Tool, every: int) -> None:
        super().__init__(training)
        self.name, self._tool, self._every = tool.name, tool, every

    @property
    def sampled(self) -> bool:
        """Whether the step to come is sampled."""
        return self.number % self._every == self._tool.phase

    @property
    def every(self) -> int:
        """Steps from one sample to the next."""
        return self._every

    def before(self) -> None:
        """Place its hooks."""
        self._tool.before_step(self.sampled)

    def after(self, loss: torch.Tensor) -> None:
        """Hand over the loss as the tool's users do."""
        self._tool.after_step(self.sampled, loss)
        self.statistics = self._tool.statistics

    def close(self) -> None:
        """End the tool's run."""
        self._tool.close()


def measure(
    models: Sequence[str] = tuple(WORKLOADS),
    modes: Sequence[str] = MODES,
    presets: Sequence[str] = PRESETS,
    *,
    steps: int = 200,
    every: int = 50,
    peers: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> list[Cost]:
    """Measure every combination.

    Args:
        models: of ``WORKLOADS``.
        modes: ``eager``, ``compile``.
        presets: of ``watch(probes=)``.
        steps: of each run that count; a quarter as many come before.
        every: the fixed cadence; besides, the default preset is run under the governor with its budget of 1 %.
        peers: whether to run the others' ways, too.
        say: is told of each result.

    Raises:
        ValueError: an unknown model or mode, or fewer steps than four samples need.
    """
    for given, known in ((models, WORKLOADS), (modes, MODES)):
        if unknown := [name for name in given if name not in known]:
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(known)}")
    if steps < 4 * every:
        raise ValueError(f"steps={steps}: at least four samples are needed, {4 * every} steps at one in {every}")
    found: list[Cost] = []
    for model in models:
        for mode in modes:
            for cost in _of(model, mode, presets, steps, every, peers=peers):
                say(_line(cost))
                found.append(cost)
    return found


def _of(model: str, mode: str, presets: Sequence[str], steps: int, every: int, *, peers: bool) -> Iterator[Cost]:
    def training() -> Training:
        built = WORKLOADS[model](0)
        if mode == "compile":
            built.model.compile()
        return built

    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        cadences: list[tuple[str, int | None]] = [*((preset, every) for preset in presets), ("default", None)]
        sides: list[Side] = [Side(training())]
        for number, (preset, cadence) in enumerate(cadences):
            (folder / str(number)).mkdir()
            sides.append(Watched(training(), preset, cadence, folder / str(number)))
        if peers and mode == "eager":
            run = training()
            sides.append(Peer(run, ItemHooks(run.model, _numbers_of(sides)), every))
            run = training()
            if isinstance(run.optimizer, torch.optim.AdamW):
                sides.append(Peer(run, SameStatistics(run.model, run.optimizer), every))
            if WandbWatch.installed():
                run = training()
                sides.append(Peer(run, WandbWatch(run.model, every, folder), every))
        for side in sides:
            stack.callback(side.close)
        _take_turns(sides, steps // 4)
        for side in sides:
            side.steps.clear()
        _take_turns(sides, steps)
        for side in sides[1:]:
            if isinstance(side, Watched):
                side.count()
            yield _cost(model, mode, side, sides[0])


def _numbers_of(sides: Sequence[Side]) -> int:
    """Numbers a sample of the default preset gives, or of whichever preset is measured; that run goes one step ahead for it."""
    watched = [side for side in sides if isinstance(side, Watched)]
    one = next((side for side in watched if side.name == "default"), watched[0])
    one.run(1)
    return one.count()


def _take_turns(sides: Sequence[Side], steps: int) -> None:
    for turn in range(steps // TURN_STEPS):
        # Back and forth: what slows the machine down for a while falls on all alike.
        for side in sides if turn % 2 == 0 else reversed(sides):
            side.begin_turn()
            side.run(TURN_STEPS)


def _cost(model: str, mode: str, side: Side, bare: Side) -> Cost:
    every, quarter = side.every, len(side.steps) // 4
    quarters = [
        _ratio(side.steps[start : start + quarter], bare.steps[start : start + quarter], every)
        for start in range(0, 4 * quarter, quarter)
    ]
    plain, sampled = _medians(side.steps)
    extra = (sampled - plain) * 1e6
    return Cost(
        model,
        mode,
        side.name,
        every,
        _ratio(side.steps, bare.steps, every),
        (min(quarters), max(quarters)),
        plain * 1e3,
        sampled * 1e3,
        side.statistics,
        extra / side.statistics if side.statistics else 0.0,
    )


def _ratio(watched: Sequence[tuple[float, bool]], bare: Sequence[tuple[float, bool]], every: int) -> float:
    plain, sampled = _medians(watched)
    return ((every - 1) * plain + sampled) / (every * statistics.median(seconds for seconds, _ in bare))


def _medians(steps: Sequence[tuple[float, bool]]) -> tuple[float, float]:
    plain = statistics.median(seconds for seconds, sampled in steps if not sampled)
    return plain, statistics.median([seconds for seconds, sampled in steps if sampled] or [plain])


def _line(cost: Cost) -> str:
    low, high = cost.spread
    each = f", {cost.microseconds_per_statistic:.1f} us each" if cost.statistics else ""
    return (
        f"{cost.model:9} {cost.mode:8} {cost.watched_by:20} every {cost.every:4} steps: "
        f"{cost.ratio:.4f} ({low:.4f} to {high:.4f}); "
        f"plain {cost.plain_step_ms:.2f} ms, sampled {cost.sampled_step_ms:.2f} ms, {cost.statistics} statistics{each}"
    )


def main(
    *,
    models: Sequence[str],
    modes: Sequence[str],
    presets: Sequence[str],
    steps: int,
    every: int,
    threads: int | None,
    peers: bool,
    json: bool,
) -> int:
    """Run the benchmark and print the figures; return the exit status."""
    if threads is not None:
        torch.set_num_threads(threads)
    found = measure(
        models or tuple(WORKLOADS),
        modes or MODES,
        presets or PRESETS,
        steps=steps,
        every=every,
        peers=peers,
        say=lambda line: print(line, file=sys.stderr if json else sys.stdout, flush=True),
    )
    if json:
        facts = {"torch": str(torch.__version__), "threads": torch.get_num_threads(), "cores": os.cpu_count()}
        print(json_module.dumps(facts | {"costs": [asdict(cost) for cost in found]}, indent=2))
    return 0
