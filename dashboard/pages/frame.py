"""What surrounds every page: header, theme switch, notices, and the stores that the live push rides on."""

from dash import dcc, html

from ..paths import alerts_path, rules_path, runs_path
from .attributes import aria, data
from .keys import keys_button, keys_sheet

PLACES = (("Runs", runs_path()), ("Alerts", alerts_path()), ("Rules", rules_path()))
"""What the header leads to: (label, path)."""


def frame() -> html.Div:
    """Return the layout of the whole application; ``page`` is filled by the router."""
    return html.Div(
        [
            html.A("Skip to content", href="#page", className="skip"),
            dcc.Location(id="url", refresh="callback-nav"),
            dcc.Store(id="left"),
            dcc.Store(id="bell"),
            html.Span(id="beat", hidden=True),
            dcc.Store(id="looking"),
            dcc.Store(id="drawn"),
            dcc.Store(id="page-title"),
            html.Header(
                [
                    dcc.Link(
                        [html.Span(className="mark", **aria(hidden="true")), html.Span("foreshock")],
                        href="/",
                        className="brand",
                        title="All runs",
                    ),
                    html.Nav([_place(label, path) for label, path in PLACES], className="places", **aria(label="Pages")),
                    html.Div(id="store-trouble", className="store-trouble", role="alert"),
                    html.Div("Reconnecting to the dashboard …", id="connection", className="connection", role="status"),
                    keys_button(),
                    theme_switch(),
                ],
                className="top",
            ),
            html.Div(id="page", tabIndex="-1"),
            keys_sheet([label for label, _ in PLACES]),
        ],
        id="frame",
    )


def _place(label: str, path: str) -> dcc.Link:
    """Return a link of the header; beside that to the alerts stands how many are open."""
    count = [html.Span(id="alerts-count")] if path == alerts_path() else []
    return dcc.Link([label, *count], href=path)


def theme_switch() -> html.Div:
    """Return the choice between light, dark and what the system says (kept in the browser by ``assets/theme.js``)."""
    choices = (("system", "Auto", "Follow the system"), ("light", "Light", "Light colours"), ("dark", "Dark", "Dark colours"))
    buttons = [
        html.Button(label, id=f"theme-{name}", className="theme-choice", title=title, type="button", **data(theme_choice=name))
        for name, label, title in choices
    ]
    return html.Div(buttons, className="theme-switch", role="group", **aria(label="Colour theme"))
