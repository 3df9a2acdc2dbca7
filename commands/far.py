"""What a dashboard's API tells, as the records that the commands show: so that it looks the same as what a store tells."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..storage.records import Alert, AlertState, Cause, Evidence, Run, RunStatus, SeriesKey, Severity
from .remote import Remote, RemoteError

_ODD = {"positive_infinity": math.inf, "negative_infinity": -math.inf, "nan": math.nan}


def far_runs(elsewhere: Remote, project: str | None, limit: int) -> tuple[list[Run], Counter[tuple[str, str]]]:
    """Return (runs, number of open alerts by run and severity).

    Raises:
        RemoteError: see ``Remote``.
    """
    told = list(elsewhere.all("runs", most=limit, project=project))
    alarms = Counter({(one["id"], severity): count for one in told for severity, count in one["open_alerts"].items()})
    return [_run(one) for one in told], alarms


def far_run(elsewhere: Remote, reference: str) -> Run:
    """Return one run.

    Raises:
        RemoteError: see ``Remote``.
    """
    return _run(elsewhere.get("runs", reference))


def far_alerts(elsewhere: Remote, run: Run | None, only_open: bool, limit: int) -> list[Alert]:
    """Return alerts, newest first.

    Raises:
        RemoteError: see ``Remote``.
    """
    found = elsewhere.all("alerts", most=limit, run=run.id if run else None, open=only_open)
    return [_alert(one) for one in found]


def far_alert(elsewhere: Remote, reference: str) -> Alert:
    """Return the alert whose id begins so.

    Raises:
        RemoteError: see ``Remote``; also where none begins so, or several.
    """
    found = list(elsewhere.all("alerts", most=2, id_prefix=reference))
    if len(found) != 1:
        what = "no alert has" if not found else "several alerts have"
        raise RemoteError(404, f"{what} an id that begins with {reference!r}; `foreshock alerts --url ... --json` shows them")
    return _alert(found[0])


def _run(told: Mapping[str, Any]) -> Run:
    fields = ("id", "name", "project", "created_at", "heartbeat_at", "ended_at", "last_step", "meta")
    try:
        return Run(**{name: told[name] for name in fields}, status=RunStatus(told["status"]), tags=tuple(told["tags"]))
    except (KeyError, ValueError, TypeError) as error:
        raise _odd(error) from None


def _alert(told: Mapping[str, Any]) -> Alert:
    plain = (
        "id",
        "run_id",
        "rule",
        "module",
        "episode",
        "segment",
        "first_step",
        "last_step",
        "created_at",
        "updated_at",
        "message",
    )
    try:
        return Alert(
            **{name: told[name] for name in plain},
            remedy=told["remedy"],
            severity=Severity(told["severity"]),
            state=AlertState(told["state"]),
            value=_number(told["value"]),
            threshold=_number(told["threshold"]),
            evidence=tuple(_evidence(piece) for piece in told["evidence"]),
            diagnosis=tuple(Cause(**cause | {"reasons": tuple(cause["reasons"])}) for cause in told["diagnosis"]),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise _odd(error) from None


def _evidence(told: Mapping[str, Any]) -> Evidence:
    key = SeriesKey(told["signal"], told["module"], told["head"], told["rank"])
    values = tuple(_ODD.get(kind, value) for value, kind in zip(told["values"], told["kinds"], strict=True))
    return Evidence(key, tuple(told["steps"]), values, _number(told["threshold"]), _number(told["baseline"]))


def _number(told: Mapping[str, Any] | None) -> float | None:
    return None if told is None else _ODD.get(told["kind"], told["value"])


def _odd(error: Exception) -> RemoteError:
    return RemoteError(
        0, f"The dashboard tells what this foreshock does not understand ({error}); it may be newer: pip install -U foreshock"
    )
