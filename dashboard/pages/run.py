"""One run, live: the layout. Everything in it is filled by ``sections``."""

from dash import dcc, html

from ...storage.records import Run
from ..figures import loss, risk
from ..paths import View, table_path
from ..signals import describe
from ..updates import Updates, digests
from .asking import asking
from .attributes import aria, data
from .panels import layer_bar, panels
from .parts import card, graph
from .view_bar import view_bar


def run_page(run: Run, view: View, words: Updates) -> html.Main:
    """Return the layout of a run's page for one view of it.

    Args:
        words: What the parts in words say now, as ``sections.head`` paints them: they are read before any chart is drawn. And the
            loss as it is now, which is looked at first.
    """
    return html.Main(
        [
            dcc.Store(id="run", data=run.id),
            dcc.Store(id="run-page-ticket"),
            # All but the title of the tab, which is not part of the page.
            dcc.Store(id="run-page-painted", data=digests({name: words[name] for name in words.keys() - {"page-title", "loss"}})),
            dcc.Store(id="loss-painted", data=digests({"loss": words["loss"]})),
            html.Div(words["run-head"]["children"], id="run-head", className="run-head"),
            html.Section(words["verdict"]["children"], id="verdict", role="status", **aria(label="Verdict")),
            html.Div(id="outlook", className="card outlook", role="status", **aria(label="Outlook")),
            view_bar(view),
            html.Div([_loss(words), _alerts(words)], className="row wide-left"),
            html.H2("Layers", className="section-title"),
            html.Div([_heat("heat-a", "signal", view.signal), _heat("heat-b", "compare", view.compare)], className="row halves"),
            html.Div([layer_bar(view)], className="layer-bar card"),
            *panels(view, words),
            card(
                "Events",
                html.Div(words["events"]["children"], id="events"),
                name="events-card",
                hint="What happened to the run besides training steps.",
            ),
            *asking(),
        ],
        id="run-page",
        className="page",
        **data(live="", tables=table_path(run.id), name=run.name or run.id),
    )


def _loss(words: Updates) -> html.Section:
    plot = graph("loss", "Chart of the loss over training steps", loss.HEIGHT, figure=words["loss"]["figure"])
    below = [
        html.H3(risk.TITLE, id="risk-title", className="part-title"),
        html.P(words["risk-words"]["children"], id="risk-words", className="hint"),
        graph("risk", "Chart of the risk, from 0 to 100, over training steps", risk.HEIGHT),
    ]
    return card(loss.TITLE, plot, _legend(), *below, hint=loss.RECOGNISE, name="loss-card")


def _legend() -> html.Div:
    entries = (
        ("◆", "severity-critical", "critical alert"),
        ("▲", "severity-warning", "warning"),
        ("●", "severity-info", "info"),
        ("■", "legend-event", "event"),
        ("★", "legend-intervention", "intervention"),
        ("✖", "severity-critical", "not a finite number"),
    )
    marks = [
        html.Span([html.Span(icon, className=f"icon {style}", **aria(hidden="true")), label]) for icon, style, label in entries
    ]
    return html.Div(marks, className="legend")


def _alerts(words: Updates) -> html.Section:
    return card(
        "Alerts", html.Div(words["alerts"]["children"], id="alerts", className="alerts"), name="alerts-card", wide="alerts-card"
    )


def _heat(name: str, role: str, signal: str) -> html.Section:
    picker = dcc.Dropdown(
        id=role,
        options=[{"label": describe(signal).title, "value": signal}],
        value=signal,
        clearable=False,
        searchable=False,
        className="picker",
        maxHeight=360,
        optionHeight=34,
    )
    heading = html.Div(
        [
            html.H2(describe(signal).title, id=f"{name}-title", className="card-title"),
            html.Div(html.Label([html.Span("Signal", className="visually-hidden"), picker]), className="card-actions"),
        ],
        className="card-head",
    )
    plot = graph(name, "Heatmap of a signal, layers by training steps. Choose a layer in the list below.", 280)
    foot = html.P("Brighter is more worrying. Click a cell to open that layer at that step.", className="foot")
    parts = [heading, html.P(describe(signal).recognise, id=f"{name}-hint", className="hint"), plot, foot]
    return html.Section(parts, className="card", **aria(labelledby=f"{name}-title"))
