"""What is common to sections that follow one run."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from ...storage.base import Store
from ...storage.records import Alert, Event, Run
from ..lens import Lens
from ..reading import shown_alerts
from ..updates import Updates


class RunSection(ABC):
    """A section about one run, with a cursor into what was written to it."""

    def __init__(self, store: Store, run: Run) -> None:
        self.store = store
        self.run = run
        self._cursor = 0
        self._segment = 0
        self._changed_from = 0
        self.lens = Lens()

    def look(self, graph: str, looks: Sequence[Any]) -> None:
        """Look at it as the values of ``Lens.of`` say; ``graph`` is the one that it fills."""
        self.lens = Lens.of(graph, *looks)

    @property
    def subject(self) -> str:
        """Id of the run."""
        return self.run.id

    def tick(self) -> Updates:
        """Return nothing: most sections say nothing about time."""
        return {}

    def catch_up(self) -> None:
        """Move the cursor to now. Called before a full read, so that nothing written meanwhile is skipped."""
        self.news()

    def news(self) -> bool:
        """Move the cursor to now; return whether anything was written since, and note the first step of it."""
        changes = self.store.changes(self.run.id, self._cursor)
        self._cursor = changes.cursor
        self._segment = max([self._segment, *(change.segment for change in changes.ranges)])
        self._changed_from = min((change.first_step for change in changes.ranges), default=self._changed_from)
        return bool(changes.ranges)

    @abstractmethod
    def paint(self) -> Updates:
        """Return everything the section shows."""

    @abstractmethod
    def advance(self) -> Updates:
        """Return what changed."""

    def table(self) -> Iterator[str]:
        """Yield what it draws, in full, as pieces of a CSV file.

        Raises:
            NotImplementedError: it draws no points.
        """
        raise NotImplementedError(f"{type(self).__name__} draws no points")


class Marks:
    """A run's alerts and events as charts mark them."""

    def __init__(self, store: Store, run: Run, module: str | None = None) -> None:
        self._store, self._run, self._module = store, run, module
        self.alerts: Sequence[Alert] = ()
        self.events: Sequence[Event] = ()

    def refresh(self) -> bool:
        """Read them again; return whether the marks on a chart changed."""
        before = self._signature()
        alerts = shown_alerts(self._store, self._run)
        self.alerts = [alert for alert in alerts if self._module is None or alert.module == self._module]
        self.events = self._store.events(self._run.id) if self._module is None else ()
        return self._signature() != before

    def _signature(self) -> tuple[object, ...]:
        alerts = tuple((alert.id, alert.first_step, alert.severity, alert.message) for alert in self.alerts)
        return alerts, tuple(event.id for event in self.events)
