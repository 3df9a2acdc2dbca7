"""Several runs side by side: the layout, and its parts in words."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from ...storage.records import Alert, Run, Severity
from ..comparing import LETTERS, MOST_RUNS, Compared
from ..figures import comparison as figures
from ..paths import Comparison, compare_path, run_path, runs_path
from ..signals import describe
from ..updates import Updates, digests
from ..vitals import Vitals, lasted
from .attributes import aria, data
from .parts import card, graph, message, number, percent, pill, risk_of, severity_badge
from .run_table import rate_of

_LONGEST = 48
_CLASSES = {"Run": "col-name", "State": "col-state", "Open alerts": "col-wide", "First alert": "col-wide"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the table says about one run; ``standing`` are its open alerts, ``first`` is the first alert that it had."""

    run: Run
    loss: float | None
    lowest: float | None
    risk: float | None
    cost: float | None
    rate: float | None
    standing: tuple[Alert, ...]
    first: Alert | None


def compare_page(comparison: Comparison, found: Compared, words: Updates) -> html.Main:
    """Return the layout of a comparison.

    Args:
        words: What ``sections.compare.CompareTable`` paints.
    """
    count = len(found.runs)
    title = "Compare with another run" if count == 1 else f"Compare {count} runs"
    return html.Main(
        [
            dcc.Store(id="compared", data=[run.id for run in found.runs]),
            dcc.Store(id="compare-page-ticket"),
            dcc.Store(id="compare-page-painted", data=digests(words)),
            html.Nav(dcc.Link("← All runs", href=runs_path()), **aria(label="Breadcrumb")),
            html.H1(title, className="page-title"),
            *_left_out(found),
            *notes(found.missing),
            html.Div(words["compare-gone"]["children"], id="compare-gone", role="status"),
            html.Div(words["compare-table"]["children"], id="compare-table", className="card flush"),
            _tools(comparison, found.runs),
            _chart("Loss", "compare-loss", figures.HEIGHT, "Lets you see which run leaves the others, and where.", found.runs),
            html.Div(
                _chart(
                    "Loss minus the baseline's",
                    "compare-difference",
                    figures.LOW,
                    "Below zero a run is better than the baseline at the same place. Averaged over stretches of the axis.",
                    found.runs,
                ),
                id="compare-difference-part",
                hidden=comparison.baseline not in {run.id for run in found.runs},
            ),
            _signal(comparison, found.runs),
            card(
                "Configuration: what differs",
                html.Div(words["compare-settings"]["children"], id="compare-settings"),
                name="compare-settings-card",
                hint="Facts and settings of the runs that are not the same in all of them.",
            ),
        ],
        id="compare-page",
        className="page",
        **data(live="", runs=json.dumps([*(run.id for run in found.runs), *found.beyond])),
    )


def nothing_to_compare(found: Compared) -> Component:
    """Return the page for a comparison of no runs: how to choose some."""
    return message(
        "Nothing to compare",
        *_left_out(found),
        html.Div(notes(found.missing)),
        html.P(f"Select two runs or more in the list of runs, {MOST_RUNS} at most, then press Compare."),
        html.P(dcc.Link("See all runs", href=runs_path(), className="button")),
        name="compare-nothing",
    )


def _left_out(found: Compared) -> list[Component]:
    if not found.beyond:
        return []
    count = len(found.beyond)
    runs = "1 run is" if count == 1 else f"{count} runs are"
    words = f"At most {MOST_RUNS} runs are compared: {runs} left out. Remove some of those below to see them."
    return [html.P(words, className="note", id="compare-beyond")]


def notes(gone: Sequence[str]) -> list[Component]:
    """Return which runs are not there, if any: they were deleted, or are in another store."""
    if not gone:
        return []
    names = [part for name in gone for part in (html.Code(name[:_LONGEST], dir="auto"), " ")]
    words = "This run is not in the store: " if len(gone) == 1 else "These runs are not in the store: "
    return [
        html.P(
            [words, *names, "It was deleted, or the address is not whole." if len(gone) == 1 else "They were deleted."],
            className="note",
        )
    ]


def compare_table(rows: Sequence[tuple[int, Facts, Vitals]], baseline: str, now: float) -> Component:
    """Return a row a run."""
    headings = (
        "Run",
        "State",
        "Final loss",
        "Lowest loss",
        "Risk",
        "Open alerts",
        "First alert",
        "Last step",
        "Steps/s",
        "Ran for",
        "Cost",
    )
    head = html.Thead(
        html.Tr([*(html.Th(one, scope="col") for one in headings), html.Th(html.Span("Remove", className="visually-hidden"))])
    )
    body = html.Tbody([_row(*one, headings, baseline, now) for one in rows])
    table = html.Table([head, body], className="runs compared")
    return html.Div(table, className="scroll", tabIndex="0", role="region", **aria(label="Figures of the compared runs"))


def _row(place: int, one: Facts, state: Vitals, headings: Sequence[str], baseline: str, now: float) -> html.Tr:
    run = one.run
    name = run.name or run.id[:8]
    counts = [(severity, sum(alert.severity is severity for alert in one.standing)) for severity in reversed(Severity)]
    badges = [severity_badge(severity, count) for severity, count in counts if count]
    first = one.first
    end = now if state.running else run.ended_at or run.heartbeat_at
    link = [key(place), html.Span(dcc.Link(name, href=run_path(run.id), className="run-link"), dir="auto")]
    mine = [html.Span("baseline", className="tag")] if run.id == baseline else []
    values: tuple[Any, ...] = (
        html.Div([*link, *mine], className="keyed"),
        pill(state),
        number(one.loss),
        number(one.lowest),
        risk_of(one.risk),
        badges or html.Span("none", className="quiet"),
        html.Span([severity_badge(first.severity), f"step {first.first_step:,}"])
        if first
        else html.Span("none", className="quiet"),
        f"{run.last_step:,}" if run.last_step >= 0 else "–",
        rate_of(one.rate),
        lasted(max(0.0, end - run.created_at)) if run.created_at else "–",
        percent(one.cost),
    )
    cells = [
        html.Td(value, className=_CLASSES.get(heading, ""), **data(label=heading))
        for heading, value in zip(headings, values, strict=True)
    ]
    remove = html.A(
        "✕",
        href=compare_path(),
        className="compare-without",
        title="Leave it out",
        **aria(label=f"Leave {name} out"),
        **data(without=run.id),
    )
    return html.Tr([*cells, html.Td(remove, className="col-pick")])


def key(place: int) -> html.Span:
    """Return the letter and a piece of the line of the run at a place."""
    image = html.Img(src=figures.swatch(place), alt="", className="swatch")
    return html.Span([html.B(LETTERS[place]), image], className="key")


def settings_table(runs: Sequence[tuple[int, Run]], rows: Mapping[str, Sequence[str | None]]) -> Component:
    """Return the settings that differ, a row each; long values are shortened, with the whole in their title."""
    if not rows:
        return html.P("Nothing that was recorded of these runs differs.", className="quiet")
    head = html.Tr([html.Th("Setting", scope="col"), *(html.Th(key(place), scope="col", title=run.name) for place, run in runs)])
    body = [
        html.Tr([html.Th(name, scope="row", dir="auto"), *(_value(value) for value in values)]) for name, values in rows.items()
    ]
    table = html.Table([html.Thead(head), html.Tbody(body)], className="settings")
    return html.Div(table, className="scroll", tabIndex="0", role="region", **aria(label="Settings that differ"))


def _value(value: str | None) -> html.Td:
    if value is None:
        return html.Td("–", className="quiet")
    if len(value) <= _LONGEST:
        return html.Td(value, dir="auto")
    return html.Td(f"{value[: _LONGEST - 1]}…", title=value[:2000], dir="auto")


def _tools(comparison: Comparison, runs: Sequence[Run]) -> html.Div:
    axes = (("step", "step"), ("time", "time"), ("share", "share of run"))
    over = _segmented("compare-axis", "Over", axes, comparison.axis, "What the charts are drawn over")
    scale = _segmented(
        "compare-scale",
        "Values",
        (("linear", "linear"), ("log", "log")),
        "log" if comparison.log else "linear",
        "Scale of the values",
    )
    options = [{"label": f"{LETTERS[place]} · {run.name or run.id[:8]}", "value": run.id} for place, run in enumerate(runs)]
    base = dcc.Dropdown(
        id="compare-base",
        options=options,
        value=comparison.baseline if comparison.baseline in {run.id for run in runs} else None,
        placeholder="No baseline",
        className="picker",
    )
    return html.Div(
        [over, scale, html.Label([html.Span("Baseline", className="label"), base], className="layer-choice")],
        className="card compare-tools",
    )


def _segmented(name: str, label: str, options: Sequence[tuple[str, str]], value: str, says: str) -> html.Div:
    radio = dcc.RadioItems(
        options=[{"label": shown, "value": chosen} for chosen, shown in options],
        value=value,
        id=name,
        className="segmented",
        inline=True,
    )
    return html.Div(
        [html.Span(label, className="label"), html.Div(radio, role="group", **aria(label=says))], className="layer-choice"
    )


def _chart(title: str, name: str, height: int, hint: str, runs: Sequence[Run], actions: Any = None) -> html.Section:
    plot = graph(name, f"Chart of the compared runs: {title}", height, table=False)
    return card(title, plot, _legend(runs), hint=hint, name=f"{name}-card", actions=actions)


def _legend(runs: Sequence[Run]) -> html.Ul:
    entries = [html.Li([key(place), html.Span(run.name or run.id[:8], dir="auto")]) for place, run in enumerate(runs)]
    return html.Ul(entries, className="legend line-keys", **aria(label="Lines"))


def _signal(comparison: Comparison, runs: Sequence[Run]) -> html.Section:
    signal, module = comparison.signal, comparison.module
    picker = dcc.Dropdown(
        id="compare-signal",
        options=[{"label": describe(signal).title, "value": signal}] if signal else [],
        value=signal or None,
        placeholder="Choose a signal",
        className="picker",
        maxHeight=360,
    )
    layer = dcc.Dropdown(
        id="compare-module",
        options=[{"label": module, "value": module}] if module else [],
        value=module or None,
        placeholder="Whole run",
        className="picker",
        maxHeight=360,
        clearable=False,
    )
    actions = html.Div(
        [
            html.Label([html.Span("Signal", className="visually-hidden"), picker]),
            html.Label([html.Span("Layer", className="visually-hidden"), layer]),
        ],
        className="pickers",
    )
    return _chart("Another signal", "compare-overlay", figures.HEIGHT, "Lets you see what else the runs differ in.", runs, actions)
