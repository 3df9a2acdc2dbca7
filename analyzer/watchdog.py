"""What a dead process cannot do: say that it is lost or stalled, and deliver what it left. Under a lease, so that one does it."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..storage.base import Store
from ..storage.errors import LeaseHeldError, ReadOnlyStoreError, StoreError
from ..storage.records import Alert, AlertState, Lease, Notification, Run, RunStatus, Severity, derived_id, new_id
from .courier import Extras, deliver_due
from .messages import Messages
from .notify import Outbox
from .pulse import LOST_FLOOR_S, STALLED_FLOOR_S, Pulse

log = logging.getLogger("foreshock")

LOST, STALLED = "lost_heartbeat", "stalled"
EVERY_S = 5.0
_LEASE_S = 30.0
_FORGOTTEN_S = 7 * 86400.0  # a run that was silent for so long when first seen is history, not news
_MOST_COUNTED = 3.0  # looks that lie further apart than so many intervals count as no more
_REMEDIES = {
    LOST: "Look at the process and its host: out of memory, killed, unplugged, or cut off from the store. "
    "Go on from the last checkpoint with watch(..., resume=RUN).",
    STALLED: "Look where the process stands (py-spy dump --pid PID): a collective that waits for a rank, a data loader, "
    "a full disk. A long evaluation or checkpoint is no fault: resolve the alert.",
}


class Watchdog:
    """Watches all runs of a store that are marked as running. ``look`` is one round; ``start`` does them on a thread.

    Args:
        store: stays the caller's.
        channels: Apprise URLs that its alerts go to besides those the run itself asked for.
        messages: how notifications are written.
        extras: what goes with them besides words.
        every: seconds between two looks.
        lost_after, stalled_after: least seconds of silence, or without a step (see ``pulse`` for what makes them longer).
        clock: a steady clock, in seconds.
    """

    def __init__(
        self,
        store: Store | Callable[[], Store],
        *,
        channels: Sequence[str] = (),
        messages: Messages | None = None,
        extras: Extras | None = None,
        every: float = EVERY_S,
        lost_after: float = LOST_FLOOR_S,
        stalled_after: float = STALLED_FLOOR_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._channels, self._messages, self._extras = tuple(channels), messages, extras
        self._every = every
        self._floors = {"lost_floor": lost_after, "stalled_floor": stalled_after}
        self._clock = clock
        self._lease = Lease("watchdog", new_id(), seconds=max(_LEASE_S, 4.0 * every))
        self._pulses: dict[str, Pulse] = {}
        self._looked_at: float | None = None
        self._told: set[tuple[str, str]] = set()
        self._on_duty = False
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.error = ""
        """Why the last look failed; empty when it did not."""

    @property
    def on_duty(self) -> bool:
        """Whether this watchdog is the one that acts; others stand by."""
        return self._on_duty

    def look(self) -> list[Alert]:
        """Look at every run once; return the alerts raised and resolved. Standing by it watches, and raises nothing.

        Raises:
            StoreError: the store cannot be read or written. What was silent until then is forgotten.
        """
        store = self._opened()
        now = self._clock()
        elapsed = 0.0 if self._looked_at is None else min(max(0.0, now - self._looked_at), _MOST_COUNTED * self._every)
        self._looked_at = now
        try:
            self._on_duty = store.take_lease(self._lease)
            runs = [run for run in store.runs() if run.status is RunStatus.RUNNING and self._is_news(run)]
            for run in runs:
                self._observe(store, run, elapsed)
            self._pulses = {run.id: self._pulses[run.id] for run in runs}
            self._told = {(run_id, rule) for run_id, rule in self._told if run_id in self._pulses}
            return self._judge(store, runs) if self._on_duty else []
        except StoreError:
            for pulse in self._pulses.values():
                pulse.forget_silence()
            raise

    def deliver(self) -> int:
        """Let silences end that are over, and deliver what is due in the outbox, whoever left it; return how many were told."""
        store, now = self._opened(), time.time()
        store.lift_silences(now)
        return deliver_due(store, now, stop=self._stop.is_set, extras=self._extras)

    def start(self) -> None:
        """Begin to look and to deliver, on two threads: a channel that hangs must not keep the watchdog from looking."""
        for name, work in (("watchdog", self.look), ("watchdog-courier", self.deliver)):
            thread = threading.Thread(target=self._work, args=(work,), name=f"foreshock-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self, timeout: float = 5.0) -> None:
        """Stop, and let another watchdog take over at once. May be called twice."""
        self._stop.set()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._on_duty and not any(thread.is_alive() for thread in self._threads):
            self._on_duty = False
            try:
                self._opened().release_lease(self._lease)
            except Exception as error:  # noqa: BLE001 - it runs out by itself
                log.debug("the watchdog's lease was not given back: %s", error)

    # -- a round -------------------------------------------------------------------------------------------------

    def _opened(self) -> Store:
        return self._store if isinstance(self._store, Store) else self._store()

    def _work(self, work: Callable[[], object]) -> None:
        while not self._stop.is_set():
            try:
                work()
                self.error = ""
            except ReadOnlyStoreError as error:
                self.error = str(error)
                log.info("the watchdog has nothing to do here: %s", error)
                self._stop.set()
            except Exception as error:  # noqa: BLE001 - a watchdog that dies watches nobody
                said, self.error = self.error, f"{type(error).__name__}: {error}"
                if said != self.error:
                    log.warning("the watchdog cannot work now and goes on trying: %s", self.error)
            self._stop.wait(self._every)

    def _observe(self, store: Store, run: Run, elapsed: float) -> None:
        pulse = self._pulses.get(run.id)
        sign = (run.heartbeat_at, run.last_step, store.changes(run.id, pulse.sign[2] if pulse else 0).cursor)
        if pulse is None:
            step_seconds = _step_seconds(store, run)
            self._pulses[run.id] = Pulse(sign, step_seconds=step_seconds, stepped=sign[2] > 0, **self._floors)
        else:
            pulse.look(sign, elapsed)

    def _judge(self, store: Store, runs: Sequence[Run]) -> list[Alert]:
        """Bring the alerts of the two rules to what is seen now."""
        told: list[Alert] = []
        running = {run.id: run for run in runs}
        ours: dict[tuple[str, str], Alert] = {}
        for alert in store.alerts(states=[state for state in AlertState if state is not AlertState.RESOLVED]):
            if alert.rule in (LOST, STALLED):
                ours[alert.run_id, alert.rule] = alert
        for (run_id, rule), alert in ours.items():
            if run_id not in running or self._is_back(run_id, rule):
                over = replace(alert, state=AlertState.RESOLVED, updated_at=time.time(), last_step=_last_step(running, alert))
                if not self._save(store, over, []):
                    return told
                self._told.discard((run_id, rule))
                told.append(over)
        for run in runs:
            pulse = self._pulses[run.id]
            for rule in (LOST, STALLED):
                if self._is_back(run.id, rule):
                    self._told.discard((run.id, rule))
            rule = LOST if pulse.lost else STALLED if pulse.stalled else ""
            if not rule or (run.id, rule) in ours or (run.id, rule) in self._told:
                continue
            if (raised := self._alert(store, run, rule, pulse)) is not None:
                channels = [*store.channels(run.id), *self._channels]
                outbox = Outbox(channels, run_name=run.name, project=run.project, messages=self._messages)
                if not self._save(store, raised, outbox.notifications(raised)):
                    return told
                told.append(raised)
            self._told.add((run.id, rule))
        return told

    def _save(self, store: Store, alert: Alert, notifications: Sequence[Notification]) -> bool:
        """Save an alert, the lease looked at in the same transaction; return False where another watchdog has taken over."""
        try:
            store.save_alerts([alert], notifications, lease=self._lease)
        except LeaseHeldError:
            self._on_duty = False
        return self._on_duty

    def _is_news(self, run: Run) -> bool:
        return run.id in self._pulses or time.time() - run.heartbeat_at < _FORGOTTEN_S

    def _is_back(self, run_id: str, rule: str) -> bool:
        """Return whether a sign was seen; a run just begun to be watched is not known to be back."""
        pulse = self._pulses[run_id]
        return (pulse.life if rule == LOST else pulse.steps).alive and not (pulse.lost or pulse.stalled)

    def _alert(self, store: Store, run: Run, rule: str, pulse: Pulse) -> Alert | None:
        """Return the alert; None where a person has resolved that of the very same standstill."""
        before = [alert for alert in store.alerts(run) if alert.rule == rule]
        episode = max((alert.episode for alert in before), default=-1) + 1
        segment = max((segment.segment for segment in store.segments(run.id)), default=0)
        rhythm = pulse.life if rule == LOST else pulse.steps
        if not rhythm.alive and any((alert.segment, alert.first_step) == (segment, run.last_step) for alert in before):
            return None
        allowed = pulse.lost_after if rule == LOST else pulse.stalled_after
        where = f"after step {run.last_step:,}" if run.last_step >= 0 else "before its first step"
        seconds = f"for {rhythm.silence:,.0f} s (usual are {rhythm.usual:,.1f} s, allowed {allowed:,.0f} s)"
        message = (
            f"The run gives no sign of life {where}, {seconds}. Its process has probably died."
            if rule == LOST
            else f"The run is alive and stands still {where}, {seconds}."
        )
        now = time.time()
        return Alert(
            id=derived_id(run.id, rule, "", episode),
            run_id=run.id,
            rule=rule,
            module="",
            episode=episode,
            severity=Severity.CRITICAL if rule == LOST else Severity.WARNING,
            state=AlertState.FIRING,
            segment=segment,
            first_step=run.last_step,
            last_step=run.last_step,
            created_at=now,
            updated_at=now,
            message=message,
            value=rhythm.silence,
            threshold=allowed,
            remedy=_REMEDIES[rule],
        )


def _last_step(running: dict[str, Run], alert: Alert) -> int:
    return running[alert.run_id].last_step if alert.run_id in running else alert.last_step


def _step_seconds(store: Store, run: Run) -> float:
    """Return what a step of the newest segment has taken on average, by the run's own clock; 0 where that is unknown."""
    segments = store.segments(run.id)
    if not segments or run.last_step < segments[-1].start_step:
        return 0.0
    taken = (run.heartbeat_at - segments[-1].started_at) / (run.last_step - segments[-1].start_step + 1)
    return taken if 0.0 < taken < 3600.0 else 0.0
