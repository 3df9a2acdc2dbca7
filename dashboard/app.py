"""The dashboard as a Dash application on FastAPI."""

from pathlib import Path
from typing import Any

import dash
from dash.backends._fastapi import FastAPIDashServer
from fastapi import FastAPI

from .. import __version__
from ..storage.base import Store
from .access.door import Door
from .access.gate import Gate
from .access.throttle import Throttle
from .api.entry import ApiEntry
from .asked import take_requests
from .clientside import in_the_browser
from .decisions import decide
from .desk import NewsDesk
from .live import attend
from .operations import Workings, operate
from .options import Options
from .pages.frame import frame
from .plotly_js import serve_plotly
from .proxy import Forwarded
from .replaying import replays
from .report.route import serve_reports
from .router import route
from .rule_changes import change_rules
from .security import Guard, content_security_policy
from .showings import Showings
from .source import StoreSource
from .table_files import serve_tables
from .wiring import fill_panels, live_sections

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
    serve_plotly(app.server)
    serve_reports(app.server, source)
    route(app, source)
    decide(app, source)
    take_requests(app, source)
    in_the_browser(app)
    attend(app, showings)
    desk = NewsDesk(source)
    source.beside(desk.close)
    serve_tables(app.server, source, live_sections(app, source, showings, desk))
    fill_panels(app)
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
