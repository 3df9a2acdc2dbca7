"""MLflow: its file store (``mlruns/``) and its database, read without MLflow itself, for both are plain and documented.

Metrics are read with their times; parameters and tags become facts of the run. Artifacts, models and traces are not looked at.
A metric that was always logged without a step has step 0 throughout: its values are numbered in the order of their times.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from ...records import RunStatus
from ..packages import TransferError
from .source import Found, Item, Part, Point, Progress, Source, Survey

STATUSES = {"FINISHED": RunStatus.FINISHED, "FAILED": RunStatus.CRASHED, "KILLED": RunStatus.TERMINATED}


@dataclass(frozen=True, slots=True)
class Facts:
    """What MLflow knows of a run beside its metrics. Times are its own: milliseconds, None where there is none."""

    id: str
    name: str
    experiment: str
    status: str
    start: int | None
    end: int | None
    params: Mapping[str, str]
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Extent:
    """How many values a metric has, and whether all of them have step 0."""

    count: int
    stepless: bool


class MlflowRun(Source):
    """A run of either kind of store."""

    home: str
    """The store, for people."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._stepless: set[str] = set()
        self.name = facts.name or facts.id
        self.aliases = (facts.id,)

    @abstractmethod
    def extents(self, progress: Progress) -> dict[str, Extent]:
        """Return how much there is of each metric, in the order in which they are to appear."""

    @abstractmethod
    def points(self) -> Iterator[Point]:
        """Yield the values in order of their times, a metric's own in the order in which they were written."""

    @property
    @override
    def identity(self) -> tuple[object, ...]:
        return "mlflow", self._facts.id

    @property
    @override
    def origin(self) -> str:
        return f"{self.home}, run {self._facts.id}"

    @override
    def survey(self, progress: Progress) -> Survey:
        facts = self._facts
        found = Survey(project=facts.experiment, status=STATUSES.get(facts.status, RunStatus.TERMINATED))
        for name, extent in self.extents(progress).items():
            found.labels[name] = extent.count
            if extent.stepless and extent.count > 1:
                self._stepless.add(name)
        if self._stepless:
            named = ", ".join(sorted(self._stepless)[:5]) + (", ..." if len(self._stepless) > 5 else "")
            found.notes.append(f"Logged without a step and numbered in the order of their times: {named}.")
        if facts.status not in STATUSES:
            found.notes.append(f"MLflow has it as {facts.status.lower()}; it is kept as terminated.")
        found.created_at = (facts.start or 0) / 1000
        found.ended_at = None if facts.end is None else facts.end / 1000
        theirs = {key: value for key, value in facts.tags.items() if key.startswith("mlflow.")}
        found.tags = tuple(
            key if value in ("", "True", "true") else f"{key}={value}" for key, value in facts.tags.items() if key not in theirs
        )
        found.meta = {"mlflow_id": facts.id, "config": dict(facts.params), "mlflow_tags": theirs}
        return found

    @override
    def stream(self) -> Iterator[Item]:
        yield Part()
        if not self._stepless:
            yield from self.points()
            return
        counts: Counter[Any] = Counter()
        for name, step, time, value in self.points():
            if name in self._stepless:
                step = counts[name]
                counts[name] += 1
            yield name, step, time, value


def find(path: str) -> Found:
    """Return the runs at a path: a file store, an experiment's or a run's folder in one, or a database.

    Args:
        path: a folder, a SQLite file, or any SQLAlchemy URL.

    Raises:
        TransferError: there is none.
    """
    from . import mlflow_files, mlflow_tables

    if path.startswith(("http://", "https://", "databricks")):
        raise TransferError(f"{path} is a tracking server: give what lies behind it, its database's URL or its mlruns folder.")
    if "://" in path and not path.startswith("file:"):
        return mlflow_tables.find(path)
    place = Path(path.removeprefix("file://").removeprefix("file:"))
    return mlflow_tables.find(f"sqlite:///{place}") if place.is_file() else mlflow_files.find(place)
