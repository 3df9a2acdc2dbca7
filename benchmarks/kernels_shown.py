"""The figures of ``foreshock bench kernels`` as a table and as a plot."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go  # type: ignore[import-untyped]

    from .kernels import Cost


def told(costs: "list[Cost]") -> str:
    """Return a table of text, a line a contestant, size and direction."""
    lines = [f"{'contestant':32} {'pass':9} {'D':>4} {'T':>6} {'p20 ms':>9} {'p50 ms':>9} {'p80 ms':>9} {'TFLOP/s':>8} {'MiB':>8}"]
    for cost in costs:
        head = f"{cost.contestant:32} {cost.direction:9} {cost.head_dim:4d} {cost.length:6d}"
        if cost.failure:
            lines.append(f"{head} did not run: {cost.failure}")
            continue
        times = " ".join(f"{value:9.3f}" for value in (cost.p20_ms, cost.p50_ms, cost.p80_ms))
        memory = "       -" if cost.memory_mib is None else f"{cost.memory_mib:8.1f}"
        lines.append(f"{head} {times} {cost.tflops:8.3f} {memory}")
    return "\n".join(lines)


def plotted(costs: "list[Cost]", device: str) -> "go.Figure":
    """Return TFLOP/s over length, a panel a head dimension and direction: who falls behind, and where."""
    import plotly.graph_objects as go
    from plotly.colors import qualitative  # type: ignore[import-untyped]
    from plotly.subplots import make_subplots  # type: ignore[import-untyped]

    panels = sorted({(cost.head_dim, cost.direction) for cost in costs}, key=lambda panel: (panel[0], panel[1] != "forward"))
    names = list(dict.fromkeys(cost.contestant for cost in costs))
    titles = [f"{direction}, head dimension {head_dim}" for head_dim, direction in panels]
    figure = make_subplots(rows=(len(panels) + 1) // 2, cols=2, subplot_titles=titles)
    for place, panel in enumerate(panels):
        for number, name in enumerate(names):
            mine = [
                cost for cost in costs if (cost.head_dim, cost.direction) == panel and cost.contestant == name and not cost.failure
            ]
            line = go.Scatter(
                x=[cost.length for cost in mine],
                y=[cost.tflops for cost in mine],
                name=name,
                legendgroup=name,
                showlegend=place == 0,
                line_color=qualitative.Safe[number % len(qualitative.Safe)],
            )
            figure.add_trace(line, row=place // 2 + 1, col=place % 2 + 1)
    figure.update_xaxes(type="log", title="length")
    figure.update_yaxes(rangemode="tozero", title="TFLOP/s")
    figure.update_layout(title=f"Attention on {device}, median of the rounds", template="plotly_white")
    return figure
