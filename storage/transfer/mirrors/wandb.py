"""Weights & Biases: into the user's own current run, or one that we start. ``wandb``, ``wandb:[ENTITY/]PROJECT?mode=offline``.

W&B numbers the rows of a run by itself, and drops what a user logs under a smaller number than the last. So in a run that is not
ours no row is ever added: our newest values join the row that the user writes next (``rows=own`` gives each step a row, for those
whose own charts do not use W&B's step). In a run of our own each step is a row, over ``foreshock/step``.
"""

import sys
from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from ...records import Alert, Batch, Histogram, Severity
from .base import PREFIX, Mirror, MirrorError, alert_text, alert_title, edges, finite, label
from .randomness import separate

STEP = f"{PREFIX}/step"
_LEVELS = {Severity.INFO: "INFO", Severity.WARNING: "WARN", Severity.CRITICAL: "ERROR"}
_MOST_BINS = 512  # W&B's own limit


class WandbMirror(Mirror):
    """Logs to W&B. Alerts are W&B alerts."""

    NAME = "wandb"
    PACKAGES = (("wandb", "wandb"),)
    OPTIONS = ("name", "mode", "dir", "rows")

    _tracker: Any = None

    @override
    def prepare(self) -> None:
        package = sys.modules.get("wandb")  # importing it takes a second; without that there can be no current run
        self._tracker = None if self.target else getattr(package, "run", None)
        self._own = self._tracker is None
        rows = self.options.get("rows", "own" if self._own else "shared")
        if rows not in ("own", "shared"):
            raise MirrorError(f"mirror='wandb?rows={rows}': allowed are own (each step is a row) and shared (join the user's rows)")
        self._rows = rows == "own"
        if self._own and not self.target:
            raise MirrorError(
                "mirror='wandb': there is no W&B run now. Call wandb.init() before foreshock.watch(), or name the project of a run "
                "to start: mirror='wandb:PROJECT' or 'wandb:ENTITY/PROJECT?mode=offline'"
            )

    @override
    def open(self) -> None:
        import wandb

        separate("wandb", "urllib3")
        if self._own:
            entity, _, project = self.target.rpartition("/")
            self._tracker = wandb.init(
                entity=entity or None,
                project=project,
                name=self.options.get("name", self.run.name),
                mode=self.options.get("mode"),  # type: ignore[arg-type]
                dir=self.options.get("dir"),
                tags=list(self.run.tags) or None,
                config={"foreshock": {"run": self.run.name, "run_id": self.run.id}},
                reinit="create_new",  # beside whatever run the user may begin
                settings=wandb.Settings(console="off", disable_git=True, save_code=False, silent=True),
            )
        self._tracker.define_metric(STEP)
        self._tracker.define_metric(f"{PREFIX}/*", step_metric=STEP)

    @override
    def take(self, batch: Batch, alerts: Sequence[Alert]) -> None:
        joined: dict[str, Any] = {}
        for record in batch.steps:
            row = {label(key): value for key, value in zip(record.keys, record.values, strict=True)}
            row |= {label(shape.key): made for shape in record.histograms if (made := _histogram(shape)) is not None}
            if self._rows and row:
                self._tracker.log({STEP: record.step, **row})
            elif row:
                joined |= {STEP: record.step, **row}
        if joined:
            self._tracker.log(joined, commit=False)
        for alert in alerts:
            self._tracker.alert(title=alert_title(alert), text=alert_text(alert), level=_LEVELS[alert.severity])

    @override
    def close(self) -> None:
        if self._own:
            self._tracker.finish()


def _histogram(shape: Histogram) -> Any:
    import numpy as np
    import wandb

    if not finite((shape.low, shape.high)) or not 1 <= len(shape.counts) <= _MOST_BINS:
        return None
    return wandb.Histogram(np_histogram=(np.array(shape.counts), np.array(edges(shape))))
