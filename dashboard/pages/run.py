"""One run, live: the layout. Everything in it is filled by ``sections``."""

from dash import dcc, html

from ...storage.records import Run
from ..figures import alignment_distribution, gradient, layer_signal, loss, overhead, risk
from ..live import Updates, digests
from ..paths import View, table_path
from ..signals import describe
from .attributes import aria, data
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
            view_bar(view),
            html.Div([_loss(words), _alerts(words)], className="row wide-left"),
            html.H2("Layers", className="section-title"),
            html.Div([_heat("heat-a", "signal", view.signal), _heat("heat-b", "compare", view.compare)], className="row halves"),
            html.Div([_layer_bar(view)], className="layer-bar card"),
            html.Div([_distribution(), _layer_signal(view)], className="row halves"),
            html.H2("Training and monitor", className="section-title"),
            html.Div([_gradient(), _monitor(words)], className="row halves"),
            card(
                "Events",
                html.Div(words["events"]["children"], id="events"),
                name="events-card",
                hint="What happened to the run besides training steps.",
            ),
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
        ("●", "severity-info", "notice"),
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
    foot = html.P("Brighter is more worrying. Click a row to open that layer.", className="foot")
    parts = [heading, html.P(describe(signal).recognise, id=f"{name}-hint", className="hint"), plot, foot]
    return html.Section(parts, className="card", **aria(labelledby=f"{name}-title"))


def _layer_bar(view: View) -> html.Div:
    options = [{"label": view.module, "value": view.module}] if view.module else []
    picker = dcc.Dropdown(
        id="module", options=options, value=view.module, clearable=False, className="picker wide-picker", maxHeight=420
    )
    return html.Div(
        [
            html.Label([html.Span("Chosen layer", className="label"), picker], className="layer-choice"),
            html.Div(id="layer-facts", className="layer-facts"),
        ],
        className="layer-bar-inner",
    )


def _distribution() -> html.Section:
    plot = graph(
        "distribution", "Heatmap of the distribution of spectral alignment over training steps", alignment_distribution.HEIGHT
    )
    of = html.Code(id="distribution-of", className="of-layer")
    title = alignment_distribution.TITLE
    return card(title, plot, hint=alignment_distribution.RECOGNISE, actions=of, name="distribution-card")


def _layer_signal(view: View) -> html.Section:
    options = [{"label": describe(view.detail).title, "value": view.detail}] if view.detail else []
    picker = dcc.Dropdown(
        id="detail", options=options, value=view.detail, clearable=False, searchable=False, className="picker", maxHeight=360
    )
    plot = graph("layer-signal", "Chart of the chosen signal of the chosen layer", layer_signal.HEIGHT)
    actions = html.Label([html.Span("Signal of this layer", className="visually-hidden"), picker])
    return card("This layer over time", plot, hint=layer_signal.RECOGNISE, actions=actions, name="layer-signal-card")


def _gradient() -> html.Section:
    plot = graph("gradient", "Chart of the gradient norm over training steps", 280)
    return card(gradient.TITLE, plot, hint=gradient.RECOGNISE, name="gradient-card")


def _monitor(words: Updates) -> html.Section:
    plot = graph("overhead", "Chart of the cost of monitoring in percent of step time", 200)
    facts = html.Div(words["monitor-facts"]["children"], id="monitor-facts")
    return card(overhead.TITLE, facts, plot, hint=overhead.RECOGNISE, name="overhead-card")
