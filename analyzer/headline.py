"""A run's state in one plain sentence, for the page and the console. Pure: the same state gives the same words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..storage.records import Alert, AlertState, RunStatus, Severity
from .wording import number, step_number, uncapital

_ENDINGS = {
    RunStatus.FINISHED: "Finished",
    RunStatus.CRASHED: "Crashed",
    RunStatus.TERMINATED: "Terminated",
}
_LIKELY = 0.4
"""Confidence from which a cause is called the likeliest, and not just a possible one."""
_CLOSE = 0.1
"""Causes no further behind the first than this are named beside it."""


@dataclass(frozen=True, slots=True)
class Headline:
    """What to say about a run.

    Args:
        level: ``healthy``, ``info``, ``warning``, ``critical``, ``lost`` or ``empty``; the page colours by it.
        text: the sentence.
        detail: likeliest cause and what to do; empty when healthy.
    """

    level: str
    text: str
    detail: str = ""


def prominence(alert: Alert) -> tuple[int, bool, int]:
    """Return what open alerts are sorted by, the one that matters most first: severe ones, silenced ones behind their equals."""
    return -alert.severity.rank, alert.state is AlertState.SILENCED, alert.first_step


def headline(
    alerts: Sequence[Alert],
    *,
    step: int,
    loss: float | None = None,
    status: RunStatus = RunStatus.RUNNING,
    lost_since: str = "",
) -> Headline:
    """Say how a run is doing.

    Args:
        alerts: all of the run's alerts.
        step: its last step; below 0 when nothing was recorded.
        loss: its last loss, if there is one.
        status: as the run's process last reported it.
        lost_since: when its heartbeat stopped, in words; empty while it is alive or properly ended.
    """
    if step < 0:
        return Headline("empty", "Nothing recorded yet: the first step will show here.")
    where = _where(step, loss)
    still_open = sorted(
        (alert for alert in alerts if alert.state not in (AlertState.RESOLVED, AlertState.PENDING)),
        key=prominence,
    )
    loud = [alert for alert in still_open if alert.severity is not Severity.INFO]
    if lost_since:
        text = f"Lost: no sign of life since {lost_since}, {where}."
        return Headline("lost", text, _detail(loud[0]) if loud else "The process may have been killed: see its log.")
    ending = _ENDINGS.get(status, "")
    if loud:
        worst = loud[0]
        more = f" {_more(len(loud) - 1)}" if len(loud) > 1 else ""
        text = f"{worst.message}{more}"
        return Headline(worst.severity.value, f"{ending}, {where}. {text}" if ending else text, _detail(worst))
    level = "info" if still_open else "healthy"
    notes = f"; note: {_clause(still_open[0].message)}" if still_open else ""
    past = sum(1 for alert in alerts if alert.state is AlertState.RESOLVED and alert.severity is not Severity.INFO)
    resolved = f", {past} resolved" if past else ""
    if status is RunStatus.CRASHED or status is RunStatus.TERMINATED:
        return Headline("warning" if status is RunStatus.CRASHED else level, f"{ending}, {where}; no open alerts{resolved}{notes}.")
    return Headline(level, f"{ending or 'Healthy'}: no open alerts{resolved}, {where}{notes}.")


def _where(step: int, loss: float | None) -> str:
    if loss is None:
        return f"at step {step_number(step)}"
    value = "not a number" if math.isnan(loss) else number(loss)
    return f"loss {value} at step {step_number(step)}"


def _more(count: int) -> str:
    return "One more alert is open." if count == 1 else f"{count} more alerts are open."


def _detail(alert: Alert) -> str:
    if not alert.diagnosis:
        return f"No known cause fits what was seen. {alert.remedy}".rstrip()
    cause, *others = alert.diagnosis
    title = uncapital(cause.title)
    near = [uncapital(other.title) for other in others if cause.confidence - other.confidence <= _CLOSE]
    if near:
        return f"Likeliest causes, hard to tell apart: {title}, or {' or '.join(near)}. {cause.remedy}"
    return f"{'Likeliest' if cause.confidence >= _LIKELY else 'A possible'} cause: {title}. {cause.remedy}"


def _clause(message: str) -> str:
    return uncapital(message.split(". ")[0].rstrip("."))
