"""The analyzer of a run that is training: judges what was written, on the writer thread, and hands new alerts over."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..storage.base import Store
from ..storage.records import Alert, AlertState, Batch, Notification
from .courier import Courier, Extras
from .engine import Engine
from .live_rules import LiveRules
from .messages import Messages
from .notify import ConsoleNotifier, Outbox
from .risk_course import RiskPoints

RULES_CHANGED = "rules_changed"
"""Kind of the event that tells of rules that were changed while the run trained."""


class LiveAnalysis:
    """Feeds the engine, tells the console and the outbox, and keeps alerts for the training thread until it asks.

    Args:
        engine: fed by the writer thread only; its state is read and set from the training thread, or a signal handler on it.
        channels: Apprise URLs.
        run_name: as notifications name the run.
        rules: where changes of the rules come from; taken over with the next batch.
        tell: told of them, by kind of event, message and data.
        project: of the run.
        messages: how notifications are written.
        extras: what goes with them besides words.
    """

    def __init__(
        self,
        engine: Engine,
        channels: Sequence[str],
        run_name: str,
        rules: LiveRules | None = None,
        tell: Callable[..., None] = lambda kind, message, **data: None,
        project: str = "",
        messages: Messages | None = None,
        extras: Extras | None = None,
    ) -> None:
        self._engine = engine
        self._rules, self._tell = rules, tell
        self._lock = threading.RLock()
        self.fresh: deque[Alert] = deque()
        """Alerts that nobody took yet; filled on the writer thread."""
        self._seen = {alert.id for alert in engine.alerts}
        self._console = ConsoleNotifier()
        self._outbox = Outbox(channels, run_name=run_name, project=project, messages=messages)
        self._extras = extras
        self._courier: Courier | None = None
        self._points = RiskPoints()

    @property
    def alerts(self) -> list[Alert]:
        """Every alert so far, oldest first."""
        with self._lock:
            return self._engine.alerts

    @property
    def risk(self) -> float | None:
        """The risk now, 0 to 100 (see ``risk.words``); None while nothing is measured."""
        return self._engine.risk.value

    def feed(self, batch: Batch) -> Sequence[Alert]:
        """Judge a batch, by what the rules are now; return the alerts that changed."""
        if self._rules is not None and (news := self._rules.take()) is not None and news.message:
            with self._lock:
                self._engine.change_rules(news.rules, batch.steps[0])
            self._tell(RULES_CHANGED, news.message, **news.data, step=batch.steps[0].step)
        with self._lock:
            changed = self._engine.feed(batch)
        for alert in changed:
            if alert.state is AlertState.FIRING and alert.id not in self._seen:
                self._seen.add(alert.id)
                self._console.tell(alert)
                self.fresh.append(alert)
        return changed

    def completed(self, batch: Batch) -> Batch:
        """Return a batch that was just fed with the run's risk as a series of its own."""
        with self._lock:
            points = dict(self._engine.risk.take_points())
        return self._points.added(batch, points) if points else batch

    def take_fresh(self) -> list[Alert]:
        """Return the alerts that are new since this was last asked, oldest first."""
        return [self.fresh.popleft() for _ in range(len(self.fresh))]

    def notifications(self, alert: Alert) -> list[Notification]:
        """Return the outbox entries of an alert."""
        return self._outbox.notifications(alert)

    def deliver_from(self, store: Store) -> None:
        """Deliver notifications from this store's outbox from now on; called again it does nothing."""
        if self._courier is None and self._outbox.channels:
            self._courier = Courier(self._outbox, store, extras=self._extras)
            self._courier.start()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the detectors."""
        with self._lock:
            return self._engine.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set the state of the detectors."""
        with self._lock:
            self._engine.load_state_dict(state)

    def settled(self) -> list[Alert]:
        """Return what open alerts have not reported yet, to be saved; call it once everything put was judged."""
        with self._lock:
            return list(self._engine.finish(time.time()))

    def close(self) -> None:
        """End the notifiers; waits at most some seconds."""
        self._console.close()
        if self._courier is not None:
            self._courier.close(timeout=5.0)
