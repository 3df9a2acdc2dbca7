"""Alerts, the decisions about them, and silences."""

import time
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Path, Query

from ...analyzer import handling
from ...storage.base import Store
from ...storage.records import Alert, AlertState, Severity
from ..reading import OPEN_STATES
from ..who import person
from .alert_shapes import AlertPage, AlertShape, CommentRequest, Decision, SilenceRequest, Silences, SilenceShape
from .errors import ApiError, documented
from .paging import page, read, written
from .runs import Cursor, Limit, Text
from .shapes import EventPage, EventShape

_CHUNK = 500
_MOST_READ = 5000
"""Alerts that one request looks through for those that match."""

AlertId = Annotated[str, Path(max_length=200, description="The alert's id, or its first letters.")]


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

    def decided(path: str, state: AlertState, summary: str) -> None:
        @router.post(f"/alerts/{{alert_id}}/{path}", responses=documented(404, 409), summary=summary, operation_id=path)
        def decide(alert_id: AlertId, decision: Decision | None = None) -> AlertShape:
            store = source()
            alert = store.alert(alert_id)
            said = decision.comment if decision else ""
            store.set_alert_state(alert.id, state, at=time.time(), by=person(), comment=said)
            return AlertShape.of(store.alert(alert.id))

    decided("acknowledge", AlertState.ACKNOWLEDGED, "Acknowledge: it stays open, and is told no more")
    decided("resolve", AlertState.RESOLVED, "Resolve: it is over")
    decided("reopen", AlertState.FIRING, "Reopen: acknowledged or silenced, it is told again")

    @router.post("/alerts/{alert_id}/silence", responses=documented(404, 409), summary="Silence: it is told no more, for a while")
    def silence(alert_id: AlertId, request: SilenceRequest | None = None) -> AlertShape:
        store, now, asked = source(), time.time(), request or SilenceRequest()
        alert = store.alert(alert_id)
        until = None if asked.seconds is None else now + asked.seconds
        outcome = handling.silence(store, {alert.id: None}, asked.scope, until=until, by=person(), comment=asked.comment, now=now)
        for _, why in outcome.refused:
            raise ApiError(409, "illegal_transition", why)
        return AlertShape.of(store.alert(alert.id))

    @router.post("/alerts/{alert_id}/comment", responses=documented(404), summary="Comment; it changes nothing else")
    def comment(alert_id: AlertId, request: CommentRequest) -> EventPage:
        store = source()
        alert = store.alert(alert_id)
        handling.comment_on(store, alert.id, request.comment, by=person())
        return EventPage(events=[EventShape.of(event) for event in store.alert_events(alert.id)], next_cursor=None)

    @router.get("/alerts/{alert_id}/events", responses=documented(404), summary="Who did what about an alert, in order of time")
    def alert_events(alert_id: AlertId) -> EventPage:
        store = source()
        found = store.alert_events(store.alert(alert_id).id)
        return EventPage(events=[EventShape.of(event) for event in found], next_cursor=None)

    @router.get("/silences", responses=documented(), summary="The silences that hold now")
    def list_silences() -> Silences:
        return Silences(silences=[SilenceShape.of(each) for each in source().silences(active_at=time.time())])

    @router.delete("/silences/{silence_id}", responses=documented(404), summary="End a silence now")
    def end_silence(silence_id: Annotated[str, Path(max_length=200)]) -> Silences:
        store, now = source(), time.time()
        store.end_silence(silence_id, at=now, by=person())
        return Silences(silences=[SilenceShape.of(each) for each in store.silences(active_at=now)])

    return router


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
