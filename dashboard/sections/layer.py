"""The choice of layer and signals, and the values of the chosen layer."""

from typing import Any

from dash import html

from ...storage.base import Store
from ...storage.records import Run
from ..layers import measured, usual_layer, usual_signal
from ..names import related
from ..pages.parts import fact, number
from ..reading import signals_and_layers
from ..signals import CATALOGUE, DISTRIBUTIONS, describe, offered
from ..updates import Updates
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
        names = offered(signals - DISTRIBUTIONS)
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


class LayerFacts(RunSection):
    """The values of the chosen layer (of several heads the most troubling one), and the signals to look at it by.

    Args:
        step: The last samples up to it are shown; the newest where None.
    """

    def __init__(self, store: Store, run: Run, module: str | None, step: int | None, detail: str | None) -> None:
        super().__init__(store, run)
        self._module, self._step, self._detail = module, step, detail
        self._newest: dict[str, float] = {}
        self._offered: list[str] = []

    def paint(self) -> Updates:
        """Return the values and the signals."""
        self.catch_up()
        return self._facts(None)

    def advance(self) -> Updates:
        """Return the values again after news."""
        return self._facts(self._changed_from) if self.news() else {}

    def _facts(self, start: int | None) -> Updates:
        if not self._module:
            return {"layer-facts": {"children": html.P("Layers appear with the first sampled step.", className="quiet")}}
        series = [one for one in self.store.series(self.run.id, module=self._module) if one.key.signal in CATALOGUE]
        fresh: dict[str, list[float]] = {}
        stop = self._step + 1 if self._step is not None else None
        if stop is not None:  # a step that is over; asking for what came after it would leave nothing to read
            start = None
        for data in self.store.read(series, start=start, stop=stop, max_points=20):
            if len(data.values):
                fresh.setdefault(data.key.signal, []).append(float(data.values[-1]))
        self._newest |= {name: max(values, key=CATALOGUE[name].trouble.order) for name, values in fresh.items()}
        facts = [fact(describe(name).title, number(self._newest[name])) for name in offered(set(self._newest))[:_FACTS]]
        return {
            "layer-facts": {"children": [html.Dl(facts, className="facts"), html.P(self._moment(), className="quiet")]},
            "head": {"options": self._heads(self._module)},
            **self._signals(self._module),
        }

    def _moment(self) -> str:
        return "The newest values." if self._step is None else f"The last values up to step {self._step:,}."

    def _heads(self, module: str) -> list[dict[str, Any]]:
        """Return the heads that can be chosen: those of the layer's own attention, or of that it is a part of."""
        heads: dict[str, set[int]] = {}
        for one in self.store.series(self.run.id):
            if one.key.head >= 0:
                heads.setdefault(one.key.module, set()).add(one.key.head)
        shown = related(module, list(heads))
        return [{"label": f"head {head}", "value": str(head)} for head in sorted(set().union(*(heads[name] for name in shown)))]

    def _signals(self, module: str) -> Updates:
        signals = measured(self.store, self.run, module)
        if not signals or signals == self._offered:
            return {}
        self._offered = signals
        picker: dict[str, Any] = {"options": [{"label": describe(name).title, "value": name} for name in signals]}
        if self._detail not in signals:
            self._detail = picker["value"] = usual_signal(self.store, self.run, module, signals)
        return {"detail": picker}
