"""The loss with what rules would have fired on, as they are and as they might be."""

from collections.abc import Sequence
from typing import Any

from ...analyzer.rule_trial import Move
from ...storage.records import Alert, Severity
from ...storage.results import SeriesData
from .lines import line_traces, mark_axis, mark_lines, marks, nonfinite_trace, span, wrapped
from .style import SEVERITY_COLOURS, SEVERITY_SYMBOLS, Figure, axis, empty, layout, step_axis, text

HEIGHT = 260
_BEFORE, _AFTER = 0.94, 0.80
_SAID = {"new": "new", "gone": "gone", "earlier": "earlier", "later": "later", "same": "as before", "changed": "other severity"}


def trial_figure(data: SeriesData | None, moves: Sequence[Move], failed_at: int | None) -> Figure:
    """Draw the loss with two rows of marks: above as the rule is, below as it would be.

    What trouble this picture lets you recognise: a threshold that cries wolf where the loss does nothing, and one that comes too
    late to help before the loss turns.
    """
    if data is None or not len(data.steps):
        return empty("No loss was recorded in this run.", height=HEIGHT)
    before = [(move.before, move) for move in moves if move.before is not None]
    after = [(move.after, move) for move in moves if move.after is not None]
    traces = [
        nonfinite_trace([data]),
        _row([each for each, _ in before], [f"now · {_SAID[move.verdict]}" for _, move in before], _BEFORE, hollow=True),
        _row([each for each, _ in after], [f"with the form · {_SAID[move.verdict]}" for _, move in after], _AFTER),
        *line_traces(data, "loss"),
    ]
    shapes = mark_lines([each for each, _ in after])
    if failed_at is not None:
        colour = SEVERITY_COLOURS[Severity.CRITICAL]
        place = {"x0": failed_at, "x1": failed_at, "yref": "paper", "y0": 0, "y1": 1}
        shapes.append({"type": "line", **place, "line": {"color": colour, "width": 2}, "layer": "below"})
    x = step_axis(span(data))
    return {"data": traces, "layout": layout(x, axis("loss"), height=HEIGHT, yaxis2=mark_axis(), shapes=shapes)}


def _row(alerts: Sequence[Alert], said: Sequence[str], height: float, *, hollow: bool = False) -> dict[str, Any]:
    texts = []
    for alert, words in zip(alerts, said, strict=True):
        where = f" · {text(alert.module)}" if alert.module else ""
        texts.append(f"<b>{text(words)}</b> · step {alert.first_step:,}{where}<br>{wrapped(alert.message)}")
    symbols = [SEVERITY_SYMBOLS[alert.severity] + ("-open" if hollow else "") for alert in alerts]
    colours = [SEVERITY_COLOURS[alert.severity] for alert in alerts]
    trace = marks([alert.first_step for alert in alerts], height, symbols, colours, texts, 11)
    if hollow:
        trace["marker"]["line"] = {"width": 2}
    return trace
