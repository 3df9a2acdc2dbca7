"""plotly.js, without the parts that no chart here uses: served in place of the whole library, and put into reports.

A third of the bytes (1.5 of 4.8 MB), which a browser must read and run before it can draw the first chart. The file is the one that
plotly.js publishes; ``make plotly`` fetches that of the version that the Python package has.
"""

from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

_NAME = "plotly-cartesian.min.js"
_PLACE = "/_dash-component-suites/plotly/package_data/plotly.min.js"
"""Where Dash's graphs look for the library."""


def plotly_js() -> str:
    """Return the library."""
    return files(__package__).joinpath("vendor", _NAME).read_text("utf-8")


def serve_plotly(server: FastAPI) -> None:
    """Answer for the whole library, before Dash does."""
    # Resolved: a linked installation puts a link here, and links are not served.
    folder = StaticFiles(directory=Path(__file__).resolve().parent / "vendor")

    async def library(request: Request) -> Response:
        return await folder.get_response(_NAME, request.scope)

    server.router.routes.insert(0, Route(_PLACE, library, methods=["GET", "HEAD"]))
