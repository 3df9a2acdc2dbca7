"""Which messages go together, and what one message for several alerts says."""

import re
from collections.abc import Callable, Sequence

from ..storage.records import Alert, AlertState, Notification, Severity
from .channels import Channel
from .markup import escape

MOST_LISTED = 50
"""Alerts that one message names, in words and as data; it says how many more there are."""
_ADDRESS = re.compile(r"https?://[^\s<>()\[\]]+")

AlertOf = Callable[[Notification], Alert | None]
"""Finds the alert of an entry; None where it is no longer in the store."""


def waiting(channel: Channel, entries: Sequence[Notification], alert_of: AlertOf, now: float) -> tuple[list[Notification], float]:
    """Return the entries that have to wait for the end of a channel's quiet hours, and when that is; none where none hold."""
    ends = channel.quiet.end(now) if channel.quiet is not None else None
    if ends is None:
        return [], now
    return [entry for entry in entries if channel.critical_waits or not _critical(alert_of(entry))], ends


def groups(channel: Channel, entries: Sequence[Notification]) -> list[list[Notification]]:
    """Return the entries as the messages that they become, in their order: together go those that waited for the end of quiet
    hours, and those that failed together.
    """
    found: dict[object, list[Notification]] = {}
    for entry in entries:
        if channel.quiet is not None and channel.quiet.held(entry.next_attempt_at):
            key: object = "quiet"
        else:
            key = entry.next_attempt_at if entry.attempts else entry.id
        found.setdefault(key, []).append(entry)
    return list(found.values())


def ordered(entries: Sequence[Notification], alert_of: AlertOf) -> list[Notification]:
    """Return entries as a message lists them: the most severe first, of these the oldest."""

    def order(entry: Notification) -> tuple[int, float]:
        alert = alert_of(entry)
        return (-alert.severity.rank, alert.created_at) if alert else (0, entry.next_attempt_at)

    return sorted(entries, key=order)


def digest_of(entries: Sequence[Notification], alert_of: AlertOf, quiet: bool = False) -> tuple[str, str]:
    """Return title and text (Markdown) of one message for several alerts, in the order given.

    Args:
        quiet: whether they waited for the end of quiet hours.
    """
    lines = [_line(entry, alert_of(entry)) for entry in entries[:MOST_LISTED]]
    if len(entries) > MOST_LISTED:
        lines.append(f"- and {len(entries) - MOST_LISTED} more")
    title = f"foreshock: {len(entries)} alerts{' from quiet hours' if quiet else ''}"
    return title, "\n".join([*lines, "", "`foreshock alerts --open` and the page have the details."])


def address_of(entry: Notification) -> str:
    """Return the address of the alert's page that stands in a message; empty where there is none."""
    end = f"/alert/{entry.alert_id}"
    return next((address for address in _ADDRESS.findall(entry.body) if address.endswith(end)), "")


def worst_of(alerts: Sequence[Alert]) -> Severity:
    """Return the highest severity."""
    return max((alert.severity for alert in alerts), key=lambda severity: severity.rank, default=Severity.WARNING)


def _critical(alert: Alert | None) -> bool:
    return alert is not None and alert.severity is Severity.CRITICAL


def _line(entry: Notification, alert: Alert | None) -> str:
    """Return a message as a line of a digest, with what became of the alert, and its link where it has one."""
    said = escape(alert.message) if alert else entry.body.partition("\n")[0]
    over = " (over since)" if alert and alert.state is AlertState.RESOLVED else ""
    address = address_of(entry)
    return f"- {escape(entry.title.removeprefix('foreshock: '))}: {said}{over}{f' {address}' if address else ''}"
