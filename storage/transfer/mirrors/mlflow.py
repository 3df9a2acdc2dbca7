"""MLflow: into the active run, or one that we start. ``mlflow``, ``mlflow:TRACKING_URI?experiment=NAME``."""

import re
import sys
from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from ...records import Alert, Batch
from .base import PREFIX, Mirror, MirrorError, alert_text, alert_title, label
from .randomness import separate

_MOST_METRICS = 1_000  # of one request, MLflow's limit
_MOST_LETTERS = 250  # of a name, MLflow's limit
_MOST_TAG = 5_000
_NOT_ALLOWED = re.compile(r"[^\w\-. :/]+", re.ASCII)


class MLflowMirror(Mirror):
    """Logs metrics in batches. An alert is a tag: ``foreshock.alert.<rule>``, with the number of all in ``foreshock.alerts``."""

    NAME = "mlflow"
    PACKAGES = (("mlflow", "mlflow"),)
    OPTIONS = ("experiment", "name")

    _client: Any = None

    @override
    def prepare(self) -> None:
        self._alerts = 0
        self._uri: str | None = self.target or None
        self._tracked = ""
        package: Any = sys.modules.get("mlflow")  # importing it takes seconds; without that there can be no active run
        active = package.active_run() if package is not None and not self.target else None
        if active is not None:  # active in this thread only, so it is asked for here
            self._tracked, self._uri = active.info.run_id, package.get_tracking_uri()
        elif not self.target:
            raise MirrorError(
                "mirror='mlflow': there is no active MLflow run. Call mlflow.start_run() before foreshock.watch(), or give the "
                "tracking URI of a run to start: mirror='mlflow:sqlite:///mlflow.db' or 'mlflow:http://127.0.0.1:5000?experiment=NAME'"
            )
        self._own = not self._tracked

    @override
    def open(self) -> None:
        from mlflow import MlflowClient

        separate("mlflow", "urllib3")
        self._client = MlflowClient(tracking_uri=self._uri)
        if not self._own or self._tracked:
            return
        name = self.options.get("experiment", self.run.project or PREFIX)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found is not None else self._client.create_experiment(name)
        tags = {"foreshock.run": self.run.name, "foreshock.run_id": self.run.id}
        made = self._client.create_run(experiment, run_name=self.options.get("name", self.run.name), tags=tags)
        self._tracked = made.info.run_id

    @override
    def take(self, batch: Batch, alerts: Sequence[Alert]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(_name(label(key)), float(value), int(record.time * 1000), record.step)
            for record in batch.steps
            for key, value in zip(record.keys, record.values, strict=True)
        ]
        for first in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self._tracked, metrics=metrics[first : first + _MOST_METRICS])
        for alert in alerts:
            self._alerts += 1
            self._client.set_tag(self._tracked, _name(f"foreshock.alert.{alert.rule}"), alert_text(alert)[:_MOST_TAG])
            self._client.set_tag(self._tracked, "foreshock.last_alert", alert_title(alert)[:_MOST_TAG])
            self._client.set_tag(self._tracked, "foreshock.alerts", str(self._alerts))

    @override
    def close(self) -> None:
        if self._own:
            self._client.set_terminated(self._tracked)


def _name(text: str) -> str:
    """Return a name that MLflow takes."""
    return _NOT_ALLOWED.sub("_", text)[:_MOST_LETTERS]
