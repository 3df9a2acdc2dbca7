"""``foreshock zoo rescue``: is a run that fails saved by what its diagnosis recommends?

Each run is trained twice under ``watch()``: first alone, to be diagnosed; then, from the same seed, with the interventions that the
cause named first recommends (``analyzer/causes.toml``), or with those asked for. Nobody tells the second run when the first failed.

*Saved*: it survives by the rule of failure, and ends near what is reachable: what the scenario's sound twin reaches, or else the
best that the run alone had reached before it failed. A run that was stopped is not saved; what it saved is time.

Runs of the zoo have some hundreds of steps, so checkpoints are made every 25 and settle in 50; all else is as it comes.
"""

import contextlib
import io
import json
import math
import statistics
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..analyzer.diagnosis import patterns
from ..analyzer.failure import DEGRADATION_RATIO, DEGRADATION_RISE
from ..attach import watch
from ..config import ConfigurationError
from ..interventions.base import Intervention
from ..interventions.checkpoint import Checkpoint
from ..monitor import Monitor
from ..storage import open_store
from .outcome import ending
from .parallel import in_processes
from .recording import EVERY, monitored
from .scenario import Scenario, Training, scenario

FILE = "RESCUE.json"
"""Where ``zoo score`` looks for results, in a folder of recordings."""
_QUIET = {"FORESHOCK_LOG_LEVEL": "ERROR", "FORESHOCK_NOTIFY": "[]"}
_NON_FINITE_STEPS = 20
_WINDOW, _LEAST = 128, 32


@dataclass(frozen=True, slots=True)
class Rescue:
    """A run alone, and the same run with interventions.

    Attributes:
        scenario, seed, split, family, onset: which.
        alone: its outcome alone.
        cause: what its diagnosis names first; None where nothing is named.
        interventions: what was asked for.
        outcome, final: with them; ``final`` is None where the loss is not finite.
        reachable: the loss that it is measured by.
        saved: whether it survived and ended near that.
        stopped: the step at which ``stop`` ended it; None where it did not.
        steps: trained.
        finite: whether every weight was finite after every step.
        update: the largest update of the weights, as a multiple of the median of those before, and its step; None without any.
        done: step and message of what interventions did, saving checkpoints apart.
        faults: what went wrong inside the monitor.
    """

    scenario: str
    seed: int
    split: str
    family: str
    onset: str | None
    alone: str
    cause: str | None
    interventions: list[str]
    outcome: str
    final: float | None
    reachable: float | None
    saved: bool
    stopped: int | None
    steps: int
    finite: bool
    update: list[float] | None
    done: list[list[Any]]
    faults: int


def rescue_one(name: str, seed: int, wanted: Sequence[str] | None = None) -> Rescue:
    """Train a scenario alone, and then with interventions.

    Args:
        name: of the scenario.
        seed: of initialisation and data order.
        wanted: names of interventions; None: those that the diagnosis recommends.

    Raises:
        ValueError: there is no such scenario or intervention.
        ConfigurationError: the monitor is disabled.
    """
    chosen = scenario(name)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        alone = monitored(chosen, seed, f"sqlite:///{folder}/alone.db")
        cause = alone.diagnosis[0] if alone.diagnosis else None
        asked = list(wanted) if wanted is not None else recommended(cause)
        losses, weights, monitor = _trained(chosen, seed, asked, Path(folder))
        with contextlib.closing(open_store(f"sqlite:///{folder}/rescue.db")) as store:
            done: list[list[Any]] = [
                [event.step, event.message] for event in store.events(monitor.run.id) if event.kind == "intervention"
            ]
    found = ending(losses, chosen.reachable)
    reachable = chosen.reachable.loss if chosen.reachable is not None else alone.best
    near = reachable is not None and found.final <= DEGRADATION_RATIO * reachable + DEGRADATION_RISE
    stopped = len(losses) - 1 if monitor.should_stop else None
    return Rescue(
        scenario=name,
        seed=seed,
        split=chosen.split,
        family=chosen.family,
        onset=chosen.onset,
        alone=alone.outcome,
        cause=cause,
        interventions=asked,
        outcome=found.outcome,
        final=_finite(found.final),
        reachable=reachable,
        saved=found.outcome == "survived" and near and stopped is None,
        stopped=stopped,
        steps=len(losses),
        finite=weights.finite,
        update=weights.largest,
        done=[each for each in done if not each[1].startswith(("Saved a checkpoint", "The checkpoint of step"))],
        faults=monitor.faults.total,
    )


def recommended(cause: str | None) -> list[str]:
    """Return what a cause recommends, and ``checkpoint`` where a roll back is to be possible; nothing for no cause."""
    known = {pattern.name: list(pattern.interventions) for pattern in patterns()}
    found = known.get(cause or "", [])
    return ["checkpoint", *found] if "rollback" in found else found


def rescue(
    chosen: Iterable[Scenario], seeds: Sequence[int], file: Path | None, jobs: int = 1, wanted: Sequence[str] | None = None
) -> Iterator[Rescue]:
    """Try to save runs; yield each result as it is done.

    Args:
        chosen: scenarios that fail.
        seeds: of initialisation and data order.
        file: JSON; results it holds already are yielded as they are, and new ones are added. None keeps nothing.
        jobs: processes at a time.
        wanted: names of interventions; None: those that each run's diagnosis recommends.
    """
    known = {(each.scenario, each.seed): each for each in read(file)} if file is not None else {}
    keys = [(each.name, seed) for each in chosen for seed in seeds]
    yield from (known[key] for key in keys if key in known)
    for result in in_processes(rescue_one, [(*key, wanted) for key in keys if key not in known], jobs, _QUIET):
        known[result.scenario, result.seed] = result
        if file is not None:
            ordered = sorted(known.values(), key=lambda each: (each.split, each.scenario, each.seed))
            part = file.with_suffix(".part")
            part.write_text("[\n" + ",\n".join(json.dumps(asdict(each)) for each in ordered) + "\n]\n", "utf-8")
            part.replace(file)
        yield result


def read(file: Path) -> list[Rescue]:
    """Return the results in a file; none if there is no such file."""
    return [Rescue(**each) for each in json.loads(file.read_text("utf-8"))] if file.exists() else []


def summed(results: Iterable[Rescue]) -> dict[str, dict[str, Any]]:
    """Return, for each split: failing runs tried, how many were saved and how many stopped; the same by family."""
    found: dict[str, dict[str, Any]] = {}
    for each in results:
        if each.alone == "survived":  # it did not fail this time: there was nothing to save
            continue
        split = found.setdefault(each.split, {"runs": 0, "saved": 0, "stopped": 0, "families": {}})
        family = split["families"].setdefault(each.family, {"runs": 0, "saved": 0, "stopped": 0})
        for one in (split, family):
            one["runs"] += 1
            one["saved"] += each.saved
            one["stopped"] += each.stopped is not None
    return found


HEAD = (
    "scenario",
    "seed",
    "alone",
    "cause named",
    "interventions",
    "outcome",
    "final loss",
    "reachable",
    "largest update",
    "saved",
)


def line(each: Rescue) -> tuple[str, ...]:
    """Return a run's line of the table, as ``HEAD`` names its columns."""
    how = f"stopped at {each.stopped}" if each.stopped is not None else each.outcome
    update = "-" if each.update is None else f"{each.update[0]:.3g} x at {each.update[1]:.0f}" if each.finite else "not finite"
    numbers = ("-" if value is None else f"{value:.3g}" for value in (each.final, each.reachable))
    asked = ", ".join(each.interventions) or "-"
    return each.scenario, str(each.seed), each.alone, each.cause or "-", asked, how, *numbers, update, "yes" if each.saved else "no"


class _Weights:
    """Looks at all weights after every step."""

    def __init__(self, training: Training) -> None:
        self._parameters = list(training.model.parameters())
        self.start()
        self._usual: deque[float] = deque(maxlen=_WINDOW)
        self.finite = True
        self.largest: list[float] | None = None

    def start(self) -> None:
        """A step begins."""
        self._before = self._flat()

    def look(self, number: int) -> None:
        """The optimizer has stepped."""
        now = self._flat()
        size = float((now - self._before).norm())
        self.finite &= math.isfinite(size)
        if len(self._usual) >= _LEAST and math.isfinite(size):
            ratio = size / statistics.median(self._usual)
            if self.largest is None or ratio > self.largest[0]:
                self.largest = [ratio, number]
        if size > 0 and math.isfinite(size):
            self._usual.append(size)

    def _flat(self) -> Tensor:
        return torch.cat([p.detach().flatten().double() for p in self._parameters])


def _trained(chosen: Scenario, seed: int, asked: Sequence[str], folder: Path) -> tuple[list[float], _Weights, Monitor]:
    """Train with interventions; return losses, what became of the weights, and the closed monitor."""
    torch.set_num_threads(1)
    training = chosen.build(seed)
    weights = _Weights(training)
    losses: list[float] = []
    given: list[str | Intervention] = [_made(name, folder) for name in asked]
    options: Mapping[str, Any] = {"run": f"{chosen.name} seed {seed}", "project": "zoo", "store": f"sqlite:///{folder}/rescue.db"}
    with watch(training.model, training.optimizer, **options, probes="default", every=EVERY, interventions=given) as monitor:
        if not isinstance(monitor, Monitor):
            raise ConfigurationError("FORESHOCK_DISABLE is set: nothing would be done; unset it")
        for number in range(chosen.steps):
            loss = training.step(number)
            losses.append(float(loss.detach()))
            weights.look(number)
            if len(losses) >= _NON_FINITE_STEPS and not any(map(math.isfinite, losses[-_NON_FINITE_STEPS:])):
                break
            monitor.step(loss)
            weights.start()  # a roll back is no update
            monitor.flush()
    return losses, weights, monitor


def _made(name: str, folder: Path) -> str | Intervention:
    return Checkpoint(folder / "checkpoints", every=25, settle=50) if name == "checkpoint" else name


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
