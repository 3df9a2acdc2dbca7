"""One picture of a panel as a live chart: which series it draws for the chosen layer and head, what their lines are called."""

from collections.abc import Sequence

from ...storage.base import Store
from ...storage.records import Alert, Event, Run, Series, SeriesKey
from ...storage.results import SeriesData
from ..figures.signal_lines import Line, signal_lines_figure
from ..figures.style import Figure, text
from ..missing import why_empty
from ..names import related
from ..pictures import Picture, Scope
from ..signals import describe
from ..updates import Updates
from .chart import Chart

_MOST_LINES = 64


class PictureChart(Chart):
    """A picture's chart.

    Args:
        module: The chosen layer; where it has none of the picture's signals, its parts or what it is a part of are drawn.
        head: The head that stands out; None for none.
    """

    def __init__(self, store: Store, run: Run, picture: Picture, module: str, head: int | None) -> None:
        super().__init__(store, run, picture.name, self._found, self._drawn, None)
        self._picture, self._module, self._head = picture, module, head
        self._shown = ""

    def paint(self) -> Updates:
        """Draw the whole figure, and say of which layer it is where that is not the chosen one."""
        updates = super().paint()
        return {**updates, f"{self._picture.name}-of": {"children": self._shown}}

    def _found(self) -> list[Series]:
        each = (_series(self.store, self.run, self._picture, signal, self._module) for signal in self._picture.signals)
        return [one for found in each for one in found][:_MOST_LINES]

    def _drawn(self, data: Sequence[SeriesData], _alerts: Sequence[Alert], _events: Sequence[Event]) -> Figure:
        picture, modules = self._picture, list(dict.fromkeys(one.key.module for one in data))
        self._shown = modules[0] if picture.scope is Scope.LAYER and len(modules) == 1 and modules != [self._module] else ""
        lines = [
            Line(
                one, _name(picture, one.key, self._module, len(modules) > 1), self._head is not None and one.key.head == self._head
            )
            for one in data
        ]
        return signal_lines_figure(picture, lines, why_empty="" if lines else self._why())

    def _why(self) -> str:
        found = self.store.series(self.run.id, signal=self._picture.signals[0])
        return why_empty(
            self._picture, list(dict.fromkeys(text(one.key.module) for one in found if one.key.module)), text(self._module)
        )


def _series(store: Store, run: Run, picture: Picture, signal: str, module: str) -> list[Series]:
    match picture.scope:
        case Scope.RUN:
            found = [one for one in store.series(run.id, signal=signal, module="") if one.key.head < 0]
            return [min(found, key=lambda one: one.key.rank)] if found else []
        case Scope.RANKS:
            return [one for one in store.series(run.id, signal=signal, module="") if one.key.rank >= 0]
        case Scope.LAYERS:
            return [one for one in store.series(run.id, signal=signal) if one.key.module]
        case Scope.LAYER:
            found = store.series(run.id, signal=signal)
            shown = related(module, list(dict.fromkeys(one.key.module for one in found)))
            return [one for one in found if one.key.module in shown]


def _name(picture: Picture, key: SeriesKey, chosen: str, several: bool) -> str:
    """Return what tells this line from the others of the picture."""
    parts = []
    if len(picture.signals) > 1:
        parts.append(describe(key.signal).title)
    if several or picture.scope is Scope.LAYERS:
        parts.append(key.module.removeprefix(f"{chosen}."))
    if key.head >= 0:
        parts.append(f"head {key.head}")
    if key.rank >= 0 and picture.scope is Scope.RANKS:
        parts.append(f"rank {key.rank}")
    return ", ".join(parts) or describe(key.signal).title
