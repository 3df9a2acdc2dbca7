"""The choice of layer and signals, and the values of the chosen layer."""

from collections.abc import Iterator
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
from .paced import PacedSection

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


class LayerFacts(PacedSection):
    """The values of the chosen layer (of several heads the most troubling one), and the signals to look at it by.

    Args:
        step: The last samples up to it are shown; the newest where None.
    """

    def __init__(self, store: Store, run: Run, module: str | None, step: int | None, detail: str | None) -> None:
        super().__init__(store, run)
        self._module, self._step, self._detail = module, step, detail
        self._offered: list[str] = []

    def alike(self) -> tuple[str | None, int | None]:
        """Return the layer and the step."""
        return self._module, self._step

    def paint(self) -> Updates:
        """Return the values and the signals."""
        made = super().paint()
        return {**made, **self._signals(self._module)} if self._module else made

    def make(self) -> Updates:
        """Return the values, and the heads."""
        if not self._module:
            return {"layer-facts": {"children": html.P("Layers appear with the first sampled step.", className="quiet")}}
        found: dict[str, list[float]] = {}
        for signal, value in self._values(self._module):
            found.setdefault(signal, []).append(value)
        worst = {name: max(values, key=CATALOGUE[name].trouble.order) for name, values in found.items()}
        facts = [fact(describe(name).title, number(worst[name])) for name in offered(set(worst))[:_FACTS]]
        moment = "The newest values." if self._step is None else f"The last values up to step {self._step:,}."
        return {
            "layer-facts": {"children": [html.Dl(facts, className="facts"), html.P(moment, className="quiet")]},
            "head": {"options": self._heads(self._module)},
        }

    def _values(self, module: str) -> Iterator[tuple[str, float]]:
        series = [one for one in self.store.series(self.run.id, module=module) if one.key.signal in CATALOGUE]
        if self._step is None:
            newest = self.store.newest([self.run.id], [one.key for one in series]).get(self.run.id, {})
            yield from ((key.signal, value) for key, value in newest.items())
            return
        for data in self.store.read(series, stop=self._step + 1, max_points=20):
            if len(data.values):
                yield data.key.signal, float(data.values[-1])

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
