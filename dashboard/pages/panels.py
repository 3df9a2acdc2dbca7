"""The panels under the heatmaps of a run's page: tabs, of which one is open, and what stands in each."""

from dash import dcc, html
from dash.development.base_component import Component

from ..figures import alignment_distribution, delta_bias, gradient, layer_signal, overhead, signal_lines, spectrum
from ..paths import View, whole
from ..pictures import LABELS, LATER, Panel, Picture, pictures
from ..signals import describe
from ..updates import Updates
from .attributes import aria, data
from .parts import card, graph


def panels(view: View, words: Updates) -> list[Component]:
    """Return the tabs and their panels; ``assets/panels.js`` opens them, and only the sections of the open one are live.

    Args:
        words: What the parts in words say now, as ``sections.head`` paints them.
    """
    shown = view.panel if view.panel in list(Panel) else Panel.LAYER.value
    tabs = [_tab(panel, panel.value == shown, words) for panel in Panel]
    now = {panel: contents(panel) for panel in Panel if panel in LATER and panel.value == shown}
    built: dict[Panel, list[Component]] = {Panel.LAYER: _layer(view), Panel.MONITOR: [_monitor(words)], **now}
    return [
        dcc.Store(id="panel", data=shown),
        dcc.Store(id="opened", data=shown),
        dcc.Store(id="heads-sort"),
        html.Div(tabs, className="tabs", role="tablist", **aria(label="Panels")),
        *(_panel(panel, built.get(panel, []), panel.value == shown) for panel in Panel),
    ]


def contents(panel: Panel) -> list[Component]:
    """Return what stands in one of these panels."""
    match panel:
        case Panel.ROUNDING:
            return _rounding()
        case Panel.OPTIMIZER:
            return [_gradient(), _grid(panel)]
        case _:
            return [_grid(panel)]


def _tab(panel: Panel, is_open: bool, words: Updates) -> html.Button:
    said = words["monitor-mark"]["children"]
    mark = [html.Span(said, id="monitor-mark", className="tab-mark")] if panel is Panel.MONITOR else []
    return html.Button(
        [html.Span(LABELS[panel]), *mark],
        id=f"tab-{panel.value}",
        type="button",
        role="tab",
        className="tab",
        tabIndex="0" if is_open else "-1",
        **data(panel=panel.value),
        **aria(selected=str(is_open).lower(), controls=f"panel-{panel.value}"),
    )


def _panel(panel: Panel, children: list[Component], is_open: bool) -> html.Div:
    return html.Div(
        children,
        id=f"panel-{panel.value}",
        role="tabpanel",
        className="panel",
        hidden=not is_open,
        tabIndex="0",
        **aria(labelledby=f"tab-{panel.value}"),
    )


def layer_bar(view: View) -> html.Div:
    """Return what the panels are about: layer, head and step."""
    options = [{"label": view.module, "value": view.module}] if view.module else []
    layer = dcc.Dropdown(
        id="module", options=options, value=view.module, clearable=False, className="picker wide-picker", maxHeight=420
    )
    heads = [{"label": f"head {view.head}", "value": view.head}] if view.head else []
    head = dcc.Dropdown(id="head", options=heads, value=view.head, placeholder="all", className="head-picker", maxHeight=320)
    step = dcc.Input(
        id="step", type="number", value=whole(view.step), min=0, step=1, debounce=True, placeholder="newest", className="step-input"
    )
    return html.Div(
        [
            html.Label([html.Span("Chosen layer", className="label"), layer], className="layer-choice"),
            html.Label([html.Span("Head", className="label"), head], className="layer-choice"),
            html.Label([html.Span("At step", className="label"), step], className="layer-choice"),
            html.Div(id="layer-facts", className="layer-facts"),
        ],
        className="layer-bar-inner",
    )


def _layer(view: View) -> list[Component]:
    numbers = card(
        "This layer in numbers",
        html.Div(id="layer-numbers", className="scroll"),
        hint="Every signal of the layer at first, at the chosen step (click a cell of a heatmap, or type a step above), and now.",
        name="numbers-card",
    )
    heads = card(
        "Heads",
        html.Div(id="heads", className="scroll"),
        hint="One head that stands far from its neighbours is where the trouble begins. Choose one to follow it everywhere.",
        actions=_of("heads"),
        name="heads-card",
    )
    at = card(
        spectrum.AT_TITLE,
        graph("spectrum-at", "Bars: how many singular values of the chosen layer have which size", spectrum.HEIGHT, table=False),
        hint=spectrum.AT_RECOGNISE,
        actions=_of("spectrum-at"),
        name="spectrum-at-card",
    )
    over_time = card(
        spectrum.TITLE,
        graph("spectrum", "Heatmap of the singular values of the chosen layer's weight over training steps", spectrum.HEIGHT),
        hint=spectrum.RECOGNISE,
        actions=_of("spectrum"),
        name="spectrum-card",
    )
    return [
        html.Div([_distribution(), _layer_signal(view)], className="row halves"),
        html.Div([over_time, at], className="row halves"),
        html.Div([_picture(picture) for picture in pictures(Panel.LAYER)], className="row"),
        html.Div(heads, className="row"),
        html.Div(numbers, className="row"),
    ]


def _distribution() -> html.Section:
    plot = graph(
        "distribution", "Heatmap of the distribution of spectral alignment over training steps", alignment_distribution.HEIGHT
    )
    title = alignment_distribution.TITLE
    return card(title, plot, hint=alignment_distribution.RECOGNISE, actions=_of("distribution"), name="distribution-card")


def _layer_signal(view: View) -> html.Section:
    options = [{"label": describe(view.detail).title, "value": view.detail}] if view.detail else []
    picker = dcc.Dropdown(
        id="detail", options=options, value=view.detail, clearable=False, searchable=False, className="picker", maxHeight=360
    )
    plot = graph("layer-signal", "Chart of the chosen signal of the chosen layer", layer_signal.HEIGHT)
    actions = html.Label([html.Span("Signal of this layer", className="visually-hidden"), picker])
    return card("This layer over time", plot, hint=layer_signal.RECOGNISE, actions=actions, name="layer-signal-card")


def _rounding() -> list[Component]:
    plot = graph("delta-bias", "Chart of the bias of attention's correction term, with its confidence band", delta_bias.HEIGHT)
    bias = card(
        delta_bias.TITLE,
        html.P(html.Code(id="delta-bias-of", className="of-layer"), className="of-line"),
        plot,
        hint=delta_bias.RECOGNISE,
        actions=_everywhere("rounding.delta_bias"),
        name="delta-bias-card",
    )
    return [html.Div(bias, className="row"), _grid(Panel.ROUNDING)]


def _grid(panel: Panel) -> html.Div:
    return html.Div([_picture(picture) for picture in pictures(panel)], className="row pictures")


def _picture(picture: Picture) -> html.Section:
    plot = graph(picture.name, f"Chart: {picture.title}", signal_lines.HEIGHT)
    actions = [_of(picture.name), *([_everywhere(picture.in_all_layers)] if picture.in_all_layers else [])]
    return card(picture.title, plot, hint=picture.recognise, actions=actions, name=f"{picture.name}-card")


def _of(name: str) -> html.Code:
    return html.Code(id=f"{name}-of", className="of-layer")


def _everywhere(signal: str) -> html.Button:
    title = f"Show {describe(signal).title} of all layers in the second heatmap"
    return html.Button(
        "All layers", type="button", className="button small", title=title, **data(everywhere=signal), **aria(label=title)
    )


def _gradient() -> html.Div:
    plot = graph("gradient", "Chart of the gradient norm over training steps", 280)
    return html.Div(card(gradient.TITLE, plot, hint=gradient.RECOGNISE, name="gradient-card"), className="row")


def _monitor(words: Updates) -> html.Div:
    plot = graph("overhead", "Chart of the cost of monitoring in percent of step time", 200)
    facts = html.Div(words["monitor-facts"]["children"], id="monitor-facts")
    return html.Div(card(overhead.TITLE, facts, plot, hint=overhead.RECOGNISE, name="overhead-card"), className="row")
