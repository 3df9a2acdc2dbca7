"""Alerts, the decisions about them, and silences."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Path, Query

from ...storage.base import Store
from ...storage.records import Alert, AlertState, Severity, Silence, new_id
from ..reading import OPEN_STATES
from ..who import person
from .alert_shapes import AlertPage, AlertShape, Decision, SilenceRequest, Silences, SilenceShape
from .errors import documented
from .paging import page, read, written
from .runs import Cursor, Limit, Text

_CHUNK = 500
_MOST_READ = 5000
"""Alerts that one request looks through for those that match."""

AlertId = Annotated[str, Path(max_length=200, description="The alert's id.")]


def alerts_router(source: Callable[[], Store]) -> APIRouter:
    """Return the endpoints about alerts."""
    router = APIRouter(tags=["Alerts"])

    @router.get("/alerts", responses=documented(404), summary="List alerts, newest first")
    def list_alerts(
        run: Annotated[Text, Query(description="Of this run: id, first letters of it, or name.")] = None,
        open: Annotated[bool, Query(description="Only those that stand: firing, acknowledged or silenced.")] = False,
        state: Annotated[list[AlertState] | None, Query(max_length=10, description="In one of these states.")] = None,
        severity: Annotated[list[Severity] | None, Query(max_length=10, description="Of one of these.")] = None,
        rule: Annotated[Text, Query(description="Of this rule.")] = None,
        id_prefix: Annotated[str | None, Query(max_length=200, description="Whose id begins so.")] = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> AlertPage:
        store = source()
        states = [each for each in state or AlertState if not open or each in OPEN_STATES]

        def wanted(alert: Alert) -> bool:
            return (
                (not severity or alert.severity in severity) and rule in (None, alert.rule) and alert.id.startswith(id_prefix or "")
            )

        if run is not None:
            found = [alert for alert in store.alerts(store.run(run), states=states) if wanted(alert)]
            chosen, onward = page(found, _place, cursor, limit, descending=True)
        else:
            chosen, onward = _through_all(store, states, wanted, cursor, limit)
        return AlertPage(alerts=[AlertShape.of(alert) for alert in chosen], next_cursor=onward)

    @router.get("/alerts/{alert_id}", responses=documented(404), summary="One alert")
    def get_alert(alert_id: AlertId) -> AlertShape:
        return AlertShape.of(source().alert(alert_id))

    @router.post(
        "/alerts/{alert_id}/acknowledge", responses=documented(404, 409), summary="Acknowledge: it stays open, and is told no more"
    )
    def acknowledge(alert_id: AlertId, decision: Decision | None = None) -> AlertShape:
        return _decided(source(), alert_id, AlertState.ACKNOWLEDGED, decision)

    @router.post("/alerts/{alert_id}/resolve", responses=documented(404, 409), summary="Resolve: it is over")
    def resolve(alert_id: AlertId, decision: Decision | None = None) -> AlertShape:
        return _decided(source(), alert_id, AlertState.RESOLVED, decision)

    @router.post("/alerts/{alert_id}/silence", responses=documented(404, 409), summary="Silence: it is told no more, for a while")
    def silence(alert_id: AlertId, request: SilenceRequest | None = None) -> AlertShape:
        store, now, asked = source(), time.time(), request or SilenceRequest()
        until = None if asked.seconds is None else now + asked.seconds
        if not asked.episodes:
            store.set_alert_state(alert_id, AlertState.SILENCED, at=now, by=person(), comment=asked.comment, until=until)
            return AlertShape.of(store.alert(alert_id))
        alert = store.alert(alert_id)
        scope = Silence(new_id(), rule=alert.rule, module=alert.module, run_id=alert.run_id)
        store.add_silence(replace(scope, until=until, created_at=now, created_by=person(), comment=asked.comment))
        return AlertShape.of(store.alert(alert_id))

    @router.get("/silences", responses=documented(), summary="The silences that hold now")
    def list_silences() -> Silences:
        return Silences(silences=[SilenceShape.of(each) for each in source().silences(active_at=time.time())])

    @router.delete("/silences/{silence_id}", responses=documented(404), summary="End a silence now")
    def end_silence(silence_id: Annotated[str, Path(max_length=200)]) -> Silences:
        store, now = source(), time.time()
        store.end_silence(silence_id, at=now, by=person())
        return Silences(silences=[SilenceShape.of(each) for each in store.silences(active_at=now)])

    return router


def _decided(store: Store, alert_id: str, state: AlertState, decision: Decision | None) -> AlertShape:
    store.set_alert_state(alert_id, state, at=time.time(), by=person(), comment=decision.comment if decision else "")
    return AlertShape.of(store.alert(alert_id))


def _place(alert: Alert) -> tuple[float, str]:
    return alert.created_at, alert.id


def _through_all(
    store: Store, states: list[AlertState], wanted: Callable[[Alert], bool], cursor: str | None, limit: int
) -> tuple[list[Alert], str | None]:
    """Return (one page, cursor of the next) of the alerts of all runs, reading no more of them than it takes."""
    before = read(cursor) if cursor else None
    chosen: list[Alert] = []
    for _ in range(_MOST_READ // _CHUNK):
        chunk = store.alerts(states=states, limit=_CHUNK, before=before)
        for alert in chunk:
            if wanted(alert):
                if len(chosen) == limit:
                    return chosen, written(_place(chosen[-1]))
                chosen.append(alert)
        if len(chunk) < _CHUNK:
            return chosen, None
        before = _place(chunk[-1])
    return chosen, written(before) if before is not None else None
