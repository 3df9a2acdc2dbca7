"""What people changed of the rules. Rows are only added. Every function works in the caller's transaction."""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, and_, func, or_, select

from .codec import clean
from .errors import InvalidRecordError, RuleConflictError
from .records import RuleVersion, derived_id
from .runs import key_of
from .tables import rule_versions
from .upserts import insert_new

UNREADABLE = "unreadable"
"""Key under which a row's text is returned that is no JSON table: no rule takes it, so it is told and left out."""


def save(connection: Connection, version: RuleVersion, seen: int) -> RuleVersion:
    """Add a version after the one its author has seen, unless its id is there; return it as it is stored.

    Raises:
        UnknownRunError: it is about a run that is not there.
        InvalidRecordError: its changes cannot be written as JSON.
        RuleConflictError: another version came after the one seen.
    """
    if version.run_id:
        key_of(connection, version.run_id)
    known = connection.execute(select(rule_versions).where(rule_versions.c.id == version.id)).one_or_none()
    if known is not None:
        return _version(known)
    version = replace(version, version=seen + 1)
    row = _row(version)
    same = rule_versions.c.digest == row["digest"]
    last = connection.execute(select(rule_versions).where(same).order_by(rule_versions.c.version.desc()).limit(1)).one_or_none()
    if (last.version if last is not None else 0) == seen:
        connection.execute(insert_new(connection.dialect.name, rule_versions, "id"), row)
        # Read with a lock: of two who saved at once, one finds the other's row, whatever its transaction saw at its start.
        numbered = select(rule_versions).where(same, rule_versions.c.version == version.version)
        last = connection.execute(numbered.with_for_update()).one()
        if last.id == version.id:
            return _version(last)
    raise RuleConflictError(_conflict(version, seen, None if last is None else _version(last)))


def history(
    connection: Connection, rule: str | None, project: str | None, run_id: str | None, limit: int | None
) -> list[RuleVersion]:
    """Return versions, newest first; of one rule, and of one scope where project or run is given."""
    query = select(rule_versions).order_by(rule_versions.c.key.desc()).limit(limit)
    if rule is not None:
        query = query.where(rule_versions.c.rule == clean(rule))
    if project is not None:
        query = query.where(rule_versions.c.project == clean(project))
    if run_id is not None:
        query = query.where(rule_versions.c.run_id == run_id)
    return [_version(row) for row in connection.execute(query)]


def newest(connection: Connection, project: str, run_id: str) -> list[RuleVersion]:
    """Return the newest version of each rule in the store's scope, the project's and the run's, in this order, by rule's name."""
    table, last = rule_versions, rule_versions.alias()
    scopes = [and_(table.c.project == "", table.c.run_id == "")]
    scopes += [and_(table.c.project == clean(project), table.c.run_id == "")] if project else []
    scopes += [table.c.run_id == run_id] if run_id else []
    highest = select(func.max(last.c.version)).where(last.c.digest == table.c.digest).scalar_subquery()
    found = [_version(row) for row in connection.execute(select(table).where(or_(*scopes), table.c.version == highest))]
    return sorted(found, key=lambda each: (bool(each.run_id), bool(each.project), each.rule))


def revision(connection: Connection) -> str:
    """Return a text that differs after a version was added, or went with its run.

    The highest key alone would miss one that is committed after a later one; keys are never used twice, so that key and count
    together miss none.
    """
    query = select(func.coalesce(func.max(rule_versions.c.key), 0), func.count()).select_from(rule_versions)
    key, count = connection.execute(query).one()
    return f"{key}.{count}"


def _row(version: RuleVersion) -> dict[str, Any]:
    try:
        changes = json.dumps(dict(version.changes), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidRecordError(f"The changes of rule {version.rule!r} cannot be stored: {error}.") from error
    rule, project = clean(version.rule), clean(version.project)
    return {
        "id": version.id,
        "digest": derived_id("rule", rule, project, version.run_id),
        "version": version.version,
        "rule": rule,
        "project": project,
        "run_id": version.run_id,
        "changes": clean(changes),
        "created_at": version.created_at,
        "created_by": clean(version.created_by),
        "comment": clean(version.comment),
    }


def _version(row: Row[Any]) -> RuleVersion:
    names = ("id", "rule", "project", "run_id", "version", "created_at", "created_by", "comment")
    return RuleVersion(changes=_changes(row.changes), **{name: row._mapping[name] for name in names})


def _changes(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {UNREADABLE: text}


def _conflict(version: RuleVersion, seen: int, there: RuleVersion | None) -> str:
    if there is None:
        return f"Rule {version.rule!r} has no version {seen} here. Nothing was saved: look at the rule again."
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(there.created_at))
    what = json.dumps(dict(there.changes), ensure_ascii=False) if there.changes else "back to what lies below"
    why = f' ("{there.comment}")' if there.comment else ""
    return (
        f"{there.created_by or 'Somebody'} changed rule {version.rule!r} at {at}, after you had looked{why}: {_cut(what)}. "
        f"That is version {there.version}, and you had seen {seen or 'none'}. Nothing was saved: look at it, then change it again."
    )


def _cut(text: str, most: int = 300) -> str:
    return text if len(text) <= most else f"{text[:most]} …"
