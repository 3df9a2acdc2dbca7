"""OpenTelemetry: the newest values as gauges, sent over OTLP/HTTP. ``otlp``, ``otlp:http://127.0.0.1:4318?interval=10``."""

import logging
import re
import threading
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from typing_extensions import override

from ...records import Alert, Batch
from .base import PREFIX, Mirror, MirrorError, newest
from .randomness import separate

INTERVAL = 10.0
"""Seconds from one message to the next, unless ``interval=`` says otherwise."""

_PATH = "/v1/metrics"
_NOT_ALLOWED = re.compile(r"[^\w./-]+", re.ASCII)


class OTLPMirror(Mirror):
    """Sends gauges ``foreshock.<signal>`` and counters of steps and alerts through a meter provider of its own.

    Without a target, and for headers and certificates, the ``OTEL_EXPORTER_OTLP_*`` variables hold. The SDK's own reader would send
    on a thread of its own and keep failures to itself; here each message is sent, or fails, on the mirror's thread.
    """

    NAME = "otlp"
    PACKAGES = (("opentelemetry.sdk.metrics", "opentelemetry"), ("opentelemetry.exporter.otlp.proto.http", "opentelemetry"))
    OPTIONS = ("interval",)

    _exporter: Any = None
    _heard: "_Heard | None" = None

    @override
    def prepare(self) -> None:
        address = urlsplit(self.target)
        if self.target and (address.scheme not in ("http", "https") or not address.hostname):
            raise MirrorError(f"mirror='otlp:{self.target}': this is no address; allowed: otlp, or otlp:http://127.0.0.1:4318")
        self._endpoint = None
        if self.target:
            self._endpoint = self.target if address.path.strip("/") else self.target.rstrip("/") + _PATH
        try:
            self._interval = float(self.options.get("interval", INTERVAL))
        except ValueError:
            raise MirrorError(f"mirror='otlp': interval={self.options['interval']!r} is no number of seconds") from None

    @override
    def open(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.resources import Resource

        separate("opentelemetry", "urllib3")
        if self._heard is None:
            self._heard = _Heard(OTLPMetricExporter.__module__)
        self._exporter = OTLPMetricExporter(endpoint=self._endpoint)
        self._reader = InMemoryMetricReader()
        about = {"foreshock.run": self.run.name, "foreshock.run_id": self.run.id, "foreshock.project": self.run.project}
        resource = Resource.create(about)
        if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):  # OTEL_SERVICE_NAME does not say
            resource = resource.merge(Resource({"service.name": PREFIX}))
        self._provider = MeterProvider([self._reader], resource=resource, shutdown_on_exit=False)
        self._meter = self._provider.get_meter(PREFIX)
        self._gauges: dict[str, Any] = {}
        self._steps = self._meter.create_counter(f"{PREFIX}.steps", description="Training steps seen")
        self._alerts = self._meter.create_counter(f"{PREFIX}.alerts", description="Alerts raised")
        self._send_at = 0.0

    @override
    def take(self, batch: Batch, alerts: Sequence[Alert]) -> None:
        for key, value in newest(batch).items():
            name = f"{PREFIX}.{_NOT_ALLOWED.sub('_', key.signal)}"
            if name not in self._gauges:
                self._gauges[name] = self._meter.create_gauge(name, description=f"Newest value of {key.signal}")
            where = {"module": key.module, "head": key.head, "rank": key.rank}
            self._gauges[name].set(value, {"run": self.run.name} | {name: it for name, it in where.items() if it not in ("", -1)})
        self._steps.add(len(batch.steps), {"run": self.run.name})
        for alert in alerts:
            self._alerts.add(1, {"run": self.run.name, "severity": str(alert.severity), "rule": alert.rule})
        if alerts or time.monotonic() >= self._send_at:
            self._send()

    @override
    def close(self) -> None:
        try:
            self._send()
        finally:
            self._provider.shutdown()
            self._exporter.shutdown()
            if self._heard is not None:
                self._heard.end()

    def _send(self) -> None:
        from opentelemetry.sdk.metrics.export import MetricExportResult

        self._send_at = time.monotonic() + self._interval
        found = self._reader.get_metrics_data()
        if found is not None and self._exporter.export(found) is not MetricExportResult.SUCCESS:
            raise ConnectionError(f"the metrics were not taken: {self._heard.last if self._heard else 'no reason given'}")


class _Heard(logging.Filter):
    """Keeps what the exporter logs on this thread, at every attempt, out of the user's log: the mirror tells it, once."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.last = "no reason given"
        self._thread = threading.get_ident()
        self._log = logging.getLogger(name)
        self._log.addFilter(self)

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        if record.thread != self._thread:
            return True
        if record.levelno < logging.ERROR or self.last == "no reason given":  # the reason; the error only says that it gave up
            self.last = record.getMessage()
        return False

    def end(self) -> None:
        """Let everything through again."""
        self._log.removeFilter(self)
