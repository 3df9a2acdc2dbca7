"""Which live section stands where and what it depends on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import dash
from dash import Input, Output, State
from dash.exceptions import PreventUpdate

from .desk import NewsDesk
from .live import Section, follow
from .paths import KEPT
from .pictures import LATER, Panel, pictures
from .showings import Showings
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

    def section(name: str, place: str, *inputs: Input | State, page: str = "run-page", **about: Any) -> None:
        follow(app, showings, desk, name, *inputs, make=_maker(name, source), page=page, place=place, **about)

    lens = [State(part, KEPT[part]) for part in LENS]

    def chart(name: str, graph: str, *inputs: Input | State, panel: Panel | None = None, **about: Any) -> None:
        """Register a section of the run's page whose graph is over steps: it is zoomed, smoothed and scaled with all others.

        Args:
            panel: where it stands in one. It is live while that is open.
            about: more for ``follow``.
        """
        charts[graph] = Charted(name, [str(one.component_id) for one in inputs])
        if panel is not None:
            in_panel(panel, name, graph, *inputs, heavy=False)
            return
        follow(app, showings, desk, name, *inputs, make=_maker(name, source), page="run-page", place=graph, lens=lens, **about)

    def in_panel(panel: Panel, name: str, place: str, *inputs: Input | State, heavy: bool = True) -> None:
        """Register a section that is live while its panel is open; its factory is not told of the panel."""
        within, shown = partial(_without_last, _maker(name, source)), partial(_is_open, panel)
        about: dict[str, Any] = {"page": "run-page", "place": place, "lens": lens, "heavy": heavy, "shown": shown}
        follow(app, showings, desk, name, *inputs, Input("opened", "data"), make=within, **about)

    def charts_of(panel: Panel, place: str, *inputs: Input | State, also: Sequence[Charted] = ()) -> None:
        """Register a panel as one section: all its pictures, and ``also`` those that have factories of their own, named as them."""
        charts.update({one.name.replace("_", "-"): one for one in also})
        charts.update({one.name: Charted("picture", ["run", "module", "head"], told=[one.name]) for one in pictures(panel)})
        in_panel(panel, f"{panel.value}_panel", place, *inputs)

    overview = _maker("overview", source, desk.backlog)
    view, painted = Input("runs-search", "data"), "overview-painted"
    follow(app, showings, desk, "overview", view, make=overview, page="overview", place="runs", painted=painted, quick=True)
    section("head", "verdict", run, painted="run-page-painted", quick=True)
    section("outlook", "outlook", run)
    section("choices", "module", run, State("module", "value"), State("signal", "value"), State("compare", "value"))
    chart("loss", "loss", run, painted="loss-painted", quick=True)
    chart("risk", "risk", run)
    chart("heat_a", "heat-a", run, signal, module, heavy=True)
    chart("heat_b", "heat-b", run, compare, module, heavy=True)
    section("layer_facts", "layer-facts", run, module, step, State("detail", "value"))
    # Dash's browser side lets twelve callbacks go on at a time, and a live section is one that does not end: those above and those
    # of one panel must leave room for what the reader does.
    chart("layer_signal", "layer-signal", run, module, Input("detail", "value"), panel=Panel.LAYER)
    of_layer = [Charted("distribution", ["run", "module"]), Charted("spectrum", ["run", "module", "step"])]
    charts_of(Panel.LAYER, "distribution", run, module, head, step, Input("heads-sort", "data"), also=of_layer)
    charts_of(Panel.ROUNDING, "delta-bias", run, module, head, also=[Charted("delta_bias", ["run", "module", "head"])])
    charts_of(Panel.ATTENTION, "logits", run, module, head)
    charts_of(Panel.OPTIMIZER, "gradient", run, module, head, also=[Charted("gradient", ["run"])])
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
    section("inbox", "inbox-list", Input("sieve", "data"), page="inbox", painted="inbox-painted", quick=True)
    section("offers", "inbox-rule", Input("sieve", "data"), page="inbox")
    alert = Input("alert-id", "data")
    section("dossier", "alert-history", alert, page="alert-page", painted="alert-page-painted")
    section("around", "around-loss", alert, page="alert-page")


def _rules(section: Callable[..., None]) -> None:
    """Register the live sections of the list of rules and of a rule's page."""
    section("rules_list", "rules-list", Input("rules-run", "data"), page="rules-page")
    section("rule_state", "rule-history", Input("rule-of", "data"), Input("rule-seen", "data"), page="rule-page")


def fill_panels(app: dash.Dash) -> None:
    """Register what fills a panel when it is first opened. ``assets/panels.js`` says when it is there, and its sections begin."""
    lazy = [f"panel-{panel.value}" for panel in LATER]
    outputs, states = ([kind(place, "children") for place in lazy] for kind in (Output, State))

    @app.callback(*outputs, Input("panel", "data"), *states, prevent_initial_call=True)
    def fill(chosen: str, *children: Any) -> list[Any]:
        from .pages.panels import contents

        wanted = [panel.value == chosen and not there for panel, there in zip(LATER, children, strict=True)]
        if not any(wanted):
            raise PreventUpdate
        return [contents(panel) if now else dash.no_update for panel, now in zip(LATER, wanted, strict=True)]


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
    return lambda *values: section_of(name, source.live(), [*values, *more])
