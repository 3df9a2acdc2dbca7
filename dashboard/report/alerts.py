"""The alerts of a report: the most pressing ones in full, each with the series around it."""

from collections.abc import Sequence
from dataclasses import replace

from ...analyzer.diagnosis import page, patterns
from ...analyzer.wording import number, step_number
from ...storage.base import Store
from ...storage.records import Alert, Cause, Evidence, Series
from ...storage.results import SeriesData
from ..figures.evidence import evidence_figure
from ..names import shorten
from ..reading import is_open
from ..signals import describe
from .charts import said
from .content import Chart, Page, Reason, Warned
from .markdown import as_html
from .texts import cut

MOST_ALERTS = 60
"""Alerts that a report tells in full."""
MOST_CHARTED = 20
"""Of these, the first so many have charts, and each at most so many:"""
_CHARTS = 2
_POINTS = 400
_LEAST_MARGIN = 50


def told(store: Store, run_id: str, alerts: Sequence[Alert]) -> list[Warned]:
    """Return the alerts to tell in full: open ones first, the most severe on top."""
    ordered = sorted(alerts, key=lambda alert: (not is_open(alert), -alert.severity.rank, alert.first_step))[:MOST_ALERTS]
    return [_warned(alert, _charts(store, run_id, alert) if place < MOST_CHARTED else []) for place, alert in enumerate(ordered)]


def left_out(alerts: Sequence[Alert]) -> str:
    """Return a sentence about the alerts that are not told in full; empty where all are."""
    rest = len(alerts) - MOST_ALERTS
    return f"{rest:,} less pressing ones are left out: foreshock alerts lists them." if rest > 0 else ""


def pages_of(alerts: Sequence[Warned]) -> list[Page]:
    """Return the page of every cause that the alerts name, once each, in the order in which they are named."""
    docs = dict.fromkeys(reason.doc for alert in alerts for reason in alert.reasons if reason.doc)
    return [Page(doc, as_html(page(doc))) for doc in docs]


def _warned(alert: Alert, charts: Sequence[Chart]) -> Warned:
    steps = f"step {step_number(alert.first_step)}"
    if alert.last_step > alert.first_step:
        steps = f"steps {step_number(alert.first_step)} – {step_number(alert.last_step)}"
    measured = ""
    if alert.value is not None:
        against = f", held against {number(alert.threshold)}" if alert.threshold is not None else ""
        measured = f"Measured {number(alert.value)}{against}."
    known = {pattern.doc for pattern in patterns()}
    causes = sorted(alert.diagnosis, key=lambda cause: -cause.confidence)
    return Warned(
        id=alert.id,
        severity=alert.severity.value,
        state="open" if alert.state.value == "firing" else alert.state.value,
        open=is_open(alert),
        steps=steps,
        message=cut(alert.message),
        module=cut(alert.module),
        rule=cut(alert.rule),
        measured=measured,
        reasons=[_reason(cause, known) for cause in causes],
        remedy=cut(alert.remedy),
        charts=charts,
    )


def _reason(cause: Cause, known: set[str]) -> Reason:
    doc = cause.doc if cause.doc in known else ""
    return Reason(cut(cause.title), f"{cause.confidence:.0%}", [cut(reason) for reason in cause.reasons], cut(cause.remedy), doc)


def _charts(store: Store, run_id: str, alert: Alert) -> list[Chart]:
    charts = []
    for place, evidence in enumerate(alert.evidence[:_CHARTS]):
        data = _around(store, run_id, alert, evidence)
        info = describe(evidence.key.signal)
        layer = f" of {shorten(evidence.key.module, 80)}" if evidence.key.module else ""
        shown = replace(alert, module=shorten(alert.module, 80))
        figure = evidence_figure(data, info, evidence, shown)
        charts.append(Chart(f"alert-{alert.id}-{place}", f"{info.title}{layer} around the alert", figure, said(data)))
    return charts


def _around(store: Store, run_id: str, alert: Alert, evidence: Evidence) -> SeriesData:
    """Return the points of a series before, during and after an alert; the evidence's own where the store has none any more."""
    steps = evidence.steps or (alert.first_step,)
    first, last = min(*steps, alert.first_step), max(*steps, alert.last_step)
    margin = max(_LEAST_MARGIN, (alert.first_step - first) // 2)
    found = [one for one in store.series(run_id, signal=evidence.key.signal, module=evidence.key.module) if _same(one, evidence)]
    if found:
        data = store.read(found[:1], start=max(0, first - margin), stop=last + margin + 1, max_points=_POINTS)[0]
        if len(data.steps) >= len(evidence.steps):
            return data
    return SeriesData(evidence.key, [alert.segment] * len(evidence.steps), evidence.steps, evidence.values)


def _same(series: Series, evidence: Evidence) -> bool:
    return series.key == evidence.key
