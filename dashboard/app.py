"""The dashboard as a Dash application on FastAPI."""

from pathlib import Path
from typing import Any

import dash
from dash import ALL, ClientsideFunction, Input, Output, State
from dash.backends._fastapi import FastAPIDashServer
from fastapi import FastAPI
from starlette.responses import JSONResponse

from .. import __version__
from ..storage.base import Store
from .asked import take_requests
from .decisions import decide
from .desk import NewsDesk
from .live import Showings, attend
from .pages.frame import frame
from .paths import KEPT
from .replaying import replays
from .report.route import serve_reports
from .router import route
from .rule_changes import change_rules
from .security import Guard, content_security_policy
from .source import StoreSource
from .table_files import serve_tables
from .wiring import LENS, LIVE_PAGES, fill_panels, live_sections

_INDEX = """<!DOCTYPE html>
<html lang="en">
    <head>
        {%metas%}
        <title>{%title%}</title>
        <link rel="icon" type="image/svg+xml" href="/assets/mark.svg">
        <script src="/assets/theme.js"></script>
        {%css%}
    </head>
    <body>
        {%app_entry%}
        <footer>
            {%config%}
            {%scripts%}
            {%renderer%}
        </footer>
    </body>
</html>"""


class _Backend(FastAPIDashServer):
    """Dash's FastAPI back end, without FastAPI's own pages of documentation: they load scripts from elsewhere."""

    @staticmethod
    def create_app(name: str = "foreshock", config: dict[str, Any] | None = None) -> FastAPI:
        """Return a bare application. (Handing Dash an application instead would make it import Flask to compare.)"""
        return FastAPI(title=name, version=__version__, openapi_url=None, docs_url=None, redoc_url=None)


def build_app(store: Store | StoreSource) -> dash.Dash:
    """Return the dashboard over a store. ``build_app(store).server`` is the ASGI application.

    It keeps nothing about its readers but the loops that push to open tabs, so that any number of readers and of server processes
    may use one store. The store stays the caller's, to be closed after the server has stopped.
    """
    source = StoreSource(store) if isinstance(store, Store) else store
    app = dash.Dash(
        __name__,
        backend=_Backend,
        # Resolved: a linked installation puts a link here, and links are not served.
        assets_folder=str(Path(__file__).resolve().parent / "assets"),
        assets_ignore=r"theme\.js",
        title="foreshock",
        update_title="",
        index_string=_INDEX,
        suppress_callback_exceptions=True,
        add_log_handler=False,
        enable_mcp=False,
        use_pages=False,
        websocket_inactivity_timeout=0,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
    )
    app.layout = frame()
    _health(app.server)
    serve_reports(app.server, source)
    route(app, source)
    decide(app, source)
    take_requests(app, source)
    _in_the_browser(app)
    showings = Showings()
    attend(app, showings)
    desk = NewsDesk(source)
    source.beside(desk.close)
    charts = live_sections(app, source, showings, desk)
    fill_panels(app)
    serve_tables(app.server, source, charts)
    change_rules(app, source)
    replays(app, source, showings)
    app.server.add_middleware(Guard, policy=lambda: content_security_policy(list(app.csp_hashes())))
    # Dash collects the assets with the first request of "/": too late for a reader who comes by a run's address.
    app._setup_server()  # type: ignore[no-untyped-call]
    return app


def _health(server: FastAPI) -> None:
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok", "version": __version__})

    server.add_api_route("/healthz", health, methods=["GET"])


def _in_the_browser(app: dash.Dash) -> None:
    """Register what the browser does by itself: count a tab's requests, say what it has drawn, permalink, clicked layer, title."""

    def clientside(name: str, *dependencies: Any, space: str = "foreshock", **more: Any) -> None:
        app.clientside_callback(  # type: ignore[no-untyped-call]
            ClientsideFunction(space, name), *dependencies, **more
        )

    would = {"kind": "rule-would", "rule": ALL}
    clientside("search", Input("rules-search", "value"), Input("rules-list", "children"), space="foreshock_rules")
    clientside("would", Output(would, "children"), Input("rules-replayed", "data"), State(would, "id"), space="foreshock_rules")
    clientside(
        "choose",
        Output("url", "search"),
        Input("rules-run-choice", "value"),
        State("rules-run", "data"),
        prevent_initial_call=True,
        space="foreshock_rules",
    )

    clientside("ticket", Output("left", "data"), Input("url", "pathname"))
    clientside("place", Input("url", "pathname"))
    for page, subject in LIVE_PAGES:
        clientside("ticket", Output(f"{page}-ticket", "data"), Input(subject, "data"))
    clientside("again", Input("bell", "data"), prevent_initial_call=True)
    clientside("title", Input("page-title", "data"))
    _of_alerts(app)
    _of_charts(app)
    _of_panels(app)
    clientside(
        "clicked",
        Output("module", "value"),
        Input("heat-a", "clickData"),
        Input("heat-b", "clickData"),
        State("heat-a", "figure"),
        State("heat-b", "figure"),
        prevent_initial_call=True,
    )
    clientside(
        "view",
        Output("runs-search", "data"),
        Input("run-search", "value"),
        Input("filter-state", "value"),
        Input("filter-alerts", "value"),
        Input("filter-project", "value"),
        Input("filter-tag", "value"),
        Input("group-runs", "value"),
        prevent_initial_call=True,
        space="foreshock_runs",
    )
    # With an output, or Dash would not call it for a page that comes later.
    clientside("table", Output("runs-drawn", "data"), Input("runs-table", "data"), space="foreshock_runs")
    clientside("changed", Input("runs-changed", "data"), space="foreshock_runs", prevent_initial_call=True)
    clientside(
        "permalink",
        Input("compare-signal", "value"),
        Input("compare-module", "value"),
        Input("compare-axis", "value"),
        Input("compare-scale", "value"),
        Input("compare-base", "value"),
        space="foreshock_compare",
        prevent_initial_call=True,
    )


def _of_alerts(app: dash.Dash) -> None:
    """Register what the inbox and the page of an alert do in the browser (``assets/alerts.js``)."""

    def clientside(name: str, *dependencies: Any, **more: Any) -> None:
        app.clientside_callback(  # type: ignore[no-untyped-call]
            ClientsideFunction("foreshock_alerts", name), *dependencies, **more
        )

    chosen = (Input(f"inbox-{part}", "value") for part in ("state", "severity", "run", "project", "rule", "cause", "text", "by"))
    clientside("sift", Output("sieve", "data"), *chosen, Input("inbox-place", "data"), prevent_initial_call=True)
    clientside("answered", Input("answered", "data"), prevent_initial_call=True)


def _of_charts(app: dash.Dash) -> None:
    """Register what a run's charts do in the browser (``assets/view.js``): one window for all, an address that holds the view."""

    def clientside(name: str, *dependencies: Any, **more: Any) -> None:
        app.clientside_callback(  # type: ignore[no-untyped-call]
            ClientsideFunction("foreshock_view", name), *dependencies, **more
        )

    # With an output, or Dash would not call it for a page that comes later.
    clientside("permalink", Output("copied", "children"), *(Input(part, kept) for part, kept in KEPT.items()))
    words = (Output("window-words", "children"), Output("window-reset", "hidden"))
    clientside("window", *words, Input("window", "data"))
    clientside("looking", *(Input(part, KEPT[part]) for part in LENS), prevent_initial_call=True)


def _of_panels(app: dash.Dash) -> None:
    """Register what the panels of a run's page do in the browser (``assets/panels.js``)."""

    def clientside(name: str, *dependencies: Any) -> None:
        app.clientside_callback(  # type: ignore[no-untyped-call]
            ClientsideFunction("foreshock_panels", name), *dependencies, prevent_initial_call=True
        )

    clientside("open", Input("panel", "data"))
    clientside("stepped", Output("step", "value"), Input("heat-a", "clickData"), Input("heat-b", "clickData"))
