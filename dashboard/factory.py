"""Make the live sections: a function per section, taking the store and the values of its inputs on the page."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ..analyzer.risk import SIGNAL
from ..storage.base import Store
from ..storage.records import Alert, Event, Run, Series
from ..storage.results import News, SeriesData
from .comparing import read_signal
from .figures.comparison import HEIGHT, LOW, Drawn, overlay_figure
from .figures.gradient import gradient_figure
from .figures.layer_signal import layer_signal_figure
from .figures.loss import loss_figure
from .figures.overhead import overhead_figure
from .figures.risk import risk_figure
from .figures.style import Figure, empty, text
from .layers import measured, usual_signal
from .paths import runs_view_of, whole
from .pictures import PICTURES, Panel, pictures
from .reading import run_wide
from .roster import roster_of
from .sections.around import Around
from .sections.bell import Belled
from .sections.chart import Chart
from .sections.compare import CompareChoices, CompareTable, Overlay
from .sections.delta_bias import DeltaBias
from .sections.distribution import Distribution
from .sections.dossier import Dossier
from .sections.following import Marks, RunSection
from .sections.head import Head
from .sections.heads import Heads
from .sections.heat import Heat
from .sections.inbox import Inbox
from .sections.layer import Choices, LayerFacts
from .sections.numbers import LayerNumbers
from .sections.offers import Offers
from .sections.outlook import OutlookWords
from .sections.overview import Overview
from .sections.parts import Parts
from .sections.picture import PictureChart
from .sections.rule import RuleState
from .sections.rules import RulesList
from .sections.spectrum import Spectrum
from .sieve import sieve_of
from .signals import FIRST_SIGNAL, SECOND_SIGNAL, describe


def overview(store: Store, search: str | None, heard: Callable[[], News] | None = None) -> Belled:
    """Return the list of runs as the query of the page's address asks for it.

    Args:
        heard: Tells the list of all runs what was written; without it the list compares all of them at each look.
    """
    if heard is not None:
        roster_of(store).follow(heard)
    return Belled(store, Overview(store, runs_view_of(search)))


def inbox(store: Store, sieve: Mapping[str, Any] | None) -> Belled:
    """Return the inbox; ``sieve`` as its page keeps it."""
    return Belled(store, Inbox(store, sieve_of(sieve)))


def offers(store: Store, sieve: Mapping[str, Any] | None) -> Offers:
    """Return what the lists of the inbox offer."""
    return Offers(store, sieve_of(sieve))


def dossier(store: Store, alert_id: str) -> Belled:
    """Return the words and the evidence of an alert's page."""
    return Belled(store, Dossier(store, alert_id))


def around(store: Store, alert_id: str) -> Around:
    """Return loss and risk around an alert's first step."""
    return Around(store, store.alert(alert_id))


def head(store: Store, run_id: str) -> Belled:
    """Return header, verdict, alerts and events of a run."""
    return Belled(store, Head(store, store.run(run_id)))


def choices(store: Store, run_id: str, module: str | None, signal: str | None, compare: str | None) -> Choices:
    """Return the lists of layers and signals."""
    return Choices(store, store.run(run_id), module, signal, compare)


def loss(store: Store, run_id: str) -> Chart:
    """Return the loss chart."""
    run = store.run(run_id)

    def draw(data: Sequence[SeriesData], alerts: Sequence[Alert], events: Sequence[Event]) -> Figure:
        return loss_figure(data[0] if data else None, alerts, events)

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

    # Told where it changes: smoothed it would say what nobody judged.
    return Chart(store, store.run(run_id), "risk", partial(run_wide, store, run_id, SIGNAL), draw, None, plain=False)


def heat_a(store: Store, run_id: str, signal: str | None, module: str | None) -> Heat:
    """Return the first heatmap."""
    return Heat(store, store.run(run_id), "heat-a", signal or FIRST_SIGNAL, module or "")


def heat_b(store: Store, run_id: str, signal: str | None, module: str | None) -> Heat:
    """Return the second heatmap."""
    return Heat(store, store.run(run_id), "heat-b", signal or SECOND_SIGNAL, module or "")


def layer_facts(store: Store, run_id: str, module: str | None, step: str | None, detail: str | None) -> LayerFacts:
    """Return the values of the chosen layer at the chosen step, else the newest, and the choice of its signals."""
    return LayerFacts(store, store.run(run_id), module, whole(step), detail)


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


def rules_list(store: Store, run_id: str) -> Belled:
    """Return the list of rules, as a run is judged by them where one is named."""
    return Belled(store, RulesList(store, run_id))


def rule_state(store: Store, subject: Mapping[str, str], seen: Mapping[str, int] | None) -> Belled:
    """Return what is in force of one rule, its history, and what it fired on."""
    return Belled(store, RuleState(store, subject["rule"], subject["run"], seen))


def compare_table(store: Store, run_ids: Sequence[str], baseline: str | None) -> Belled:
    """Return what a comparison of runs says in words."""
    return Belled(store, CompareTable(store, run_ids, baseline or ""))


def compare_choices(store: Store, run_ids: Sequence[str], signal: str | None, module: str | None) -> CompareChoices:
    """Return the signals and layers that can be laid over each other."""
    return CompareChoices(store, run_ids, signal or "", module or "")


def compare_loss(store: Store, run_ids: Sequence[str], over: str, scale: str) -> Overlay:
    """Return the losses of several runs over one axis."""

    def draw(drawn: Sequence[Drawn]) -> Figure:
        return overlay_figure(drawn, "loss (log scale)" if scale == "log" else "loss", over=over, log=scale == "log")

    return Overlay(store, run_ids, "compare-loss", partial(_loss_of, store), over, draw)


def compare_difference(store: Store, run_ids: Sequence[str], over: str, baseline: str | None) -> Overlay:
    """Return the losses of several runs minus that of one of them."""

    def draw(drawn: Sequence[Drawn]) -> Figure:
        if not baseline:
            return empty("Choose a baseline above.", height=LOW)
        return overlay_figure(drawn, "loss − baseline", over=over, height=LOW, zero=True)

    return Overlay(store, run_ids if baseline else (), "compare-difference", partial(_loss_of, store), over, draw, baseline or "")


def compare_overlay(store: Store, run_ids: Sequence[str], signal: str | None, module: str | None, over: str, scale: str) -> Overlay:
    """Return any signal of several runs, or of one layer of them, over one axis."""
    info = describe(signal or "")

    def draw(drawn: Sequence[Drawn]) -> Figure:
        if not signal:
            return empty("Choose a signal above.", height=HEIGHT)
        return overlay_figure(drawn, text(info.axis_title), over=over, log=scale == "log")

    def read(run: Run, points: int) -> SeriesData | None:
        return read_signal(store, run.id, info, module or "", points)

    return Overlay(store, run_ids if signal else (), "compare-overlay", read, over, draw)


def _loss_of(store: Store, run: Run, points: int) -> SeriesData | None:
    return read_signal(store, run.id, describe("loss"), "", points)


def outlook(store: Store, run_id: str) -> OutlookWords:
    """Return the sentences of the run's outlook."""
    return OutlookWords(store, store.run(run_id))


def picture(store: Store, name: str, run_id: str, module: str | None, head: str | None) -> PictureChart:
    """Return one picture of a panel. ``name`` is its graph's."""
    which = next(one for one in PICTURES if one.name == name)
    return PictureChart(store, store.run(run_id), which, module or "", whole(head))


def spectrum(store: Store, run_id: str, module: str | None, step: str | None) -> Spectrum:
    """Return the spectrum of the chosen layer's weight, over time and at the chosen step."""
    return Spectrum(store, store.run(run_id), module or "", whole(step))


def layer_panel(
    store: Store, run_id: str, module: str | None, head: str | None, step: str | None, sort: Mapping[str, Any] | None
) -> Parts:
    """Return what the panel of the chosen layer shows, but for the signal that is chosen there."""
    run, layer, at = store.run(run_id), module or "", whole(step)
    order = (str(sort["column"]), bool(sort["descending"])) if sort else None
    return Parts(
        {
            "distribution": Distribution(store, run, "distribution", layer),
            "spectrum": Spectrum(store, run, layer, at),
            **_pictures(store, run, Panel.LAYER, module, head),
            "heads": Heads(store, run, layer, at, order, whole(head)),
            "layer-numbers": LayerNumbers(store, run, layer, at),
        }
    )


def delta_bias(store: Store, run_id: str, module: str | None, head: str | None) -> DeltaBias:
    """Return the bias of attention's correction term with its band."""
    return DeltaBias(store, store.run(run_id), module or "", whole(head))


def rounding_panel(store: Store, run_id: str, module: str | None, head: str | None) -> Parts:
    """Return the charts of the rounding-bias panel."""
    bias = delta_bias(store, run_id, module, head)
    return Parts({"delta-bias": bias, **_pictures(store, bias.run, Panel.ROUNDING, module, head)})


def attention_panel(store: Store, run_id: str, module: str | None, head: str | None) -> Parts:
    """Return the charts of the low-rank attention panel."""
    return Parts(_pictures(store, store.run(run_id), Panel.ATTENTION, module, head))


def optimizer_panel(store: Store, run_id: str, module: str | None, head: str | None) -> Parts:
    """Return the charts of the panel of optimizer and numerics."""
    norm = gradient(store, run_id)
    return Parts({"gradient": norm, **_pictures(store, norm.run, Panel.OPTIMIZER, module, head)})


def _pictures(store: Store, run: Run, panel: Panel, module: str | None, head: str | None) -> dict[str, RunSection]:
    return {one.name: PictureChart(store, run, one, module or "", whole(head)) for one in pictures(panel)}
