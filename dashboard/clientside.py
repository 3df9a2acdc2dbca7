"""What the browser does by itself, in functions of ``assets/*.js``: which components call them, page by page."""

from typing import Any

import dash
from dash import ALL, ClientsideFunction, Input, Output, State

from .paths import KEPT
from .wiring import LENS, LIVE_PAGES


def in_the_browser(app: dash.Dash) -> None:
    """Register the callbacks of every page."""
    _every_page(app)
    _list_of_runs(app)
    _run_page(app)
    _compare_page(app)
    _alerts(app)
    _rules_page(app)


def _clientside(app: dash.Dash, name: str, *dependencies: Any, space: str = "foreshock", **more: Any) -> None:
    app.clientside_callback(ClientsideFunction(space, name), *dependencies, **more)  # type: ignore[no-untyped-call]


def _every_page(app: dash.Dash) -> None:
    """Count a tab's requests, mark where it is, set the title."""
    _clientside(app, "ticket", Output("left", "data"), Input("url", "pathname"))
    _clientside(app, "place", Input("url", "pathname"))
    for page, subject in LIVE_PAGES:
        _clientside(app, "ticket", Output(f"{page}-ticket", "data"), Input(subject, "data"))
    _clientside(app, "again", Input("bell", "data"), prevent_initial_call=True)
    _clientside(app, "title", Input("page-title", "data"))


def _list_of_runs(app: dash.Dash) -> None:
    """Keep the view in the address; build and change rows."""
    chosen = [Input(f"filter-{name}", "value") for name in ("state", "alerts", "project", "tag")]
    _clientside(
        app,
        "view",
        Output("runs-search", "data"),
        Input("run-search-text", "data"),
        *chosen,
        Input("group-runs", "value"),
        prevent_initial_call=True,
        space="foreshock_runs",
    )
    # With an output, or Dash would not call it for a page that comes later.
    _clientside(app, "table", Output("runs-drawn", "data"), Input("runs-table", "data"), space="foreshock_runs")
    _clientside(app, "changed", Input("runs-changed", "data"), space="foreshock_runs", prevent_initial_call=True)


def _run_page(app: dash.Dash) -> None:
    """Keep the view in the address; open what is clicked in a heatmap; zoom all charts together; switch panels."""
    heatmaps = ("heat-a", "heat-b")
    clicks = [Input(name, "clickData") for name in heatmaps]
    figures = [State(name, "figure") for name in heatmaps]
    _clientside(app, "clicked", Output("module", "value"), *clicks, *figures, prevent_initial_call=True)
    # With an output, or Dash would not call it for a page that comes later.
    kept = [Input(part, of) for part, of in KEPT.items()]
    _clientside(app, "permalink", Output("copied", "children"), *kept, space="foreshock_view")
    _clientside(
        app,
        "window",
        Output("window-words", "children"),
        Output("window-reset", "hidden"),
        Input("window", "data"),
        space="foreshock_view",
    )
    looks = [Input(part, KEPT[part]) for part in LENS]
    _clientside(app, "looking", *looks, space="foreshock_view", prevent_initial_call=True)
    _clientside(app, "open", Input("panel", "data"), prevent_initial_call=True, space="foreshock_panels")
    _clientside(app, "stepped", Output("step", "value"), *clicks, prevent_initial_call=True, space="foreshock_panels")


def _compare_page(app: dash.Dash) -> None:
    """Keep the comparison in the address."""
    kept = [Input(f"compare-{name}", "value") for name in ("signal", "module", "axis", "scale", "base")]
    _clientside(app, "permalink", *kept, space="foreshock_compare", prevent_initial_call=True)


def _alerts(app: dash.Dash) -> None:
    """Say that a decision was answered."""
    _clientside(app, "answered", Input("answered", "data"), space="foreshock_alerts", prevent_initial_call=True)


def _rules_page(app: dash.Dash) -> None:
    """Search the list, say what a replay found, choose a run."""
    would = {"kind": "rule-would", "rule": ALL}
    space = "foreshock_rules"
    _clientside(app, "search", Input("rules-search", "value"), Input("rules-list", "children"), space=space)
    _clientside(app, "would", Output(would, "children"), Input("rules-replayed", "data"), State(would, "id"), space=space)
    choice, run = Input("rules-run-choice", "value"), State("rules-run", "data")
    _clientside(app, "choose", Output("url", "search"), choice, run, prevent_initial_call=True, space=space)
