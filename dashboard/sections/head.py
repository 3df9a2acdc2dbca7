"""The words of a run's page, live: header, verdict, alerts, events, and what the monitor itself costs."""

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from ...analyzer.risk import SIGNAL as RISK
from ...analyzer.risk import words as risk_words
from ...storage.base import Store
from ...storage.records import Alert, AlertState, Event, Notification, Run, RunStatus, Severity, Silence
from .. import who
from ..access.reader import underneath
from ..letters import letter_list, letters_of
from ..pages.alerts import alert_list
from ..pages.attributes import aria
from ..pages.parts import fact, number, percent, pill, risk_of, severity_badge
from ..paths import report_path, runs_path
from ..reading import COSTS, RECENT_COST, cost_of, is_open, newest_of, shown_alerts
from ..report.writing import usual_name
from ..trouble import trouble_list, troubles_of_run
from ..updates import Updates
from ..verdict import Verdict, verdict
from ..vitals import Vitals, ago, clock, vitals
from .following import RunSection

_FACTS = ("loss", RISK, *COSTS, "monitor.step_ms", "monitor.queue_depth", "monitor.dropped", "monitor.errors")
_FRESH_S = 1.0
"""Seconds for which words about time hold."""
_MOST_RUNS = 32
_ICONS = {"empty": "…", "healthy": "✓", "info": "●", "warning": "▲", "critical": "◆", "lost": "?"}


class _Told:
    """What was said of each run last, for all tabs that show it to the same kind of visitor."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[str, tuple[object, float, Updates]] = {}

    def of(self, run_id: str, read: object, say: Callable[[], Updates]) -> Updates:
        """Return what was said of just this within the last second, else what ``say`` returns."""
        with self._lock:
            last, now = self._last.pop(run_id, None), time.time()
            if last is None or last[0] != read or not 0.0 <= now - last[1] < _FRESH_S:
                last = read, now, say()
            self._last[run_id] = last
            if len(self._last) > _MOST_RUNS:
                del self._last[next(iter(self._last))]
            return last[2]


_of_stores: weakref.WeakKeyDictionary[Store, _Told] = weakref.WeakKeyDictionary()


class Head(RunSection):
    """Everything on a run's page that is said in words. Its parts are made anew on each look; only those that changed are sent."""

    def __init__(self, store: Store, run: Run) -> None:
        super().__init__(store, run)
        self._values: dict[str, float | None] = dict.fromkeys(_FACTS)
        self._alerts: Sequence[Alert] = ()
        self._events: Sequence[Event] = ()
        self._silences: Sequence[Silence] = ()
        self._letters: Sequence[Notification] = ()
        self._told = _of_stores.setdefault(underneath(store), _Told())

    def paint(self) -> Updates:
        """Return every part."""
        return self._read()

    def advance(self) -> Updates:
        """Return every part as it is now."""
        return self._read()

    def tick(self) -> Updates:
        """Return every part as it reads now, from what was read last."""
        read = self.run, self._values, self._alerts, self._events, self._silences, self._letters, who.refusal()
        return self._told.of(self.run.id, read, self._say)

    def _say(self) -> Updates:
        now = time.time()
        state = vitals(self.run, now)
        said = verdict(self.run, self._alerts, state, self._values["loss"])
        return {
            "run-head": {"children": run_head(self.run, state)},
            "verdict": {"children": self._verdict(said, self._alerts, now)},
            "risk-words": {"children": risk_words(self._values[RISK])},
            "alerts": {"children": alert_list(self._alerts, self.run.last_step, self._silences)},
            "events": {"children": event_list(self._events)},
            "monitor-facts": {"children": self._monitor()},
            "monitor-mark": {"children": self._monitor_mark()},
            "page-title": {"data": f"{said.word} · {self.run.name}"},
        }

    def _read(self) -> Updates:
        self.run = self.store.run(self.run.id)
        self._values = {**self._values, **newest_of(self.store, [self.run.id], _FACTS).get(self.run.id, {})}
        self._alerts = shown_alerts(self.store, self.run)
        self._events = self.store.events(self.run.id)
        silenced = any(alert.state is AlertState.SILENCED for alert in self._alerts)
        self._silences = self.store.silences(active_at=time.time()) if silenced else []
        self._letters = letters_of(self.store, self._alerts)
        return self.tick()

    def _verdict(self, said: Verdict, alerts: Sequence[Alert], now: float) -> Component:
        open_alerts = [alert for alert in alerts if is_open(alert)]
        counts = [(severity, sum(alert.severity is severity for alert in open_alerts)) for severity in reversed(Severity)]
        badges = [severity_badge(severity, count) for severity, count in counts if count]
        icon = html.Span(_ICONS.get(said.level, "●"), className="icon", **aria(hidden="true"))
        words: list[Component] = [html.H2([icon, said.word]), html.P(said.sentence)]
        if said.since is not None:
            where: list[Any] = [html.Span("Layer ", className="quiet"), html.Code(said.module), " "] if said.module else []
            words.append(html.P([*where, html.Span(f"since step {said.since:,}", className="quiet")], className="where"))
        if said.detail:
            words.append(html.P(said.detail, className="advice"))
        facts = html.Dl(
            [
                fact("Last step", f"{self.run.last_step:,}" if self.run.last_step >= 0 else "–"),
                fact("Loss", number(self._values["loss"])),
                fact("Open alerts", badges or "none"),
                fact("Risk", risk_of(self._values[RISK]), "of 100" if risk_of(self._values[RISK]) != "–" else ""),
                fact("Heartbeat", ago(now - max(self.run.heartbeat_at, self.run.created_at))),
                fact("Monitoring cost", percent(cost_of(self._values))),
            ],
            className="facts",
        )
        return html.Div([html.Div(words, className="verdict-words"), facts], className=f"card verdict level-{said.level}")

    def _monitor_mark(self) -> list[Component]:
        """Return a mark for the tab of the monitor's panel where it has something to say that nobody should miss."""
        lost = any((self._values[name] or 0.0) > 0 for name in ("monitor.dropped", "monitor.errors"))
        if not (lost or self._letters or troubles_of_run(self.run)):
            return []
        return [
            html.Span("▲", className="icon", **aria(hidden="true")),
            html.Span("has something to say", className="visually-hidden"),
        ]

    def _monitor(self) -> list[Component]:
        values, going_on = self._values, self.run.status is RunStatus.RUNNING
        facts = [
            fact("Share of training time", percent(cost_of(values))),
            fact("Of the newest steps", percent(values[RECENT_COST])),
            *([fact("Waiting to be written", number(values["monitor.queue_depth"]))] if going_on else []),
            fact("Samples lost", number(values["monitor.dropped"])),
            fact("Errors", number(values["monitor.errors"])),
        ]
        if values["monitor.step_ms"] is not None:
            facts.insert(2, fact("Sampled step", number(values["monitor.step_ms"]), "ms"))
        return [
            html.Dl(facts, className="facts"),
            *trouble_list(troubles_of_run(self.run)),
            *letter_list(self._letters),
        ]


def run_head(run: Run, state: Vitals) -> list[Component]:
    """Return name and state of a run, and how to get back."""
    facts: list[Any] = [f"started {clock(run.created_at)}"] if run.created_at else []
    facts += [f"{name} {run.meta[key]}" for key, name in (("host", "on"), ("model", "model")) if isinstance(run.meta.get(key), str)]
    return [
        html.Nav(dcc.Link("← All runs", href=runs_path()), **aria(label="Breadcrumb")),
        html.Div(
            [html.H1(run.name or run.id, className="page-title"), html.Span(pill(state), id="state"), *_report_link(run)],
            className="title-line",
        ),
        html.P(" · ".join([run.project, *facts] if run.project else facts), className="quiet"),
    ]


def _report_link(run: Run) -> list[Component]:
    if run.last_step < 0:
        return []
    says = "The whole run in one HTML file, which opens anywhere without this page"
    return [html.A("Report", href=report_path(run.id), download=usual_name(run), className="button", title=says)]


def event_list(events: Sequence[Event], limit: int = 30) -> list[Component]:
    """Return the newest events, newest first."""
    if not events:
        return [html.P("No events: no restart, no skipped step, nothing done to the run.", className="quiet")]
    rows = [
        html.Li(
            [
                html.Span(f"step {event.step:,}" if event.step >= 0 else clock(event.time), className="quiet event-step"),
                html.Span(event.kind.replace("_", " "), className="event-kind"),
                html.Span(event.message),
            ]
        )
        for event in list(reversed(events))[:limit]
    ]
    return [html.Ul(rows, className="events")]
