"""The metrics of the runs and of this server, as Prometheus reads them.

One set of series for each run that calls itself running and was heard of within ``LOST_SHOWN_S``, of the newest ``MOST_RUNS``: a
store of thousands of runs must not become as many series in somebody's Prometheus. How many were left out is a metric too.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from .. import __version__
from ..analyzer.risk import SIGNAL as RISK
from ..storage.base import Store
from ..storage.errors import StoreError
from ..storage.records import AlertState, Run, Severity
from .operations import Workings
from .reading import OPEN_STATES, newest_of
from .vitals import Life, vitals

MOST_RUNS = 50
LOST_SHOWN_S = 86400.0
"""How long a run whose process is gone is told of: long enough for everybody to hear, not for ever."""
DROPPED = "monitor.dropped"
_NAME_LENGTH = 100
_RUNS_READ = 10_000
_LABELS = ("run", "name", "project")


def exposition(store: Callable[[], Store], workings: Workings, accept: str) -> tuple[bytes, str]:
    """Return (text, content type) of all metrics, in the format that the Accept header asks for."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once([*_of_the_server(workings), *_of_the_store(store)]))
    encode, kind = choose_encoder(accept)
    return encode(registry), kind


class _Once(Collector):
    """Gives the library what was collected for this one answer."""

    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        return self._found


def _gauge(name: str, words: str, values: Iterable[tuple[tuple[str, ...], float]], labels: tuple[str, ...] = ()) -> Metric:
    family = GaugeMetricFamily(f"foreshock_{name}", words, labels=labels)
    for of, value in values:
        family.add_metric(of, value)
    return family


def _of_the_server(workings: Workings) -> Iterator[Metric]:
    info = InfoMetricFamily("foreshock_build", "The version that serves the dashboard.")
    info.add_metric((), {"version": __version__})
    yield info
    yield _gauge("dashboard_start_time_seconds", "When this server process started, since the epoch.", [((), workings.started_at)])
    yield _gauge("dashboard_tabs", "Tabs that this server process pushes to.", [((), workings.showings.tabs)])
    for name, words, value in (
        ("dashboard_pushes", "How often something was sent to a tab.", workings.showings.pushes),
        ("dashboard_errors", "How often a part of a page could not be drawn.", workings.showings.faults),
        ("dashboard_failed_logins", "Attempts to sign in with a token that is none.", workings.throttle.failures),
    ):
        yield CounterMetricFamily(f"foreshock_{name}", words, value=value)
    if workings.watchdog is not None:
        on_duty, error = workings.watchdog()
        yield _gauge("watchdog_on_duty", "1 if the watchdog of this process acts, 0 if it stands by.", [((), float(on_duty))])
        yield _gauge("watchdog_failing", "1 if the watchdog's last look failed.", [((), float(bool(error)))])


def _of_the_store(store: Callable[[], Store]) -> Iterator[Metric]:
    began, now = time.perf_counter(), time.time()
    try:
        opened = store()
        runs = opened.runs(limit=_RUNS_READ)
        counts, firing = opened.alert_counts(OPEN_STATES), opened.alert_counts([AlertState.FIRING])
        shown = [run for run in runs if _is_shown(run, now)]
        newest = newest_of(opened, [run.id for run in shown[:MOST_RUNS]], ("loss", RISK, DROPPED))
    except StoreError:
        yield _gauge("store_up", "1 if the store answered.", [((), 0.0)])
        return
    yield _gauge("store_up", "1 if the store answered.", [((), 1.0)])
    yield _gauge("store_read_seconds", "What reading the metrics below took.", [((), time.perf_counter() - began)])
    states = Counter(vitals(run, now).life for run in runs)
    yield _gauge("runs", "Runs by state.", [((life.value,), states[life]) for life in Life], ("state",))
    open_ = Counter[Severity]()
    for by_severity in counts.values():
        open_.update(by_severity)
    yield _gauge(
        "alerts_open", "Alerts that stand, by severity.", [((each.value,), open_[each]) for each in Severity], ("severity",)
    )
    yield _gauge("runs_left_out", "Running runs without series of their own here.", [((), max(0, len(shown) - MOST_RUNS))])
    yield from _of_the_runs(shown[:MOST_RUNS], newest, now)
    yield _of_the_alerts(runs, firing)


def _is_shown(run: Run, now: float) -> bool:
    state = vitals(run, now)
    return state.running or (state.life is Life.LOST and now - max(run.heartbeat_at, run.created_at) < LOST_SHOWN_S)


def _of_the_alerts(runs: list[Run], counts: Mapping[str, Mapping[Severity, int]]) -> Metric:
    """Return how many alerts fire in a run, for those in which any do, also of runs that have ended."""
    told = [run for run in runs if any(counts.get(run.id, {}).values())][:MOST_RUNS]
    values = [((*_labels(run), severity.value), float(count)) for run in told for severity, count in counts[run.id].items()]
    return _gauge(
        "run_alerts_firing", "Alerts of a run that nobody has decided about yet, by severity.", values, (*_LABELS, "severity")
    )


def _labels(run: Run) -> tuple[str, str, str]:
    return run.id, run.name[:_NAME_LENGTH], run.project[:_NAME_LENGTH]


def _of_the_runs(runs: list[Run], newest: dict[str, dict[str, float]], now: float) -> Iterator[Metric]:
    labels = _LABELS
    of = {run.id: _labels(run) for run in runs}
    yield _gauge("run_step", "Last step of a running run.", [(of[run.id], float(run.last_step)) for run in runs], labels)
    silence = [(of[run.id], max(0.0, now - max(run.heartbeat_at, run.created_at))) for run in runs]
    yield _gauge("run_heartbeat_age_seconds", "Seconds since a running run was last heard of.", silence, labels)
    for name, signal, words in (
        ("run_loss", "loss", "Newest loss of a running run."),
        ("run_risk", RISK, "How likely a running run is to fail soon, 0 to 100."),
    ):
        measured = [(of[run.id], newest[run.id][signal]) for run in runs if signal in newest.get(run.id, {})]
        yield _gauge(name, words, measured, labels)
    dropped = CounterMetricFamily(
        "foreshock_run_dropped", "Samples and steps of a running run that were lost, and are in no store.", labels=labels
    )
    for run in runs:
        if DROPPED in newest.get(run.id, {}):
            dropped.add_metric(of[run.id], newest[run.id][DROPPED])
    yield dropped
