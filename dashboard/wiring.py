"""Which live section stands where and what it depends on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dash
from dash import Input, State

from .desk import NewsDesk
from .live import Section, Showings, follow
from .paths import KEPT
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
    """A section that draws something over steps: the name of its factory, and the ids of the components that it depends on."""

    name: str
    inputs: Sequence[str]


def live_sections(app: dash.Dash, source: StoreSource, showings: Showings, desk: NewsDesk) -> Mapping[str, Charted]:
    """Register every live section of all pages; return those that draw something over steps, by the id of their graph."""
    charts: dict[str, Charted] = {}
    run, module = Input("run", "data"), Input("module", "value")
    signal, compare = Input("signal", "value"), Input("compare", "value")

    def section(name: str, place: str, *inputs: Input | State, page: str = "run-page", painted: str = "") -> None:
        follow(app, showings, desk, name, *inputs, make=_maker(name, source), page=page, place=place, painted=painted)

    def chart(name: str, graph: str, *inputs: Input | State, heavy: bool = False, painted: str = "") -> None:
        """Register a section of the run's page whose graph is over steps: it is zoomed, smoothed and scaled with all others."""
        charts[graph] = Charted(name, [str(one.component_id) for one in inputs])
        lens = [State(part, KEPT[part]) for part in LENS]
        about: dict[str, Any] = {"page": "run-page", "place": graph, "painted": painted, "lens": lens, "heavy": heavy}
        follow(app, showings, desk, name, *inputs, make=_maker(name, source), **about)

    follow(
        app,
        showings,
        desk,
        "overview",
        Input("runs-search", "data"),
        make=_maker("overview", source, desk.backlog),
        page="overview",
        place="runs",
        painted="overview-painted",
    )
    section("head", "verdict", run, painted="run-page-painted")
    section("choices", "module", run, State("module", "value"), State("signal", "value"), State("compare", "value"))
    chart("loss", "loss", run, painted="loss-painted")
    chart("risk", "risk", run)
    chart("heat_a", "heat-a", run, signal, module, heavy=True)
    chart("heat_b", "heat-b", run, compare, module, heavy=True)
    section("layer_facts", "layer-facts", run, module, State("detail", "value"))
    chart("distribution", "distribution", run, module, heavy=True)
    chart("layer_signal", "layer-signal", run, module, Input("detail", "value"))
    chart("gradient", "gradient", run)
    chart("overhead", "overhead", run)
    section("rules_list", "rules-list", Input("rules-run", "data"), page="rules-page")
    section("rule_state", "rule-history", Input("rule-of", "data"), Input("rule-seen", "data"), page="rule-page")
    section("inbox", "inbox-list", Input("sieve", "data"), page="inbox", painted="inbox-painted")
    section("offers", "inbox-rule", Input("sieve", "data"), page="inbox")
    alert = Input("alert-id", "data")
    section("dossier", "alert-history", alert, page="alert-page", painted="alert-page-painted")
    section("around", "around-loss", alert, page="alert-page")
    _compare(section)
    return charts


def section_of(name: str, store: "Store", values: Sequence[Any]) -> "RunSection":
    """Return a section by the name of its factory, made of the values of its inputs."""
    from . import factory  # numpy and the figures come with the first page, not before the server listens

    section: RunSection = getattr(factory, name)(store, *values)
    return section


def _maker(name: str, source: StoreSource, *more: Any) -> Callable[..., Section]:
    return lambda *values: section_of(name, source(), (*values, *more))


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
