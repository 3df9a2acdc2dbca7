"""One run of the experiment: an arm and a seed trained under ``watch()``, what became of it and what the probes saw."""

import contextlib
import io
import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..._version import __version__
from ...analyzer.failure import date_failure, lead_steps, outcome, running_median
from ...attach import watch
from ...monitor import Monitor
from ...storage import open_store
from ..scenarios.low_precision_attention import build
from .arms import arm
from .capture import capture

# Fixed, so that a seed gives the same numbers however busy the machine is.
SAMPLE_EVERY = 20
PROBES = ("spectral", "attention", "rounding_bias")
# Signals of a layer that the report draws, and how its heads are made one.
SIGNALS = {
    "weight.spectral_norm": "max",
    "attention.max_logit": "max",
    "rounding.delta_bias": "mean",
    "rounding.delta_bias_sum": "mean",
    "rounding.direction_similarity": "max",
    "rounding.query_gradient_error": "max",
    "rounding.key_shift_excess": "max",
}
_LAYERS = ("blocks.0.attention", "blocks.1.attention")


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker process is asked to train.

    Attributes:
        arm: name of the arm.
        seed: of initialisation and data order.
        steps: how long.
        threads: torch's CPU threads.
        store: URL of the store that the run is kept in.
        file: where its result goes, JSON.
        capture_at: step whose q, k, v and dO are kept beside the result; None for none.
    """

    arm: str
    seed: int
    steps: int
    threads: int
    store: str
    file: Path
    capture_at: int | None = None

    @property
    def captured(self) -> Path:
        """Where the captured tensors go."""
        return self.file.with_suffix(".pt")


def made_with() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {"foreshock": __version__, "torch": torch.__version__}


def perform(job: Job) -> dict[str, Any]:
    """Train, and write and return the result: plain data, ready for JSON. A run ends where its loss is not finite."""
    torch.set_num_threads(job.threads)
    chosen = arm(job.arm)
    training = build(chosen.precision, job.seed)
    losses: list[float] = []
    watched = partial(watch, training.model, training.optimizer, store=job.store, every=SAMPLE_EVERY, probes=PROBES)
    # Alerts are results here, and stand in the report: two runs at a time would print them across the progress bar.
    with (
        contextlib.redirect_stderr(io.StringIO()),
        watched(run=f"{job.arm} {job.seed}", project="reproduce", tags=["reproduce", job.arm]) as monitor,
    ):
        for number in range(job.steps):
            if number == job.capture_at:
                with capture(training.model, job.captured):
                    loss = training.step(number)
            else:
                loss = training.step(number)
            monitor.step(loss)
            losses.append(loss.item())
            if not np.isfinite(losses[-1]):
                break
    assert isinstance(monitor, Monitor)
    result = _summed_up(job, losses, monitor)
    job.file.write_text(json.dumps(result, allow_nan=False), "utf-8")
    return result


def _summed_up(job: Job, losses: list[float], monitor: Monitor) -> dict[str, Any]:
    failure = date_failure(range(len(losses)), losses)
    lasting = failure is not None and not failure.transient
    medians = running_median(np.asarray(losses))
    final = float(medians[-1]) if np.isfinite(losses[-1]) else None
    warnings = sorted((alert for alert in monitor.alerts if alert.severity.rank >= 1), key=lambda alert: alert.first_step)
    store = open_store(job.store)
    try:
        frame = store.frame(monitor.run)
    finally:
        store.close()
    return {
        "arm": job.arm,
        "seed": job.seed,
        "steps": job.steps,
        "threads": job.threads,
        "made_with": made_with(),
        "run": monitor.run.id,
        "outcome": outcome(failure),
        "failure": {key: value for key, value in asdict(failure).items() if value == value} if failure else None,
        "turning_step": int(np.nanargmin(medians)) if lasting and not np.isnan(medians).all() else None,
        "first_warning": min((alert.first_step for alert in warnings), default=None),
        "warnings": [{"rule": alert.rule, "module": alert.module, "step": alert.first_step} for alert in warnings],
        "lead_steps": lead_steps(failure.step, monitor.alerts) if failure and lasting else None,
        "final": final,
        "best": float(np.nanmin(medians)) if not np.isnan(medians).all() else None,
        "probe_errors": int(frame.loc[frame["signal"] == "monitor.errors", "value"].max()),
        "losses": [float(f"{loss:.5g}") for loss in losses if np.isfinite(loss)],
        "series": _series(frame),
    }


def _series(frame: pd.DataFrame) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return ``{signal: {layer: {"steps", "values"}}}`` of the finite values."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for signal, heads in SIGNALS.items():
        for layer in _LAYERS:
            module = f"{layer}.q" if signal == "weight.spectral_norm" else layer
            chosen = frame[(frame["signal"] == signal) & (frame["module"] == module) & np.isfinite(frame["value"])]
            values = chosen.groupby("step")["value"].agg(heads)
            if len(values):
                rounded = [float(f"{value:.5g}") for value in values]
                found.setdefault(signal, {})[layer] = {"steps": [int(step) for step in values.index], "values": rounded}
    return found
