"""Which live section stands where and what it depends on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import dash
from dash import Input, State

from .desk import NewsDesk
from .live import Section, Showings, follow
from .paths import KEPT
from .pictures import Panel, pictures
from .source import StoreSource

if TYPE_CHECKING:
    from ..storage.base import Store
    from .sections.following import RunSection

LIVE_PAGES = (
    ("overview", "runs-search"),
    ("run-page", "run"),
    ("compare-page", "compared"),
    ("inbox", "sieve"),
    ("alert-page", "alert-id"),
    ("rules-page", "rules-run"),
    ("rule-page", "rule-of"),
)
"""Pages with live sections: id of the page (a ``main`` with ``data-live``, beside it a store ``ID-ticket``), and of the store that
says what it is about."""

LENS = ("window", "smoothing", "scales")
"""The parts of the view that say how the reader looks at all charts over steps: which of them, how smooth, on which scales."""


@dataclass(frozen=True, slots=True)
class Charted:
    """A section that draws something over steps: the name of its factory, and the ids of the components that it depends on.

    Args:
        told: What the factory is told before their values: which of several pictures is meant.
    """

    name: str
    inputs: Sequence[str]
    told: Sequence[str] = ()


def live_sections(app: dash.Dash, source: StoreSource, showings: Showings, desk: NewsDesk) -> Mapping[str, Charted]:
    """Register every live section of all pages; return those that draw something over steps, by the id of their graph."""
    charts: dict[str, Charted] = {}
    run, module = Input("run", "data"), Input("module", "value")
    signal, compare = Input("signal", "value"), Input("compare", "value")
    head, step = Input("head", "value"), Input("step", "value")

    def section(name: str, place: str, *inputs: Input | State, page: str = "run-page", painted: str = "") -> None:
        follow(app, showings, desk, name, *inputs, make=_maker(name, source), page=page, place=place, painted=painted)

    lens = [State(part, KEPT[part]) for part in LENS]

    def chart(name: str, graph: str, *inputs: Input | State, heavy: bool = False, panel: Panel | None = None) -> None:
        """Register a section of the run's page whose graph is over steps: it is zoomed, smoothed and scaled with all others.

        Args:
            panel: where it stands in one. It is live while that is open.
        """
        charts[graph] = Charted(name, [str(one.component_id) for one in inputs])
        if panel is not None:
            in_panel(panel, name, graph, *inputs, looks=lens, heavy=heavy)
            return
        make = _maker(name, source)
        follow(app, showings, desk, name, *inputs, make=make, page="run-page", place=graph, lens=lens, heavy=heavy)

    def in_panel(
        panel: Panel, name: str, place: str, *inputs: Input | State, looks: Sequence[State] = (), heavy: bool = False
    ) -> None:
        """Register a section that is live while its panel is open; its factory is not told of the panel."""
        make, shown = _maker(name, source), partial(_is_open, panel)
        within = partial(_without_last, make)
        inputs = (*inputs, Input("panel", "data"))
        where = {"page": "run-page", "place": place}
        follow(app, showings, desk, name, *inputs, make=within, **where, lens=looks, heavy=heavy, shown=shown)

    def charts_of(panel: Panel, name: str, place: str, *inputs: Input | State) -> None:
        """Register all pictures of a panel, and what else its factory makes, as one section."""
        for picture in pictures(panel):
            charts[picture.name] = Charted("picture", ["run", "module", "head"], told=[picture.name])
        in_panel(panel, name, place, *inputs, looks=lens, heavy=True)

    overview = _maker("overview", source, desk.backlog)
    view, painted = Input("runs-search", "data"), "overview-painted"
    follow(app, showings, desk, "overview", view, make=overview, page="overview", place="runs", painted=painted)
    section("head", "verdict", run, painted="run-page-painted")
    section("outlook", "outlook", run)
    section("choices", "module", run, State("module", "value"), State("signal", "value"), State("compare", "value"))
    chart("loss", "loss", run)
    chart("risk", "risk", run)
    chart("heat_a", "heat-a", run, signal, module, heavy=True)
    chart("heat_b", "heat-b", run, compare, module, heavy=True)
    section("layer_facts", "layer-facts", run, module, State("detail", "value"))
    chart("distribution", "distribution", run, module, heavy=True, panel=Panel.LAYER)
    chart("layer_signal", "layer-signal", run, module, Input("detail", "value"), panel=Panel.LAYER)
    chart("spectrum", "spectrum", run, module, step, heavy=True, panel=Panel.LAYER)
    charts_of(Panel.LAYER, "layer_panel", "layer-numbers", run, module, head, step)
    in_panel(Panel.LAYER, "heads", "heads", run, module, head, step, Input("heads-sort", "data"))
    chart("delta_bias", "delta-bias", run, module, head, panel=Panel.ROUNDING)
    charts_of(Panel.ROUNDING, "rounding_panel", "coherence", run, module, head)
    charts_of(Panel.ATTENTION, "attention_panel", "logits", run, module, head)
    chart("gradient", "gradient", run, panel=Panel.OPTIMIZER)
    charts_of(Panel.OPTIMIZER, "optimizer_panel", "learning-rate", run, module, head)
    chart("overhead", "overhead", run, panel=Panel.MONITOR)
    _compare(section)
    _alerts(section)
    _rules(section)
    return charts


def _compare(section: Callable[..., None]) -> None:
    """Register the live sections of the page that compares runs."""
    page, runs = "compare-page", Input("compared", "data")
    signal, module, base = Input("compare-signal", "value"), Input("compare-module", "value"), Input("compare-base", "value")
    over, scale = Input("compare-axis", "value"), Input("compare-scale", "value")
    section("compare_table", "compare-table", runs, base, page=page, painted="compare-page-painted")
    section("compare_choices", "compare-module", runs, signal, State("compare-module", "value"), page=page)
    section("compare_loss", "compare-loss", runs, over, scale, page=page)
    section("compare_difference", "compare-difference", runs, over, base, page=page)
    section("compare_overlay", "compare-overlay", runs, signal, module, over, scale, page=page)


def _alerts(section: Callable[..., None]) -> None:
    """Register the live sections of the inbox and of an alert's page."""
    section("inbox", "inbox-list", Input("sieve", "data"), page="inbox", painted="inbox-painted")
    section("offers", "inbox-rule", Input("sieve", "data"), page="inbox")
    alert = Input("alert-id", "data")
    section("dossier", "alert-history", alert, page="alert-page", painted="alert-page-painted")
    section("around", "around-loss", alert, page="alert-page")


def _rules(section: Callable[..., None]) -> None:
    """Register the live sections of the list of rules and of a rule's page."""
    section("rules_list", "rules-list", Input("rules-run", "data"), page="rules-page")
    section("rule_state", "rule-history", Input("rule-of", "data"), Input("rule-seen", "data"), page="rule-page")


def _is_open(panel: Panel, *values: Any) -> bool:
    return bool(values[-1] == panel.value)


def _without_last(make: Callable[..., Section], *values: Any) -> Section:
    return make(*values[:-1])


def section_of(name: str, store: "Store", values: Sequence[Any]) -> "RunSection":
    """Return a section by the name of its factory, made of the values of its inputs."""
    from . import factory  # numpy and the figures come with the first page, not before the server listens

    section: RunSection = getattr(factory, name)(store, *values)
    return section


def _maker(name: str, source: StoreSource, *more: Any) -> Callable[..., Section]:
    return lambda *values: section_of(name, source(), [*values, *more])
