"""``foreshock demo``: a real training run that fails, on this machine's CPU, with the live page beside it."""

import contextlib
import json as json_module
import math
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from ..analyzer.failure import MEDIAN_WINDOW, date_failure, lead_steps, outcome, running_median
from ..attach import watch
from ..config import ConfigurationError, load_settings
from ..monitor import Monitor
from ..storage import open_store
from ..storage.records import Alert, Event
from .page import LivePage
from .scenario import Scenario
from .scenario import scenario as scenario_named

# Fixed, so that a seed gives the same alerts however busy the machine is.
SAMPLE_EVERY = 20
# What the story of the demo needs: its steps are so short that the whole default preset would be a tenth of them.
PROBES = ("spectral", "attention", "gradients", "output")
_REPORT_EVERY = 100


@dataclass(frozen=True, slots=True)
class Summary:
    """What a demo run showed. ``lead_steps`` is None where nothing failed or nothing warned; ``overhead`` is a share of time."""

    run: str
    scenario: str
    outcome: str
    divergence_step: int | None
    turning_step: int | None
    first_alert_step: int | None
    lead_steps: int | None
    alerts: list[dict[str, Any]]
    diagnosis: list[dict[str, Any]]
    overhead: float | None
    final_loss: float
    interventions: list[dict[str, Any]] = field(default_factory=list)


def run_demo(
    *,
    scenario: str = "low-precision-attention",
    json: bool = False,
    exit: bool = False,
    browser: bool = True,
    store: str | None = None,
    seed: int = 0,
    threads: int | None = None,
    port: int | None = None,
    intervene: Sequence[str] = (),
) -> int:
    """Train, show, sum up; return the exit status (0; 1 when the page could not be served).

    Args:
        scenario: one of the zoo's.
        json: print the summary as JSON on stdout, and nothing else there.
        exit: end after the summary instead of keeping the page up.
        browser: open the page.
        store: SQLAlchemy URL; the configured store by default.
        seed: of initialisation and data order.
        threads: torch's CPU threads; 1 by default, which leaves a core to the page.
        port: of the page; a free one, 8050 if possible, by default.
        intervene: names of what may be done to the run, as ``watch(interventions=...)`` takes them.

    Raises:
        ValueError: there is no such scenario.
    """
    chosen = scenario_named(scenario)
    url = load_settings(store=store).store

    def say(line: str) -> None:
        print(line, file=sys.stderr if json else sys.stdout, flush=True)

    if load_settings().disable:
        raise ConfigurationError("FORESHOCK_DISABLE is set: the demo would show nothing; unset it")
    with contextlib.closing(open_store(url)) as opened:  # so that the page finds it
        shown = opened.url
    say(f"{chosen.name}: {chosen.title}")
    with contextlib.ExitStack() as stack:
        page = stack.enter_context(LivePage(url, port))
        threading.Thread(target=_announce, args=(page, say, browser and not json), daemon=True).start()
        summary = train(chosen, url, seed=seed, threads=threads or 1, say=say, intervene=intervene)
        if json:
            print(json_module.dumps(_finite(asdict(summary)), indent=2, allow_nan=False), flush=True)
        else:
            say(described(summary))
        say(f"\nOpen the run again:  foreshock dashboard --store {shown}")
        say(f"                     {page.url}run/{summary.run}")
        if not exit and page.serving():
            say("The page stays up; end with Ctrl+C.")
            with contextlib.suppress(KeyboardInterrupt):
                page.wait()
        return 0 if page.served() else 1


def train(
    chosen: Scenario,
    url: str,
    *,
    seed: int,
    threads: int = 1,
    say: Callable[[str], None] = lambda line: None,
    intervene: Sequence[str] = (),
) -> Summary:
    """Train a scenario under ``watch()`` to its end and sum up what was seen when."""
    torch.set_num_threads(threads)
    training = chosen.build(seed)
    losses: list[float] = []
    with watch(
        training.model,
        training.optimizer,
        run=f"demo {chosen.name}",
        project="demo",
        store=url,
        every=SAMPLE_EVERY,
        probes=PROBES,
        tags=["demo"],
        interventions=intervene,
    ) as monitor:
        for number in range(chosen.steps):
            loss = training.step(number)
            monitor.step(loss)
            losses.append(loss.item())
            if (number + 1) % _REPORT_EVERY == 0:
                say(f"  step {number + 1:5d}   loss {losses[-1]:.3f}")
    assert isinstance(monitor, Monitor)
    overhead, done = _looked_up(url, monitor.run.id)
    return sum_up(chosen, monitor.run.id, losses, monitor.alerts, overhead, done)


def sum_up(
    chosen: Scenario, run: str, losses: list[float], alerts: list[Alert], overhead: float | None, done: Sequence[Event] = ()
) -> Summary:
    """Date the failure and set the alerts against it."""
    steps = list(range(len(losses)))
    failure = date_failure(steps, losses)
    warnings = [alert for alert in alerts if alert.severity.rank >= 1]
    failed = None if failure is None or failure.transient else failure
    first = min((alert.first_step for alert in warnings), default=None)
    return Summary(
        run=run,
        scenario=chosen.name,
        outcome=outcome(failure),
        divergence_step=failed.step if failed else None,
        turning_step=_turning_step(losses) if failed else None,
        first_alert_step=first,
        lead_steps=lead_steps(failed.step if failed else None, alerts),
        alerts=[
            {"rule": a.rule, "severity": a.severity.value, "module": a.module, "step": a.first_step, "message": a.message}
            for a in alerts
        ],
        diagnosis=_diagnosis(warnings),
        overhead=overhead,
        final_loss=losses[-1],
        interventions=[{"step": event.step, "message": event.message} for event in done],
    )


def described(summary: Summary) -> str:
    """Return the summary in plain words."""
    lines = ["", "What was seen, in order:"]
    seen = [(a["step"], f"{a['severity']}: {a['message']}") for a in summary.alerts]
    if summary.turning_step is not None:
        seen.append((summary.turning_step, "the loss was at its best; from here it rises"))
    if summary.divergence_step is not None:
        seen.append((summary.divergence_step, "the loss counts as failed"))
    seen += [(each["step"], f"done: {each['message']}") for each in summary.interventions]
    lines += [f"  step {step:5d}   {text}" for step, text in sorted(seen)] or ["  nothing: no alert was raised"]
    lines += ["", f"Outcome: {summary.outcome}, final loss {summary.final_loss:.3f}."]
    if summary.lead_steps is not None and summary.turning_step is not None and summary.first_alert_step is not None:
        ahead = summary.turning_step - summary.first_alert_step
        lines.append(
            f"The first warning came {summary.lead_steps} steps before the failure"
            + (f", {ahead} steps before the loss even turned." if ahead > 0 else ".")
        )
    for place, cause in enumerate(summary.diagnosis[:1]):
        lines += ["", f"Diagnosis: {cause['title']} ({cause['confidence']:.0%})"] if place == 0 else []
        lines += [f"  - {reason}" for reason in cause["reasons"]]
        lines.append(f"  What to do: {cause['remedy']}")
    if summary.overhead is not None:
        lines += [
            "",
            f"Monitoring cost {summary.overhead:.1%} of the training time: here every {SAMPLE_EVERY}th step is measured, so that "
            "a seed always gives the same alerts.\nLeft alone, the governor spaces the samples to cost at most 1 %.",
        ]
    return "\n".join(lines)


def _finite(value: Any) -> Any:
    """Put None where JSON has no number."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _diagnosis(warnings: list[Alert]) -> list[dict[str, Any]]:
    """The causes named by the worst alert, the latest of equals: it has seen the most."""
    if not warnings:
        return []
    worst = max(warnings, key=lambda alert: (alert.severity.rank, alert.updated_at))
    return [asdict(cause) for cause in worst.diagnosis]


def _turning_step(losses: list[float]) -> int:
    """The step around which the loss was lowest: the middle of the window whose median is the lowest."""
    lowest = int(np.nanargmin(running_median(np.asarray(losses))))
    return max(0, lowest - MEDIAN_WINDOW // 2)


def _looked_up(url: str, run: str) -> tuple[float | None, list[Event]]:
    """Return what the store holds of a run: the mean overhead, and what was done to it."""
    with contextlib.closing(open_store(url)) as store:
        data = store.read(store.series(run, signal="monitor.overhead"))
        done = [event for event in store.events(run) if event.kind == "intervention"]
    values = [value for one in data for value in one.values if math.isfinite(value)]
    return sum(values) / len(values) if values else None, done


def _announce(page: LivePage, say: Callable[[str], None], browser: bool) -> None:
    if page.wait_until_serving():
        say(f"Live page: {page.url}")
        if browser:
            webbrowser.open(page.url)
    else:
        say("The live page did not start; training goes on. See it later with: foreshock dashboard")
