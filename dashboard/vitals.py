"""Is a run alive? Its own last word, and what its heartbeat says."""

from dataclasses import dataclass
from enum import StrEnum

from ..storage.records import BEING_DELETED, LOST_AFTER, Run, RunStatus

STALE_AFTER = 10.0


class Life(StrEnum):
    """State of a run as the page shows it."""

    LIVE = "live"
    STALE = "stale"
    LOST = "lost"
    FINISHED = "finished"
    CRASHED = "crashed"
    TERMINATED = "terminated"


@dataclass(frozen=True, slots=True)
class Vitals:
    """State of a run, in one word and in one phrase."""

    life: Life
    phrase: str

    @property
    def running(self) -> bool:
        """Whether more data may come."""
        return self.life in (Life.LIVE, Life.STALE)


def life(run: Run, now: float) -> Life:
    """Return the state of ``run`` at the time ``now`` (seconds since the epoch).

    A run that calls itself running is *stale* when its heartbeat is older than 10 s and *lost* when it is older than 30 s.
    """
    if BEING_DELETED in run.meta:
        return Life.TERMINATED
    if run.status is not RunStatus.RUNNING:
        return Life(run.status.value)
    silence = now - max(run.heartbeat_at, run.created_at)
    if silence > LOST_AFTER:
        return Life.LOST
    return Life.STALE if silence > STALE_AFTER else Life.LIVE


def vitals(run: Run, now: float) -> Vitals:
    """Return the state of ``run`` as ``life`` has it, in words."""
    state = life(run, now)
    if BEING_DELETED in run.meta:
        return Vitals(state, "being deleted; what is left of it is not whole")
    if state in (Life.LIVE, Life.STALE, Life.LOST):
        silence = now - max(run.heartbeat_at, run.created_at)
        phrases = {Life.LOST: f"lost {ago(silence)}", Life.STALE: f"stale since {clock(now - silence)}"}
        return Vitals(state, phrases.get(state, "live"))
    return Vitals(state, f"{state.value} {ago(now - (run.ended_at or run.heartbeat_at))}")


def ago(seconds: float) -> str:
    """Return a span of time as people say it, coarse enough not to change every second."""
    if seconds < 10:
        return "just now"
    if seconds < 60:
        return f"{int(seconds) // 10 * 10} s ago"
    if seconds < 3600:
        return f"{int(seconds) // 60} min ago"
    if seconds < 48 * 3600:
        return f"{int(seconds) // 3600} h ago"
    return f"{int(seconds) // 86400} days ago"


def lasted(seconds: float) -> str:
    """Return how long something took, as people say it: 40 s, 12 min, 3 h 05 min, 2 days."""
    if seconds < 60:
        return f"{int(seconds)} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min"
    if seconds < 48 * 3600:
        return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60:02} min"
    return f"{int(seconds) // 86400} days"


def moment(at: float) -> str:
    """Return a time of the server to the minute, with the day where it is not today's: 14:05, or 3 May 14:05."""
    from datetime import datetime

    then = datetime.fromtimestamp(at)
    day = "" if then.date() == datetime.now().date() else f"{then.day} {then:%b} "
    return f"{day}{then:%H:%M}"


def clock(at: float) -> str:
    """Return a time of day of the server, such as 03:14:07."""
    from datetime import datetime

    return datetime.fromtimestamp(at).strftime("%H:%M:%S")
