"""The verdict on a run in plain words, as the head of its page says it."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..analyzer.headline import headline, prominence
from ..storage.records import Alert, Run
from .reading import is_open
from .vitals import Life, Vitals, clock

_WORDS = {
    "healthy": "Healthy",
    "info": "Notice",
    "warning": "Warning",
    "critical": "Critical",
    "lost": "Lost",
    "empty": "Waiting",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the head of the page says.

    Args:
        level: ``healthy``, ``info``, ``warning``, ``critical``, ``lost`` or ``empty``; the page colours by it.
        word: The level as a heading.
        sentence: How the run is doing.
        detail: Likeliest cause and what to do; empty when there is nothing to do.
        module: The layer it is about; empty for the whole model.
        since: The step since which it has been so; None when nothing is wrong.
    """

    level: str
    word: str
    sentence: str
    detail: str = ""
    module: str = ""
    since: int | None = None


def leading(alerts: Sequence[Alert]) -> Alert | None:
    """Return the open alert that matters most: the one that the headline tells of."""
    return min((alert for alert in alerts if is_open(alert)), key=prominence, default=None)


def verdict(run: Run, alerts: Sequence[Alert], state: Vitals, loss: float | None = None) -> Verdict:
    """Return the verdict on a run from its alerts, its heartbeat and its newest loss."""
    lost_since = clock(max(run.heartbeat_at, run.created_at)) if state.life is Life.LOST else ""
    said = headline(alerts, step=run.last_step, loss=loss, status=run.status, lost_since=lost_since)
    word = _WORDS.get(said.level, said.level.capitalize())
    sentence = said.text.removeprefix(f"{word}: ")
    worst = leading(alerts)
    module, since = (worst.module, worst.first_step) if worst is not None else ("", None)
    return Verdict(said.level, word, sentence[:1].upper() + sentence[1:], said.detail, module, since)
