"""Prometheus: the newest values at http://HOST:PORT/metrics, to be scraped. ``prometheus:9464``, ``prometheus:0.0.0.0:9464``."""

import re
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from typing_extensions import override

from ...records import Alert, Batch, SeriesKey, Severity
from .base import PREFIX, Mirror, MirrorError, newest

PORT = 9464
_LABELS = ("run", "module", "head", "rank")
_NOT_ALLOWED = re.compile(r"\W+", re.ASCII)


class PrometheusMirror(Mirror):
    """Serves a page of its own registry, so that nothing of the user's own metrics is touched. By default to this machine only."""

    NAME = "prometheus"
    PACKAGES = (("prometheus_client", "prometheus"),)

    _server: Any = None

    @override
    def prepare(self) -> None:
        host, _, port = self.target.rpartition(":")
        if port and not (port.isdecimal() and 0 < int(port) < 65536):
            raise MirrorError(
                f"mirror='prometheus:{self.target}': {port!r} is no port; allowed: prometheus:9464, prometheus:0.0.0.0:9464"
            )
        self._address = host.strip("[]") or "127.0.0.1", int(port or PORT)
        self._lock = threading.Lock()
        self._values: dict[SeriesKey, float] = {}
        self._alerts: Counter[str] = Counter()
        self._steps = 0

    @override
    def open(self) -> None:
        from prometheus_client import CollectorRegistry, start_http_server

        registry = CollectorRegistry()
        registry.register(self)
        host, port = self._address
        self._server, self._thread = start_http_server(port, addr=host, registry=registry)

    @override
    def take(self, batch: Batch, alerts: Sequence[Alert]) -> None:
        with self._lock:
            self._values.update(newest(batch))
            self._alerts.update(str(alert.severity) for alert in alerts)
            self._steps += len(batch.steps)

    @override
    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(1.0)

    def collect(self) -> Iterable[Any]:
        """Return the page, as prometheus_client asks for it."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        with self._lock:
            values, alerts, steps = dict(self._values), dict(self._alerts), self._steps
        families: dict[str, Any] = {}
        for key, value in values.items():
            name = f"{PREFIX}_{_NOT_ALLOWED.sub('_', key.signal)}"
            if name not in families:
                families[name] = GaugeMetricFamily(name, f"Newest value of {key.signal}", labels=_LABELS)
            families[name].add_metric([self.run.name, key.module, _number(key.head), _number(key.rank)], value)
        run = [self.run.name]
        counted = CounterMetricFamily(f"{PREFIX}_steps", "Training steps seen", labels=("run",))
        counted.add_metric(run, steps)
        dropped = CounterMetricFamily(f"{PREFIX}_dropped_samples", "Samples that reached no store", labels=("run",))
        dropped.add_metric(run, values.get(SeriesKey("monitor.dropped"), 0.0))
        raised = CounterMetricFamily(f"{PREFIX}_alerts", "Alerts raised", labels=("run", "severity"))
        for severity in Severity:
            raised.add_metric([*run, str(severity)], alerts.get(str(severity), 0))
        return [counted, dropped, raised, *families.values()]


def _number(value: int) -> str:
    return str(value) if value >= 0 else ""
