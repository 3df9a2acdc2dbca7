"""Small pieces that all pages are made of."""

from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from ...storage.records import Severity
from .. import who
from ..figures.first_look import first_look
from ..vitals import Vitals
from .attributes import aria, data

GRAPH_CONFIG: Any = {
    "displayModeBar": False,  # what it offers stands in the chart's own menu, where a keyboard reaches it
    "showSendToCloud": False,  # plotly would offer to upload the chart
    "responsive": True,
    "scrollZoom": False,
}

SEVERITY_ICONS = {Severity.INFO: "●", Severity.WARNING: "▲", Severity.CRITICAL: "◆"}


def card(title: str, *children: Any, hint: str = "", actions: Any = None, wide: str = "", name: str) -> html.Section:
    """Return a titled card.

    Args:
        hint: One plain sentence under the title: what trouble this picture lets you recognise.
        actions: Controls at the right of the title.
        wide: Extra CSS classes (the card's width in its row).
        name: Makes the heading's id, which names the card to screen readers.
    """
    heading = html.Div(
        [html.H2(title, id=f"{name}-title", className="card-title"), html.Div(actions, className="card-actions")],
        className="card-head",
    )
    notes = [html.P(hint, className="hint", id=f"{name}-hint")] if hint else []
    return html.Section([heading, *notes, *children], className=f"card {wide}".strip(), **aria(labelledby=f"{name}-title"))


def graph(name: str, label: str, height: int, *, table: bool = True, figure: dict[str, Any] | None = None) -> html.Div:
    """Return a graph that a live section fills. ``assets/tools.js`` gives it its tools: scale, and ways to take it along.

    Args:
        label: What it is, to those who cannot see it.
        table: Whether what it draws can be had as CSV: it is among the charts of ``wiring``.
        figure: What it shows already; none says that it is being loaded. Its lines are seen before plotly is there.
    """
    look = first_look(figure) if figure else ""
    figure = figure or {"data": [], "layout": {"height": height, **_BLANK}}
    config: Any = {**GRAPH_CONFIG, "doubleClick": False}  # which resets all charts of the page together (assets/view.js)
    plot = dcc.Graph(id=name, figure=figure, config=config, className="graph", style={"minHeight": height})
    # The frame keeps the place from the first paint on: what draws comes a moment later.
    seen = [html.Img(src=look, className="first-look", alt="")] if look else []
    frame = html.Div([plot, *seen], className="graph-frame", style={"minHeight": height}, role="group", **aria(label=label))
    return html.Div([html.Div(className="graph-tools"), frame], **data(chart=name, table="yes" if table else "no"))


_BLANK: dict[str, Any] = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "xaxis": {"visible": False},
    "yaxis": {"visible": False},
    "annotations": [
        {"text": "loading …", "showarrow": False, "x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "font": {"size": 13}}
    ],
}


def pill(state: Vitals) -> html.Span:
    """Return a run's state as a pill: a dot and a word."""
    return html.Span([html.Span(className="dot", **aria(hidden="true")), state.phrase], className=f"pill life-{state.life.value}")


def severity_badge(severity: Severity, count: int | None = None) -> html.Span:
    """Return a severity as an icon with its word, or with a count."""
    said = severity.value if count is None else str(count)
    label = severity.value if count is None else f"{count} {severity.value}"
    return html.Span(
        [html.Span(SEVERITY_ICONS[severity], className="icon", **aria(hidden="true")), said],
        className=f"badge severity-{severity.value}",
        title=label,
        role="img",
        **aria(label=label),
    )


def fact(label: str, value: Any, detail: str = "") -> html.Div:
    """Return a labelled figure."""
    return html.Div(
        [html.Dt(label), html.Dd([html.Span(value, className="fact-value"), html.Span(detail, className="fact-detail")])]
    )


def message(title: str, *body: Any, name: str = "message") -> Component:
    """Return a page that only says something."""
    return html.Main([html.Section([html.H1(title), *body], className="card message")], id=name, className="page narrow")


def refused() -> dict[str, Any]:
    """Return what turns a button off and says why, where the visitor may only read: ``html.Button(..., **refused())``."""
    why = who.refusal()
    return {"disabled": True, "title": why} if why else {}


def percent(share: float | None) -> str:
    """Return a share as a percentage with two figures, or a dash."""
    return "–" if share is None or share != share else f"{100 * share:.2g} %"


def risk_of(value: float | None) -> str:
    """Return a risk, 0 to 100, as a whole number, or a dash where there is none."""
    return "–" if value is None or value != value else f"{value:.0f}"


def number(value: float | None) -> str:
    """Return a value as people read it, or a dash where there is none."""
    if value is None:
        return "–"
    if value != value:
        return "NaN"
    shown = f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:,.4g}"
    return shown.replace("inf", "∞")
