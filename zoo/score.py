"""Score our engine and the baselines on recorded runs: recall, lead, false alarms, the cause named first; by split and family.

The engine is run anew over what was recorded, so a change of rules needs no new recordings. Baselines stand twice: with thresholds
as their sources have them, and with the best one of a sweep that alarms falsely no more often than the engine on the same runs. It
is chosen on the very runs it is scored on, which favours the baselines.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..analyzer.engine import Engine
from ..storage import open_store
from ..storage.records import Severity
from .baselines import BASELINES, SWEEPS, recorded
from .judging import Tally, Verdict, judge, tally, usable
from .parallel import in_processes
from .recording import Recording, recordings, store_url

OURS = "foreshock"
CRITICAL = "foreshock, critical alerts alone"
_AT = " @ "
ONSETS = ("slow", "abrupt", "silent")


@dataclass(frozen=True, slots=True)
class Watched:
    """A recorded run and what every watcher made of it.

    Attributes:
        run: the recording.
        alarms: steps of each watcher; a swept baseline's are under ``NAME @ THRESHOLD``.
        cause: id of the cause that the engine's worst alert names first; None where no alert names one.
    """

    run: Recording
    alarms: Mapping[str, list[int]]
    cause: str | None


def watch(folder: Path, split: str = "all", jobs: int = 1) -> Iterator[Watched]:
    """Run every watcher over the recordings of a folder; yield them as they are done.

    Args:
        folder: as ``zoo record`` makes it.
        split: ``train``, ``held_out`` or ``all``.
        jobs: processes at a time; with 1 none is started.
    """
    chosen = [run for run in recordings(folder) if split in ("all", run.split)]
    if jobs == 1:
        yield from (watched(folder, run) for run in chosen)
    else:
        yield from in_processes(watched, [(folder, run) for run in chosen], jobs)


def watched(folder: Path, run: Recording) -> Watched:
    """Run every watcher over one recording."""
    with closing(open_store(store_url(folder, run), create=False)) as store:
        engine = Engine.replay(run.run, store.batches(run.run))
        engine.finish(0.0)
        series = recorded(store, run.run)
    loud = [alert for alert in engine.alerts if alert.severity.rank >= Severity.WARNING.rank]
    alarms = {
        OURS: [alert.first_step for alert in loud],
        CRITICAL: [alert.first_step for alert in loud if alert.severity is Severity.CRITICAL],
    }
    alarms |= {name: baseline(series) for name, baseline in BASELINES.items()}
    for name, (baseline, thresholds) in SWEEPS.items():
        alarms |= {f"{name}{_AT}{threshold:g}": baseline(series, threshold) for threshold in thresholds}
    worst = max(engine.alerts, key=lambda alert: (alert.severity.rank, alert.updated_at), default=None)
    return Watched(run, alarms, worst.diagnosis[0].name if worst and worst.diagnosis else None)


def score(many: Iterable[Watched]) -> dict[str, Any]:
    """Return the whole score as plain data: for each split what was scored, and the tallies of each watcher.

    ``splits.SPLIT.watchers.NAME`` holds tallies: ``all``, by ``onsets`` (slow, abrupt and silent failures do not compare) and by
    ``families``. ``left_out`` names runs that did not end as their scenario says.
    """
    ordered = sorted(many, key=lambda each: (each.run.split, each.run.scenario, each.run.seed))
    left_out = [f"{each.run.scenario} seed {each.run.seed}" for each in ordered if not usable(each.run)]
    kept = [each for each in ordered if usable(each.run)]
    splits = sorted({each.run.split for each in kept}, reverse=True)
    return {
        "runs": len(kept),
        "left_out": left_out,
        "splits": {split: _of_split([each for each in kept if each.run.split == split]) for split in splits},
    }


def _of_split(runs: list[Watched]) -> dict[str, Any]:
    found = {
        name: [judge(each.run, each.alarms[name], each.cause if name == OURS else None) for each in runs] for name in _names(runs)
    }
    ours = tally(found[OURS])
    watchers = {name: _told(runs, found[name]) for name in (OURS, CRITICAL, *BASELINES)}
    for name in SWEEPS if ours.healthy_steps else ():
        swept = {label: verdicts for label, verdicts in found.items() if label.startswith(f"{name}{_AT}")}
        if (label := _fairest(swept, ours.rate or 0.0)) is not None:
            watchers[f"{name}, at our rate"] = {"threshold": float(label.split(_AT)[1]), **_told(runs, swept[label])}
    failing = sum(each.run.failure_step is not None for each in runs)
    return {"failing": failing, "healthy": len(runs) - failing, "watchers": watchers}


def _names(runs: list[Watched]) -> list[str]:
    return list(runs[0].alarms) if runs else []


def _fairest(swept: Mapping[str, list[Verdict]], rate: float) -> str | None:
    """Return the threshold that names most, with the longest lead, among those with no more false alarms; None if there is none."""
    best: tuple[tuple[float, float], str] | None = None
    for label, verdicts in swept.items():
        summed, slow = tally(verdicts), tally(each for each in verdicts if each.onset == "slow")
        worth = (slow.recall or 0.0, slow.median_share or 0.0)
        if (summed.rate or 0.0) <= rate and (best is None or worth > best[0]):
            best = worth, label
    return best[1] if best else None


def _told(runs: list[Watched], verdicts: list[Verdict]) -> dict[str, Any]:
    families = sorted({each.run.family for each in runs})
    pairs = list(zip(runs, verdicts, strict=True))
    return {
        "all": asdict(tally(verdicts)),
        "onsets": {onset: asdict(tally(each for each in verdicts if each.onset == onset)) for onset in ONSETS},
        "families": {family: asdict(tally(verdict for each, verdict in pairs if each.run.family == family)) for family in families},
    }


def lines(split: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield a line of the table for each watcher of a split, as ``HEAD`` names its columns."""
    for name, told in split["watchers"].items():
        slow, abrupt, silent = (Tally(**told["onsets"][onset]) for onset in ONSETS)
        every = Tally(**told["all"])
        threshold = f" ({told['threshold']:g})" if "threshold" in told else ""
        lead = f"{slow.median_lead:.0f} ({slow.median_share:.0%})" if slow.runs else "-"
        bound = f"{every.rate:.1f} (below {every.rate_bound:.1f})" if every.healthy_steps else "-"
        cause = f"{every.causes_right} of {every.runs}" if name == OURS else ""
        named = (f"{each.named} of {each.runs}" for each in (slow, abrupt, silent))
        yield f"{name}{threshold}", *named, lead, str(every.false_alarms), bound, cause


HEAD = ("watcher", "slow", "abrupt", "silent", "lead, slow", "false", "per 100,000 steps", "right cause first")


def family_lines(split: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield a line for each family of a split: what our engine did, and the baseline that leads more, if one does."""
    for family, told in split["watchers"][OURS]["families"].items():
        ours = Tally(**told)
        others = {name: Tally(**split["watchers"][name]["families"][family]) for name in BASELINES}
        best = max(others, key=lambda name: others[name].median_lead or 0.0)
        ahead = f"{best}: {others[best].median_lead:.0f}" if (others[best].median_lead or 0) > (ours.median_lead or 0) else "-"
        lead = f"{ours.median_lead:.0f} ({ours.median_share:.0%})" if ours.runs else "-"
        yield family, f"{ours.named} of {ours.runs}", lead, f"{ours.false_alarms} in {ours.healthy_steps:,}", ahead


FAMILY_HEAD = ("family", "named", "lead", "false alarms", "a baseline leads more (its false alarms apart)")
