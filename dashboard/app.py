"""The dashboard as a Dash application on FastAPI."""

from pathlib import Path
from typing import Any

import dash
from dash import ALL, ClientsideFunction, Input, Output, State
from dash.backends._fastapi import FastAPIDashServer
from fastapi import FastAPI

from .. import __version__
from ..storage.base import Store
from .access.door import Door
from .access.gate import Gate
from .access.throttle import Throttle
from .api.entry import ApiEntry
from .asked import take_requests
from .decisions import decide
from .desk import NewsDesk
from .live import Showings, attend
from .operations import Workings, operate
from .options import Options
from .pages.frame import frame
from .proxy import Forwarded
from .replaying import replays
from .report.route import serve_reports
from .router import route
from .rule_changes import change_rules
from .security import Guard, content_security_policy
from .source import StoreSource
from .wiring import LIVE_PAGES, live_sections

_INDEX = """<!DOCTYPE html>
<html lang="en">
    <head>
        {%metas%}
        <title>{%title%}</title>
        <meta name="foreshock-prefix" content="PREFIX">
        <link rel="icon" type="image/svg+xml" href="PREFIX/assets/mark.svg">
        <script src="PREFIX/assets/theme.js"></script>
        <script src="PREFIX/assets/address.js"></script>
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


def build_app(store: Store | StoreSource, options: Options | None = None) -> dash.Dash:
    """Return the dashboard over a store. ``build_app(store).server`` is the ASGI application; its ``state.workings`` can be told of
    the watchdog beside it.

    It keeps nothing about its readers but the loops that push to open tabs, what the store said of their sessions a moment ago, and
    how often an address failed to sign in, so that any number of readers and of server processes may use one store. The store stays
    the caller's, to be closed after the server has stopped.

    Args:
        options: How it is served; by default to this machine only, without a log-in.
    """
    source = StoreSource(store) if isinstance(store, Store) else store
    options = options or Options()
    app = dash.Dash(
        __name__,
        backend=_Backend,
        # Resolved: a linked installation puts a link here, and links are not served.
        assets_folder=str(Path(__file__).resolve().parent / "assets"),
        assets_ignore=r"(theme|address)\.js",  # in the page's head already, before all others
        title="foreshock",
        update_title="",
        index_string=_INDEX.replace("PREFIX", options.prefix),
        routes_pathname_prefix="/",
        requests_pathname_prefix=options.prefix + "/",
        suppress_callback_exceptions=True,
        add_log_handler=False,
        enable_mcp=False,
        use_pages=False,
        websocket_inactivity_timeout=0,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
    )
    app.layout = frame
    showings, throttle = Showings(), Throttle()
    app.server.state.workings = workings = Workings(showings, throttle)
    operate(app.server, source, options, workings)
    serve_reports(app.server, source)
    route(app, source)
    decide(app, source)
    take_requests(app, source)
    _in_the_browser(app)
    attend(app, showings)
    desk = NewsDesk(source)
    source.beside(desk.close)
    live_sections(app, source, showings, desk)
    change_rules(app, source)
    replays(app, source, showings)
    # The last one is the first that a request meets.
    app.server.add_middleware(ApiEntry, source=source, options=options)
    door = Door(source, options.session_length) if options.auth else None
    app.server.add_middleware(Gate, options=options, door=door, throttle=throttle)
    app.server.add_middleware(Guard, options=options, policy=lambda: content_security_policy(list(app.csp_hashes())))
    app.server.add_middleware(Forwarded, options=options)
    # Dash collects the assets with the first request of "/": too late for a reader who comes by a run's address.
    app._setup_server()  # type: ignore[no-untyped-call]
    return app


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
    clientside("drawn", Input("beat", "data"), prevent_initial_call=True)
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
    clientside(
        "permalink",
        Input("module", "value"),
        Input("signal", "value"),
        Input("compare", "value"),
        Input("detail", "value"),
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
