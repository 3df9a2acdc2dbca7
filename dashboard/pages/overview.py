"""The list of runs."""

from typing import Any

from dash import dcc, html

from ..paths import Order
from .attributes import data

ATTACH = """with foreshock.watch(model, optimizer, run="my-run") as monitor:
    ...
    monitor.step(loss)          # at the end of every step"""


def overview_page(order: Order, table: Any) -> html.Main:
    """Return the page with its table as it is now; ``sections.overview`` keeps it up to date."""
    return html.Main(
        [
            dcc.Store(id="order", data=list(order)),
            dcc.Store(id="overview-ticket"),
            html.H1("Runs", className="page-title"),
            html.Div(table, id="runs", className="card flush"),
            html.Div(id="overview-troubles"),
        ],
        id="overview",
        className="page",
        **data(live=""),
    )


def nothing_yet(address: str) -> html.Div:
    """Return what an empty store shows: how to get a first run."""
    return html.Div(
        [
            html.H2("No run has been recorded yet"),
            html.P(["This page watches ", html.Code(address), ". A run appears here as soon as it has started."]),
            html.H3("Watch your own training"),
            html.P("Two lines in any PyTorch loop:"),
            html.Pre(html.Code(ATTACH)),
            html.H3("Or see it work first"),
            html.P("Trains a small model that fails in a known way, in about two minutes:"),
            html.Pre(html.Code("foreshock demo")),
        ],
        className="empty",
        id="no-runs",
    )
