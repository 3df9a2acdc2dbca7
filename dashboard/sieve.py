"""What the inbox shows: which alerts, how grouped, which page of them. The address of the inbox says it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs

from ..storage.records import AlertQuery, AlertState, Severity

STATES: Mapping[str, tuple[str, tuple[AlertState, ...]]] = {
    "open": ("Open", (AlertState.FIRING, AlertState.ACKNOWLEDGED, AlertState.SILENCED)),
    "firing": ("Undecided", (AlertState.FIRING,)),
    "acknowledged": ("Acknowledged", (AlertState.ACKNOWLEDGED,)),
    "silenced": ("Silenced", (AlertState.SILENCED,)),
    "resolved": ("Resolved", (AlertState.RESOLVED,)),
    "all": ("All", (AlertState.FIRING, AlertState.ACKNOWLEDGED, AlertState.SILENCED, AlertState.RESOLVED)),
}
"""Choice of states -> (label, the states)."""
MOST_LETTERS = 500
"""Letters of what is searched for; the rest is left out."""
_TEXTS = ("run", "project", "rule", "cause", "text")
_MOST_PAGES = 1_000_000


@dataclass(frozen=True, slots=True)
class Sieve:
    """What is let through. An empty part narrows nothing."""

    state: str = "open"
    severities: tuple[Severity, ...] = ()
    run: str = ""
    project: str = ""
    rule: str = ""
    cause: str = ""
    text: str = ""
    by_run: bool = False
    page: int = 1

    @property
    def narrow(self) -> bool:
        """Whether anything but the state narrows."""
        return bool(self.severities or self.run or self.project or self.rule or self.cause or self.text.strip())

    def alerts(self) -> AlertQuery:
        """Return the alerts it lets through."""
        states = STATES[self.state][1]
        return AlertQuery(states, self.severities, self.run, self.project, self.rule, "", self.cause, self.text)

    def query(self) -> dict[str, str]:
        """Return what its address says; what is usual is left out."""
        parts = {name: getattr(self, name) for name in _TEXTS if getattr(self, name)}
        parts |= {"state": self.state} if self.state != "open" else {}
        parts |= {"severity": ",".join(self.severities)} if self.severities else {}
        parts |= {"by": "run"} if self.by_run else {}
        return parts | ({"page": str(self.page)} if self.page > 1 else {})

    def without(self, *parts: str) -> "Sieve":
        """Return a sieve that lets through whatever these parts are."""
        usual = Sieve()
        return replace(self, **{name: getattr(usual, name) for name in parts})


def sieve_of(given: Mapping[str, Any] | None) -> Sieve:
    """Return the sieve that a query (or what the page keeps of it) describes; what makes no sense takes its default."""
    said = {name: value for name, value in (given or {}).items() if isinstance(value, str)}
    texts = {name: said.get(name, "")[:MOST_LETTERS] for name in _TEXTS}
    wanted = said.get("severity", "").split(",")
    page = said.get("page", "")
    return Sieve(
        state=said["state"] if said.get("state") in STATES else "open",
        severities=tuple(severity for severity in reversed(Severity) if severity.value in wanted),
        by_run=said.get("by") == "run",
        page=min(max(1, int(page)), _MOST_PAGES) if page.isdecimal() and len(page) < 8 else 1,
        **texts,
    )


def sieve_at(search: str | None) -> Sieve:
    """Return the sieve that the inbox's address describes."""
    return sieve_of({name: values[-1] for name, values in parse_qs((search or "").lstrip("?")).items()})
