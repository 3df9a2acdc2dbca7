"""Connects the rooms: probes -> writer thread -> store and analyzer -> alerts -> interventions. What ``watch()`` returns."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import lifecycle
from .analyzer.engine import Engine
from .analyzer.live import LiveAnalysis
from .analyzer.live_rules import LiveRules
from .interventions.base import Training
from .interventions.ladder import Ladder
from .interventions.stop import Ending
from .probes.model import WatchedModel
from .probes.step.collector import Collector, Metric
from .probes.step.faults import Faults
from .probes.taps.attention import AttentionObserver
from .storage import Store
from .storage.records import Alert, Batch, Event, Run, RunStatus, Segment, new_id
from .storage.spool import SpoolPlace
from .storage.transfer.mirrors.registry import Mirrors
from .storage.writer import Writer
from .telling import Telling

if TYPE_CHECKING:
    from plotly.graph_objects import Figure  # type: ignore[import-untyped]

log = logging.getLogger("foreshock")

# Seconds between batches: who acts on alerts should hear of them soon, and who watches slow steps sees each of them soon.
_FLUSH_ACTING, _FLUSH_SLOW_STEPS, _FLUSH = 0.1, 0.2, 0.5


class Monitor:
    """A live monitor; made by ``watch()``, used as a context manager. Its methods never raise into training.

    The exceptions are asked for: ``interventions=["stop"]`` ends training by ``foreshock.StopTraining``, raised by ``step()``, and
    ``figure()`` says what it cannot draw.
    """

    def __init__(
        self,
        model: WatchedModel,
        collector: Collector,
        faults: Faults,
        engine: Engine,
        run: Run,
        *,
        store: Store | None,
        reopen: Callable[[], Store],
        owns_store: bool,
        spool: SpoolPlace | None,
        segment: Segment,
        telling: Telling,
        on_alert: Callable[[Alert], object] | None,
        ladder: Ladder,
        training: Training,
        mirrors: Mirrors,
        rules: LiveRules,
    ) -> None:
        self.run = run
        """The run as it was created: ``run.id`` is what the commands take."""
        self.collector = collector
        """What measures: its probes, its governor, whether the step now running is sampled."""
        self.faults = faults
        """What went wrong inside the monitor so far, and the time spent in hooks."""
        self._analysis = LiveAnalysis(
            engine,
            telling.channels,
            run.name,
            rules,
            self._event,
            project=run.project,
            messages=telling.messages,
            extras=telling.extras,
        )
        self._ladder, self._acting = ladder, bool(ladder)
        self._step, self._segment = segment.start_step, segment.segment
        self._began = self._step
        self._on_alert = on_alert
        self._logged: dict[str, Metric] = {}
        self._closed = False
        self._told_closed = False
        self._ending = Ending()
        self._judged = segment.segment, segment.start_step - 1
        self._owns_store, self._reopen = owns_store, reopen
        self._mirrors = mirrors
        self._writer = Writer(
            store if store is not None else reopen,
            run,
            segment,
            analyze=self._analyze,
            complete=mirrors.after(self._analysis.completed),
            notifications=self._analysis.notifications,
            consult=rules.look,
            channels=telling.channels,
            flush_interval=_FLUSH_ACTING if ladder else _FLUSH,
            soon=_FLUSH_ACTING if ladder else _FLUSH_SLOW_STEPS,
            spool=spool,
            on_trouble=_say_trouble,
        )
        collector.vitals = self._vitals
        collector.tell_cadence = lambda words: self._event("cadence", words)
        faults.report_to(lambda source, message: self._event("fault", message, source=source))
        if collector.exchange is not None:
            collector.exchange.report_to(self._event)
        training.tell, training.step, training.alerts = self._event, lambda: self._step, lambda: self.alerts
        training.judged, training.segment = self._last_judged, lambda: self._segment
        training.log, training.rewind, training.stop = self.log, self._rewind, self._ending.ask
        self._writer.start()
        collector.begin(segment.start_step)
        lifecycle.keep(self, model.roots.values())

    # -- in the training loop ------------------------------------------------------------------------------------

    def step(self, loss: Metric | None = None, *, batch: object = None, **metrics: Metric) -> None:
        """End a training step: call it once per optimizer step, after ``optimizer.step()``.

        Costs some microseconds on a step that is not sampled, and never waits for a device or the store.

        Args:
            loss: a number or a tensor of one element; it is kept at every step.
            batch: what it was trained on: the samples' indices, a number, or a hash. Kept by ``capture`` alone, in its bundles.
            metrics: more of the same, each kept under its own name.
        """
        if self._closed:
            self._ending.check(self.run.id)
            if not self._told_closed:
                self._told_closed = True
                log.warning("this monitor is closed: step() records nothing any more; call watch() again to go on")
            return
        try:
            if self._logged:
                metrics, self._logged = self._logged | metrics, {}
            if self._acting and batch is not None:
                self._ladder.on_batch(self._step, batch)
            if self._acting and self.collector.sampling:
                self._ladder.before_end(self._step)
            self._writer.put(self.collector.end_step(self._step, loss, metrics))
        except Exception as error:  # noqa: BLE001 - the law: never raise into training
            self.faults.note("step", error)
        fresh = self._hand_over_fresh() if self._analysis.fresh else ()
        if self._acting:
            self._ladder.after_step(self._step, fresh)
        self._step += 1
        if self._ending.raises:
            self.close(RunStatus.TERMINATED)
            self._ending.check(self.run.id)

    def log(self, **metrics: Metric) -> None:
        """Record metrics with the step now running; the next ``step()`` takes them along, or ``close()`` with the last one."""
        self._logged.update(metrics)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, *, name: str, **options: Any) -> None:
        """Report hand-written attention, called in the forward pass where ``out`` is made. Free on steps not sampled.

        Args:
            q, out: (B, H, T, D).
            k, v: (B, G, S, D), G dividing H. The gradient of ``k`` should come from this attention alone.
            name: what to call it, such as the module's path.
            options: ``is_causal``, ``attn_mask``, ``scale`` as ``F.scaled_dot_product_attention`` takes them.
        """
        if torch.compiler.is_compiling():  # it would break the graph; with compiled="eager" sampled steps come here
            return
        for probe in self.collector.probes:
            if isinstance(probe, AttentionObserver):  # which shares what it is told with the others
                probe.guard(lambda probe=probe: probe.tell(q, k, v, out, name=name, **options))  # type: ignore[misc]
                return

    @property
    def should_stop(self) -> bool:
        """Whether the intervention ``stop`` wants training to end; with ``Stop(how="flag")`` the loop looks here."""
        return self._ending.reason is not None

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until every step so far is judged and stored; return whether it is. What alerts set off comes in the next ``step``.

        Training needs no such call: it waits. It makes a run repeatable, whatever the machine does meanwhile.
        """
        return self._writer.flush(timeout)

    # -- looking at it -------------------------------------------------------------------------------------------

    @property
    def alerts(self) -> list[Alert]:
        """Every alert of this run so far, oldest first."""
        return self._analysis.alerts

    @property
    def risk(self) -> float | None:
        """How likely this run is to fail soon, 0 to 100 (docs/risk.md); None while nothing is measured."""
        return self._analysis.risk

    def figure(self, signal: str | None = None, module: str | None = None) -> "Figure":
        """Draw this run so far for a notebook: the loss with its alerts, or a signal, of one layer where ``module`` names it.

        Waits until every step so far is judged and stored, 5 seconds at most, and draws what is there then. After ``close()`` too,
        but not of a store in memory that the monitor opened.

        Raises:
            ValueError: there is no such signal or layer; the message names those that are near.
            StoreError: the store cannot be read.
        """
        from .dashboard.drawing import figure

        self.flush()
        store = self._writer.store
        if store is not None and not (self._closed and self._owns_store):
            return figure(self.run, signal, module, store=store)
        with closing(self._reopen()) as opened:
            return figure(self.run, signal, module, store=opened)

    def state_dict(self) -> dict[str, Any]:
        """Return step and detector state, to be saved in the training checkpoint."""
        self._writer.flush(timeout=5.0)
        return {"run": self.run.id, "step": self._step, "engine": self._analysis.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's state: the next ``step()`` ends step number ``state["step"]``.

        The state of another run gives the step only: its detectors have seen another past; so does ``{"step": number}``, where a
        run goes on that was not watched before. An empty one (of a disabled monitor, say) changes nothing. What cannot be read is
        counted as a fault, and training goes on.
        """
        self.faults.run("load_state_dict", lambda: self._load(state))

    def _load(self, state: Mapping[str, Any]) -> None:
        if not state:
            return
        step = int(state["step"])
        run = state.get("run")
        if run == self.run.id and "engine" in state:
            self._writer.flush(timeout=5.0)
            self._analysis.load_state_dict(state["engine"])
        elif run is not None and run != self.run.id:
            log.warning("the state loaded is of another run: its step is taken, the detectors start anew")
        self._step = self._began = step
        self.collector.begin_anew(step)

    def _rewind(self, step: int) -> None:
        """The weights are those after ``step`` again: go on in a new segment, with the step after it."""
        self._segment += 1
        self._writer.begin_segment(Segment(self.run.id, self._segment, step + 1, time.time()))
        self._step = step  # whose end is about to be counted
        self.collector.begin_anew(step + 1)

    # -- the end -------------------------------------------------------------------------------------------------

    def close(self, status: RunStatus | str = RunStatus.FINISHED) -> None:
        """Remove every hook, write everything out and mark the run. May be called twice; waits at most some seconds.

        Raises:
            ValueError: there is no such status.
        """
        status = RunStatus(status)
        if status is RunStatus.FINISHED and self.should_stop:
            status = RunStatus.TERMINATED
        if self._closed:
            # Perhaps from a signal that came in the midst of closing: what is left to do is to let the writer end.
            self._writer.close(timeout=10.0, status=status)
            return
        self._closed = True
        try:
            if self._logged and self._step > self._began:
                self.faults.run("last metrics", self._put_last_metrics)
            self.collector.stop()
            if self.collector.exchange is not None:
                self.collector.exchange.close()
            self.faults.run("last alerts", self._settle_alerts)
            self._hand_over_fresh()
            self._ladder.close()
        finally:
            self._writer.close(timeout=10.0, status=status)
            self._mirrors.close()
            self._analysis.close()
            if self._owns_store and self._writer.store is not None:
                self._writer.store.close()
            lifecycle.release(self)

    def _put_last_metrics(self) -> None:
        self._writer.put(self.collector.alone(self._step - 1, self._logged))

    def _settle_alerts(self) -> None:
        """Save what open alerts have not reported yet, once everything put was judged."""
        if self._writer.judged(timeout=5.0):
            self._writer.put_alerts(self._analysis.settled())

    def abandon(self) -> None:
        """Forget the writer thread and the store's connections: a forked child must not touch its parent's."""
        self._closed = self._told_closed = True
        self.faults.report_to(None)
        self.collector.stop()
        if self._writer.store is not None:
            self._writer.store.abandon()

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        ours = self._ending.takes(error, self.run.id)
        if error is None or ours or (isinstance(error, SystemExit) and not error.code):
            self.close(RunStatus.FINISHED)
            return ours
        self._event("crashed", f"{type(error).__name__}: {error}")
        self.close(RunStatus.TERMINATED if isinstance(error, KeyboardInterrupt) else RunStatus.CRASHED)
        return False

    # -- on the writer thread ------------------------------------------------------------------------------------

    def _analyze(self, batch: Batch) -> Sequence[Alert]:
        changed = self._analysis.feed(batch)
        self._mirrors.hear(changed)
        self._judged = batch.segment, batch.steps[-1].step
        if self._acting:
            self._ladder.on_records(batch.steps)
        # Only now, for a store that was away at the start has no outbox to deliver from.
        if self._writer.store is not None and not self._closed:
            self._analysis.deliver_from(self._writer.store)
        return changed

    def _last_judged(self) -> int:
        segment, step = self._judged
        return step if segment == self._segment else -1

    def _vitals(self) -> dict[str, float]:
        stats = self._writer.stats
        return {
            "monitor.queue_depth": stats.queue_depth,
            "monitor.spooled": stats.points_spooled,
            "monitor.dropped": stats.points_lost + stats.steps_dropped,
            "monitor.errors": self.faults.total + stats.errors,
        }

    def _hand_over_fresh(self) -> list[Alert]:
        fresh = self._analysis.take_fresh()
        for alert in fresh if self._on_alert is not None else ():
            try:
                self._on_alert(alert)  # type: ignore[misc]
            except Exception as error:  # noqa: BLE001 - the user's own callback must not end the user's own training
                self.faults.note("on_alert", error)
        return fresh

    def _event(self, kind: str, message: str, **data: Any) -> None:
        self._writer.put_event(Event(new_id(), self.run.id, self._segment, self._step, time.time(), kind, message, data))


def _say_trouble(message: str, error: Exception | None) -> None:
    log.error("%s", message, exc_info=error if log.isEnabledFor(logging.DEBUG) else None)
