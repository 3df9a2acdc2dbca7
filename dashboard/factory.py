"""Make the live sections: a function per section, taking the store and the values of its inputs on the page."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ..analyzer.risk import SIGNAL
from ..storage.base import Store
from ..storage.records import Alert, Event, Run, Series
from ..storage.results import SeriesData
from . import pictures as panels
from .figures.gradient import gradient_figure
from .figures.layer_signal import layer_signal_figure
from .figures.loss import loss_figure
from .figures.overhead import overhead_figure
from .figures.risk import risk_figure
from .figures.style import Figure
from .layers import measured, usual_signal
from .paths import Order
from .reading import run_wide
from .sections.chart import Chart
from .sections.delta_bias import DeltaBias
from .sections.distribution import Distribution
from .sections.following import Marks
from .sections.head import Head
from .sections.heads import Heads
from .sections.heat import Heat
from .sections.layer import Choices, LayerFacts
from .sections.numbers import LayerNumbers
from .sections.outlook import OutlookWords
from .sections.overview import Overview
from .sections.panel import Panel
from .sections.picture import PictureChart
from .sections.spectrum import Spectrum
from .signals import FIRST_SIGNAL, SECOND_SIGNAL, describe


def overview(store: Store, order: Order) -> Overview:
    """Return the table of runs in the order that the page's address asks for."""
    return Overview(store, *order)


def head(store: Store, run_id: str) -> Head:
    """Return header, verdict, alerts and events of a run."""
    return Head(store, store.run(run_id))


def choices(store: Store, run_id: str, module: str | None, signal: str | None, compare: str | None) -> Choices:
    """Return the lists of layers and signals."""
    return Choices(store, store.run(run_id), module, signal, compare)


def loss(store: Store, run_id: str, scale: str) -> Chart:
    """Return the loss chart on a linear or logarithmic axis."""
    run = store.run(run_id)

    def draw(data: Sequence[SeriesData], alerts: Sequence[Alert], events: Sequence[Event]) -> Figure:
        return loss_figure(data[0] if data else None, alerts, events, log=scale == "log")

    return Chart(store, run, "loss", partial(run_wide, store, run_id, "loss"), draw, Marks(store, run))


def gradient(store: Store, run_id: str) -> Chart:
    """Return the gradient norm chart."""
    run = store.run(run_id)

    def draw(data: Sequence[SeriesData], alerts: Sequence[Alert], events: Sequence[Event]) -> Figure:
        named = {one.key.signal: one for one in data}
        return gradient_figure(named.get("gradient.norm"), alerts, events, clipped=named.get("gradient.norm_clipped"))

    def find() -> list[Series]:
        return run_wide(store, run_id, "gradient.norm") + run_wide(store, run_id, "gradient.norm_clipped")

    return Chart(store, run, "gradient", find, draw, Marks(store, run))


def overhead(store: Store, run_id: str) -> Chart:
    """Return the chart of what monitoring costs."""

    def draw(data: Sequence[SeriesData], alerts: Sequence[Alert], events: Sequence[Event]) -> Figure:
        return overhead_figure(data[0] if data else None)

    return Chart(store, store.run(run_id), "overhead", partial(run_wide, store, run_id, "monitor.overhead"), draw, None, scale=100)


def risk(store: Store, run_id: str) -> Chart:
    """Return the chart of the risk."""

    def draw(data: Sequence[SeriesData], alerts: Sequence[Alert], events: Sequence[Event]) -> Figure:
        return risk_figure(data[0] if data else None)

    return Chart(store, store.run(run_id), "risk", partial(run_wide, store, run_id, SIGNAL), draw, None)


def heat_a(store: Store, run_id: str, signal: str | None, module: str | None) -> Heat:
    """Return the first heatmap."""
    return Heat(store, store.run(run_id), "heat-a", signal or FIRST_SIGNAL, module or "")


def heat_b(store: Store, run_id: str, signal: str | None, module: str | None) -> Heat:
    """Return the second heatmap."""
    return Heat(store, store.run(run_id), "heat-b", signal or SECOND_SIGNAL, module or "")


def layer_facts(store: Store, run_id: str, module: str | None, detail: str | None) -> LayerFacts:
    """Return the newest values of the chosen layer, and the choice of its signals."""
    return LayerFacts(store, store.run(run_id), module, detail)


def distribution(store: Store, run_id: str, module: str | None) -> Distribution:
    """Return the distribution of spectral alignment of the chosen layer."""
    return Distribution(store, store.run(run_id), "distribution", module or "")


def layer_signal(store: Store, run_id: str, module: str | None, detail: str | None) -> Chart:
    """Return the chart of one signal of the chosen layer; of its usual one where it does not measure the one asked for."""
    run = store.run(run_id)
    signals = measured(store, run, module) if module else []
    # Before anything is measured, what the reader asked for may still come.
    info = describe(detail if detail and (not signals or detail in signals) else usual_signal(store, run, module or "", signals))

    def find() -> list[Series]:
        return store.series(run_id, signal=info.name, module=module) if module else []

    def draw(data: Sequence[SeriesData], alerts: Sequence[Alert], events: Sequence[Event]) -> Figure:
        return layer_signal_figure(data, info, module or "", alerts)

    return Chart(store, run, "layer-signal", find, draw, Marks(store, run, module))


def outlook(store: Store, run_id: str) -> OutlookWords:
    """Return the sentences of the run's outlook."""
    return OutlookWords(store, store.run(run_id))


def layer_panel(store: Store, run_id: str, module: str | None, head: int | None, step: int | None) -> Panel:
    """Return what the panel of the chosen layer shows besides the distribution, its signal and its heads."""
    run = store.run(run_id)
    parts = [Spectrum(store, run, module or "", step), LayerNumbers(store, run, module or "", step)]
    return Panel([*parts, *_pictures(store, run, panels.Panel.LAYER, module, head)])


def heads(
    store: Store, run_id: str, module: str | None, head: int | None, step: int | None, sort: Mapping[str, Any] | None
) -> Heads:
    """Return the table of the chosen layer's heads."""
    order = (str(sort["column"]), bool(sort["descending"])) if sort else None
    return Heads(store, store.run(run_id), module or "", step, order, head)


def rounding_panel(store: Store, run_id: str, module: str | None, head: int | None) -> Panel:
    """Return the charts of the rounding-bias panel."""
    run = store.run(run_id)
    return Panel([DeltaBias(store, run, module or "", head), *_pictures(store, run, panels.Panel.ROUNDING, module, head)])


def attention_panel(store: Store, run_id: str, module: str | None, head: int | None) -> Panel:
    """Return the charts of the low-rank attention panel."""
    return Panel(_pictures(store, store.run(run_id), panels.Panel.ATTENTION, module, head))


def optimizer_panel(store: Store, run_id: str, module: str | None, head: int | None) -> Panel:
    """Return the charts of the panel of optimizer and numerics, but for the gradient norm."""
    return Panel(_pictures(store, store.run(run_id), panels.Panel.OPTIMIZER, module, head))


def _pictures(store: Store, run: Run, which: panels.Panel, module: str | None, head: int | None) -> list[Chart]:
    return [PictureChart(store, run, picture, module or "", head) for picture in panels.pictures(which)]
