"""The charts of lines of a report: loss, risk, gradient norm, cost. Decimated by the store, so that a long run costs no more."""

import math
from collections.abc import Sequence
from dataclasses import replace

from ...analyzer.risk import SIGNAL as RISK
from ...analyzer.wording import number, step_number
from ...storage.base import Store
from ...storage.records import Alert, Event, Run
from ...storage.results import SeriesData
from ..figures import gradient, loss, overhead, risk
from ..figures.lines import is_intervention
from ..names import shorten
from ..reading import MAX_POINTS, run_wide
from .content import Chart, Picture
from .wanted import Wanted

MOST_MARKS = 400
"""Alerts, and events, that are marked on a chart."""


def loss_picture(store: Store, run: Run, wanted: Wanted, alerts: Sequence[Alert], events: Sequence[Event]) -> Picture:
    """Return the loss with alerts and events."""
    data = _line(store, run, "loss", wanted)
    drawn = loss.loss_figure(data, _most(alerts), _events(events))
    return Picture(loss.TITLE, loss.RECOGNISE, Chart("loss", "Loss over training steps", drawn, said(data)))


def risk_picture(store: Store, run: Run, wanted: Wanted) -> Picture:
    """Return the risk over steps."""
    data = _line(store, run, RISK, wanted)
    chart = Chart("risk", "Risk, 0 to 100, over training steps", risk.risk_figure(data), said(data))
    return Picture(risk.TITLE, "", chart)


def gradient_picture(store: Store, run: Run, wanted: Wanted, alerts: Sequence[Alert], events: Sequence[Event]) -> Picture:
    """Return the norm of all gradients before clipping."""
    data = _line(store, run, "gradient.norm", wanted)
    drawn = gradient.gradient_figure(data, _most(alerts), _events(events))
    chart = Chart("gradient", "Gradient norm over training steps", drawn, said(data))
    return Picture(gradient.TITLE, gradient.RECOGNISE, chart)


def cost_picture(store: Store, run: Run, wanted: Wanted) -> Picture:
    """Return what monitoring cost."""
    data = _line(store, run, "monitor.overhead", wanted)
    percent = replace(data, values=[100 * float(value) for value in data.values]) if data is not None else None
    chart = Chart("cost", "Cost of monitoring in percent of step time", overhead.overhead_figure(data), said(percent, " %"))
    return Picture(overhead.TITLE, overhead.RECOGNISE, chart)


def said(data: SeriesData | None, unit: str = "") -> str:
    """Return what a line shows in a sentence, for those who cannot see it."""
    if data is None or not len(data.steps):
        return ""
    finite = [float(value) for value in data.values if math.isfinite(value)]
    odd = len(data.values) - len(finite)
    first, last = (f"{number(float(data.values[at]))}{unit} at step {step_number(int(data.steps[at]))}" for at in (0, -1))
    words = f"From {first} to {last}"
    if finite:
        words += f"; between {number(min(finite))} and {number(max(finite))}{unit}"
    return f"{words}{f'; {odd:,} values not finite' if odd else ''}."


def _line(store: Store, run: Run, signal: str, wanted: Wanted) -> SeriesData | None:
    series = run_wide(store, run.id, signal)
    return store.read(series, start=wanted.start, stop=wanted.stop, max_points=MAX_POINTS)[0] if series else None


def _most(alerts: Sequence[Alert]) -> list[Alert]:
    """Return the alerts to mark: the most severe, in order of steps."""
    kept = sorted(alerts, key=lambda alert: (-alert.severity.rank, alert.first_step))[:MOST_MARKS]
    return [replace(alert, module=shorten(alert.module, 80)) for alert in sorted(kept, key=lambda alert: alert.first_step)]


def _events(events: Sequence[Event]) -> list[Event]:
    """Return the events to mark: what was done to the run goes before what happened to it."""
    placed = [event for event in events if event.step >= 0]
    kept = sorted(placed, key=lambda event: (not is_intervention(event), event.step))[:MOST_MARKS]
    return sorted(kept, key=lambda event: event.step)
