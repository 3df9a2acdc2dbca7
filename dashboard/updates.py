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

_KEPT = 64


class _Digests:
    """The digests of what was sent last: what many tabs show alike is one object, and takes as long to read as to make."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, str]] = {}

    def of(self, value: Any) -> str:
        """Return the digest of a value, which nobody changes any more. Used on the event loop's thread."""
        if value is None or isinstance(value, str | int | float):
            return _digest(value)
        if id(value) not in self._known:
            self._known[id(value)] = value, _digest(value)  # with the value, or its id would soon be another's
            if len(self._known) > _KEPT:
                del self._known[next(iter(self._known))]
        return self._known[id(value)][1]


def digests(updates: Updates) -> dict[str, str]:
    """Return what a ``Sender`` must know of the updates that a page was made with: ``"COMPONENT.PROPERTY"`` -> digest."""
    return {
        f"{component}.{name}": _digest(value) for component, properties in updates.items() for name, value in properties.items()
    }


def _digest(value: Any) -> str:
    return hashlib.blake2b(to_json_plotly(value).encode(), digest_size=16).hexdigest()


_known = _Digests()


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
        digest = _known.of(value)
        if self._sent.get(f"{component}.{name}") == digest:
            return False
        self._sent[f"{component}.{name}"] = digest
        return True
