"""What a report says in words and numbers: facts about the run, its configuration, what monitoring cost, how it was made."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ..._version import __version__
from ...analyzer.risk import SIGNAL as RISK
from ...analyzer.rule_layers import GIVEN
from ...analyzer.wording import number, step_number
from ...storage.base import Store
from ...storage.records import Alert, Event, Run, Segment, Severity
from ...storage.trouble import recent
from ..reading import COSTS, RECENT_COST, cost_of, is_open
from ..vitals import Life, Vitals
from .content import Fact, Happened
from .texts import cut
from .wanted import Wanted

VALUES = ("loss", RISK, *COSTS, "monitor.step_ms", "monitor.queue_depth", "monitor.dropped", "monitor.errors")
"""Signals whose newest value is told."""
MOST_EVENTS = 200
MOST_CONFIGURED = 100
_TROUBLES = 5
_NONE = "–"
_STATES = {Life.LIVE: "running when this was made", Life.STALE: "running, silent for a while when this was made"}


def moment(at: float) -> str:
    """Return a time as everybody reads it, wherever the report is opened: ``2026-11-29 03:14:07 UTC``."""
    try:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, OSError, ValueError):
        return _NONE


def lasted(seconds: float) -> str:
    """Return a span of time in its two largest units: ``2 d 3 h``, ``4 min 10 s``."""
    rest = max(0, int(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def state_of(state: Vitals) -> str:
    """Return a run's state in words that stay true."""
    return _STATES.get(state.life, state.life.value)


def key_facts(run: Run, alerts: Sequence[Alert], values: Mapping[str, float]) -> list[Fact]:
    """Return the figures beside the verdict."""
    open_ones = [alert for alert in alerts if is_open(alert)]
    counts = [(severity, sum(alert.severity is severity for alert in open_ones)) for severity in reversed(Severity)]
    risk = values.get(RISK)
    return [
        Fact("Last step", step_number(run.last_step) if run.last_step >= 0 else _NONE),
        Fact("Loss", _number(values.get("loss"))),
        Fact("Open alerts", ", ".join(f"{count} {severity.value}" for severity, count in counts if count) or "none"),
        Fact("Risk", _number(None if risk is None or risk != risk else round(risk)), "of 100" if risk is not None else ""),
        Fact("Monitoring cost", _percent(cost_of(values))),
        Fact("Duration", lasted((run.ended_at or run.heartbeat_at) - run.created_at) if run.heartbeat_at else _NONE),
    ]


def configuration(run: Run, segments: Sequence[Segment]) -> list[Fact]:
    """Return everything that is known of how the run was made."""
    facts = [Fact("Run", cut(run.name) or _NONE), Fact("Id", run.id)]
    if run.project:
        facts.append(Fact("Project", cut(run.project)))
    if run.tags:
        facts.append(Fact("Tags", cut(", ".join(run.tags))))
    facts.append(Fact("Started", moment(run.created_at)))
    if run.ended_at:
        facts.append(Fact("Ended", moment(run.ended_at)))
    else:
        facts.append(Fact("Last sign of life", moment(max(run.heartbeat_at, run.created_at))))
    if len(segments) > 1:
        places = ", ".join(f"step {step_number(each.start_step)}" for each in segments[1:21])
        facts.append(Fact("Resumed", f"{len(segments) - 1} times, at {places}" if len(segments) > 2 else f"at {places}"))
    known = [(str(key), value) for key, value in run.meta.items() if key != GIVEN and value not in ("", None)]
    facts += [Fact(cut(key.replace("_", " ")), cut(_plain(value))) for key, value in known[:MOST_CONFIGURED]]
    return facts


def cost_facts(values: Mapping[str, float]) -> list[Fact]:
    """Return what the monitor told of itself last."""
    facts = [
        Fact("Share of training time", _percent(cost_of(values))),
        Fact("Of the newest steps", _percent(values.get(RECENT_COST))),
    ]
    if "monitor.step_ms" in values:
        facts.append(Fact("Sampled step", _number(values["monitor.step_ms"]), "ms"))
    named = (("monitor.queue_depth", "Waiting to be written"), ("monitor.dropped", "Samples lost"), ("monitor.errors", "Errors"))
    return [*facts, *(Fact(label, _number(values.get(signal))) for signal, label in named)]


def troubles_of(run: Run) -> list[str]:
    """Return what the monitor noted on this machine when it could not write, newest first."""
    mine = [trouble for trouble in recent(200) if trouble.run_id == run.id]
    return [f"{moment(trouble.time)}: {trouble.message}" for trouble in mine[:_TROUBLES]]


def happened(events: Sequence[Event]) -> list[Happened]:
    """Return the newest events, newest first."""
    return [
        Happened(
            f"step {step_number(event.step)}" if event.step >= 0 else moment(event.time),
            cut(event.kind.replace("_", " ")),
            cut(event.message),
        )
        for event in list(reversed(events))[:MOST_EVENTS]
    ]


def made(store: Store, wanted: Wanted, charts: Sequence[str], now: float) -> list[Fact]:
    """Return how the report was made."""
    start, stop = ("" if step is None else step_number(step) for step in (wanted.start, wanted.stop))
    steps = "all" if wanted.whole else f"from {start or 'the first'} {f'to before {stop}' if stop else 'on'}"
    return [
        Fact("Made", moment(now)),
        Fact("By", f"foreshock {__version__}"),
        Fact("From the store", store.url),
        Fact("Steps", steps),
        Fact("Signals by layer", ", ".join(charts) or "none was measured"),
        Fact("Points", "long series are drawn by some two thousand points each: extremes, and what was not finite, are kept"),
    ]


def _plain(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return json.dumps(value, ensure_ascii=False, default=str)
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 100_000 else str(value)


def _number(value: float | None) -> str:
    return _NONE if value is None else number(value)


def _percent(share: float | None) -> str:
    return _NONE if share is None or share != share else f"{100 * share:.2g} %"
