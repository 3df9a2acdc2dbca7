"""One figure of a run for who asks in Python, a notebook say: those of the page, as ``plotly.graph_objects.Figure``."""

import difflib
import os
from collections.abc import Iterable, Sequence
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING

from ..analyzer.risk import SIGNAL as RISK
from ..storage.base import Store
from ..storage.opening import open_store
from ..storage.records import Alert, Run, Series
from .figures import alignment_distribution, gradient, loss, overhead, risk, spectrum
from .figures.layer_heatmap import layer_heatmap_figure
from .figures.layer_signal import layer_signal_figure
from .figures.signal_lines import Line, signal_lines_figure
from .figures.style import Figure, empty, text
from .layers import usual_signal
from .names import related
from .pictures import Panel, Picture
from .reading import MAX_HISTOGRAMS, MAX_POINTS, histogram_grid, layer_grid, layer_points, line, shown_alerts
from .signals import DISTRIBUTIONS, HISTOGRAM, SPECTRUM, SignalInfo, describe, offered

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure  # type: ignore[import-untyped]

LOSS = "loss"
_TITLES = {
    LOSS: loss.TITLE,
    "gradient.norm": gradient.TITLE,
    "monitor.overhead": overhead.TITLE,
    RISK: risk.TITLE,
    HISTOGRAM: alignment_distribution.TITLE,
    SPECTRUM: spectrum.TITLE,
}
_MOST_NAMED = 40
_HEADING = 56
"""Pixels above the plot."""
_BAR = {"orientation": "v", "x": 1.02, "y": 0.5, "yanchor": "middle", "len": 1, "xpad": 4, "ypad": 0, "title": {"side": "right"}}


class NothingToDrawError(ValueError):
    """The run has no such signal or layer; the message names those nearest to what was asked for."""


def figure(
    run: Run | str, signal: str | None = None, module: str | None = None, *, store: Store | str | os.PathLike[str] | None = None
) -> "PlotlyFigure":
    """Draw a run: its loss with the alerts, or a signal of the whole run, of all layers, or of one.

    Reads what is stored by now, so it may be asked again while the run goes on; at most some thousand points, however long the run.
    ``store.frame(run, signal)`` gives every point as a pandas frame.

    Args:
        run: the run, its id, or its name (the newest of that name).
        signal: what to draw (docs/signals.md lists them); of a signal that is measured by layer all layers as a heatmap.
        module: one layer's course of it instead, a line a head; without ``signal`` the one that tells most of this layer.
        store: where the run is kept: an open store, or what ``foreshock.open_store`` takes.

    Raises:
        NothingToDrawError: the run has no such signal or layer.
        UnknownRunError, StoreConfigurationError, StoreUnavailableError: see ``open_store``.
    """
    with nullcontext(store) if isinstance(store, Store) else closing(open_store(store, create=False)) as opened:
        found = opened.run(run.id if isinstance(run, Run) else run)
        return as_plotly(*_drawn(opened, found, signal, module))


def words(message: str) -> "PlotlyFigure":
    """Return a figure that says why there is nothing to draw."""
    return as_plotly(empty(text(message)), "", "")


def as_plotly(drawn: Figure, title: str, subtitle: str) -> "PlotlyFigure":
    """Return one of the page's figures with a heading of its own, for which its scale or legend makes way."""
    from plotly import graph_objects  # type: ignore[import-untyped]

    shown: PlotlyFigure = graph_objects.Figure(drawn)
    if title:
        heading = {"text": text(title), "subtitle": {"text": text(subtitle)}, "x": 0, "xref": "paper", "font": {"size": 15}}
        shown.update_layout(title=heading, height=shown.layout.height + _HEADING, margin_t=_HEADING)
        shown.update_layout(legend={"x": 1, "xanchor": "right"})
        shown.update_traces(colorbar=_BAR, selector={"type": "heatmap"})
    return shown


def _drawn(store: Store, run: Run, signal: str | None, module: str | None) -> tuple[Figure, str, str]:
    """Return the figure, its title, and what it is of."""
    series, alerts, name = store.series(run.id), shown_alerts(store, run), run.name or run.id
    if module is not None:
        module = _known("layer", module, run, {one.key.module for one in series if one.key.module})
        measured = {one.key.signal for one in series if one.key.module == module}
        signal = signal or usual_signal(store, run, module, offered(measured - DISTRIBUTIONS))
    signal = LOSS if signal is None else _known("signal", signal, run, {LOSS, *(one.key.signal for one in series)})
    series = [one for one in series if one.key.signal == signal]
    layers, info = list(dict.fromkeys(one.key.module for one in series if one.key.module)), describe(signal)
    title = _TITLES.get(signal, info.title)
    if module is None and not layers:
        return _of_the_run(store, run, signal, series, alerts), title, name
    if module is None and signal not in DISTRIBUTIONS:
        points = layer_points(store, run.id, info)
        return layer_heatmap_figure(layer_grid(points, info), points.modules, info), title, name
    chosen = related(module or layers[0], layers)
    if not chosen:
        only = f"It is for {_listed(layers)}" if layers else "It is of the whole run"
        raise NothingToDrawError(
            f"{signal!r} is not measured for {module!r} in run {name!r}. {only}: leave module= out to draw that."
        )
    if signal in DISTRIBUTIONS:
        return _distribution(store, run, signal, chosen[0]), title, f"{name}, {chosen[0]}"
    data = store.read([one for one in series if one.key.module in chosen], max_points=MAX_POINTS)
    if len(chosen) > 1:  # the parts of what was asked for
        return _side_by_side(info, [Line(one, one.key.module) for one in data]), title, f"{name}, {module}"
    here = [alert for alert in alerts if alert.module in (module, chosen[0])]
    return layer_signal_figure(data, info, chosen[0], here), title, f"{name}, {chosen[0]}"


def _of_the_run(store: Store, run: Run, signal: str, series: Sequence[Series], alerts: Sequence[Alert]) -> Figure:
    """Draw what is measured of the run as a whole."""
    data, info = line(store, run.id, signal), describe(signal)
    if signal == RISK:
        return risk.risk_figure(data)
    if signal == "monitor.overhead":
        return overhead.overhead_figure(data)
    if signal in (LOSS, "gradient.norm"):
        events = [event for event in store.events(run.id) if event.step >= 0]
        if signal == LOSS:
            return loss.loss_figure(data, alerts, events)
        return gradient.gradient_figure(data, alerts, events, clipped=line(store, run.id, "gradient.norm_clipped"))
    if len(series) > 1:
        read = store.read(series, max_points=MAX_POINTS)
        return _side_by_side(info, [Line(one, f"rank {one.key.rank}" if one.key.rank >= 0 else info.title) for one in read])
    return layer_signal_figure([data] if data is not None else [], info, "", alerts)


def _side_by_side(info: SignalInfo, lines: Sequence[Line]) -> Figure:
    """Draw several lines of one signal."""
    picture = Picture(info.name, Panel.LAYER, info.title, info.recognise, (info.name,), unit=info.axis_title)
    return signal_lines_figure(picture, lines)


def _distribution(store: Store, run: Run, signal: str, module: str) -> Figure:
    """Draw one layer's histograms over steps."""
    found = store.histograms(run.id, signal, module, limit=MAX_HISTOGRAMS)
    found = [one for one in found if sum(one.histogram.counts)]
    ends = (found[-1].histogram.low, found[-1].histogram.high) if found else (-1.0, 1.0)
    draw = alignment_distribution.alignment_distribution_figure if signal == HISTOGRAM else spectrum.spectrum_figure
    return draw(histogram_grid(found), *ends)


def _known(what: str, given: str, run: Run, there: Iterable[str]) -> str:
    """Return the signal or layer that was asked for."""
    names = sorted(there)
    if given in names:
        return given
    near = difflib.get_close_matches(given, names, n=3) or [name for name in names if given.lower() in name.lower()][:3]
    instead = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    have = f"There are {len(names)}: {_listed(names)}." if names else "None was measured so far."
    raise NothingToDrawError(f"Run {run.name or run.id!r} has no {what} {given!r}. {instead}{have}")


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f", and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
