"""``watch()``: settles what was asked for, opens the store, begins or resumes the run, and returns its monitor."""

import logging
import os
import platform
import shlex
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from .config import load_settings

try:
    import torch
except ImportError as missing:
    raise ImportError('foreshock.watch() needs PyTorch, which is not installed: pip install "foreshock[train]"') from missing
from sqlalchemy import make_url
from torch import nn
from torch.optim import Optimizer

from .analyzer.engine import Engine
from .analyzer.live_rules import LiveRules
from .analyzer.rule_layers import GIVEN
from .analyzer.rules import RuleSet
from .disabled import DisabledMonitor
from .distributed import FollowingMonitor, company_of, follow, lead, training_of, with_checksum
from .interventions.base import Intervention
from .interventions.capture import Capture
from .interventions.ladder import Ladder
from .interventions.registry import choose
from .lifecycle import AlreadyWatchedError, monitor_of
from .monitor import Monitor
from .probes.base import Probe
from .probes.model import WatchedModel
from .probes.registry import choose_probes
from .probes.step.collector import Collector
from .probes.step.faults import Faults
from .probes.step.governor import Governor
from .probes.taps.compiled import anything_compiled
from .slices import SliceProbe
from .storage import Store, StoreUnavailableError, open_store
from .storage.database import printable
from .storage.leftovers import drain_all
from .storage.opening import spool_place
from .storage.records import Alert, Run, RunStatus, Segment, new_id
from .storage.transfer.mirrors.base import Mirror
from .storage.transfer.mirrors.registry import Mirrors, choose_mirrors
from .telling import telling

log = logging.getLogger("foreshock")


def watch(
    model: nn.Module | Mapping[str, nn.Module],
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    *,
    run: str | None = None,
    project: str | None = None,
    store: str | os.PathLike[str] | Store | None = None,
    probes: str | Sequence[str | Probe] | None = None,
    every: int | None = None,
    budget: float | None = None,
    compiled: Literal["taps", "eager", "weights"] | None = None,
    rules: str | Path | Mapping[str, Any] | None = None,
    notify: str | Sequence[str] = (),
    on_alert: Callable[[Alert], object] | None = None,
    interventions: str | Sequence[str | Intervention] = (),
    mirror: str | Mirror | Sequence[str | Mirror] = (),
    resume: str | None = None,
    config: str | Path | None = None,
    tags: Sequence[str] = (),
    meta: Mapping[str, Any] | None = None,
) -> Monitor | FollowingMonitor | DisabledMonitor:
    """Watch a model while it trains. Training with the monitor is bit-identical to training without it.

    In a distributed job call it on every rank, after the model was wrapped in DDP or sharded with FSDP2 (``fully_shard``): the
    first rank keeps the run, the others tell it what they measure.

    What is not given is taken from ``FORESHOCK_*`` variables, then ``foreshock.toml``, then the defaults named below.

    Args:
        model: the model, or several under names.
        optimizer: its optimizer or optimizers; left out, whichever optimizer steps the model's parameters is found.
        run: name of the run; the script's name and the time by default. The same name again is a new run.
        project: runs are grouped by it.
        store: SQLAlchemy URL (``sqlite:///foreshock.db`` by default), path of a SQLite file, or a Store.
        probes: ``"light"``, ``"default"`` or ``"full"``, or a list of names and Probe objects.
        every: measure thoroughly every so many steps; left out, the governor keeps to ``budget``.
        budget: share of the training time that measuring may cost, 0.01 by default.
        compiled: how a model in ``torch.compile`` is looked into. ``"taps"`` (the default): through operators in its graph, placed
            when it is watched before its first compiled call; spectral alignment of layer inputs is seen, the gradients at layer
            outputs and attention are not. ``"eager"``: sampled steps run without compiling, from one ``step()`` to the next and
            in the whole process; everything is seen, but those steps are slower, need more memory, and round as the eager model
            does. ``"weights"``: not at all; weights, loss and norms are watched.
        rules: TOML file (or mapping) that overrides the built-in alert rules.
        notify: Apprise URLs that alerts are sent to.
        on_alert: called with each new alert on the training thread, at the next ``step``.
        interventions: what may be done to the run: names, or objects of ``foreshock.interventions`` where something is to be set
            (docs/interventions.md lists them). None by default: nothing is ever changed that was not asked for.
        mirror: trackers that are told live what the store is given: ``"tensorboard:runs/x"``, ``"wandb"``, ``"mlflow"``,
            ``"prometheus:9464"``, ``"otlp"`` (docs/exporting.md). What is about the whole run, and what ``?signals=`` adds.
        resume: name or id of the run to continue in a new segment.
        config: a file to read instead of ``./foreshock.toml``.
        tags: labels of the run.
        meta: what else to keep of the run, hyperparameters say: plain data, numbers and texts under names.

    Returns:
        The monitor: call its ``step(loss)`` once per optimizer step, and use it as a context manager or ``close()`` it. With
        ``FORESHOCK_DISABLE=1``, and on a rank whose first rank does not call ``watch()``, one that does nothing.

    Raises:
        TypeError, ValueError: an argument is wrong, or the model is sharded in a way that cannot be watched (tensor parallelism,
            hybrid sharding, FSDP1); the message says what is allowed.
        AlreadyWatchedError: the model has a monitor already.
        StoreConfigurationError: the store's URL, driver or schema is wrong. A store that is merely away does not raise,
        StoreUnavailableError: unless a run was to be resumed from it.
        UnknownRunError: ``resume`` names no run.
        MirrorError: a mirror is not known, or its tracker needs something done first; its package may be missing.
    """
    if store is not None and not isinstance(store, (str, os.PathLike, Store)):
        raise TypeError(f"store= takes a SQLAlchemy URL, the path of a SQLite file, or a Store; got {type(store).__name__}")
    if rules is not None and not isinstance(rules, (str, os.PathLike, Mapping)):
        raise TypeError(f"rules= takes the path of a TOML file or a mapping; got {type(rules).__name__}")
    settings = load_settings(
        config,
        project=project,
        store=os.fspath(store) if isinstance(store, (str, os.PathLike)) else None,
        every=every,
        budget=budget,
        compiled=compiled,
        rules=os.fspath(rules) if isinstance(rules, (str, os.PathLike)) else None,
        notify=[notify] if isinstance(notify, str) else notify,
    )
    if settings.disable:
        return DisabledMonitor("FORESHOCK_DISABLE is set")
    log.setLevel(settings.log_level)
    ladder = Ladder(choose(interventions or settings.interventions))
    chosen_mirrors = choose_mirrors(mirror or settings.mirror)
    watched = WatchedModel(model, settings.compiled)
    for root in watched.roots.values():
        if (other := monitor_of(root)) is not None:
            raise AlreadyWatchedError(
                f"this {type(root).__name__} is already watched as run {other.run.name!r}; close that monitor first, or use it"
            )
    optimizers = _optimizers(optimizer)
    if watched.compiled == "taps" and _has_run_compiled(watched, optimizers):
        watched.compiled = "weights"
        log.warning(
            "%s was compiled and trained before watch(): its weights, loss and norms are watched; the inputs of its layers "
            "(spectral alignment) and its attention are not. Call watch() before the first compiled call, or use "
            'watch(compiled="eager"), which runs sampled steps without compiling',
            type(model).__name__,
        )
    chosen = choose_probes(settings.probes if probes is None else probes)
    company = company_of(watched)
    if company is not None and company.rank > 0:
        return follow(company, watched, optimizers, chosen, settings.budget, ladder)
    slices = SliceProbe() if any(isinstance(one, Capture) for one in ladder.interventions) else None
    if slices is not None:
        chosen = [*chosen, slices]
    if company is not None:
        chosen = with_checksum(chosen)
    told = telling(settings)
    governor = Governor(settings.every, settings.budget)
    rule_set = RuleSet.load(rules if isinstance(rules, Mapping) else settings.rules)
    if not watched.linear_layers():
        log.warning(
            "%s has no linear layers: loss, learning rate and gradient norm are watched, spectral alignment is not",
            type(model).__name__,
        )
    for one in chosen_mirrors:
        one.prepare()
    opened = store if isinstance(store, Store) else _open(settings.store)
    spool = spool_place(settings.spool, settings.spool_limit, opened or settings.store)
    faults = Faults()
    collector = Collector(watched, optimizers, chosen, governor, faults)
    mirrors = Mirrors(faults.note)
    training = training_of(watched, optimizers, collector, faults, company)
    if slices is not None:
        training.attention = slices.slices
    try:
        ladder.attach(training)
        labels = (tags,) if isinstance(tags, str) else tags
        if resume is not None and opened is not None and spool is not None:
            drain_all(spool.folder, opened)  # the run to go on with may wait there
        facts = {**_plain(meta or {}), **facts_about(watched), GIVEN: rule_set.differences(RuleSet.default())}
        record, segment = _begin(opened, run, settings.project, resume, labels, facts)
        engine, live_rules = Engine(record.id, rule_set), LiveRules(rule_set, record, fault=faults.note)
        if opened is not None:
            live_rules.look(opened)
        if resume is not None and opened is not None:
            engine.adopt(opened.alerts(record))
        if company is not None:
            collector.exchange = lead(company, watched, record, segment.start_step, settings.every, ladder)
        training.run = record
        mirrors.begin(chosen_mirrors, record, engine.alerts)
        monitor = Monitor(
            watched,
            collector,
            faults,
            engine,
            record,
            store=opened,
            reopen=lambda: open_store(settings.store, role="monitor"),
            owns_store=opened is not store,
            spool=spool,
            segment=segment,
            telling=told,
            on_alert=on_alert,
            ladder=ladder,
            training=training,
            mirrors=mirrors,
            rules=live_rules,
        )
        _greet(record, segment, store)
        return monitor
    except BaseException:
        mirrors.close()
        ladder.close()
        collector.stop()
        if collector.exchange is not None:
            collector.exchange.close()
        raise


def _greet(run: Run, segment: Segment, store: object) -> None:
    """Say on a terminal, to whoever sits before it, that the run is watched and how to look at it; logs and pipes are spared it."""
    with suppress(OSError, ValueError, AttributeError):  # a stream that is closed, or is none
        if sys.stderr.isatty():
            does = "goes on with" if segment.segment else "watches"
            given = os.fspath(store) if isinstance(store, (str, os.PathLike)) else ""  # what the settings say, the command knows
            where = f" --store {shlex.quote(printable(make_url(given)) if '://' in given else given)}" if given else ""
            print(f"foreshock {does} run {run.name!r}; to see it: foreshock dashboard{where}", file=sys.stderr, flush=True)


def facts_about(model: WatchedModel) -> dict[str, Any]:
    """Return what people want to know of a run later: host, process, versions, command, size of the model."""
    parameters = list(model.parameters())
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:500],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(parameters[0].device) if parameters else "cpu",
        "dtype": str(parameters[0].dtype).removeprefix("torch.") if parameters else "",
        "model": ", ".join(type(root).__name__ for root in model.roots.values()),
        "parameters": sum(p.numel() for p in parameters if not isinstance(p, nn.UninitializedParameter)),
    }


def _plain(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return what can be kept: what is neither number, text, list nor mapping is kept as the text it prints as."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        if isinstance(value, float) and value - value != 0:
            return str(value)  # JSON has no such number
        return value if value is None or type(value) in (bool, int, float, str) else str(value)

    found: dict[str, Any] = plain(meta)
    return found


def _optimizers(optimizer: Optimizer | Sequence[Optimizer] | None) -> list[Optimizer]:
    given: Sequence[object] = () if optimizer is None else optimizer if isinstance(optimizer, (list, tuple)) else (optimizer,)
    # A wrapper that never ran Optimizer's own __init__ has no hooks to place; what it wraps has.
    given = [one if hasattr(one, "_optimizer_step_pre_hooks") else getattr(one, "optimizer", one) for one in given]
    optimizers = [one for one in given if isinstance(one, Optimizer) and hasattr(one, "_optimizer_step_pre_hooks")]
    if len(optimizers) != len(given):
        wrong = next(one for one in given if one not in optimizers)
        raise TypeError(
            f"watch() takes a torch.optim.Optimizer or a list of them as its second argument; got {type(wrong).__name__}"
        )
    return optimizers


def _has_run_compiled(model: WatchedModel, optimizers: Sequence[Optimizer]) -> bool:
    """Tell whether hooks placed now would have the model compiled anew. A state that was loaded is no sign by itself."""
    trained = any(optimizer.state for optimizer in optimizers) or any(p.grad is not None for p in model.parameters())
    return trained and model.is_compiled() and anything_compiled()


def _open(url: str) -> Store | None:
    try:
        return open_store(url, role="monitor")
    except StoreUnavailableError as error:
        log.error("the store cannot be reached now, training goes on and alerts are still raised: %s", error)
        return None


def _begin(
    store: Store | None, name: str | None, project: str, resume: str | None, tags: Sequence[str], facts: dict[str, Any]
) -> tuple[Run, Segment]:
    """Create the run, or find the one to resume. Returns it with the segment that begins."""
    now = time.time()
    if resume is not None:
        if store is None:
            raise StoreUnavailableError(f"run {resume!r} cannot be resumed while its store cannot be reached")
        found = store.run(resume)
        store.update_run(found.id, status=RunStatus.RUNNING, heartbeat_at=now, meta=facts)
        first = found.last_step + 1
        return found, Segment(found.id, store.open_segment(found.id, first, now), first, now)
    script = Path(sys.argv[0]).stem or "run"
    record = Run(
        new_id(),
        name or f"{script} {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now))}",
        project,
        RunStatus.RUNNING,
        created_at=now,
        heartbeat_at=now,
        tags=tuple(tags),
        meta=facts,
    )
    segment = Segment(record.id, 0, 0, now)
    if store is not None:
        try:
            store.create_run(record)
            store.add_segment(segment)
        except StoreUnavailableError as error:
            log.error("the store cannot be written now, training goes on and alerts are still raised: %s", error)
    return record, segment
