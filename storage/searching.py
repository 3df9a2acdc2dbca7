"""Looking for alerts among many: a page of them, and how many there are. Every function works in the caller's transaction."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, case, func, literal, or_, select

from .alerting import alert_of
from .base import Tally
from .codec import clean, to_json
from .records import Alert, AlertQuery, AlertState, Severity
from .results import AlertLine
from .tables import alerts, runs

LEAST_PREFIX = 4
"""Letters of an id that may stand for it."""

_OPEN_AND_RESOLVED = 10  # more than there are severities
_SEVERITY = case({severity.value: 2 - severity.rank for severity in Severity}, value=alerts.c.severity, else_=3)
_RESOLVED = alerts.c.state == AlertState.RESOLVED.value
_URGENCY = case((_RESOLVED, _OPEN_AND_RESOLVED), else_=_SEVERITY)
_UNDECIDED = (AlertState.FIRING, AlertState.PENDING, AlertState.ACKNOWLEDGED, AlertState.SILENCED, AlertState.RESOLVED)
_HANDLED = case({state.value: place for place, state in enumerate(_UNDECIDED)}, value=alerts.c.state)
_WHEN = case((_RESOLVED, alerts.c.updated_at), else_=alerts.c.created_at)


def named(connection: Connection, reference: str) -> Alert:
    """Return the alert with that id, or the only one whose id starts so.

    Raises:
        KeyError: there is none, or several.
    """
    reference = clean(reference)
    query = select(alerts, runs.c.id.label("run_id")).join(runs, runs.c.key == alerts.c.run_key)
    row = connection.execute(query.where(alerts.c.id == reference)).one_or_none()
    if row is not None:
        return alert_of(row)
    found = []
    if len(reference) >= LEAST_PREFIX:
        begins = func.substr(alerts.c.id, 1, len(reference)) == reference
        found = list(connection.execute(query.where(begins).limit(2)))
    if len(found) != 1:
        what = f"several alerts have an id that begins with {reference!r}" if found else f"no alert has the id {reference!r}"
        raise KeyError(f"{what}; give {LEAST_PREFIX} letters or more of one that `foreshock alerts --json` shows")
    return alert_of(found[0])


def find(connection: Connection, query: AlertQuery, *, by_run: bool, limit: int, offset: int) -> list[AlertLine]:
    """Return a page of the alerts that match.

    First their ids, from the columns that are narrow, then the alerts themselves: what is not shown is not read.
    """
    order = [_URGENCY, _HANDLED, _WHEN.desc(), alerts.c.id]
    chosen = _matching(select(alerts.c.id), query, connection.dialect.name)
    if by_run:
        grouped = _matching(select(alerts.c.run_key, func.min(_URGENCY).label("urgency")), query, connection.dialect.name)
        worst = grouped.group_by(alerts.c.run_key).subquery()
        chosen = chosen.join(worst, worst.c.run_key == alerts.c.run_key)
        order = [worst.c.urgency, alerts.c.run_key.desc(), *order]
    ids = list(connection.execute(chosen.order_by(*order).limit(limit).offset(offset)).scalars())
    if not ids:
        return []
    columns = [column for column in alerts.columns if column.name != "evidence"]
    about_run = (runs.c.id.label("run_id"), runs.c.name.label("run_name"), runs.c.project)
    whole = select(*columns, literal("[]").label("evidence"), *about_run).join(runs, runs.c.key == alerts.c.run_key)
    rows = {row.id: row for row in connection.execute(whole.where(alerts.c.id.in_(ids)))}
    return [AlertLine(alert_of(rows[each]), rows[each].run_name, rows[each].project) for each in ids]


def tally(connection: Connection, query: AlertQuery, by: Sequence[Tally], limit: int | None) -> dict[tuple[str, ...], int]:
    """Return values -> number of alerts that match."""
    dialect = connection.dialect.name
    values: dict[Tally, ColumnElement[Any]] = {
        "state": alerts.c.state,
        "severity": alerts.c.severity,
        "rule": alerts.c.rule,
        "cause": _cause(dialect),
        "run": runs.c.id,
        "run_name": runs.c.name,
        "project": runs.c.project,
    }
    # Named in a query of their own: what is grouped by must not hold parameters, which PostgreSQL would take for different ones.
    each = _matching(select(*(values[name].label(f"by_{name}") for name in by)), query, dialect).subquery()
    count = func.count().label("how_many")
    counted = select(*each.columns, count).group_by(*each.columns).order_by(count.desc(), *each.columns).limit(limit)
    return {tuple(row[:-1]): row[-1] for row in connection.execute(counted)}


def _matching(selected: Select[Any], query: AlertQuery, dialect: str) -> Select[Any]:
    """Narrow a selection of alerts, and bring in their runs."""
    found = selected.select_from(alerts).join(runs, runs.c.key == alerts.c.run_key)
    if query.states:
        found = found.where(alerts.c.state.in_([state.value for state in query.states]))
    if query.severities:
        found = found.where(alerts.c.severity.in_([severity.value for severity in query.severities]))
    found = found.where(
        *(
            column == clean(value)
            for column, value in (
                (runs.c.id, query.run_id),
                (runs.c.project, query.project),
                (alerts.c.rule, query.rule),
                (alerts.c.module, query.module),
            )
            if value
        )
    )
    if query.steps is not None:
        found = found.where(alerts.c.first_step.between(*query.steps))
    if query.cause:
        begin = to_json([[query.cause]])[:-2] + ","
        found = found.where(func.substr(alerts.c.diagnosis, 1, len(begin)) == begin)
    if text := clean(query.text).strip():
        # Not LIKE: it has letters that mean something, and SQLite's takes no long ones.
        where = (alerts.c.message, alerts.c.rule, alerts.c.module, runs.c.name)
        found = found.where(or_(*(_place(dialect, func.lower(column), func.lower(text)) > 0 for column in where)))
    return found


def _cause(dialect: str) -> ColumnElement[Any]:
    """Return the name of the likeliest cause, the first text in ``[["name", ...``; empty where there is none."""
    rest = func.substr(alerts.c.diagnosis, 4)
    return case((alerts.c.diagnosis == "[]", ""), else_=func.substr(rest, 1, _place(dialect, rest, '"') - 1))


def _place(dialect: str, whole: ColumnElement[Any], part: ColumnElement[Any] | str) -> ColumnElement[Any]:
    """Return where a text stands in another, from 1; 0 where it does not."""
    return func.strpos(whole, part) if dialect == "postgresql" else func.instr(whole, part)
