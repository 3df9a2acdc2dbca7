"""What the table of runs says, as plain data: ``assets/runs.js`` draws it, a hundred times faster than as components.

A line is a run or the heading of a group. Everything in it is text, or an address; nothing is ever read as HTML.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dash import html

from ...storage.records import Run, Severity, derived_id
from ..figures.sparkline import sparkline_points
from ..listing import COLUMNS, LIFE_ORDER, NAMELESS, Alerts, Column, Group
from ..paths import RunsView, run_path, runs_path
from ..roster import Figures
from ..vitals import Vitals, ago, lasted, moment
from .parts import SEVERITY_ICONS, number, percent, risk_of

_TAGS = 4

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """What the table says about one run. ``losses`` is the course of its loss, ``silence`` the seconds since its heartbeat."""

    run: Run
    state: Vitals
    silence: float
    lasted: float
    alerts: Alerts
    figures: Figures
    losses: Sequence[float]


def view_link(label: Any, view: RunsView, **more: Any) -> html.A:
    """Return a link to another view of the list. ``assets/runs.js`` follows it without loading the page again."""
    return html.A(label, href=runs_path(view), **{"className": "view-link", **more})


def table(lines: Sequence[Line], view: RunsView, pages: int, words: str) -> dict[str, Any]:
    """Return headings, lines, and the ways to the pages beside this one."""
    return {"columns": [_heading(column, view) for column in columns_of(view)], "lines": lines, "pager": _pager(view, pages, words)}


def columns_of(view: RunsView) -> list[Column]:
    """Return the columns of a view: in groups, the project stands in the headings."""
    return [column for column in COLUMNS if not (view.group and column.name == "project")]


def _heading(column: Column, view: RunsView) -> dict[str, str]:
    mine = column.name == view.sort
    descend = not view.descending if mine else column.numeric
    return {
        "name": column.name,
        "heading": column.heading,
        "title": column.hint or f"Sort by {column.heading.lower()}",
        "href": runs_path(replace(view, sort=column.name, descending=descend, page=1)),
        "sort": ("descending" if view.descending else "ascending") if mine else "none",
    }


def run_line(row: Row, view: RunsView) -> Line:
    """Return the line of a run."""
    run, figures = row.run, row.figures
    cells: dict[str, Any] = {
        "project": run.project or NAMELESS,
        "state": {"life": row.state.life.value, "words": row.state.phrase},
        "alerts": _badges(row.alerts),
        "loss": {"points": sparkline_points(row.losses) if row.losses else "", "words": number(figures.loss)},
        "step": f"{run.last_step:,}" if run.last_step >= 0 else "–",
        "rate": rate_of(figures.rate),
        "heartbeat": ago(row.silence),
        "started": [moment(run.created_at), lasted(row.lasted)] if run.created_at else ["–"],
        "risk": risk_of(figures.risk),
        "cost": percent(figures.cost),
    }
    more = len(run.tags) - _TAGS
    tags = [*run.tags[:_TAGS], *([f"+{more}"] if more > 0 else [])]
    name = run.name or run.id[:8]
    shown = {column.name: cells[column.name] for column in columns_of(view) if column.name in cells}
    return {"id": f"row-{derived_id(run.id)}", "run": run.id, "name": name, "href": run_path(run.id), "tags": tags, "cells": shown}


def group_line(group: Group, view: RunsView) -> Line:
    """Return the heading of a group: opens and closes it, counts its runs, and shows what stands against them."""
    flipped = tuple(name for name in view.flipped if name != group.name)
    if group.name not in view.flipped:
        flipped = (*flipped, group.name)
    return {
        "id": f"group-{derived_id(group.name)}",
        "name": group.name,
        "href": runs_path(replace(view, flipped=flipped, page=1 if group.continued else view.page)),
        "closed": group.closed,
        "continued": group.continued,
        "runs": "1 run" if group.size == 1 else f"{group.size:,} runs",
        "states": [
            {"life": one.value, "words": f"{group.states[one]:,} {one.value}"} for one in LIFE_ORDER if group.states.get(one)
        ],
        "alerts": _badges(group.alerts),
    }


def _badges(alerts: Alerts) -> list[dict[str, Any]]:
    return [
        {"severity": severity.value, "icon": SEVERITY_ICONS[severity], "count": alerts[severity]}
        for severity in reversed(Severity)
        if alerts.get(severity)
    ]


def rate_of(rate: float | None) -> str:
    """Return steps per second with three figures, or a dash."""
    return "–" if rate is None else f"{rate:,.0f}" if rate >= 1000 else f"{rate:.3g}"


def _pager(view: RunsView, pages: int, words: str) -> dict[str, Any] | None:
    """Return the ways to the pages beside this one, and in words where this one stands; None where there is one page only."""
    if pages == 1:
        return None

    def way(name: str, label: str, to: int) -> dict[str, Any]:
        return {
            "name": name,
            "label": label,
            "href": runs_path(replace(view, page=to)) if 1 <= to <= pages and to != view.page else "",
        }

    before = [way("first", "« First", 1), way("previous", "← Previous", view.page - 1)]
    after = [way("next", "Next →", view.page + 1), way("last", "Last »", pages)]
    return {"before": before, "words": words, "after": after}
