"""A distributed job: the first rank keeps the run; on the others a monitor measures, tells the first rank, and writes nothing."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim import Optimizer

from . import lifecycle
from .disabled import DisabledMonitor
from .interventions.base import Training
from .interventions.ladder import Ladder
from .interventions.stop import Ending
from .probes.base import Probe
from .probes.distributed.company import JOIN_SECONDS, Company, Meeting
from .probes.distributed.council import Council
from .probes.distributed.follower import Follower
from .probes.distributed.leader import Leader
from .probes.distributed.sharded import refuse_unknown_sharding
from .probes.model import WatchedModel
from .probes.ranks import RanksProbe
from .probes.step.collector import Collector, Metric
from .probes.step.faults import Faults
from .probes.step.governor import FollowingGovernor, Governor
from .probes.taps.attention import AttentionObserver
from .storage.records import Alert, Run, RunStatus

if TYPE_CHECKING:
    from plotly.graph_objects import Figure  # type: ignore[import-untyped]

log = logging.getLogger("foreshock")


def company_of(model: WatchedModel) -> Company | None:
    """Return this process among the other ranks, None where it is alone.

    Raises:
        ValueError: the model is sharded in a way that cannot be watched.
    """
    company = Company.here()
    refuse_unknown_sharding(model, 1 if company is None else company.world)
    return company


def with_checksum(probes: Sequence[Probe]) -> list[Probe]:
    """Return the probes and the one that compares ranks: it belongs to every distributed job."""
    return [*probes] if any(isinstance(probe, RanksProbe) for probe in probes) else [*probes, RanksProbe()]


def training_of(
    model: WatchedModel, optimizers: Sequence[Optimizer], collector: Collector, faults: Faults, company: Company | None
) -> Training:
    """Return the run as interventions see it; whoever keeps or follows it fills in what it knows."""

    def guard(source: str, work: Callable[[], None]) -> bool:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - the law: an intervention that fails never raises into training
            faults.note(source, error)
            return False
        return True

    rank, world = (0, 1) if company is None else (company.rank, company.world)
    sampled, pause = (lambda: collector.sampling), collector.leave_out_pause
    return Training(model.roots, optimizers, Run("", ""), rank, world, guard=guard, sampled=sampled, pause=pause)


def lead(company: Company, model: WatchedModel, run: Run, start_step: int, every: int | None, ladder: Ladder) -> Leader | None:
    """Invite the other ranks, without waiting for them; None where the process group's store is out of reach."""
    try:
        facts = {"run": [run.id, run.name], "start_step": start_step, "every": every}
        room = company.invite(model, facts)
        model.meeting = Meeting(company, room)
        leader = Leader(company, room, planned=every is None)
        if ladder:
            ladder.council = Council(company, room, leader)
        return leader
    except RuntimeError as error:
        log.warning("the other ranks cannot be reached, this one is watched alone: %s", error)
        return None


def follow(
    company: Company,
    model: WatchedModel,
    optimizers: Sequence[Optimizer],
    probes: Sequence[Probe],
    budget: float,
    ladder: Ladder,
) -> "FollowingMonitor | DisabledMonitor":
    """Accept the first rank's invitation; where none comes in time, watch nothing and say so."""
    invitation = None
    try:
        invitation = company.accept(model, JOIN_SECONDS)
    except RuntimeError as error:
        log.warning("the first rank cannot be reached: %s", error)
    if invitation is None:
        log.warning(
            "rank %d watches nothing: rank 0 did not call watch() for the same model within %.0f seconds. "
            "Call watch() on every rank, rank 0 too: it keeps the run",
            company.rank,
            JOIN_SECONDS,
        )
        return DisabledMonitor("the first rank keeps no run")
    room, facts = invitation
    probes = with_checksum(probes)
    model.meeting = Meeting(company, room)
    faults = Faults()
    every = facts["every"]
    governor = FollowingGovernor(budget) if every is None else Governor(every, budget)
    collector = Collector(model, optimizers, probes, governor, faults)
    training = training_of(model, optimizers, collector, faults, company)
    try:
        ladder.attach(training)
    except BaseException:
        collector.stop()
        raise
    exchange = Follower(company, room, planned=every is None, acts=bool(ladder))
    if ladder:
        ladder.council = Council(company, room, exchange)
    identity, name = facts["run"]
    training.run = Run(identity, name, created_at=time.time())
    return FollowingMonitor(model, collector, faults, exchange, facts["start_step"], ladder, training)


class FollowingMonitor:
    """Has a monitor's methods; made by ``watch()``. Alerts, events and the run itself are the first rank's."""

    alerts: Sequence[Alert] = ()
    risk: float | None = None

    def __init__(
        self,
        model: WatchedModel,
        collector: Collector,
        faults: Faults,
        exchange: Follower,
        start_step: int,
        ladder: Ladder,
        training: Training,
    ) -> None:
        self.run = training.run
        """The run that the first rank keeps."""
        self.collector = collector
        """What measures."""
        self.faults = faults
        """What went wrong inside the monitor so far."""
        self._exchange = collector.exchange = exchange
        self._step = start_step
        self._ladder = ladder
        self._ending = Ending()
        training.step, training.rewind, training.stop = lambda: self._step, self._rewind, self._ending.ask
        self._closed = False
        faults.report_to(exchange.note_fault)
        collector.begin(start_step)
        lifecycle.keep(self, model.roots.values())

    def step(self, loss: Metric | None = None, *, batch: object = None, **metrics: Metric) -> None:
        """End a training step, as on the first rank. Never waits. What ``batch`` says is kept on the first rank alone."""
        if self._closed:
            self._ending.check(self.run.id)
            return
        try:
            while self._exchange.plans:
                self._follow()
            self.collector.end_step(self._step, loss, {})
        except Exception as error:  # noqa: BLE001 - the law: never raise into training
            self.faults.note("step", error)
        if self._ladder:
            self._ladder.after_step(self._step, ())
        self._step += 1
        if self._ending.raises:
            self.close()
            self._ending.check(self.run.id)

    @property
    def should_stop(self) -> bool:
        """Whether training is to end; on every rank from the same step on."""
        return self._ending.reason is not None

    def flush(self, timeout: float = 5.0) -> bool:
        """Do nothing: the first rank keeps the run."""
        return True

    def figure(self, signal: str | None = None, module: str | None = None) -> "Figure":
        """Return a figure that says who keeps the run."""
        from .dashboard.drawing import words

        return words("The first rank keeps this run: draw it there, or with foreshock.figure(run).")

    def log(self, **metrics: Metric) -> None:
        """Do nothing: metrics are the first rank's."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, *, name: str, **options: Any) -> None:
        """Report hand-written attention, as on the first rank."""
        for probe in self.collector.probes:
            if isinstance(probe, AttentionObserver):  # which shares what it is told with the others
                probe.guard(lambda probe=probe: probe.tell(q, k, v, out, name=name, **options))  # type: ignore[misc]
                return

    def state_dict(self) -> dict[str, Any]:
        """Return run and step; detector state is in the first rank's."""
        return {"run": self.run.id, "step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on at the step of a checkpoint; to be called wherever the first rank does."""
        self.faults.run("load_state_dict", lambda: self._load(state))

    def close(self, status: RunStatus | str = RunStatus.FINISHED) -> None:
        """Remove every hook and send what is under way. May be called twice; waits at most some seconds."""
        if not self._closed:
            self._closed = True
            self._ladder.close()
            self.collector.stop()
            self._exchange.close()
            lifecycle.release(self)

    def abandon(self) -> None:
        """Forget the thread and its connection: a forked child must not touch its parent's."""
        self._closed = True
        self.faults.report_to(None)
        self.collector.stop()

    def __enter__(self) -> "FollowingMonitor":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        self.close()
        return self._ending.takes(error, self.run.id)

    def _follow(self) -> None:
        plan = self._exchange.plans.popleft()
        governor = self.collector.governor
        # Of an earlier beginning, or heard too late: the first rank counts this one as missing in that step.
        if plan.beginning != self._exchange.beginnings or plan.step <= self._step:
            return
        if plan.extra:
            self.collector.sample_also(plan.step)
        elif isinstance(governor, FollowingGovernor):
            governor.follow(plan.step, plan.probes)
            self.collector.sample_at(plan.step)

    def _load(self, state: Mapping[str, Any]) -> None:
        if state:
            self._step = int(state["step"])
            self.collector.begin_anew(self._step)

    def _rewind(self, step: int) -> None:
        """The weights are those after ``step`` again."""
        self._step = step  # whose end is about to be counted
        self.collector.begin_anew(step + 1)
