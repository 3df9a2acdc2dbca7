"""Monitored runs of scenarios: one into a given store (``zoo run``), or many, each into a store of its own (``zoo record``).

A folder of recordings holds ``SPLIT/NAME-SEED.db``, a store with one run, and beside it ``SPLIT/NAME-SEED.json``, a ``Recording``.
"""

import contextlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..analyzer.failure import lead_steps
from ..attach import watch
from ..config import ConfigurationError
from ..monitor import Monitor
from .outcome import ending, train
from .parallel import in_processes
from .scenario import Scenario, scenario

EVERY = 10
_QUIET = {"FORESHOCK_LOG_LEVEL": "ERROR", "FORESHOCK_NOTIFY": "[]"}
"""Hundreds of runs that fail on purpose should not page anybody."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A monitored run of a scenario.

    Attributes:
        scenario, seed, split, family, onset, cause_id, expected, trouble_step: as the scenario says.
        run: id of the run in its store.
        store: URL of the store; in a folder of recordings the file's name.
        steps: trained.
        every: steps from one sample to the next.
        outcome, failure_step, kind, transient, best, final: as ``outcome.Ending``; losses that are not finite are None.
        lead: steps from the first alert of severity warning or above to the failure; None where one of them is missing.
        alerts: rule, severity, module, step, message and, where the run failed, lead of each alert; oldest first.
        diagnosis: ids of the causes that the worst alert names, the likeliest first.
        seconds: taken, the monitor included.
        faults: what went wrong inside the monitor.
        bytes: size of the store's file; 0 where the store is not a file of this run alone.
    """

    scenario: str
    seed: int
    split: str
    family: str
    onset: str | None
    cause_id: str | None
    expected: str
    trouble_step: int | None
    run: str
    store: str
    steps: int
    every: int
    outcome: str
    failure_step: int | None
    kind: str
    transient: bool
    best: float | None
    final: float | None
    lead: int | None
    alerts: list[dict[str, Any]]
    diagnosis: list[str]
    seconds: float
    faults: int
    bytes: int = 0


def monitored(
    chosen: Scenario, seed: int, store: str, *, probes: str = "default", every: int = EVERY, threads: int = 1
) -> Recording:
    """Train a scenario under ``watch()`` to its end and set its alerts against its failure.

    Args:
        chosen: what to train.
        seed: of initialisation and data order.
        store: SQLAlchemy URL.
        probes: preset.
        every: steps from one sample to the next; fixed, so that a seed gives the same alerts however busy the machine is.
        threads: torch's CPU threads.

    Raises:
        ConfigurationError: the monitor is disabled.
    """
    torch.set_num_threads(threads)
    training = chosen.build(seed)
    name, tags = f"{chosen.name} seed {seed}", ["zoo", chosen.split, chosen.family]
    with watch(
        training.model, training.optimizer, run=name, project="zoo", store=store, probes=probes, every=every, tags=tags
    ) as monitor:
        if not isinstance(monitor, Monitor):
            raise ConfigurationError("FORESHOCK_DISABLE is set: nothing would be recorded; unset it")
        losses, seconds = train(training, chosen.steps, lambda number, loss: monitor.step(loss))
    found = ending(losses, chosen.reachable)
    worst = max(monitor.alerts, key=lambda alert: (alert.severity.rank, alert.updated_at), default=None)
    return Recording(
        scenario=chosen.name,
        seed=seed,
        split=chosen.split,
        family=chosen.family,
        onset=chosen.onset,
        cause_id=chosen.cause_id,
        expected=chosen.expected,
        trouble_step=chosen.trouble_step,
        run=monitor.run.id,
        store=store,
        steps=len(losses),
        every=every,
        outcome=found.outcome,
        failure_step=found.step,
        kind=found.kind,
        transient=found.transient,
        best=_finite(found.best),
        final=_finite(found.final),
        lead=lead_steps(found.step, monitor.alerts),
        alerts=[
            {
                "rule": alert.rule,
                "severity": alert.severity.value,
                "module": alert.module,
                "step": alert.first_step,
                "message": alert.message,
                "lead": None if found.step is None else found.step - alert.first_step,
            }
            for alert in monitor.alerts
        ],
        diagnosis=[cause.name for cause in worst.diagnosis] if worst else [],
        seconds=round(seconds, 1),
        faults=monitor.faults.total,
    )


def record(
    chosen: Iterable[Scenario], seeds: Sequence[int], folder: Path, *, jobs: int = 1, every: int = EVERY
) -> Iterator[Recording]:
    """Record scenarios over some seeds with every probe, and yield each recording as it is done.

    What the folder holds already is yielded as it is, so an interrupted call goes on where it was.

    Args:
        chosen: what to record.
        seeds: of initialisation and data order.
        folder: made if missing.
        jobs: processes at a time.
        every: steps from one sample to the next.
    """
    wanted = {(each.name, seed): _place(folder, each, seed) for each in chosen for seed in seeds}
    yield from (load(file) for file in wanted.values() if file.exists())
    calls = [(name, seed, str(file), every) for (name, seed), file in wanted.items() if not file.exists()]
    yield from in_processes(_record_one, calls, jobs, _QUIET)


def recordings(folder: Path) -> list[Recording]:
    """Return what a folder holds, in the order of the files' names."""
    return [load(file) for file in sorted(folder.glob("*/*.json"))]


def load(file: Path) -> Recording:
    """Return the recording in a JSON file."""
    return Recording(**json.loads(file.read_text("utf-8")))


def store_url(folder: Path, recording: Recording) -> str:
    """Return the URL of a recording's store in a folder."""
    return f"sqlite:///{folder / recording.split / recording.store}"


def _place(folder: Path, chosen: Scenario, seed: int) -> Path:
    return folder / chosen.split / f"{chosen.name}-{seed}.json"


def _record_one(name: str, seed: int, target: str, every: int) -> Recording:
    """Record a run beside its JSON file, which is written last: it says that the store is whole."""
    file = Path(target)
    file.parent.mkdir(parents=True, exist_ok=True)
    store = file.with_suffix(".db")
    for rest in file.parent.glob(f"{store.name}*"):  # of a call that was interrupted
        rest.unlink()
    with contextlib.redirect_stderr(io.StringIO()):  # alerts of hundreds of runs; they are in the recordings
        found = asdict(monitored(scenario(name), seed, f"sqlite:///{store}", probes="full", every=every))
    found |= {"store": store.name, "bytes": store.stat().st_size}
    part = file.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1), "utf-8")
    part.replace(file)
    return Recording(**found)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
