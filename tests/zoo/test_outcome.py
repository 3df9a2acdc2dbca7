"""How a run ended: the analyzer's rule, and runs that never learn."""

import math

import torch
from foreshock.zoo.outcome import ending, learnt_by, train
from foreshock.zoo.scenario import Reachable, Training

FALLING = [5.0 * 0.98**step for step in range(400)]
TWIN = Reachable(loss=0.1, step=300, twin="twin")


def test_a_run_that_learns_what_its_twin_does_survives() -> None:
    found = ending(FALLING, TWIN)
    assert (found.outcome, found.step, found.transient) == ("survived", None, False)
    assert found.final == found.best < 0.01


def test_a_run_that_never_learns_is_stuck_from_where_its_twin_has_learnt() -> None:
    found = ending([3.4] * 400, TWIN)
    assert (found.outcome, found.step, found.kind) == ("stuck", 300, "stuck")
    assert ending([3.4] * 400).outcome == "survived"


def test_a_run_that_is_late_but_gets_there_is_not_stuck() -> None:
    assert ending([3.4] * 320 + [0.05] * 80, TWIN).outcome == "survived"


def test_a_run_that_failed_by_the_rule_is_not_called_stuck() -> None:
    found = ending([1.0] * 200 + [5.0] * 200, TWIN)
    assert (found.outcome, found.kind, found.step) == ("diverged", "spike", 200)
    assert ending([1.0] * 200 + [math.nan] * 300, TWIN).kind == "non_finite"


def test_a_run_that_was_near_only_before_its_twin_is_stuck() -> None:
    found = ending([0.1] * 30 + [0.16] * 370, TWIN)  # a rise too small for the rule
    assert found.outcome == "survived"
    assert ending([0.1] * 30 + [0.16] * 370, Reachable(0.08, 300, "twin")).outcome == "stuck"


def test_a_failure_recovered_from_is_survived_and_said_to_be_transient() -> None:
    found = ending([1.0] * 200 + [5.0] * 30 + [1.0] * 170)
    assert (found.outcome, found.step, found.transient) == ("survived", None, True)


def test_learnt_by_gives_the_step_from_which_the_loss_stays_low() -> None:
    losses = [3.0] * 100 + [0.1] * 100 + [3.0] * 100 + [0.1] * 200
    step = learnt_by(losses, 0.2)
    assert step is not None
    assert 300 < step < 350  # the running median needs half its window
    assert learnt_by(losses[:290], 0.2) is None
    assert learnt_by([0.1] * 50, 0.2) == 9  # there is no running median before


def test_training_ends_soon_after_the_loss_is_no_number_for_good() -> None:
    values = [1.0] * 5 + [math.nan] * 3 + [1.0] * 5 + [math.nan] * 100
    model = torch.nn.Linear(1, 1)
    seen: list[int] = []
    training = Training(model, torch.optim.SGD(model.parameters()), lambda number: torch.tensor(values[number], requires_grad=True))
    losses, seconds = train(training, len(values), lambda number, loss: seen.append(number))
    assert len(losses) == 5 + 3 + 5 + 20
    assert seen == list(range(len(losses)))
    assert seconds > 0
