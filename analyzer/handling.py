"""What a person does about alerts: acknowledge, resolve, reopen, silence, comment. The pages and the commands go through here."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from ..storage.base import Store
from ..storage.errors import AlertChangedError, IllegalTransitionError
from ..storage.records import Alert, AlertState, Event, Silence, new_id
from .wording import place

COMMENT = "alert_comment"
"""Kind of the event that holds a comment."""
DECISION = "alert_state"
"""Kind of the event that tells of a change of state."""
MOST_LETTERS = 10_000
"""Letters that a comment may have."""
_MOST_TOLD = 120
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DONE = {
    AlertState.ACKNOWLEDGED: "acknowledged it",
    AlertState.SILENCED: "silenced it",
    AlertState.RESOLVED: "resolved it",
    AlertState.FIRING: "opened it again",
}


class Scope(StrEnum):
    """How far a silence that begins with an alert reaches: the narrowest first."""

    ALERT = "alert"
    LAYER = "layer"
    RULE = "rule"
    RUN = "run"
    PROJECT = "project"


class HandlingError(ValueError):
    """What was asked for cannot be done; the message says what was given and what is allowed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a decision about some alerts.

    Args:
        done: how many alerts are now as was asked.
        refused: (alert, why) of those that are not; nothing was changed about them.
        silenced: how many open alerts a silence covered besides.
    """

    done: int
    refused: tuple[tuple[Alert, str], ...] = ()
    silenced: int = 0


def decide(
    store: Store,
    seen: Mapping[str, AlertState | None],
    state: AlertState,
    *,
    by: str = "",
    comment: str = "",
    until: float | None = None,
    now: float | None = None,
) -> Outcome:
    """Bring alerts into a state, each in a transaction of its own. What somebody else did to one meanwhile is told, not undone.

    Args:
        seen: id -> the state in which the person saw it; None: whatever it is.
        until: for ``silenced``: when it ends; None: when it is ended.

    Raises:
        KeyError: no alert has one of the ids.
        HandlingError: the comment is too long.
        StoreError: the store cannot be written. What was decided before stays.
    """
    comment, at = _checked(comment), time.time() if now is None else now
    refused: list[tuple[Alert, str]] = []
    for alert_id, state_seen in seen.items():
        try:
            store.set_alert_state(alert_id, state, at=at, by=by, comment=comment, until=until, seen=state_seen)
        except AlertChangedError:
            refused.append((store.alert(alert_id), meanwhile(store, alert_id)))
        except IllegalTransitionError as error:
            refused.append((store.alert(alert_id), str(error)))
    return Outcome(len(seen) - len(refused), tuple(refused))


def silence(
    store: Store,
    seen: Mapping[str, AlertState | None],
    scope: Scope,
    *,
    until: float | None = None,
    by: str = "",
    comment: str = "",
    now: float | None = None,
) -> Outcome:
    """Silence alerts, and with a wider scope what is like them and still to come.

    Raises:
        KeyError, HandlingError, StoreError: as ``decide``; also where the time is over already, or a run has no project.
    """
    at = time.time() if now is None else now
    if until is not None and until <= at:
        raise HandlingError("A silence must end in the future; that time is over.")
    if scope is Scope.ALERT:
        return decide(store, seen, AlertState.SILENCED, by=by, comment=comment, until=until, now=at)
    comment, refused, scopes, covered = _checked(comment), list[tuple[Alert, str]](), dict[Silence, None](), 0
    for alert_id, state_seen in seen.items():
        alert = store.alert(alert_id)
        if state_seen is not None and alert.state is not state_seen:
            refused.append((alert, meanwhile(store, alert_id)))
        elif AlertState.SILENCED not in alert.state.successors:
            refused.append((alert, f"This alert is {alert.state} already."))
        else:
            scopes[_scope_of(store, alert, scope)] = None
    for each in scopes:  # several alerts may be of one run
        covered += store.add_silence(replace(each, id=new_id(), until=until, created_at=at, created_by=by, comment=comment))
    return Outcome(len(seen) - len(refused), tuple(refused), covered)


def unsilence(store: Store, alert_id: str, *, by: str = "", now: float | None = None) -> list[Silence]:
    """End the silences that are about this very alert, or its rule in its module and run. Return those that still cover it.

    Raises:
        KeyError: no such alert.
        StoreError: the store cannot be written.
    """
    at = time.time() if now is None else now
    alert = store.alert(alert_id)
    for each in store.silences(active_at=at):
        if about(each, alert):
            store.end_silence(each.id, at=at, by=by)
    if store.alert(alert_id).state is AlertState.SILENCED:
        return covering(store, alert, at)
    return []


def covering(store: Store, alert: Alert, now: float) -> list[Silence]:
    """Return the silences that cover an alert at a time, the narrowest first."""
    project = store.run(alert.run_id).project
    found = [each for each in store.silences(active_at=now) if each.covers(alert, project)]
    return sorted(found, key=lambda each: (not each.alert_id, not each.rule, not each.module, not each.run_id))


def about(silence: Silence, alert: Alert) -> bool:
    """Return whether a silence is about this very alert, or its rule in its module and run, and nothing wider."""
    if silence.alert_id:
        return silence.alert_id == alert.id
    return (silence.rule, silence.module, silence.run_id) == (alert.rule, alert.module, alert.run_id)


def comment_on(store: Store, alert_id: str, text: str, *, by: str = "", identity: str = "", now: float | None = None) -> None:
    """Add a comment to an alert; its state stays as it is. Kept as an event of its run.

    Args:
        identity: the comment's id; the same comment again under the same id changes nothing.

    Raises:
        KeyError: no such alert.
        HandlingError: the comment is empty or too long.
        StoreError: the store cannot be written.
    """
    said = _checked(text)
    if not said.strip():
        raise HandlingError("A comment needs words; this one is empty.")
    alert = store.alert(alert_id)
    first = " ".join(said.split())
    told = first if len(first) <= _MOST_TOLD else f"{first[:_MOST_TOLD]} …"
    message = f"{alert.rule} in {place(alert.module)}: {f'{by}: ' if by else ''}{told}"
    data = {"alert": alert.id, "by": by, "comment": said}
    at = time.time() if now is None else now
    store.add_event(Event(identity or new_id(), alert.run_id, alert.segment, alert.last_step, at, COMMENT, message, data))


def meanwhile(store: Store, alert_id: str) -> str:
    """Return what happened to an alert last, in a sentence for who did not see it yet."""
    alert = store.alert(alert_id)
    decisions = [event for event in store.alert_events(alert_id) if event.kind == DECISION]
    last = decisions[-1] if decisions else None
    if last is None or last.data.get("to") != alert.state.value:
        return f"Meanwhile it is {alert.state}. Nothing was changed."
    by, did = str(last.data.get("by") or "somebody"), _DONE.get(alert.state, f"made it {alert.state}")
    comment = str(last.data.get("comment") or "").rstrip(". ")
    at = time.strftime("%H:%M:%S", time.localtime(last.time))
    return f"Meanwhile {by} {did} at {at}{f': {comment}' if comment else ''}. Nothing was changed."


def seconds(given: str) -> float:
    """Return a time such as ``90s``, ``30m``, ``2h`` or ``1d`` in seconds.

    Raises:
        HandlingError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", given.strip())
    if match is None:
        raise HandlingError(f"{given!r} is no time such as 90s, 30m, 2h or 1d")
    return float(match[1]) * _UNITS[match[2]]


def scope_words(silence: Silence, run_name: Callable[[str], str]) -> str:
    """Return what a silence is about: ``rule loss_spike in blocks.1 of run gpt2``.

    Args:
        run_name: Returns a run's name by its id.
    """
    if silence.alert_id:
        return "this alert"
    parts = [f"rule {silence.rule}"] if silence.rule else []
    parts += [f"layer {silence.module}"] if silence.module else []
    parts += [f"run {run_name(silence.run_id)}"] if silence.run_id else []
    parts += [f"project {silence.project}"] if silence.project else []
    return " in ".join(parts)


def told(outcome: Outcome, done: str) -> str:
    """Return an outcome in words: ``2 alerts acknowledged. 1 not: Meanwhile ann resolved it ...``.

    Args:
        done: what was to be done, as a participle.
    """
    words = [f"{outcome.done:,} {'alert' if outcome.done == 1 else 'alerts'} {done}."] if outcome.done else []
    if outcome.silenced:
        words.append(f"{outcome.silenced:,} open {'alert is' if outcome.silenced == 1 else 'alerts are'} silent now.")
    reasons = list(dict.fromkeys(reason for _, reason in outcome.refused))
    if reasons and not outcome.done and len(outcome.refused) == 1:
        words.append(reasons[0])
    elif reasons:
        words.append(f"{len(outcome.refused):,} not: {' '.join(reasons[:3])}{' …' if len(reasons) > 3 else ''}")
    return " ".join(words)


def _scope_of(store: Store, alert: Alert, scope: Scope) -> Silence:
    """Return a silence of that scope around an alert, without a time and under no id yet."""
    if scope is Scope.PROJECT:
        run = store.run(alert.run_id)
        if not run.project:
            raise HandlingError(f"The run {run.name!r} belongs to no project; silence the run instead.")
        return Silence("", project=run.project)
    if scope is Scope.RUN:
        return Silence("", run_id=alert.run_id)
    module = alert.module if scope is Scope.LAYER else ""
    return Silence("", rule=alert.rule, module=module, run_id=alert.run_id)


def _checked(comment: str) -> str:
    if len(comment) > MOST_LETTERS:
        raise HandlingError(f"A comment may have {MOST_LETTERS:,} letters; this one has {len(comment):,}.")
    return comment
