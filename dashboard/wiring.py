"""Which live section stands where and what it depends on."""

from collections.abc import Callable
from typing import Any

import dash
from dash import Input, State

from .desk import NewsDesk
from .live import Section, Showings, follow
from .source import StoreSource

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


def live_sections(app: dash.Dash, source: StoreSource, showings: Showings, desk: NewsDesk) -> None:
    """Register every live section of all pages."""
    run, module = Input("run", "data"), Input("module", "value")
    signal, compare = Input("signal", "value"), Input("compare", "value")

    def section(name: str, place: str, *inputs: Input | State, page: str = "run-page", painted: str = "") -> None:
        follow(app, showings, desk, name, *inputs, make=_maker(name, source), page=page, place=place, painted=painted)

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
    section("loss", "loss", run, Input("loss-scale", "value"))
    section("risk", "risk", run)
    section("heat_a", "heat-a", run, signal, module)
    section("heat_b", "heat-b", run, compare, module)
    section("layer_facts", "layer-facts", run, module, State("detail", "value"))
    section("distribution", "distribution", run, module)
    section("layer_signal", "layer-signal", run, module, Input("detail", "value"))
    section("gradient", "gradient", run)
    section("overhead", "overhead", run)
    section("rules_list", "rules-list", Input("rules-run", "data"), page="rules-page")
    section("rule_state", "rule-history", Input("rule-of", "data"), Input("rule-seen", "data"), page="rule-page")
    section("inbox", "inbox-list", Input("sieve", "data"), page="inbox", painted="inbox-painted")
    section("offers", "inbox-rule", Input("sieve", "data"), page="inbox")
    alert = Input("alert-id", "data")
    section("dossier", "alert-history", alert, page="alert-page", painted="alert-page-painted")
    section("around", "around-loss", alert, page="alert-page")
    _compare(section)


def _maker(name: str, source: StoreSource, *more: Any) -> Callable[..., Section]:
    def make(*values: Any) -> Section:
        from . import factory  # numpy and the figures come with the first page, not before the server listens

        section: Section = getattr(factory, name)(source(), *values, *more)
        return section

    return make


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
