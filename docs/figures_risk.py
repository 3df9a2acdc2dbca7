"""Draw the reliability of the risk from what the fit measured: ``python docs/figures_risk.py`` (seconds, Chromium).

Reads analyzer/risk.toml, as ``foreshock zoo calibrate`` wrote it; writes docs/images/risk.svg. The tables of docs/risk.md are
made by docs/generate.py from the same file.
"""

from typing import Any

import plotly.graph_objects as go
from figures_svg import write_svg
from foreshock.analyzer.risk import RiskModel
from plotly.subplots import make_subplots

INK, LINE = "#334155", "#2563eb"


def drawn(measured: Any) -> go.Figure:
    """Return the reliability diagram, and below it how often each reading was given."""
    lines = measured["reliability"]
    said, came = [line["said"] for line in lines], [line["came"] for line in lines]
    above = [line["came_high"] - line["came"] for line in lines]
    below = [line["came"] - line["came_low"] for line in lines]
    figure = make_subplots(rows=2, shared_xaxes=True, row_heights=[0.78, 0.22], vertical_spacing=0.05)
    diagonal = go.Scatter(x=[0, 100], y=[0, 100], mode="lines", line={"color": "#94a3b8", "dash": "dot"}, showlegend=False)
    points = go.Scatter(
        x=said,
        y=came,
        mode="markers+text",
        text=[f"{line['runs']} runs, {line['scenarios']} scenarios" for line in lines],
        textposition="bottom right",
        textfont={"size": 10, "color": "#64748b"},
        marker={"color": LINE, "size": 9},
        error_y={"type": "data", "array": above, "arrayminus": below, "color": LINE, "thickness": 1.2, "width": 4},
        name="on families it has not seen, with 95 % intervals",
        cliponaxis=False,
    )
    seen = go.Scatter(
        x=[line["said"] for line in measured["reliability_seen"]],
        y=[line["came"] for line in measured["reliability_seen"]],
        mode="markers",
        marker={"color": "white", "size": 9, "line": {"color": INK, "width": 1.5}},
        name="on the runs it was set on",
        cliponaxis=False,
    )
    figure.add_trace(diagonal, row=1, col=1)
    figure.add_trace(seen, row=1, col=1)
    figure.add_trace(points, row=1, col=1)
    bars = go.Bar(
        x=[(line["low"] + line["high"]) / 2 for line in lines],
        y=[line["moments"] for line in lines],
        width=18,
        marker={"color": "#bfdbfe"},
        showlegend=False,
    )
    figure.add_trace(bars, row=2, col=1)
    figure.update_xaxes(range=[0, 100], gridcolor="#e2e8f0", zeroline=False)
    figure.update_xaxes(title="risk", row=2, col=1)
    figure.update_yaxes(range=[0, 100], title="moments followed by a failure, %", gridcolor="#e2e8f0", zeroline=False, row=1, col=1)
    figure.update_yaxes(title="moments", type="log", dtick=1, gridcolor="#e2e8f0", row=2, col=1)
    figure.update_layout(
        width=760,
        height=620,
        plot_bgcolor="white",
        paper_bgcolor="white",
        font={"family": "sans-serif", "size": 12, "color": INK},
        legend={"orientation": "h", "x": 0.0, "y": 1.02, "yanchor": "bottom"},
        margin={"l": 70, "r": 90, "t": 50, "b": 60},
    )
    return figure


if __name__ == "__main__":
    found = RiskModel.load().measured
    if not found:
        raise SystemExit("analyzer/risk.toml holds no measurement: foreshock zoo calibrate --recordings FOLDER --out FILE")
    write_svg(drawn(found), "risk")
