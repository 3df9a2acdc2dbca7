"""The live table of runs."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from dash import dcc, html

from ...analyzer.risk import SIGNAL as RISK
from ...storage.base import Store
from ...storage.records import Run, Severity, derived_id
from ..figures.sparkline import sparkline
from ..letters import letter_list, letters_of
from ..live import Updates
from ..pages.attributes import aria, data
from ..pages.overview import nothing_yet
from ..pages.parts import number, percent, pill, risk_of, severity_badge
from ..paths import run_path
from ..reading import OPEN_STATES, line, newest
from ..trouble import trouble_list, troubles_of_store
from ..vitals import Life, Vitals, ago, vitals

SHOWN = 200
Measured = tuple[tuple[float, ...], float | None, float | None]
"""Losses, the share of step time that monitoring costs, and the risk."""
_REFRESH = 4.0


@dataclass(frozen=True, slots=True)
class Row:
    """What the table says about one run."""

    run: Run
    state: Vitals
    silence: float
    losses: tuple[float, ...]
    overhead: float | None
    risk: float | None
    alerts: Counter[Severity]

    @property
    def loss(self) -> float | None:
        """The newest loss."""
        return self.losses[-1] if self.losses else None


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table: its name in the URL, its heading, and what it is sorted by."""

    name: str
    heading: str
    key: Callable[[Row], Any]
    numeric: bool = False
    hint: str = ""


_LIFE_ORDER = (Life.LIVE, Life.STALE, Life.LOST, Life.CRASHED, Life.TERMINATED, Life.FINISHED)


def _badness(row: Row) -> tuple[int, ...]:
    return tuple(row.alerts[severity] for severity in (Severity.CRITICAL, Severity.WARNING, Severity.INFO))


def _or_least(value: float | None) -> float:
    return float("-inf") if value is None or value != value else value


COLUMNS = (
    Column("name", "Run", lambda row: row.run.name.lower()),
    Column("project", "Project", lambda row: row.run.project.lower()),
    Column("state", "State", lambda row: _LIFE_ORDER.index(row.state.life)),
    Column("alerts", "Open alerts", _badness, numeric=True),
    Column("risk", "Risk", lambda row: _or_least(row.risk), numeric=True, hint="How likely the run is to fail soon, 0 to 100"),
    Column("loss", "Loss", lambda row: _or_least(row.loss), numeric=True),
    Column("step", "Last step", lambda row: row.run.last_step, numeric=True),
    Column("heartbeat", "Heartbeat", lambda row: row.run.heartbeat_at, numeric=True),
    Column("cost", "Cost", lambda row: _or_least(row.overhead), numeric=True, hint="Share of step time that monitoring costs"),
)


class Overview:
    """The table of the newest runs; a row is sent again only when what it says has changed.

    Args:
        order: Name of the column to sort by; empty for newest first.
        descending: Largest first.
    """

    def __init__(self, store: Store, order: str = "", descending: bool = False) -> None:
        self._store = store
        self._column = next((column for column in COLUMNS if column.name == order), None)
        self._descending = descending
        self._measured: dict[str, tuple[float, int, Measured]] = {}
        self._shown: tuple[str, ...] | None = None

    @property
    def shown(self) -> tuple[str, ...]:
        """Ids of the runs on the table, from the top."""
        return self._shown or ()

    def paint(self) -> Updates:
        """Return the whole table."""
        self._shown = None
        return self.advance()

    def advance(self) -> Updates:
        """Return the rows whose words changed; the whole table when runs came, went or changed places."""
        runs = self._store.runs(limit=SHOWN + 1)
        rows = self._sorted(self._rows(runs[:SHOWN]))
        ids = tuple(row.run.id for row in rows)
        troubles = [*trouble_list(troubles_of_store(self._store.url), with_run=True), *letter_list(letters_of(self._store))]
        noted = {"overview-troubles": {"children": troubles}}
        if ids == self._shown:
            return {row_id(row.run.id): {"children": cells(row)} for row in rows} | noted
        self._shown = ids
        if not rows:
            return {"runs": {"children": nothing_yet(self._store.url)}} | noted
        more = [html.P(f"The newest {SHOWN} runs are shown.", className="quiet pad")] if len(runs) > SHOWN else []
        return {"runs": {"children": [self._table(rows), *more]}} | noted

    def _rows(self, runs: Iterable[Run]) -> list[Row]:
        now = time.time()
        alerts: dict[str, Counter[Severity]] = {}
        for alert in self._store.alerts(states=OPEN_STATES):
            alerts.setdefault(alert.run_id, Counter())[alert.severity] += 1
        rows = []
        for run in runs:
            losses, overhead, risk = self._measurements(run, now)
            silence = max(0.0, now - max(run.heartbeat_at, run.created_at))
            rows.append(Row(run, vitals(run, now), silence, losses, overhead, risk, alerts.get(run.id, Counter())))
        return rows

    def _measurements(self, run: Run, now: float) -> Measured:
        """Return what was measured, read again only when the run has moved on, and not more often than every few seconds."""
        known = self._measured.get(run.id)
        if known is not None and (known[1] == run.last_step or now - known[0] < _REFRESH):
            return known[2]
        loss = line(self._store, run.id, "loss", max_points=60)
        losses = tuple(float(value) for value in loss.values) if loss is not None else ()
        found = losses, newest(self._store, run, "monitor.overhead"), newest(self._store, run, RISK)
        self._measured[run.id] = (now, run.last_step, found)
        return found

    def _sorted(self, rows: list[Row]) -> list[Row]:
        return sorted(rows, key=self._column.key, reverse=self._descending) if self._column else rows

    def _table(self, rows: list[Row]) -> html.Div:
        head = html.Thead(html.Tr([self._heading(column) for column in COLUMNS]))
        body = html.Tbody([html.Tr(cells(row), id=row_id(row.run.id)) for row in rows])
        table = html.Table([head, body], className="runs")
        return html.Div(table, className="scroll", tabIndex="0", role="region", **aria(label="Table of runs"))

    def _heading(self, column: Column) -> html.Th:
        mine = column is self._column
        descend = not self._descending if mine else column.numeric
        arrow = ("↓" if self._descending else "↑") if mine else ""
        link = dcc.Link(
            [column.heading, html.Span(arrow, className="arrow", **aria(hidden="true"))],
            href=f"/?sort={column.name}&order={'desc' if descend else 'asc'}",
            title=column.hint or f"Sort by {column.heading.lower()}",
        )
        order = ("descending" if self._descending else "ascending") if mine else "none"
        return html.Th(link, scope="col", className=f"col-{column.name}", **aria(sort=order))


def row_id(run_id: str) -> str:
    """Return the id of a run's row (a component's id must not hold every letter that a run's id may)."""
    return f"row-{derived_id(run_id)}"


def cells(row: Row) -> list[html.Td]:
    """Return the cells of one row."""
    name = dcc.Link(row.run.name or row.run.id[:8], href=run_path(row.run.id), className="run-link")
    badges = [severity_badge(severity, row.alerts[severity]) for severity in reversed(Severity) if row.alerts[severity]]
    loss = number(row.loss)
    picture = [html.Img(src=sparkline(row.losses), alt=f"Loss over time, now {loss}", className="spark")] if row.losses else []
    content: dict[str, Any] = {
        "name": name,
        "project": row.run.project or "–",
        "state": pill(row.state),
        "alerts": badges or html.Span("none", className="quiet"),
        "loss": [*picture, html.Span(loss, className="figure")],
        "step": f"{row.run.last_step:,}" if row.run.last_step >= 0 else "–",
        "heartbeat": ago(row.silence),
        "risk": risk_of(row.risk),
        "cost": percent(row.overhead),
    }
    return [
        html.Td(html.Div(content[column.name]), className=f"col-{column.name}", **data(label=column.heading)) for column in COLUMNS
    ]
