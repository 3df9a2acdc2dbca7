"""``foreshock zoo check``: every scenario, without a monitor, over several seeds: does it end as it says it does?

What was found last is kept in ``data/checked.json``, from which docs/zoo.md is made.
"""

import json
import platform
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from .outcome import ending, learnt_by, run
from .parallel import in_processes
from .scenario import Scenario, scenario, scenarios


@dataclass(frozen=True, slots=True)
class Checked:
    """How one run of a scenario ended.

    Attributes:
        scenario, seed: which.
        outcome, step, kind, transient, best, final: as ``outcome.Ending``; losses that are not finite are None.
        learnt: the step from which the run stays at what `reachable` of a stuck scenario promises of it; None where nothing does.
        expected: whether the outcome and, where promised, the learning are as the scenarios say.
        seconds: taken.
    """

    scenario: str
    seed: int
    outcome: str
    step: int | None
    kind: str
    transient: bool
    best: float | None
    final: float | None
    learnt: int | None
    expected: bool
    seconds: float


def check_one(name: str, seed: int) -> Checked:
    """Train a scenario with one thread and compare how it ends with what it says.

    Raises:
        ValueError: there is no such scenario.
    """
    torch.set_num_threads(1)
    chosen = scenario(name)
    losses, seconds = run(chosen, seed)
    found = ending(losses, chosen.reachable)
    promises = {each.reachable for each in scenarios().values() if each.reachable and each.reachable.twin == name}
    learnt = [(learnt_by(losses, promise.loss), promise.step) for promise in promises]
    kept = all(step is not None and step <= by for step, by in learnt)
    return Checked(
        name,
        seed,
        found.outcome,
        found.step,
        found.kind,
        found.transient,
        _finite(found.best),
        _finite(found.final),
        max((step for step, _ in learnt if step is not None), default=None),
        found.outcome == chosen.expected and kept,
        round(seconds, 1),
    )


def check(chosen: Iterable[Scenario], seeds: int, file: Path, jobs: int = 1) -> Iterator[Checked]:
    """Check scenarios over the seeds 0 to ``seeds`` - 1; yield each result as soon as it is in ``file``.

    Args:
        chosen: what to check.
        seeds: how many.
        file: JSON; results it holds already are yielded as they are.
        jobs: processes at a time.
    """
    known = {(each.scenario, each.seed): each for each in read(file)}
    wanted = [(each.name, seed) for each in chosen for seed in range(seeds)]
    yield from (known[key] for key in wanted if key in known)
    for result in in_processes(check_one, [key for key in wanted if key not in known], jobs):
        known[result.scenario, result.seed] = result
        write(file, known.values())
        yield result


def spread(values: Iterable[float | None]) -> str:
    """Return the least and the greatest of the values that are there, as people write it; ``-`` for none."""
    given = sorted(value for value in values if value is not None)
    if not given:
        return "-"
    return f"{given[0]:,g}" if given[0] == given[-1] else f"{given[0]:,g} to {given[-1]:,g}"


def write(file: Path, results: Iterable[Checked]) -> None:
    """Write results to a JSON file, a line a run, with what they were made on."""
    lines = ",\n".join(json.dumps(asdict(each)) for each in sorted(results, key=lambda each: (each.scenario, each.seed)))
    made_on = json.dumps({"torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()})
    file.write_text(f'{{"made_on": {made_on},\n"runs": [\n{lines}\n]}}\n', "utf-8")


def read(file: Path) -> list[Checked]:
    """Return the results in a file; none if there is no such file."""
    return [Checked(**each) for each in _load(file).get("runs", [])]


def recorded() -> list[Checked]:
    """Return the results that came with this version."""
    return read(Path(str(files(__package__) / "data" / "checked.json")))


def _load(file: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    return loaded


def _finite(value: float) -> float | None:
    """Put None where JSON has no number; four digits are enough for a table."""
    return float(f"{value:.4g}") if abs(value) < float("inf") else None
