"""What a live section sends to a tab, and that nothing goes twice."""

import hashlib
from collections.abc import Mapping
from typing import Any

import dash
from plotly.io.json import to_json_plotly  # type: ignore[import-untyped]

Updates = Mapping[str, Mapping[str, Any]]
"""Component id -> property -> new value (or a ``dash.Patch`` of the old one).

A component's ``children`` go alone: where another property of it arrives in the same frame, Dash's renderer keeps the old children.
"""


def digests(updates: Updates) -> dict[str, str]:
    """Return what a ``Sender`` must know of the updates that a page was made with: ``"COMPONENT.PROPERTY"`` -> digest."""
    return {
        f"{component}.{name}": _digest(value) for component, properties in updates.items() for name, value in properties.items()
    }


def _digest(value: Any) -> str:
    return hashlib.blake2b(to_json_plotly(value).encode(), digest_size=16).hexdigest()


class Sender:
    """Sends updates to one tab, leaving out properties whose value is what was sent last.

    Args:
        painted: digests of what the page shows already. Replacing a button under the reader's finger would lose the click.
    """

    def __init__(self, painted: Mapping[str, str] | None = None) -> None:
        self._sent: dict[str, str] = dict(painted or {})

    def send(self, updates: Updates) -> bool:
        """Send what differs from the last value sent; return whether anything does. Patches always go."""
        sent = False
        for component, properties in updates.items():
            fresh = {name: value for name, value in properties.items() if self._is_new(component, name, value)}
            if fresh:
                dash.set_props(component, fresh)
                sent = True
        return sent

    def _is_new(self, component: str, name: str, value: Any) -> bool:
        if isinstance(value, dash.Patch):
            return True
        digest = _digest(value)
        if self._sent.get(f"{component}.{name}") == digest:
            return False
        self._sent[f"{component}.{name}"] = digest
        return True
