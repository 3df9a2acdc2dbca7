"""Make table and figure of docs/reproduction.md: ``python docs/figures_reproduction.py FOLDER`` (Chromium).

FOLDER is the ``--out`` of a whole ``foreshock reproduce``.
"""

import json
import sys
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from figures_svg import markdown, put, write_svg
from foreshock.zoo.reproduction import figures
from plotly.subplots import make_subplots

PANELS = {
    "Loss, running median": figures.loss,
    "σ₁ of W_q, the larger layer": figures.spectral_norm,
    "Running sum of delta's mean error, layer 0": figures.delta_bias,
    "Direction similarity, layer 0": figures.direction_similarity,
}


def rounding(records: list[dict[str, Any]]) -> str:
    """Tabulate the crafted inputs."""
    head = ["variant", "mean error of O, ulp", "z", "rms, ulp", "mean error of delta", "z", "rows of the dominant sign"]
    rows = [
        [
            each["variant"],
            f"{each['output_error_ulp']:+.4f}",
            f"{each['output_z']:+.1f}",
            f"{each['output_rms_ulp']:.3f}",
            f"{each['delta_error']:+.1e}",
            f"{each['delta_z']:+.1f}",
            f"{each['same_sign']:.1%}",
        ]
        for each in records
    ]
    return markdown(head, rows)


def training(arms: list[dict[str, Any]]) -> str:
    """Tabulate the arms."""
    head = [
        "arm",
        "seeds that fail",
        "final loss by seed",
        "times float32's",
        "failure at step",
        "first warning, steps before",
        "runs with a warning",
    ]

    def listed(values: list[Any]) -> str:
        return ", ".join("-" if value is None else str(value) for value in values)

    rows = [
        [
            arm["title"],
            f"{arm['failed']} of {arm['seeds']}",
            ", ".join("not finite" if value is None else f"{value:.2f}" for value in arm["finals"]),
            listed([value and round(value, 1) for value in arm["to_float32"]]),
            listed(arm["failure_steps"]),
            listed(arm["leads"]),
            f"{arm['warned']} of {arm['seeds']}",
        ]
        for arm in arms
    ]
    return markdown(head, rows)


def figure(runs: list[dict[str, Any]]) -> go.Figure:
    """Draw the family that rounds as flash attention does: every seed a line, every arm a colour."""
    drawn = make_subplots(2, 2, subplot_titles=list(PANELS), horizontal_spacing=0.08, vertical_spacing=0.1)
    for place, draw in enumerate(PANELS.values()):
        row, column = place // 2 + 1, place % 2 + 1
        panel = draw(runs, "flash")
        for trace in panel["data"]:
            drawn.add_trace(go.Scatter(trace | {"showlegend": trace["showlegend"] and place == 0}), row=row, col=column)
        if panel["layout"]["yaxis"].get("type") == "log":
            drawn.update_yaxes(type="log", row=row, col=column)
    drawn.update_xaxes(title_text="step", row=2)
    drawn.update_annotations(font_size=13)
    legend = {"orientation": "h", "y": -0.07, "x": 0}
    return drawn.update_layout(template="plotly_white", width=1000, height=820, margin={"l": 50, "r": 20, "t": 40}, legend=legend)


def main() -> int:
    """Read, tabulate, draw; return the exit status."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    report = json.loads((Path(sys.argv[1]) / "report.json").read_text("utf-8"))
    put("reproduction.md", {"crafted": rounding(report["crafted"]), "training": training(report["arms"])})
    write_svg(figure(report["runs"]), "reproduction")
    return 0


if __name__ == "__main__":
    sys.exit(main())
