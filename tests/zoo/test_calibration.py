"""The fit of the risk: on populations with known probabilities, and from recordings to a file that the engine reads."""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import foreshock
import numpy as np
import pytest
from foreshock.analyzer.engine import Engine
from foreshock.analyzer.risk import RiskModel, horizon
from foreshock.analyzer.rules import RuleSet
from foreshock.cli import app
from foreshock.storage.records import Batch, Run, SeriesKey, Severity, StepRecord
from foreshock.zoo import risk_fit
from foreshock.zoo.calibration import Course, courses, fitted, followed, rules_digest, toml, usable
from foreshock.zoo.recording import Recording
from foreshock.zoo.risk_fit import Moments
from scipy.special import expit
from typer.testing import CliRunner

LEVEL_R = np.array([0, 1, 1, 2, 1])
TRUE_R = np.array([0.0, 0.5, 1.5, 1.0, 0.0])
FIRST_L = np.array([0.3, 1.0, 0.8])
BASE = -2.5


def true_odds(evidence_NR: np.ndarray) -> np.ndarray:
    """Base, what each rule adds, and what the first adds of at least each severity, written out moment by moment."""
    odds = []
    for row in evidence_NR:
        most = [max(share for share, level in zip(row, LEVEL_R, strict=True) if level >= least) for least in range(3)]
        odds.append(BASE + sum(row * TRUE_R) + sum(np.array(most) * FIRST_L))
    return np.array(odds)


def population(runs: int, seed: int = 0, families: int = 8) -> Moments:
    """Runs of four moments each whose chance to fail is known; the last rule never fires."""
    draw = np.random.default_rng(seed)
    count = 4 * runs
    evidence_NR = draw.choice([0.0, 0.5, 1.0], (count, len(TRUE_R)), p=[0.6, 0.1, 0.3])
    evidence_NR[:, 4] = 0.0
    failed_N = (draw.random(count) < expit(true_odds(evidence_NR))).astype(float)
    run_N = np.repeat(np.arange(runs), 4)
    return Moments(evidence_NR, failed_N, np.full(count, 0.25), run_N % families, run_N, np.zeros(count, bool))


# -- the numbers -------------------------------------------------------------------------------------------------------


def test_of_a_known_population_the_chances_are_found_and_hold_on_another() -> None:
    weights, _ = risk_fit.calibrated(population(800), LEVEL_R)
    assert weights.base == pytest.approx(BASE, abs=0.5)
    assert list(weights.each_L) == sorted(weights.each_L)
    other = population(1500, seed=1)
    said_N, true_N = expit(weights.odds(other.evidence_NR, LEVEL_R)), expit(true_odds(other.evidence_NR))
    assert np.abs(said_N - true_N).max() < 0.12
    assert risk_fit.calibration_error(said_N, other.failed_N, other.weight_N) < 0.03
    for line in risk_fit.reliability(said_N, other.failed_N, other.weight_N, other.run_N, other.run_N, draws=100):
        assert line["came_low"] - 3 <= line["said"] <= line["came_high"] + 3, line


def test_no_weight_is_below_zero_though_a_rule_speaks_for_health() -> None:
    moments = population(400)
    moments.failed_N[moments.evidence_NR[:, 2] > 0] = 0.0
    for penalty in risk_fit.PENALTIES:
        weights = risk_fit.fit(moments, LEVEL_R, penalty)
        assert min(*weights.rules_R, *weights.each_L, *weights.first_L) >= 0.0


def test_a_rule_that_never_fired_has_the_weight_of_its_severity() -> None:
    weights = risk_fit.fit(population(500), LEVEL_R, 1.0)
    assert weights.rules_R[4] == pytest.approx(weights.each_L[1], abs=1e-3)
    assert weights.each_L[1] > 0.0


def test_the_fit_is_the_least_of_the_cost_written_out() -> None:
    moments = population(60)
    penalty = 0.3

    def cost(base: float, first_L: np.ndarray, each_L: np.ndarray, rules_R: np.ndarray) -> float:
        total = 0.0
        for x, y, w in zip(moments.evidence_NR, moments.failed_N, moments.weight_N, strict=True):
            most = [max(share for share, level in zip(x, LEVEL_R, strict=True) if level >= least) for least in range(3)]
            chance = 1 / (1 + np.exp(-(base + sum(np.array(most) * first_L) + sum(x * rules_R))))
            total -= w * np.log(chance if y else 1 - chance)
        rises = np.diff(each_L, prepend=0.0)
        total += penalty * sum((rules_R - each_L[LEVEL_R]) ** 2)
        return float(total + risk_fit.SEVERITY_PENALTY * (sum(rises**2) + sum(first_L**2)))

    found = risk_fit.fit(moments, LEVEL_R, penalty)
    least, draw = cost(found.base, found.first_L, found.each_L, found.rules_R), np.random.default_rng(0)
    for size in (0.3, 0.03, 0.003):
        for _ in range(15):
            rules_R = np.maximum(0.0, found.rules_R + size * draw.normal(size=5))
            first_L = np.maximum(0.0, found.first_L + size * draw.normal(size=3))
            each_L = np.maximum.accumulate(np.maximum(0.0, found.each_L + size * draw.normal(size=3)))
            assert cost(found.base + size * draw.normal(), first_L, each_L, rules_R) > least - 1e-6


def test_platt_scaling_finds_how_far_odds_are_off() -> None:
    draw = np.random.default_rng(0)
    odds_N = draw.normal(0, 2, 40_000)
    failed_N = (draw.random(40_000) < expit(0.4 * odds_N - 1.0)).astype(float)
    slope, shift = risk_fit.platt(odds_N, failed_N, np.ones(40_000))
    assert (slope, shift) == pytest.approx((0.4, -1.0), abs=0.05)
    assert risk_fit.platt(odds_N, 1.0 - failed_N, np.ones(40_000))[0] == 0.0  # never turned round


def test_a_family_is_read_without_itself() -> None:
    moments = population(200, families=4)
    turned = replace(moments, failed_N=np.where(moments.family_N == 2, 1.0 - moments.failed_N, moments.failed_N))
    one, other = (risk_fit.out_of_family(each, LEVEL_R, 0.1) for each in (moments, turned))
    inside = moments.family_N == 2
    assert np.array_equal(one[inside], other[inside])
    assert not np.allclose(one[~inside], other[~inside])


def test_moments_that_meet_the_rule_of_failure_teach_no_weight() -> None:
    moments = population(100)
    met_N = np.arange(400) % 5 == 0
    other = replace(moments, met_N=met_N, failed_N=np.where(met_N, 1.0, moments.failed_N))
    kept = moments.where(~met_N)
    assert risk_fit.fit(other, LEVEL_R, 0.1).base == risk_fit.fit(kept, LEVEL_R, 0.1).base


def test_scores_are_what_their_definitions_say() -> None:
    draw = np.random.default_rng(0)
    chance_N, weight_N = draw.random(300), draw.random(300)
    failed_N = (draw.random(300) < 0.4).astype(float)
    triples = list(zip(chance_N, failed_N, weight_N, strict=True))
    total = sum(weight_N)
    assert risk_fit.brier(chance_N, failed_N, weight_N) == pytest.approx(sum(w * (p - y) ** 2 for p, y, w in triples) / total)
    nats = sum(-w * np.log(p if y else 1 - p) for p, y, w in triples) / total
    assert risk_fit.log_loss(chance_N, failed_N, weight_N) == pytest.approx(nats)
    gaps = 0.0
    for place in range(10):
        inside = [(p, y, w) for p, y, w in triples if place / 10 <= p < (place + 1) / 10]
        gaps += abs(sum(w * p for p, _, w in inside) - sum(w * y for _, y, w in inside))
    assert risk_fit.calibration_error(chance_N, failed_N, weight_N) == pytest.approx(gaps / total)
    assert risk_fit.bins_of(np.array([0.0, 0.0999, 0.1, 0.9999, 1.0])).tolist() == [0, 0, 1, 9, 9]


def test_intervals_are_wide_where_few_scenarios_agree() -> None:
    assert risk_fit.wilson(1.0, 3) == (pytest.approx(0.4385, abs=1e-4), 1.0)
    ones = np.ones(30)
    (line,) = risk_fit.reliability(0.95 * ones, ones, ones, np.repeat(np.arange(6), 5), np.repeat(np.arange(3), 10))
    assert (line["moments"], line["runs"], line["scenarios"], line["came"]) == (30, 6, 3, 100.0)
    assert line["came_low"] == pytest.approx(43.85, abs=0.01)


# -- from recordings to a file -----------------------------------------------------------------------------------------

WELL = Recording(
    "calm", 100, "train", "quiet", None, None, "survived", None, "run", "calm-100.db", 400, 10, "survived", None, "", False, 1.0,
    1.0, None, [], [], 1.0, 0,
)  # fmt: skip
BAD = replace(
    WELL, scenario="ramp", family="ramps", onset="slow", cause_id="learning_rate_too_high", expected="diverged", failure_step=300,
    outcome="diverged", kind="non_finite", steps=340,
)  # fmt: skip
KEYS = (SeriesKey("loss"), SeriesKey("numerics.fp16_range_used", "layer"))
ALARM = "fp16_range"


def history(run: Recording, alarm: Sequence[range] = ()) -> tuple[StepRecord, ...]:
    """A loss of 1, lost at the failure, and a signal that alarms in some stretches."""
    made = []
    for step in range(run.steps):
        loss = float("nan") if run.failure_step is not None and step >= run.failure_step else 1.0
        loud = any(step in stretch for stretch in alarm)
        made.append(StepRecord(step, 1.0 + step, KEYS, (loss, 0.9 if loud else 0.001)))
    return tuple(made)


def put(folder: Path, run: Recording, alarm: Sequence[range] = ()) -> None:
    place = folder / run.split
    place.mkdir(parents=True, exist_ok=True)
    name = f"{run.scenario}-{run.seed}"
    with closing(foreshock.open_store(f"sqlite:///{place / name}.db")) as store:
        store.create_run(Run(run.run, name, project="zoo", created_at=1.0, heartbeat_at=1.0))
        store.write(Batch(f"{name}-batch", run.run, store.open_segment(run.run, 0, 1.0), history(run, alarm)))
    (place / f"{name}.json").write_text(json.dumps(asdict(replace(run, store=f"{name}.db"))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four families: in three the alarm comes before the failure, in one it is false half of the time."""
    made = tmp_path_factory.mktemp("recordings")
    for seed in (100, 101):
        put(made, replace(WELL, seed=seed))
        put(made, replace(BAD, seed=seed), [range(200, 340)])
        put(made, replace(BAD, scenario="other", family="others", seed=seed), [range(220, 340)])
        put(made, replace(WELL, scenario="alarming", family="others", seed=seed), [range(200, 250)] if seed == 100 else [])
        put(made, replace(BAD, scenario="third", family="thirds", seed=seed), [range(230, 340)])
    put(made, replace(BAD, seed=7), [range(10, 340)])  # a seed that is kept for scoring
    put(made, replace(WELL, scenario="secret", split="held_out"), [range(400)])
    return made


def test_moments_lie_before_the_failure_and_know_what_follows() -> None:
    records = history(BAD, [range(200, 340)])
    found = followed(BAD, [Batch("a", "run", 0, records[:77]), Batch("b", "run", 0, records[77:])])
    assert (found.steps[0], found.steps[-1], len(found.steps)) == (0, 299, 40)
    assert found.soon == [step + horizon(step) >= 300 for step in found.steps]
    assert (found.soon[0], found.soon[-1], found.ever_met, any(found.met)) == (False, True, True, False)
    for step, evidence in list(zip(found.steps, found.evidence, strict=True))[::5]:
        engine = Engine("run")
        engine.feed(Batch("all", "run", 0, records[: step + 1]))
        assert evidence == engine.risk.evidence()
    assert ALARM not in found.evidence[25]
    assert found.evidence[-1][ALARM] == 1.0


def test_only_runs_of_the_training_split_with_seeds_set_apart_are_used(folder: Path) -> None:
    found = [run for _, run in usable([folder, folder])]
    assert {run.split for run in found} == {"train"}
    assert {run.seed for run in found} == {100, 101}
    assert len(found) == 10


@pytest.fixture(scope="module")
def many(folder: Path) -> list[Course]:
    return list(courses([folder]))


def test_the_command_writes_a_model_that_the_engine_reads(folder: Path, many: list[Course], tmp_path: Path) -> None:
    file = tmp_path / "risk.toml"
    done = CliRunner().invoke(app, ["zoo", "calibrate", "--recordings", str(folder), "--out", str(file), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    model = RiskModel.load(file)
    assert json.loads(json.dumps(model.measured)) == told
    assert model.calibrated
    assert (told["runs"], told["scenarios"], told["families"], told["failed_share"], told["seeds"]) == (10, 5, 4, 0.6, [100, 101])
    assert told["rules"] == rules_digest(RuleSet.default())
    assert (told["met"], told["met_lasting"], model.failing) == (6, 6, pytest.approx(6.5 / 7, abs=1e-4))
    # The alarm came before every failure but one, and once for nothing.
    assert told["brier"] < told["brier_base"]
    assert told["log_loss"] < told["log_loss_base"]
    assert model.first[Severity.WARNING] + model.weights[ALARM] > 1.0
    assert "monitor_errors" in model.ignored
    engine = Engine("run", risk=model)
    engine.feed(Batch("a", "run", 0, history(BAD, [range(200, 340)])[:290]))
    assert engine.risk.value is not None
    assert engine.risk.value > 1.5 * model.reading(model.base)
    assert {line["runs"] > 0 for line in told["reliability"] + told["reliability_seen"]} == {True}
    # Once more, in another order, it is the same to the last letter.
    assert toml(fitted(reversed(many))) == file.read_text()


def test_a_folder_without_such_runs_is_refused_with_the_command_that_makes_them(tmp_path: Path) -> None:
    put(tmp_path, replace(WELL, split="held_out"))
    done = CliRunner().invoke(app, ["zoo", "calibrate", "--recordings", str(tmp_path)], env={"COLUMNS": "400"})
    assert done.exit_code == 2
    assert "foreshock zoo record --split train --first-seed 100" in done.stderr
    assert not (tmp_path / "risk.toml").exists()


def test_too_few_families_are_refused(many: list[Course]) -> None:
    few = [each for each in many if each.run.family in ("quiet", "ramps")]
    with pytest.raises(ValueError, match="4 runs of 2 families are given, 2 of which fail"):
        fitted(few)
