"""Everything that a report shows, read from the store: bounded in points and in words, however long the run."""

import time
from collections.abc import Callable, Sequence

from ...analyzer.risk import SIGNAL as RISK
from ...analyzer.risk import words as risk_words
from ...storage.base import Store
from ...storage.records import Alert, Event, Run
from ..layers import usual_layer
from ..reading import newest_of, shown_alerts, signals_and_layers
from ..sections.outlook import outlook_sentences
from ..signals import HISTOGRAM, describe
from ..verdict import verdict
from ..vitals import vitals
from . import alerts as told_alerts
from . import facts
from .charts import cost_picture, gradient_picture, loss_picture, risk_picture
from .content import Picture, Report
from .heatmaps import heatmap, telling_signals
from .rules import rules_in_force
from .texts import cut
from .wanted import NothingToReportError, ReportError, Wanted, chosen_signals

Progress = Callable[[int, int], object]
"""Called with (parts done, parts in all)."""


def gather(store: Store, run: Run, wanted: Wanted, progress: Progress = lambda done, total: None) -> Report:
    """Read a run.

    Raises:
        ReportError: nothing was recorded of it, or nothing in the steps or of the signals asked for.
        StoreError: the store cannot be read.
    """
    now = time.time()
    everything, events = shown_alerts(store, run), store.events(run.id)
    measured = signals_and_layers(store, run.id)[0] - {HISTOGRAM}
    _check(store, run, wanted, everything, events)
    alerts = [alert for alert in everything if wanted.overlaps(alert.first_step, alert.last_step)]
    events = [event for event in events if wanted.whole or (event.step >= 0 and wanted.overlaps(event.step, event.step))]
    signals = chosen_signals(wanted.signals, measured) if wanted.signals else telling_signals(alerts, measured)
    total = len(signals) + 3
    progress(0, total)
    values = newest_of(store, [run.id], facts.VALUES).get(run.id, {})
    state = vitals(run, now)
    loss = loss_picture(store, run, wanted, alerts, events)
    lines = risk_picture(store, run, wanted), gradient_picture(store, run, wanted, alerts, events), cost_picture(store, run, wanted)
    progress(1, total)
    layer = usual_layer(store, run) or ""
    heatmaps: list[Picture] = []
    for place, signal in enumerate(signals):
        heatmaps.append(heatmap(store, run, signal, wanted, alerts, layer))
        progress(2 + place, total)
    warned = told_alerts.told(store, run.id, alerts)
    rules, note = rules_in_force(store, run, everything)
    progress(total - 1, total)
    risk, gradient, cost = lines
    return Report(
        name=cut(run.name) or run.id,
        run_id=run.id,
        project=cut(run.project),
        state=facts.state_of(state),
        life=state.life.value,
        subtitle=_subtitle(run),
        verdict=verdict(run, everything, state, values.get("loss")),
        outlook=[cut(each) for each in outlook_sentences(store, run, everything)],
        facts=facts.key_facts(run, everything, values),
        configuration=facts.configuration(run, store.segments(run.id)),
        loss=loss,
        risk=Picture(risk.title, risk_words(values.get(RISK)), risk.chart),
        heatmaps=heatmaps,
        gradient=gradient,
        alerts=warned,
        alerts_left_out=told_alerts.left_out(alerts),
        events=facts.happened(events),
        events_left_out=f"{len(events) - facts.MOST_EVENTS:,} older ones are left out." if len(events) > facts.MOST_EVENTS else "",
        cost=cost,
        cost_facts=facts.cost_facts(values),
        troubles=facts.troubles_of(run),
        rules=rules,
        rules_note=note,
        causes=told_alerts.pages_of(warned),
        made=facts.made(store, wanted, [describe(signal).title for signal in signals], now),
    )


def _check(store: Store, run: Run, wanted: Wanted, alerts: Sequence[Alert], events: Sequence[Event]) -> None:
    if run.last_step < 0 and not alerts and not events:
        raise NothingToReportError(f"Nothing has been recorded of run {run.name or run.id} yet, so there is nothing to report.")
    first = min((segment.start_step for segment in store.segments(run.id)), default=0)
    if not wanted.whole and not wanted.overlaps(first, max(first, run.last_step)):
        raise ReportError(f"Run {run.name or run.id} has no such steps: it has {first} to {run.last_step}.")


def _subtitle(run: Run) -> str:
    words = [f"{name} {run.meta[key]}" for key, name in (("model", "model"), ("host", "on")) if isinstance(run.meta.get(key), str)]
    return cut(" · ".join([*([run.project] if run.project else []), f"started {facts.moment(run.created_at)}", *words]))
