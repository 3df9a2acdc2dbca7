"""What an alarm is worth: the alarms of a watcher on one run set against how the run ended, and many runs summed up. Pure.

A *watcher* is anything that alarms at steps: our engine or a baseline. Alarms less than ``QUIET`` steps apart are one.

- A *healthy* run: every alarm is false, every step counts as healthy.
- A run that fails after a known ``trouble_step``: the steps before it are healthy. Without such a step nothing is known of when the
  trouble began, and no step of the run counts as healthy.
- *slow*: named if an alarm comes before the step of failure. *abrupt*: named if it comes by two steps after the trouble (after the
  failure, where the trouble has no step). *silent* (stuck): named if it comes at all. Alarms before the trouble name nothing.
- *lead*: step of failure minus first alarm that counts, 0 if that is not before the failure. Medians are over all failing runs of a
  kind: a run without a warning has a lead of 0. Leads of stuck runs count from where the twin has learnt, flatter, and stand apart.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from scipy.stats import chi2

from .recording import Recording

QUIET = 50
ABRUPT_DELAY = 2
PER_STEPS = 100_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one watcher did on one run.

    Attributes:
        onset: None for a healthy run.
        named: the failure was named in time; None for a healthy run.
        lead: steps, 0 or more; None for a healthy run.
        share: lead over the step of failure.
        false_alarms: on the healthy steps.
        healthy_steps: of the run.
        right_cause: the true cause was named first; None where none was named, or the run is healthy, or the watcher names none.
    """

    onset: str | None
    named: bool | None
    lead: int | None
    share: float | None
    false_alarms: int
    healthy_steps: int
    right_cause: bool | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """Many verdicts of one watcher summed up.

    Attributes:
        runs: that fail.
        named: of these.
        recall: share of the runs named; None where there is none.
        median_lead, median_share: steps, and share of the time to failure; 0 for runs without a warning.
        false_alarms, healthy_steps: of all runs.
        rate, rate_bound: false alarms per 100,000 healthy steps, and the upper end of its 95 % interval (one-sided, exact Poisson).
        causes_right, causes_named: runs whose true cause came first, of those in which a cause was named.
    """

    runs: int
    named: int
    recall: float | None
    median_lead: float | None
    median_share: float | None
    false_alarms: int
    healthy_steps: int
    rate: float | None
    rate_bound: float | None
    causes_right: int
    causes_named: int


def usable(run: Recording) -> bool:
    """Say whether a run ended the way its scenario says: failing runs that survived this time are neither healthy nor failures."""
    return (run.failure_step is None) == (run.expected == "survived")


def judge(run: Recording, alarms: Iterable[int], cause: str | None = None) -> Verdict:
    """Judge a watcher's alarms on one run.

    Args:
        run: one that is ``usable``.
        alarms: steps, in any order.
        cause: id of the cause that the watcher names first.
    """
    steps = sorted(alarms)
    if run.failure_step is None:
        return Verdict(None, None, None, None, episodes(steps), run.steps)
    begins = run.trouble_step or 0
    early = [step for step in steps if step < begins]
    first = next((step for step in steps if step >= begins), None)
    lead = max(0, run.failure_step - first) if first is not None else 0
    share = lead / run.failure_step if run.failure_step else 0.0
    right = None if cause is None else cause == run.cause_id
    return Verdict(run.onset, _in_time(run, first), lead, share, episodes(early), begins, right)


def _in_time(run: Recording, first: int | None) -> bool:
    assert run.failure_step is not None
    if first is None:
        return False
    if run.onset == "silent":
        return True
    if run.onset == "slow":
        return first < run.failure_step
    return first <= ABRUPT_DELAY + (run.failure_step if run.trouble_step is None else run.trouble_step)


def episodes(steps: Sequence[int]) -> int:
    """Count alarms, those less than ``QUIET`` steps after the one before as one with it. ``steps`` are in order."""
    return sum(1 for place, step in enumerate(steps) if place == 0 or step - steps[place - 1] >= QUIET)


def tally(verdicts: Iterable[Verdict]) -> Tally:
    """Sum up verdicts."""
    every = list(verdicts)
    failing = [each for each in every if each.named is not None]
    named = sum(bool(each.named) for each in failing)
    false, healthy = sum(each.false_alarms for each in every), sum(each.healthy_steps for each in every)
    causes = [each.right_cause for each in failing if each.right_cause is not None]
    return Tally(
        runs=len(failing),
        named=named,
        recall=named / len(failing) if failing else None,
        median_lead=median(each.lead or 0 for each in failing) if failing else None,
        median_share=median(each.share or 0.0 for each in failing) if failing else None,
        false_alarms=false,
        healthy_steps=healthy,
        rate=PER_STEPS * false / healthy if healthy else None,
        rate_bound=PER_STEPS * poisson_bound(false) / healthy if healthy else None,
        causes_right=sum(causes),
        causes_named=len(causes),
    )


def poisson_bound(count: int) -> float:
    """Return the largest mean that would give ``count`` events or fewer with a probability of 5 %: 3.0 for none.

    Source: Garwood, Biometrika 28 (1936).
    """
    return float(chi2.ppf(0.95, 2 * (count + 1))) / 2
