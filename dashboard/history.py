"""What happened to an alert, in order of time: it fired, was told to whom, who decided what, who said what, and how it ended."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..analyzer.channels import Channel
from ..analyzer.handling import COMMENT, DECISION
from ..analyzer.sending import printable
from ..storage.records import Alert, AlertState, Event, Notification, NotificationState
from .vitals import moment

_DID = {
    AlertState.ACKNOWLEDGED.value: "acknowledged",
    AlertState.RESOLVED.value: "resolved",
    AlertState.FIRING.value: "opened again",
    AlertState.SILENCED.value: "silenced",
    AlertState.PENDING.value: "waits",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened.

    Args:
        time: seconds since the epoch; infinite for what is still to come.
        what: in a few words.
        who: who did it; empty for foreshock itself.
        words: what people said, or why something failed.
        letter: id of a message that was given up and may be tried again.
    """

    time: float
    what: str
    who: str = ""
    words: str = ""
    letter: str = ""


def history_of(alert: Alert, events: Sequence[Event], told: Sequence[Notification]) -> list[Entry]:
    """Return all entries, the oldest first."""
    entries = [Entry(alert.created_at, f"fired at step {alert.first_step:,}")]
    entries += [_event(event) for event in events]
    entries += [_told(letter) for letter in told]
    decided = [event for event in events if event.kind == DECISION]
    by_person = bool(decided) and decided[-1].data.get("to") == AlertState.RESOLVED.value
    if alert.state is AlertState.RESOLVED and not by_person:
        entries.append(Entry(alert.updated_at, f"resolved by itself: over at step {alert.last_step:,}"))
    return sorted(entries, key=lambda entry: entry.time)


def comments_of(events: Sequence[Event]) -> Iterator[Event]:
    """Yield the comments among an alert's events."""
    return (event for event in events if event.kind == COMMENT)


def state_words(alert: Alert, events: Sequence[Event]) -> str:
    """Return who brought an alert into its state, when, and until when; empty where nobody did."""
    decided = [event for event in events if event.kind == DECISION]
    last = decided[-1] if decided else None
    if last is None or last.data.get("to") != alert.state.value or alert.state is AlertState.FIRING:
        return ""
    by, until = str(last.data.get("by") or ""), last.data.get("until")
    words = f"{_DID.get(alert.state.value, alert.state.value)}{f' by {by}' if by else ''} at {moment(last.time)}"
    if alert.state is AlertState.SILENCED:
        words += f", until {moment(until)}" if isinstance(until, int | float) else ", until it is ended"
    return words[:1].upper() + words[1:] + "."


def _event(event: Event) -> Entry:
    data = event.data
    by, comment = str(data.get("by") or ""), str(data.get("comment") or "")
    if event.kind == COMMENT:
        return Entry(event.time, "commented", by, comment)
    if event.kind != DECISION:
        return Entry(event.time, event.message)
    what = _DID.get(str(data.get("to")), str(data.get("to")))
    if data.get("to") == AlertState.SILENCED.value:
        until = data.get("until")
        what += f" until {moment(until)}" if isinstance(until, int | float) else " until it is ended"
    return Entry(event.time, what, by, comment)


def _told(letter: Notification) -> Entry:
    where, tries = printable(letter.channel), "1 try" if letter.attempts == 1 else f"{letter.attempts} tries"
    match letter.state:
        case NotificationState.SENT:
            return Entry(letter.next_attempt_at, f"told to {where}", words="" if letter.attempts < 2 else f"after {tries}")
        case NotificationState.FAILED:
            return Entry(
                letter.next_attempt_at, f"could not be told to {where}, after {tries}", words=letter.error, letter=letter.id
            )
        case NotificationState.CANCELLED:
            return Entry(letter.next_attempt_at, f"not told to {where}: somebody had decided before")
    failed = f"; the last of {tries} failed" if letter.attempts and letter.error else ""
    quiet = Channel.lenient(letter.channel).quiet
    held = f", not before {moment(letter.next_attempt_at)}: quiet hours" if quiet and quiet.held(letter.next_attempt_at) else ""
    return Entry(float("inf"), f"is to be told to {where}{held}{failed}", words=letter.error)
