"""The live table of runs."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dash import dcc, html

from ...analyzer.risk import SIGNAL as RISK
from ...storage.base import Store
from ...storage.records import Notification, Run, SeriesKey, Severity, derived_id
from ..figures.sparkline import sparkline
from ..letters import letter_list, letters_of
from ..live import Updates
from ..pages.attributes import aria, data
from ..pages.overview import nothing_yet
from ..pages.parts import number, percent, pill, risk_of, severity_badge
from ..paths import run_path, runs_path
from ..reading import OPEN_STATES, newest_of
from ..trouble import trouble_list, troubles_of_store
from ..vitals import Life, Vitals, ago, vitals

MOST = 1000
"""Runs that are listed: the newest."""
PAGE = 50
"""Rows on a page: more would take the browser seconds to build."""
LOSS, COST = "loss", "monitor.overhead"
_REFRESH = 4.0


@dataclass(frozen=True, slots=True)
class Row:
    """What the table says about one run."""

    run: Run
    state: Vitals
    silence: float
    loss: float | None
    overhead: float | None
    risk: float | None
    alerts: Mapping[Severity, int]


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
    return tuple(row.alerts.get(severity, 0) for severity in (Severity.CRITICAL, Severity.WARNING, Severity.INFO))


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
    """A page of the table of the newest runs; a row is sent again only when what it says has changed.

    All runs are read, to sort them; the losses' courses only of those on the page.

    Args:
        order: Name of the column to sort by; empty for newest first.
        descending: Largest first.
        page: Which page, from 1; one past the end shows the last.
    """

    subject = ""

    def __init__(self, store: Store, order: str = "", descending: bool = False, page: int = 1) -> None:
        self._store = store
        self._column = next((column for column in COLUMNS if column.name == order), None)
        self._descending, self._page = descending, max(1, page)
        self._runs: list[Run] = []
        self._alerts: Mapping[str, Mapping[Severity, int]] = {}
        self._measured: dict[str, tuple[float, int, Mapping[str, float]]] = {}
        self._courses: dict[str, tuple[int, list[float]]] = {}
        self._letters: list[Notification] = []
        self._shown: tuple[str, ...] | None = None
        self._total = 0

    @property
    def shown(self) -> tuple[str, ...]:
        """Ids of the runs on the table, from the top."""
        return self._shown or ()

    def look(self, graph: str, looks: Sequence[Any]) -> None:
        """Do nothing: no picture in it is over steps that a reader could zoom."""

    def paint(self) -> Updates:
        """Return the whole table."""
        self._shown = None
        return self.advance()

    def advance(self) -> Updates:
        """Return the rows whose words changed; the whole table when runs came, went or changed places."""
        self._runs = self._store.runs(limit=MOST + 1)
        self._alerts = self._store.alert_counts(OPEN_STATES)
        self._letters = letters_of(self._store)
        self._measure(time.time())
        return self._updates(read=True)

    def tick(self) -> Updates:
        """Return the rows in whose words time has passed."""
        return self._updates(read=False)

    def _updates(self, *, read: bool) -> Updates:
        now = time.time()
        rows = self._sorted([self._row(run, now) for run in self._runs[:MOST]])
        pages = max(1, -(-len(rows) // PAGE))
        page = min(self._page, pages)
        rows = rows[(page - 1) * PAGE : page * PAGE]
        ids, total = tuple(row.run.id for row in rows), len(self._runs)
        if read or ids != self._shown:
            self._draw(rows)
        troubles = [*trouble_list(troubles_of_store(self._store.url), with_run=True), *letter_list(self._letters)]
        noted = {"overview-troubles": {"children": troubles}}
        if (ids, total) == (self._shown, self._total):
            return {row_id(row.run.id): {"children": cells(row, self._course(row))} for row in rows} | noted
        self._shown, self._total = ids, total
        if not rows:
            return {"runs": {"children": nothing_yet(self._store.url)}} | noted
        return {"runs": {"children": [self._table(rows), *self._pager(page, pages)]}} | noted

    def _row(self, run: Run, now: float) -> Row:
        values = self._measured[run.id][2]
        silence = max(0.0, now - max(run.heartbeat_at, run.created_at))
        alerts = self._alerts.get(run.id, {})
        return Row(run, vitals(run, now), silence, values.get(LOSS), values.get(COST), values.get(RISK), alerts)

    def _measure(self, now: float) -> None:
        """Read what was measured of the runs that have moved on, and not more often than every few seconds."""
        stale = [run for run in self._runs[:MOST] if self._is_stale(run, now)]
        found = newest_of(self._store, [run.id for run in stale], (LOSS, COST, RISK)) if stale else {}
        for run in stale:
            self._measured[run.id] = (now, run.last_step, found.get(run.id, {}))

    def _is_stale(self, run: Run, now: float) -> bool:
        known = self._measured.get(run.id)
        return known is None or (known[1] != run.last_step and now - known[0] >= _REFRESH)

    def _draw(self, rows: Sequence[Row]) -> None:
        """Read the losses' courses of those rows whose run has moved on since."""
        stale = [row.run.id for row in rows if self._courses.get(row.run.id, (None,))[0] != self._measured[row.run.id][1]]
        found = self._store.sparklines(stale, SeriesKey(LOSS)) if stale else {}
        self._courses |= {run_id: (self._measured[run_id][1], found.get(run_id, [])) for run_id in stale}

    def _course(self, row: Row) -> list[float]:
        return self._courses[row.run.id][1]

    def _sorted(self, rows: list[Row]) -> list[Row]:
        return sorted(rows, key=self._column.key, reverse=self._descending) if self._column else rows

    def _pager(self, page: int, pages: int) -> list[html.Nav]:
        """Return where this page stands among the others, and the ways there."""
        if pages == 1 and len(self._runs) <= MOST:
            return []
        first, last = (page - 1) * PAGE + 1, min(page * PAGE, len(self._runs))
        count = f"{len(self._runs):,}" if len(self._runs) <= MOST else f"the newest {MOST:,}"
        name = self._column.name if self._column else ""

        def link(label: str, to: int) -> Any:
            if not 1 <= to <= pages:
                return html.Span(label, className="button off", **aria(disabled="true"))
            return dcc.Link(label, href=runs_path((name, self._descending, to)), className="button")

        words = html.Span(f"{first:,}–{last:,} of {count} runs", className="quiet")
        parts = [link("← Previous", page - 1), words, link("Next →", page + 1)]
        return [html.Nav(parts, className="pager", **aria(label="Pages of the list of runs"))]

    def _table(self, rows: list[Row]) -> html.Div:
        head = html.Thead(html.Tr([self._heading(column) for column in COLUMNS]))
        body = html.Tbody([html.Tr(cells(row, self._course(row)), id=row_id(row.run.id)) for row in rows])
        table = html.Table([head, body], className="runs")
        return html.Div(table, className="scroll", tabIndex="0", role="region", **aria(label="Table of runs"))

    def _heading(self, column: Column) -> html.Th:
        mine = column is self._column
        descend = not self._descending if mine else column.numeric
        arrow = ("↓" if self._descending else "↑") if mine else ""
        link = dcc.Link(
            [column.heading, html.Span(arrow, className="arrow", **aria(hidden="true"))],
            href=runs_path((column.name, descend, 1)),
            title=column.hint or f"Sort by {column.heading.lower()}",
        )
        order = ("descending" if self._descending else "ascending") if mine else "none"
        return html.Th(link, scope="col", className=f"col-{column.name}", **aria(sort=order))


def row_id(run_id: str) -> str:
    """Return the id of a run's row (a component's id must not hold every letter that a run's id may)."""
    return f"row-{derived_id(run_id)}"


def cells(row: Row, losses: Sequence[float]) -> list[html.Td]:
    """Return the cells of one row; ``losses`` are the course of its loss."""
    name = dcc.Link(row.run.name or row.run.id[:8], href=run_path(row.run.id), className="run-link")
    badges = [severity_badge(severity, row.alerts[severity]) for severity in reversed(Severity) if row.alerts.get(severity)]
    loss = number(row.loss)
    picture = [html.Img(src=sparkline(losses), alt=f"Loss over time, now {loss}", className="spark")] if losses else []
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
