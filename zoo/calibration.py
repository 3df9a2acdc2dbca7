"""Fit the risk (``analyzer.risk``) on recorded runs of the split ``train``: ``foreshock zoo calibrate``.

Every recording is run through the engine once more; at 40 moments, spread evenly over the steps before the failure or the end,
it is noted what was alarmed and whether a failure followed soon. A run that ends in health before its horizon does counts as not
failed: the zoo's runs are made to end well or not. Deterministic: the same recordings and rules give the same file.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from ..analyzer.engine import Engine
from ..analyzer.failing import WELL, Failing
from ..analyzer.risk import HIGHEST, HORIZON_LEAST, HORIZON_SHARE, VERSION, RiskModel, horizon
from ..analyzer.rules import RuleSet
from ..storage import open_store
from ..storage.records import Batch, Severity, derived_id
from . import risk_fit
from .parallel import in_processes
from .recording import Recording, recordings, store_url

SPLIT = "train"
FIRST_SEED = 100
MOMENTS = 40
BINS = 5
MEMORY_SHARE = 0.1
MEMORY_LEAST = 50.0
_OWN = ("monitor.", "system.")
"""Rules about the monitor itself say nothing of the run: their weight is 0."""
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Course:
    """A recorded run as moments before its failure.

    Attributes:
        run: the recording.
        steps: of the moments.
        evidence: at each, what each rule counts.
        met: at each, whether the loss meets the rule of failure.
        ever_met: whether it ever does, to the end of the run.
    """

    run: Recording
    steps: tuple[int, ...]
    evidence: tuple[Mapping[str, float], ...]
    met: tuple[bool, ...]
    ever_met: bool

    @property
    def soon(self) -> list[bool]:
        """Whether a failure follows soon, at each moment."""
        failure = self.run.failure_step
        return [failure is not None and failure <= step + horizon(step) for step in self.steps]


def usable(folders: Iterable[Path]) -> list[tuple[Path, Recording]]:
    """Return the recordings that the risk may be fitted on, and where they are: of the split ``train``, with seeds from 100 on.

    A scenario's seed that is there twice is taken once.
    """
    found: dict[tuple[str, int], tuple[Path, Recording]] = {}
    for folder in folders:
        for run in recordings(folder):
            if run.split == SPLIT and run.seed >= FIRST_SEED:
                found.setdefault((run.scenario, run.seed), (folder, run))
    return list(found.values())


def courses(folders: Iterable[Path], jobs: int = 1) -> Iterator[Course]:
    """Run every usable recording of some folders through the engine; yield them as they are done.

    Args:
        folders: as ``zoo record`` makes them.
        jobs: processes at a time; with 1 none is started.
    """
    chosen = usable(folders)
    if jobs == 1:
        yield from (course(folder, run) for folder, run in chosen)
    else:
        yield from in_processes(course, chosen, jobs)


def course(folder: Path, run: Recording) -> Course:
    """Run one recording through the engine."""
    with closing(open_store(store_url(folder, run), create=False)) as store:
        return followed(run, store.batches(run.run))


def followed(run: Recording, batches: Iterable[Batch]) -> Course:
    """Feed a run's batches to an engine, up to each moment in turn."""
    engine, failing = Engine(run.run, risk=_blank()), Failing()
    wanted = _moments(run)
    steps: list[int] = []
    evidence: list[Mapping[str, float]] = []
    met: list[bool] = []
    ever_met = False
    for batch in batches:
        for record in batch.steps:
            for key, value in zip(record.keys, record.values, strict=True):
                if key.signal == "loss" and not key.module:
                    failing.feed(record.step, value)
                    ever_met = ever_met or failing.stage != WELL
                    break
        begin = 0
        for place, record in enumerate(batch.steps):
            if len(steps) < len(wanted) and record.step >= wanted[len(steps)]:
                engine.feed(replace(batch, steps=batch.steps[begin : place + 1]))
                begin = place + 1
                steps.append(record.step)
                evidence.append(engine.risk.evidence())
                met.append(engine.risk.met)
        if len(steps) < len(wanted):
            engine.feed(replace(batch, steps=batch.steps[begin:]))
    return Course(run, tuple(steps), tuple(evidence), tuple(met), ever_met)


def _moments(run: Recording) -> list[int]:
    """Return steps spread evenly from the first to the last before the failure or the end."""
    end = run.steps if run.failure_step is None else run.failure_step
    return sorted({int(step) for step in np.linspace(0, max(0, end - 1), MOMENTS).round()}) if end > 0 else []


def _blank() -> RiskModel:
    """Return a model that only remembers: a fit must not need the one before it."""
    nothing = dict.fromkeys(Severity, 0.0)
    return RiskModel(0.0, nothing, nothing, {}, 1.0, MEMORY_SHARE, MEMORY_LEAST)


def rules_digest(rules: RuleSet) -> str:
    """Identify the rules that a model was fitted with: another sensitivity, another meaning of an alert."""
    deciding = {rule.name: [rule.fingerprint, str(rule.severity), rule.interval] for rule in rules.active}
    return derived_id(json.dumps(deciding, sort_keys=True))


def fitted(many: Iterable[Course], rules: RuleSet | None = None) -> dict[str, Any]:
    """Return the model and how well it holds as plain data, as ``risk.toml`` has it.

    Raises:
        ValueError: the runs are too few: fewer than three families, or none that fails, or none that does not.
    """
    rules = rules if rules is not None else RuleSet.default()
    ordered = sorted((each for each in many if each.steps), key=lambda each: (each.run.scenario, each.run.seed))
    families = sorted({each.run.family for each in ordered})
    failed = [each.run.failure_step is not None for each in ordered]
    if len(families) < 3 or all(failed) or not any(failed):
        raise ValueError(
            f"{len(ordered)} runs of {len(families)} families are given, {sum(failed)} of which fail; "
            f"needed: runs of three families or more, some that fail and some that do not"
        )
    names = sorted(rule.name for rule in rules.active if not _about_the_monitor(rules, rule.name))
    level_R = np.array([rules[name].severity.rank for name in names])
    moments = _table(ordered, families, names)
    weights, penalty = risk_fit.calibrated(moments, level_R)
    lasting = [each.run.failure_step is not None for each in ordered if each.ever_met]
    return {
        "version": VERSION,
        "calibrated": True,
        "base": _round(weights.base),
        "failing": _round(risk_fit.failing_share(lasting)),
        "memory": {"share": MEMORY_SHARE, "least": MEMORY_LEAST},
        "ignored": sorted(rule.name for rule in rules.active if rule.name not in names),
        "first": {str(severity): _round(weights.first_L[severity.rank]) for severity in Severity},
        "each": {str(severity): _round(weights.each_L[severity.rank]) for severity in Severity},
        "weights": {name: _round(weight) for name, weight in zip(names, weights.rules_R, strict=True)},
        "measured": {
            "runs": len(ordered),
            "scenarios": len({each.run.scenario for each in ordered}),
            "families": len(families),
            "seeds": sorted({each.run.seed for each in ordered}),
            "failed_share": _round(sum(failed) / len(failed)),
            "met": len(lasting),
            "met_lasting": sum(lasting),
            "horizon_share": HORIZON_SHARE,
            "horizon_least": HORIZON_LEAST,
            "penalty": penalty,
            "rules": rules_digest(rules),
            "seen": int(moments.evidence_NR.any(axis=0).sum()),
            **_measured(ordered, families, moments, level_R),
            "reliability_seen": _lines(ordered, moments, _chances(weights, moments, level_R, lasting)),
        },
    }


def _measured(
    ordered: Sequence[Course], families: Sequence[str], moments: risk_fit.Moments, level_R: risk_fit.Whole
) -> dict[str, Any]:
    """Return how well the readings hold, each family read by a model made without it."""
    chance_N = np.zeros(len(moments.failed_N))
    base_N = np.zeros(len(moments.failed_N))
    for place, family in enumerate(families):
        inside = moments.family_N == place
        others = moments.where(~inside)
        weights, _ = risk_fit.calibrated(others, level_R)
        lasting = [each.run.failure_step is not None for each in ordered if each.ever_met and each.run.family != family]
        chance_N[inside] = _chances(weights, moments.where(inside), level_R, lasting)
        base_N[inside] = others.weight_N @ others.failed_N / others.weight_N.sum()
    failed_N, weight_N = moments.failed_N, moments.weight_N
    return {
        "moments": len(failed_N),
        "soon_share": _round(float(weight_N @ failed_N / weight_N.sum())),
        "brier": _round(risk_fit.brier(chance_N, failed_N, weight_N)),
        "brier_base": _round(risk_fit.brier(base_N, failed_N, weight_N)),
        "log_loss": _round(risk_fit.log_loss(chance_N, failed_N, weight_N)),
        "log_loss_base": _round(risk_fit.log_loss(base_N, failed_N, weight_N)),
        "calibration_error": _round(risk_fit.calibration_error(chance_N, failed_N, weight_N)),
        "reliability": _lines(ordered, moments, chance_N),
        "by_family": [_of_family(place, families, ordered, moments, chance_N) for place in range(len(families))],
    }


def _chances(
    weights: risk_fit.Weights, moments: risk_fit.Moments, level_R: risk_fit.Whole, lasting: Sequence[bool]
) -> risk_fit.Floats:
    """Return the chances that a model gives, the rule of failure above the weights."""
    said_N = np.minimum(expit(weights.odds(moments.evidence_NR, level_R)), HIGHEST / 100)
    return np.where(moments.met_N, np.maximum(said_N, min(risk_fit.failing_share(lasting), HIGHEST / 100)), said_N)


def _lines(ordered: Sequence[Course], moments: risk_fit.Moments, chance_N: risk_fit.Floats) -> list[dict[str, Any]]:
    """Return the reliability table of these chances."""
    scenarios = sorted({each.run.scenario for each in ordered})
    scenario_N = np.concatenate([np.full(len(each.steps), scenarios.index(each.run.scenario)) for each in ordered])
    lines = risk_fit.reliability(chance_N, moments.failed_N, moments.weight_N, moments.run_N, scenario_N, count=BINS)
    return [{name: _round(value) for name, value in line.items()} for line in lines]


def _of_family(
    place: int, families: Sequence[str], ordered: Sequence[Course], moments: risk_fit.Moments, chance_N: risk_fit.Floats
) -> dict[str, Any]:
    """Return what was said of a family, on the mean: before its failures and at all other times, where there are such moments."""
    inside, soon = moments.family_N == place, moments.failed_N > 0.5
    members = [each for each in ordered if each.run.family == families[place]]
    told: dict[str, Any] = {
        "family": families[place],
        "runs": len(members),
        "failed": sum(each.run.failure_step is not None for each in members),
    }
    for name, chosen_N in (("said_before", inside & soon), ("said_else", inside & ~soon)):
        if (weight := moments.weight_N[chosen_N]).size:
            told[name] = _round(100 * float(weight @ chance_N[chosen_N] / weight.sum()))
    return told


def _table(ordered: Sequence[Course], families: Sequence[str], names: Sequence[str]) -> risk_fit.Moments:
    counts = [len(each.steps) for each in ordered]
    return risk_fit.Moments(
        evidence_NR=np.array([[at.get(name, 0.0) for name in names] for each in ordered for at in each.evidence]),
        failed_N=np.array([float(soon) for each in ordered for soon in each.soon]),
        weight_N=np.repeat([1.0 / count for count in counts], counts),
        family_N=np.repeat([families.index(each.run.family) for each in ordered], counts),
        run_N=np.repeat(np.arange(len(ordered)), counts),
        met_N=np.array([met for each in ordered for met in each.met]),
    )


def _about_the_monitor(rules: RuleSet, name: str) -> bool:
    return all(signal.startswith(_OWN) for signals in rules[name].signals.values() for signal in signals)


def _round(value: Any) -> Any:
    return round(float(value), _DIGITS) if isinstance(value, float | np.floating) else value


def toml(found: Mapping[str, Any]) -> str:
    """Return what ``fitted`` found as TOML."""
    lines = ["# The model behind a run's risk; docs/risk.md explains it. Made by `foreshock zoo calibrate`: do not edit.", ""]
    _write(found, "", lines.append)
    return "\n".join(lines) + "\n"


def _write(table: Mapping[str, Any], path: str, put: Callable[[str], object]) -> None:
    """Write a table: its own values first, then the tables in it."""
    for name, value in table.items():
        if not isinstance(value, Mapping):
            if isinstance(value, list) and value and isinstance(value[0], Mapping):
                put(f"{name} = [")
                for line in value:
                    put(f"    {{ {', '.join(f'{key} = {_plain(inner)}' for key, inner in line.items())} }},")
                put("]")
            else:
                put(f"{name} = {_plain(value)}")
    for name, value in table.items():
        if isinstance(value, Mapping):
            put(f"\n[{path}{name}]")
            _write(value, f"{path}{name}.", put)


def _plain(value: Any) -> str:
    """Return a number, text or list as TOML has it: JSON's form is the same."""
    return json.dumps(value, allow_nan=False)
