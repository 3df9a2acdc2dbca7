"""Dating failures: the rule, its twin, and the no-recovery clause."""

import math
import random
import statistics

import pytest
from foreshock.analyzer.failure import Failure, date_failure, lead_steps, outcome
from foreshock.storage.records import Alert, AlertState, Severity
from hypothesis import example, given, settings
from hypothesis import strategies as st


def alert(severity, step):
    return Alert("id", "run", "rule", "", 0, severity, AlertState.FIRING, 0, step, step, 0.0, 0.0, "message")


def noisy(values, spread=0.03):
    draw = random.Random(1)
    return [value * (1 + draw.gauss(0, spread)) for value in values]


def dated(losses):
    return date_failure(range(len(losses)), losses)


FALLING = noisy([3.0 * math.exp(-step / 100) + 0.3 for step in range(600)])


def obvious_twin(losses):
    """The rule step by step: windows of 20 above twice the best median, or of 50 medians above 1.25 x + 0.05; of these the first
    that was never recovered from, or the first of all. Recovered is a median near the best, 50 steps or more after the stretch."""
    best, near, stretches, begun = math.inf, [], [], {20: None, 50: None}
    for step, loss in enumerate(losses):
        if not math.isfinite(loss):
            return step
        median = statistics.median(losses[max(0, step - 49) : step + 1]) if step + 1 >= 10 else math.nan
        best = min(best, median) if step + 1 >= 10 else best
        near.append(median <= 1.25 * best + 0.05)
        for length, holds in ((20, loss > 2 * best), (50, median > 1.25 * best + 0.05)):
            if not holds:
                begun[length] = None
                continue
            if begun[length] is None:
                begun[length] = step
            start = begun[length]
            if step == start + length - 1:
                stretches.append({"start": start, "last": step, "length": length})
            for stretch in stretches:
                if (stretch["start"], stretch["length"]) == (start, length):
                    stretch["last"] = step
    lasting = [stretch for stretch in stretches if not any(near[stretch["last"] + 50 :])]
    # A run that ends near its best has recovered from all of them.
    chosen = stretches if near[-1] or not lasting else lasting
    return chosen[0]["start"] if chosen else None


@settings(deadline=None, max_examples=60)
@example(turn=104, height=0.5, pace=10.0, seed=0)  # hovers at the threshold: in, out again, and in for good
@given(st.integers(100, 400), st.floats(0.5, 20.0), st.floats(10.0, 300.0), st.integers(0, 5))
def test_a_lasting_failure_is_dated_as_the_obvious_twin_dates_it(turn, height, pace, seed):
    draw = random.Random(seed)
    losses = [2.0 * math.exp(-step / 80) + 0.4 for step in range(turn)]
    losses += [losses[-1] + height * (1 - math.exp(-step / pace)) for step in range(700)]
    losses = [loss * draw.uniform(0.97, 1.03) for loss in losses]
    failure = dated(losses)
    assert (failure.step if failure else None) == obvious_twin(losses)


def test_a_healthy_loss_has_no_failure():
    assert dated(FALLING) is None
    assert outcome(None) == "survived"


def test_nothing_and_too_little_have_no_failure():
    assert dated([]) is None
    assert dated([1.0] * 5) is None


def test_a_loss_that_jumps_is_dated_to_the_first_high_step():
    failure = dated(FALLING + noisy([2.0] * 200))
    assert (failure.step, failure.kind, failure.transient) == (600, "spike", False)
    assert outcome(failure) == "diverged"


def test_a_loss_that_ends_half_again_as_high_is_degraded():
    failure = dated(FALLING + noisy([0.55] * 300))
    assert failure.kind == "degradation"
    assert 600 <= failure.step <= 650
    assert outcome(failure) == "degraded"


def test_a_burst_of_bad_batches_is_transient():
    failure = dated(FALLING[:400] + noisy([3.0] * 20) + FALLING[400:])
    assert (failure.step, failure.kind, failure.transient) == (400, "spike", True)
    assert outcome(failure) == "survived"


def test_a_burst_that_was_recovered_from_does_not_date_a_later_failure():
    failure = dated(FALLING[:300] + noisy([3.0] * 20) + FALLING[300:] + noisy([2.0] * 200))
    assert (failure.step, failure.transient) == (620, False)


def test_not_a_number_is_a_failure_at_its_step_unless_the_run_goes_on():
    ended = dated([*FALLING, math.nan, math.nan])
    assert (ended.step, ended.kind, ended.transient) == (600, "non_finite", False)
    assert outcome(ended) == "diverged"
    skipped = dated([*FALLING[:300], math.inf, *FALLING[300:]])
    assert (skipped.step, skipped.kind, skipped.transient) == (300, "non_finite", True)
    assert outcome(skipped) == "survived"
    at_once = dated([math.nan] * 30)
    assert (at_once.step, outcome(at_once)) == (0, "diverged")


def test_a_tiny_loss_may_rattle():
    failure = dated([2.0 * math.exp(-step / 30) for step in range(600)] + [1e-7 * (1 + step % 7) for step in range(300)])
    assert failure is None or outcome(failure) == "survived"


def test_a_loss_below_zero_is_measured_from_its_best():
    losses = [-5.0 * (1 - math.exp(-step / 60)) for step in range(400)]
    assert dated(noisy(losses, 0.01)) is None
    assert outcome(dated(noisy(losses + [1.0] * 200, 0.01))) == "diverged"


def test_steps_are_returned_as_given_and_must_match():
    losses = FALLING + noisy([2.0] * 200)
    assert date_failure(range(0, 8000, 10), losses).step == 6000
    with pytest.raises(ValueError, match="3 steps for 2 losses"):
        date_failure([1, 2, 3], [1.0, 2.0])


def test_lead_counts_from_the_first_warning_or_above():
    alerts = [alert(Severity.INFO, 10), alert(Severity.CRITICAL, 500), alert(Severity.WARNING, 400)]
    assert lead_steps(900, alerts) == 500
    assert lead_steps(300, alerts) == -100
    assert lead_steps(900, alerts[:1]) is None
    assert lead_steps(None, alerts) is None
    assert isinstance(dated(FALLING + [9.0] * 60), Failure)
