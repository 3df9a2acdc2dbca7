"""The bar above a run's charts: which steps they show, how smooth, and the link to just this view."""

from dash import dcc, html

from ..lens import SMOOTHINGS
from ..paths import View
from .attributes import aria


def view_bar(view: View) -> html.Section:
    """Return the bar, as the address asks for it."""
    reset = html.Button(
        "Live / whole run", id="window-reset", type="button", className="button", hidden=True, title="Show all steps again (z)"
    )
    shown = [html.Span("Steps", className="label"), html.Span(id="window-words", role="status"), reset]
    smoothing = dcc.RadioItems(
        options=[{"label": f"{steps:,}" if steps else "off", "value": str(steps)} for steps in SMOOTHINGS],
        value=view.smoothing,
        id="smoothing",
        className="segmented",
        inline=True,
    )
    why = "Average over so many steps back, newer ones counting more; begins anew at a restart and after a value that is no number"
    smooth = html.Div(
        [
            html.Span("Smoothing", className="label"),
            html.Div(smoothing, role="group", **aria(label="Smoothing of lines, in steps")),
            html.Span("steps", className="quiet"),
        ],
        className="view-part",
        title=why,
    )
    link = html.Button("Copy link", id="copy-link", type="button", className="button", title="Copy the address of this view (c)")
    return html.Section(
        [
            dcc.Store(id="window", data=view.window),
            dcc.Store(id="scales", data=view.scales),
            html.Div(shown, className="view-part"),
            smooth,
            html.Div([link, html.Span(id="copied", className="quiet", role="status")], className="view-part"),
            html.P("", id="step-words", className="visually-hidden", role="status"),
        ],
        className="view-bar",
        **aria(label="View of the charts"),
    )
