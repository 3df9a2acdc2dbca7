"""The risk of a run: what a reading says, and how it follows alerts and loss."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreshock.analyzer import risk, risk_course
from foreshock.analyzer.failing import MET, OVER, WELL, Failing
from foreshock.analyzer.risk import HIGHEST, RiskError, RiskModel, default_model, horizon, shifted, words
from foreshock.analyzer.risk_course import RiskCourse
from foreshock.analyzer.rules import RuleSet
from foreshock.storage.records import Severity
from hypothesis import given, settings
from hypothesis import strategies as st

LEVELS = {Severity.INFO: 0.5, Severity.WARNING: 1.5, Severity.CRITICAL: 3.0}
NONE = dict.fromkeys(Severity, 0.0)
FIRST = {Severity.INFO: 0.25, Severity.WARNING: 0.5, Severity.CRITICAL: 0.75}
MODEL = RiskModel(-2.0, FIRST, LEVELS, {"a": 1.0, "b": 2.5, "idle": 0.0}, 0.9, 0.1, 50.0, ignored=frozenset({"own"}))
RULES = ("a", "b", "idle", "unknown", "mine")
ALL = frozenset(RULES)


def chance(odds: float) -> float:
    return 100.0 / (1.0 + math.exp(-odds))


def course(turns: list[tuple[int, str, str, bool]], steps: int, losses: dict[int, float] | None = None) -> list[float | None]:
    """Return the value after each step of a run with these alerts (step, rule, module, fired)."""
    followed, values = RiskCourse(MODEL), []
    for step in range(steps):
        for at, rule, module, fired in turns:
            if at == step:
                followed.turned(rule, module, Severity.WARNING, step, fired=fired)
        followed.feed(step, (losses or {}).get(step, 1.0))
        values.append(followed.value)
    return values


# -- what a reading says -----------------------------------------------------------------------------------------------


def test_words_tell_what_was_counted_and_state_the_horizon_wherever_they_name_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    (seen,) = (row for row in default_model().measured["reliability_seen"] if row["low"] <= 78.2 < row["high"])
    (unseen,) = (row for row in default_model().measured["reliability"] if row["low"] <= 78.2 < row["high"])
    assert f"Risk 78: in foreshock's own test runs, {seen['came']:.0f} % of the moments with a risk of 60 to 80" in words(78.2)
    assert f"in kinds of runs new to it, {unseen['came']:.0f} %" in words(78.2)
    assert "with a risk of 60 to 80" in words(60.0)
    assert "before the run was twice as long" in words(78.2)
    assert "within 100" in words(3.0)
    assert words(100.0) == "Risk 100: the loss is not finite any more. The run has failed."
    assert words(None) == words(math.nan) == "Risk n/a: nothing has been measured yet."
    monkeypatch.setattr(risk, "default_model", lambda: MODEL)
    assert "no moments like this were measured" in words(78.2)
    assert "%" not in words(78.2)


def test_words_claim_nothing_of_a_model_that_was_not_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(risk, "default_model", lambda: RiskModel(0.0, NONE, LEVELS, {}, 0.9, 0.1, 50.0, calibrated=False))
    assert "not calibrated" in words(50.0)
    assert "%" not in words(50.0)


def test_soon_is_before_the_run_is_twice_as_long_and_at_least_a_hundred_steps() -> None:
    assert [horizon(step) for step in (0, 99, 100, 101, 1000, 1_000_000)] == [100, 100, 100, 101, 1000, 1_000_000]


def test_another_share_of_failing_runs_shifts_the_odds_and_nothing_else() -> None:
    assert shifted(60.0, 0.4, 0.4) == pytest.approx(60.0)
    assert shifted(50.0, 0.1, 0.5) == pytest.approx(10.0)  # even evidence leaves the share itself
    assert shifted(0.0, 0.1, 0.5) == 0.0
    assert shifted(100.0, 0.1, 0.5) == 100.0
    assert shifted(80.0, 0.01, 0.5) < shifted(80.0, 0.1, 0.5) < 80.0
    with pytest.raises(ValueError, match="between 0 and 1"):
        shifted(50.0, 0.0, 0.5)


# -- the fitted model --------------------------------------------------------------------------------------------------


def test_the_package_has_a_model_that_knows_every_rule_it_weighs() -> None:
    model = RiskModel.load()
    assert set(model.weights) <= set(RuleSet.default())
    assert model.each[Severity.INFO] <= model.each[Severity.WARNING] <= model.each[Severity.CRITICAL]
    assert model.ignored == {"monitor_dropped", "monitor_errors"}
    assert model.reading(model.base) < 50.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("version = 9", "version 9; this foreshock reads version 1"),
        ("version = 1\nbase = 0.0", "KeyError"),
        ("base = [", "is not a model of the risk"),
    ],
)
def test_a_file_that_is_missing_or_broken_is_refused_with_the_command_that_makes_one(
    tmp_path: Path, text: str | None, said: str
) -> None:
    file = tmp_path / "risk.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(RiskError, match="foreshock zoo calibrate") as refused:
        RiskModel.load(file)
    assert said in str(refused.value)
    assert "risk.toml" in str(refused.value)


def test_a_weight_below_zero_is_refused() -> None:
    with pytest.raises(RiskError, match=r"more alarm never lowers.*: a$"):
        RiskModel(0.0, NONE, LEVELS, {"a": -0.1}, 0.9, 0.1, 50.0)


# -- following a run ---------------------------------------------------------------------------------------------------


def test_nothing_measured_has_no_risk_and_a_quiet_run_has_the_lowest() -> None:
    assert RiskCourse(MODEL).value is None
    assert set(course([], 40)) == {round(chance(-2.0), 1)}


def test_a_rule_that_the_fit_has_not_seen_counts_by_its_severity() -> None:
    read = {}
    for severity in Severity:
        followed = RiskCourse(MODEL)
        followed.turned("mine", "", severity, 0, fired=True)
        followed.feed(0, 1.0)
        read[severity] = followed.value
    first = {Severity.INFO: 0.25, Severity.WARNING: 0.75, Severity.CRITICAL: 1.5}  # what is reached, and all below it
    assert read == {severity: round(chance(-2.0 + LEVELS[severity] + first[severity]), 1) for severity in Severity}


def test_rules_about_the_monitor_count_nothing() -> None:
    followed = RiskCourse(MODEL)
    followed.turned("own", "", Severity.CRITICAL, 0, fired=True)
    followed.feed(0, 1.0)
    assert followed.value == round(chance(-2.0), 1)


def test_an_alert_that_is_over_counts_half_after_its_half_life() -> None:
    values = course([(100, "b", "m", True), (300, "b", "m", False)], 400)
    assert values[299] == round(chance(-2.0 + 2.5 + 0.75), 1)
    assert values[350] == round(chance(-2.0 + 1.25 + 0.375), 1)  # a half-life of 50 steps


def slow_twin(turns: list[tuple[int, str, str, bool]], step: int) -> float:
    """The same number from the whole history at once."""
    odds, clock, shares = MODEL.base, 0, [0.0]
    while clock + max(10, clock // 100) <= step:
        clock += max(10, clock // 100)
    for rule in RULES:
        at_module: dict[str, bool] = {}
        ended = None
        for at, name, module, fired in turns:
            if name == rule and at <= step:
                at_module[module] = fired
                if not fired and not any(at_module.values()):
                    ended = at
        if any(at_module.values()):
            share = 1.0
        elif ended is not None:
            share = 0.5 ** (max(0, clock - ended) / max(50.0, 0.1 * ended))
            share = share if share >= 0.01 else 0.0
        else:
            share = 0.0
        shares.append(share)
        odds += share * MODEL.weights.get(rule, LEVELS[Severity.WARNING])
    odds += (FIRST[Severity.INFO] + FIRST[Severity.WARNING]) * max(shares)
    return min(HIGHEST, chance(odds))


def random_turns(seed: int, steps: int) -> list[tuple[int, str, str, bool]]:
    draw = random.Random(seed)
    turns = []
    for rule in RULES:
        for module in ("m", "n"):
            places = sorted(draw.sample(range(steps), 2 * draw.randrange(3)))
            turns += [(at, rule, module, count % 2 == 0) for count, at in enumerate(places)]
    return sorted(turns)


@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_the_whole_history_says_at_once(seed: int) -> None:
    turns = random_turns(seed, 1200)
    followed, seen = RiskCourse(MODEL), 0
    for step in range(1200):
        for at, rule, module, fired in turns:
            if at == step:
                followed.turned(rule, module, Severity.WARNING, step, fired=fired)
        followed.feed(step, 1.0)
        for at, value in followed.take_points():
            assert at == step
            assert value == pytest.approx(slow_twin(turns, step), abs=0.0501)
            seen += 1
    assert 100 <= seen <= 120 + len(turns)  # one in ten steps, and one where an alert turns


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([*RULES, "own"]), st.integers(0, 250), st.integers(1, 250))
def test_more_alarm_never_lowers_it(seed: int, rule: str, begin: int, length: int) -> None:
    turns = random_turns(seed, 300)
    more = sorted([*turns, (begin, rule, "another", True), (begin + length, rule, "another", False)])
    assert all(less <= grown for less, grown in zip(course(turns, 300), course(more, 300), strict=True))


def test_the_rule_of_failure_overrides_what_is_alarmed_and_lasting_nan_is_certain() -> None:
    losses = {step: 5.0 if 100 <= step < 160 else 1.0 for step in range(400)}
    losses |= dict.fromkeys(range(300, 330), math.nan)
    values = course([], 400, losses)
    low, high = round(chance(-2.0), 1), 90.0
    met = [step for step in range(300) if values[step] == high]
    assert (met[0], met[-1]) == (124, 184)  # from when the running median of 50 has left its best to when it is back
    assert {values[step] for step in range(400) if step not in met and not 300 <= step < 330} == {low}
    assert set(values[300:319]) == {high}
    assert set(values[319:330]) == {100.0}


def test_repeated_and_earlier_steps_change_nothing() -> None:
    followed = RiskCourse(MODEL)
    for step in range(50):
        followed.feed(step, 1.0)
    state = followed.state_dict()
    for step in (49, 3, 0):
        followed.feed(step, math.nan)
    assert followed.state_dict() == state


@pytest.mark.parametrize("cut", [1, 130, 333, 702])
def test_state_carries_on_as_if_uninterrupted(cut: int) -> None:
    turns, draw = random_turns(3, 800), random.Random(0)
    losses = [draw.uniform(0.9, 1.1) if not 300 <= step < 420 else draw.choice([3.0, math.nan]) for step in range(800)]

    def fed(followed: RiskCourse, first: int, last: int) -> None:
        for step in range(first, last):
            for at, rule, module, fired in turns:
                if at == step:
                    followed.turned(rule, module, Severity.WARNING, step, fired=fired)
            followed.feed(step, losses[step])

    whole, first, second = RiskCourse(MODEL), RiskCourse(MODEL), RiskCourse(MODEL)
    fed(whole, 0, 800)
    fed(first, 0, cut)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())), ALL)
    assert second.value == first.value
    fed(second, cut, 800)
    assert first.take_points() + second.take_points() == whole.take_points()
    assert second.state_dict() == whole.state_dict()


def test_rules_that_are_gone_do_not_stay_open_for_ever() -> None:
    first, second = RiskCourse(MODEL), RiskCourse(MODEL)
    first.turned("b", "m", Severity.WARNING, 0, fired=True)
    first.feed(0, 1.0)
    second.load_state_dict(first.state_dict(), {"a"})
    second.feed(10, 1.0)
    assert second.value == round(chance(-2.0), 1)


def test_a_run_that_goes_back_takes_its_alerts_along_and_forgets_its_failure() -> None:
    followed = RiskCourse(MODEL)
    for step in range(200):
        followed.feed(step, 1.0 if step < 100 else 0.1)
    followed.turned("b", "m", Severity.WARNING, 200, fired=True)
    for step in range(200, 400):
        followed.feed(step, 5.0)
    assert followed.value == 90.0
    followed.turned("a", "m", Severity.WARNING, 399, fired=True)
    followed.turned("a", "m", Severity.WARNING, 399, fired=False)
    followed.rewind(50)
    followed.feed(50, 1.0)
    assert followed.evidence() == {"b": 1.0, "a": 1.0}
    for step in range(51, 160):
        followed.feed(step, 1.0)  # ten times the best there ever was, but not the best there was at step 50
        assert followed.value is not None
        assert followed.value <= round(chance(-2.0 + 2.5 + 1.0 + 0.75), 1)
    assert [step for step, _ in followed.take_points() if step < 60][-1] == 50  # a point at once, of the new segment


def test_a_run_that_goes_on_keeps_its_failure() -> None:
    followed = RiskCourse(MODEL)
    for step in range(100):
        followed.feed(step, math.nan)
    followed.rewind(100)
    followed.feed(100, math.nan)
    assert followed.value == 100.0


def test_a_course_that_fails_says_so_once_and_has_no_value(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(RiskModel, "reading", lambda self, odds: 1 / 0)
    followed = RiskCourse(MODEL)
    for step in range(30):
        followed.feed(step, 1.0)
    followed.turned("a", "m", Severity.WARNING, 31, fired=True)
    assert followed.value is None
    assert followed.take_points() == []
    assert [record.message.count("risk") for record in caplog.records] == [1]


def test_without_a_model_there_is_no_risk_and_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(risk_course, "default_model", lambda: RiskModel.load(tmp_path / "risk.toml"))
    followed = RiskCourse()
    followed.turned("a", "m", Severity.WARNING, 0, fired=True)
    followed.turned("a", "m", Severity.WARNING, 1, fired=False)
    followed.feed(1, 1.0)
    assert followed.value is None
    assert "foreshock zoo calibrate" in caplog.text


# -- the rule of failure while a run goes on -----------------------------------------------------------------------------


def failing_twin(losses: list[float]) -> int:
    """Say what stage the last loss is in, from all of them with numpy."""
    values = np.array(losses)
    finite = np.isfinite(values)
    medians = []
    for place in range(len(values)):
        held = values[: place + 1][finite[: place + 1]][-50:]
        medians.append(np.median(held) if len(held) >= 10 else np.nan)
    best = np.fmin.accumulate(medians)
    high = finite & (values > 2 * best)
    left = np.array(medians) > 1.25 * best + 0.05
    stage = WELL
    for place in range(len(values)):
        spike = left[place] and place >= 19 and high[place - 19 : place + 1].all()
        degraded = place >= 49 and left[place - 49 : place + 1].all()
        lost = place >= 19 and not finite[place - 19 : place + 1].any()
        if not finite[place] or spike or degraded:
            stage = OVER if lost else MET
        elif not high[place] and not left[place]:
            stage = WELL
    return stage


@pytest.mark.parametrize("seed", range(3))
def test_the_rule_met_now_is_what_all_losses_say(seed: int) -> None:
    draw = random.Random(seed)
    losses: list[float] = []
    while len(losses) < 400:
        level, length = draw.choice([1.0, 1.0, 1.2, 1.6, 3.0, math.nan]), draw.choice([1, 8, 25, 60, 90])
        losses += [level * draw.uniform(0.97, 1.03) for _ in range(length)]
    rule, stages = Failing(), set()
    for step, loss in enumerate(losses):
        rule.feed(step, loss)
        stages.add(rule.stage)
        if step % 7 == 0:
            assert rule.stage == failing_twin(losses[: step + 1]), step
    assert len(stages) > 1


def test_a_run_that_goes_back_has_the_best_again_that_it_had_there() -> None:
    rule: Any = Failing()
    for step in range(300):
        rule.feed(step, 2.0 * 0.98**step)
    best = rule._best
    rule.rewind(150)
    assert rule._best == pytest.approx(2.0 * 0.98 ** (149 - 25), rel=0.06)
    for step in range(150, 300):
        rule.feed(step, 2.0 * 0.98**step)
    assert rule._best == pytest.approx(best)
    assert rule.stage == WELL
