"""The figures of the report: the training runs over steps, every seed a line, every arm a colour."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ...analyzer.failure import running_median
from ...dashboard.figures.style import Figure, axis, layout, log_axis, plain_list, step_axis
from .arms import ARMS, Family
from .summary import Result

# By what the arm does, the same in both families; mid-tones that read on white and on black.
_COLOURS = {
    "float32": "#7c8aa0",
    "low_precision": "#e11d48",
    "random_sign": "#3b82f6",
    "dynamic_maximum": "#d97706",
    "float32_delta": "#0d9488",
    "stabilised": "#8b5cf6",
}
_EVERY = 4  # steps between two points of a loss curve

Points = tuple[list[int], list[float]]


def loss(runs: Sequence[Result], family: Family) -> Figure:
    """Draw the running median of the loss. Trouble: a curve that turns upward, and stays there."""

    def median(run: Result) -> Points:
        values = running_median(np.asarray(run["losses"]))[::_EVERY]
        return [_EVERY * place for place in range(len(values))], values.tolist()

    return _figure(runs, family, median, "loss, running median", log=True)


def spectral_norm(runs: Sequence[Result], family: Family) -> Figure:
    """Draw sigma_1 of W_q, of the layer where it is larger. Trouble: growth that the float32 run does not show."""
    return _figure(runs, family, lambda run: _signal(run, "weight.spectral_norm"), "σ₁ of W_q", log=True)


def max_logit(runs: Sequence[Result], family: Family) -> Figure:
    """Draw the largest attention logit. Trouble: a straight line upward, which is exponential growth."""
    return _figure(runs, family, lambda run: _signal(run, "attention.max_logit"), "largest |logit|", log=True)


def delta_bias(runs: Sequence[Result], family: Family) -> Figure:
    """Draw the running sum of delta's mean error in the first layer. Trouble: a sum that keeps its direction."""
    return _figure(runs, family, lambda run: _layer(run, "rounding.delta_bias_sum"), "sum of delta's mean error")


def direction_similarity(runs: Sequence[Result], family: Family) -> Figure:
    """Draw how alike from sample to sample the direction is in which delta's errors reach W_q. Near 1, those of one sign add up."""
    return _figure(runs, family, lambda run: _layer(run, "rounding.direction_similarity"), "direction similarity", window=5)


def _figure(
    runs: Sequence[Result], family: Family, points: Callable[[Result], Points], title: str, *, log: bool = False, window: int = 1
) -> Figure:
    traces, every_value = [], []
    for name, short, runs_of_arm in _by_arm(runs, family):
        for place, run in enumerate(runs_of_arm):
            steps, values = points(run)
            if not steps:
                continue
            if window > 1:
                values = [float(np.median(values[max(0, i - window + 1) : i + 1])) for i in range(len(values))]
            every_value += [value for value in values if value == value]
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": steps,
                    "y": plain_list(values),
                    "name": name,
                    "legendgroup": short,
                    "showlegend": place == 0,
                    "line": {"color": _COLOURS[short], "width": 1.6},
                    "opacity": 0.85,
                    "hovertemplate": f"{name}, seed {run['seed']}<br>step %{{x}}: %{{y}}<extra></extra>",
                }
            )
    y = log_axis(title, every_value) if log else axis(title)
    legend = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 11}}
    return {"data": traces, "layout": layout(step_axis(), y, height=360, showlegend=True, legend=legend)}


def _by_arm(runs: Sequence[Result], family: Family) -> Iterator[tuple[str, str, list[Result]]]:
    for arm in ARMS:
        if arm.family == family or arm.name == "float32":
            found = [run for run in runs if run["arm"] == arm.name]
            if found:
                yield arm.title, arm.name.removeprefix("everywhere_"), found


def _layer(run: Result, signal: str, layer: str = "blocks.0.attention") -> Points:
    found = run["series"].get(signal, {}).get(layer, {"steps": [], "values": []})
    return found["steps"], found["values"]


def _signal(run: Result, signal: str) -> Points:
    """Return the larger of the layers' values at each step."""
    layers = list(run["series"].get(signal, {}).values())
    if not layers:
        return [], []
    shortest = min(layers, key=lambda layer: len(layer["steps"]))
    values = [max(each) for each in zip(*(layer["values"][: len(shortest["steps"])] for layer in layers), strict=True)]
    return shortest["steps"], values
