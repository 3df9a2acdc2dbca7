"""The monitor that does nothing, for where nothing is to be watched."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .probes.step.collector import Metric
from .storage.records import Alert, Run, RunStatus

if TYPE_CHECKING:
    from plotly.graph_objects import Figure  # type: ignore[import-untyped]

log = logging.getLogger("foreshock")


class DisabledMonitor:
    """Has a monitor's methods and does nothing: ``FORESHOCK_DISABLE=1``, or a rank whose first rank keeps no run."""

    alerts: Sequence[Alert] = ()
    should_stop = False
    risk: float | None = None
    run = Run("", "")
    """A run without a name; nothing of it is stored."""

    def __init__(self, reason: str) -> None:
        self._words = f"foreshock does nothing here: {reason}"
        log.info(self._words)

    def step(self, loss: Metric | None = None, *, batch: object = None, **metrics: Metric) -> None:
        """Do nothing."""

    def log(self, **metrics: Metric) -> None:
        """Do nothing."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, *, name: str, **options: Any) -> None:
        """Do nothing."""

    def figure(self, signal: str | None = None, module: str | None = None) -> "Figure":
        """Return a figure that says that nothing is watched."""
        from .dashboard.drawing import words

        return words(self._words)

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""

    def flush(self, timeout: float = 5.0) -> bool:
        """Do nothing."""
        return True

    def close(self, status: RunStatus | str = RunStatus.FINISHED) -> None:
        """Do nothing."""

    def __enter__(self) -> "DisabledMonitor":
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""
