"""Which live section stands where and what it depends on."""

from collections.abc import Callable
from functools import partial
from typing import Any

import dash
from dash import Input, State

from .desk import NewsDesk
from .live import Section, Showings, follow
from .pictures import Panel
from .source import StoreSource

LIVE_PAGES = (("overview", "order"), ("run-page", "run"))
"""Pages with live sections: id of the page (a ``main`` with ``data-live``, beside it a store ``ID-ticket``), and of the store that
says what it is about."""


def live_sections(app: dash.Dash, source: StoreSource, showings: Showings, desk: NewsDesk) -> None:
    """Register every live section of both pages."""
    run, module = Input("run", "data"), Input("module", "value")
    signal, compare = Input("signal", "value"), Input("compare", "value")

    head, step, panel = Input("head", "value"), Input("step", "value"), Input("panel", "data")

    def section(name: str, place: str, *inputs: Input | State, page: str = "run-page", painted: str = "") -> None:
        follow(app, showings, desk, name, *inputs, make=_maker(name, source), page=page, place=place, painted=painted)

    def of_panel(which: Panel, name: str, place: str, *inputs: Input | State) -> None:
        """Register a section that is live while its panel is open; its maker is not told of the panel."""

        def make(*values: Any) -> Section:
            return _maker(name, source)(*values[:-1])

        shown = partial(_is_open, which)
        follow(app, showings, desk, name, *inputs, panel, make=make, page="run-page", place=place, shown=shown)

    section("overview", "runs", Input("order", "data"), page="overview")
    section("head", "verdict", run, painted="run-page-painted")
    section("choices", "module", run, State("module", "value"), State("signal", "value"), State("compare", "value"))
    section("loss", "loss", run, Input("loss-scale", "value"))
    section("risk", "risk", run)
    section("heat_a", "heat-a", run, signal, module)
    section("heat_b", "heat-b", run, compare, module)
    section("layer_facts", "layer-facts", run, module, State("detail", "value"))
    section("outlook", "outlook", run)
    of_panel(Panel.LAYER, "distribution", "distribution", run, module)
    of_panel(Panel.LAYER, "layer_signal", "layer-signal", run, module, Input("detail", "value"))
    of_panel(Panel.LAYER, "layer_panel", "spectrum", run, module, head, step)
    of_panel(Panel.LAYER, "heads", "heads", run, module, head, step, Input("heads-sort", "data"))
    of_panel(Panel.ROUNDING, "rounding_panel", "delta-bias", run, module, head)
    of_panel(Panel.ATTENTION, "attention_panel", "logits", run, module, head)
    of_panel(Panel.OPTIMIZER, "gradient", "gradient", run)
    of_panel(Panel.OPTIMIZER, "optimizer_panel", "learning-rate", run, module, head)
    of_panel(Panel.MONITOR, "overhead", "overhead", run)


def _is_open(which: Panel, *values: Any) -> bool:
    return bool(values[-1] == which.value)


def _maker(name: str, source: StoreSource) -> Callable[..., Section]:
    def make(*values: Any) -> Section:
        from . import factory  # numpy and the figures come with the first page, not before the server listens

        section: Section = getattr(factory, name)(source(), *values)
        return section

    return make
