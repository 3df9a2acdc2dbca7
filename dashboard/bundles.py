"""Bundles of the flight recorder that belong to an alert, and what can be said of each from this machine."""

import shlex
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from ..storage.base import Store
from ..storage.captures import INSPECTED, PRUNED, Captured, listed
from ..storage.records import Alert, Event, Run

CAPTURE = "capture"
"""Name of the flight recorder among the interventions."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle of an alert.

    Args:
        path: where it was written, on ``host``.
        written_at: seconds since the epoch.
        bytes: its size; None where it is not found from here.
        own: whether this alert asked for it; else one of the same time did.
        missing: why it is not found; empty where it is.
        verdict: what ``foreshock inspect`` said of it, where that was noted.
    """

    path: str
    host: str
    step: int
    written_at: float
    bytes: int | None
    own: bool
    missing: str
    verdict: str

    @property
    def command(self) -> str:
        """The command that tells what it shows."""
        return f"foreshock inspect {shlex.quote(self.path)}"


def bundles_of(store: Store, run: Run, alert: Alert, events: Sequence[Event], steps: tuple[int, int]) -> list[Bundle]:
    """Return the bundles that an alert asked for; where there is none, those that were written around its step.

    Args:
        events: those that name the alert.
        steps: the first and the last step that count as around it.
    """
    told = [event for event in events if event.data.get("intervention") == CAPTURE and isinstance(event.data.get("path"), str)]
    there = {str(item.path): item for item in listed(store, run) if item.kind == "bundle"}
    verdicts = {str(event.data.get("bundle")): str(event.data.get("verdict")) for event in store.events(run.id, kind=INSPECTED)}
    gone = {path: event.time for event in store.events(run.id, kind=PRUNED) for path in event.data.get("paths", ())} if told else {}
    found = [_of_event(event, there.get(event.data["path"]), run, verdicts, gone) for event in told]
    if found:
        return found
    near = [item for item in there.values() if steps[0] <= item.step <= steps[1]]
    return [_of_captured(item, verdicts, own=False) for item in sorted(near, key=lambda item: item.step)]


def _of_event(event: Event, item: Captured | None, run: Run, verdicts: dict[str, str], gone: dict[str, float]) -> Bundle:
    if item is not None:
        return _of_captured(item, verdicts, own=True)
    path, host = event.data["path"], str(event.data.get("host") or run.meta.get("host", ""))
    missing = "It was deleted by foreshock db prune." if path in gone else "It is no longer there."
    return Bundle(path, host, event.step, event.time, None, True, missing, verdicts.get(PurePath(path).name, ""))


def _of_captured(item: Captured, verdicts: dict[str, str], *, own: bool) -> Bundle:
    missing = ""
    if item.bytes is None:
        here = socket.gethostname()
        missing = (
            "It is no longer there: it was moved or deleted."
            if item.host in ("", here)
            else f"It lies on {item.host}, and this page runs on {here}: run the command there."
        )
    verdict = verdicts.get(item.path.name, "")
    return Bundle(str(item.path), item.host, item.step, item.written_at, item.bytes, own, missing, verdict)
