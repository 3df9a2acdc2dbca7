"""The choice of layer and signals, and the newest values of the chosen layer."""

from typing import Any

from dash import html

from ...storage.base import Store
from ...storage.records import Run
from ..live import Updates
from ..pages.parts import fact, number
from ..reading import shown_alerts, signals_and_layers
from ..signals import CATALOGUE, HISTOGRAM, describe, offered
from ..verdict import leading
from .following import RunSection

_FACTS = 6


class Choices(RunSection):
    """The options of the layer list and of the two signal lists; they grow as the first samples arrive.

    Args:
        module: The layer that the page has chosen. While it names none of the run's layers, the usual one is chosen for it.
        signal, compare: The signals that the page has chosen; one that the run does not measure is replaced.
    """

    def __init__(self, store: Store, run: Run, module: str | None, signal: str | None, compare: str | None) -> None:
        super().__init__(store, run)
        self._module, self._signals = module, {"signal": signal, "compare": compare}
        self._known: tuple[set[str], list[str]] = (set(), [])

    def paint(self) -> Updates:
        """Return all options."""
        self.catch_up()
        return self._options()

    def advance(self) -> Updates:
        """Return the options again when a signal or layer is new."""
        return self._options() if self.news() else {}

    def _options(self) -> Updates:
        signals, modules = signals_and_layers(self.store, self.run.id)
        if (signals, modules) == self._known:
            return {}
        self._known = (signals, modules)
        names = offered(signals - {HISTOGRAM})
        if not modules or not names:
            return {}
        options = [{"label": describe(name).title, "value": name} for name in names]
        updates: dict[str, dict[str, Any]] = {"module": {"options": [{"label": name, "value": name} for name in modules]}}
        if self._module not in modules:
            self._module = updates["module"]["value"] = usual_layer(self.store, self.run)
        for index, (picker, chosen) in enumerate(self._signals.items()):
            updates[picker] = {"options": options}
            if chosen not in names:
                self._signals[picker] = updates[picker]["value"] = names[min(index, len(names) - 1)]
        return updates


def usual_layer(store: Store, run: Run) -> str | None:
    """Return the layer that a page opens with: that of the leading alert, else the first one; None before any is measured."""
    _, modules = signals_and_layers(store, run.id)
    worst = leading(shown_alerts(store, run))
    if worst is not None and worst.module in modules:
        return worst.module
    return modules[0] if modules else None


class LayerFacts(RunSection):
    """The newest values of the chosen layer."""

    def __init__(self, store: Store, run: Run, module: str | None) -> None:
        super().__init__(store, run)
        self._module = module

    def paint(self) -> Updates:
        """Return the values."""
        self.catch_up()
        return self._facts(None)

    def advance(self) -> Updates:
        """Return the values again after news."""
        return self._facts(None) if self.news() else {}

    def _facts(self, start: int | None) -> Updates:
        if not self._module:
            return {"layer-facts": {"children": html.P("Layers appear with the first sampled step.", className="quiet")}}
        series = [one for one in self.store.series(self.run.id, module=self._module) if one.key.signal in CATALOGUE]
        newest: dict[str, float] = {}
        for data in self.store.read(series, start=start, max_points=20):
            if len(data.values):
                value, info = float(data.values[-1]), CATALOGUE[data.key.signal]
                before = newest.get(info.name, value)
                newest[info.name] = max(before, value) if info.high_is_trouble else min(before, value)
        shown = offered(set(newest))[:_FACTS]
        return {
            "layer-facts": {
                "children": html.Dl([fact(describe(name).title, number(newest[name])) for name in shown], className="facts")
            }
        }
