"""The score: alarms set against how runs ended, summed up, on hand-made runs whose answers are known."""

import json
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import foreshock
import pytest
from foreshock.cli import app
from foreshock.storage.records import Batch, Run, SeriesKey, StepRecord
from foreshock.zoo.baselines import BASELINES, SWEEPS
from foreshock.zoo.judging import episodes, judge, poisson_bound, tally, usable
from foreshock.zoo.recording import Recording, recordings
from foreshock.zoo.rescue import FILE, Rescue
from foreshock.zoo.score import CRITICAL, OURS, Watched, score, watch
from typer.testing import CliRunner

HEALTHY = Recording(
    "calm", 0, "train", "quiet", None, None, "survived", None, "run", "calm-0.db", 600, 10, "survived", None, "", False, 1.0, 1.0,
    None, [], [], 1.0, 0,
)  # fmt: skip
SLOW = replace(
    HEALTHY, scenario="ramp", family="ramps", onset="slow", cause_id="learning_rate_too_high", expected="diverged",
    failure_step=400, outcome="diverged", kind="spike",
)  # fmt: skip
ABRUPT = replace(SLOW, scenario="kick", onset="abrupt", trouble_step=300, failure_step=303)
SILENT = replace(SLOW, scenario="stuck", onset="silent", expected="stuck", outcome="stuck", failure_step=500)


def test_a_slow_failure_is_named_before_it_comes() -> None:
    early, late, never = judge(SLOW, [380, 100]), judge(SLOW, [400]), judge(SLOW, [])
    assert (early.named, early.lead, early.share, early.false_alarms, early.healthy_steps) == (True, 300, 0.75, 0, 0)
    assert (late.named, late.lead, late.share) == (False, 0, 0.0)
    assert (never.named, never.lead) == (False, 0)


def test_an_abrupt_failure_is_named_within_two_steps_of_the_trouble_and_not_before_it() -> None:
    assert [judge(ABRUPT, [step]).named for step in (299, 300, 302, 303)] == [False, True, True, False]
    before = judge(ABRUPT, [100, 299, 301])
    assert (before.named, before.false_alarms, before.healthy_steps, before.lead) == (True, 2, 300, 2)
    undated = replace(ABRUPT, trouble_step=None)
    assert [judge(undated, [step]).named for step in (10, 305, 306)] == [True, True, False]


def test_a_silent_failure_is_named_at_any_time() -> None:
    assert [judge(SILENT, steps).named for steps in ([590], [])] == [True, False]
    assert judge(SILENT, [590]).lead == 0


def test_a_healthy_run_has_nothing_but_false_alarms() -> None:
    found = judge(HEALTHY, [10, 11, 12, 200, 249, 298])
    assert (found.named, found.lead, found.false_alarms, found.healthy_steps) == (None, None, 2, 600)
    assert [episodes(steps) for steps in ([], [5], [0, 49, 98], [0, 50, 100])] == [0, 1, 1, 3]


def test_runs_that_did_not_end_as_they_should_are_neither_failures_nor_healthy() -> None:
    assert usable(HEALTHY)
    assert usable(SLOW)
    assert not usable(replace(SLOW, failure_step=None, outcome="survived"))
    assert not usable(replace(HEALTHY, failure_step=10, outcome="diverged"))


def test_a_tally_counts_missing_warnings_as_no_lead() -> None:
    found = tally(
        [
            judge(SLOW, [300], "learning_rate_too_high"),
            judge(SLOW, [], None),
            judge(SLOW, [200], "bad_batch"),
            judge(HEALTHY, [7]),
            judge(ABRUPT, [100, 300]),
        ]
    )
    assert (found.runs, found.named, found.recall) == (4, 3, 0.75)
    assert (found.median_lead, found.median_share) == (51.5, (0.25 + 3 / 303) / 2)
    assert (found.false_alarms, found.healthy_steps) == (2, 900)
    assert found.rate == pytest.approx(100_000 * 2 / 900)
    assert found.rate_bound == pytest.approx(100_000 * 6.295794 / 900, rel=1e-6)
    assert (found.causes_right, found.causes_named) == (1, 2)
    nothing = tally([])
    assert (nothing.runs, nothing.recall, nothing.median_lead, nothing.rate, nothing.rate_bound) == (0, None, None, None, None)


@pytest.mark.parametrize("count", [0, 1, 4, 20])
def test_the_bound_is_the_mean_that_gives_so_few_one_time_in_twenty(count: int) -> None:
    mean = poisson_bound(count)
    assert math.fsum(math.exp(-mean) * mean**k / math.factorial(k) for k in range(count + 1)) == pytest.approx(0.05, abs=1e-9)


def put(folder: Path, recording: Recording, losses: Sequence[float], norms: Sequence[float] = ()) -> None:
    """Write a recording with these losses and gradient norms, calm ones where none are given."""
    place = folder / recording.split
    place.mkdir(parents=True, exist_ok=True)
    name = f"{recording.scenario}-{recording.seed}"
    with closing(foreshock.open_store(f"sqlite:///{place / name}.db")) as store:
        run = Run(recording.run, name, project="zoo", created_at=1.0, heartbeat_at=1.0)
        store.create_run(run)
        keys = (SeriesKey("loss"), SeriesKey("gradient.norm"))
        each = zip(losses, norms or calm(len(losses)), strict=True)
        steps = tuple(StepRecord(step, 1.0 + step, keys, values) for step, values in enumerate(each))
        store.write(Batch(f"{name}-batch", run.id, store.open_segment(run.id, 0, 1.0), steps))
    kept = replace(recording, store=f"{name}.db", steps=len(losses))
    (place / f"{name}.json").write_text(json.dumps(asdict(kept)))


def calm(count: int) -> list[float]:
    return [1.0 + 0.01 * math.sin(7.0 * step) for step in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calm run, one with a small blip, one that meets a NaN, one that fails without a word, one that should have failed."""
    made = tmp_path_factory.mktemp("recordings")
    put(made, HEALTHY, calm(600))
    blip = calm(600)
    blip[300] = 1.2
    put(made, replace(HEALTHY, scenario="blip"), blip)
    broken = replace(ABRUPT, scenario="nan", cause_id="bad_batch", trouble_step=300, failure_step=300)
    nothing = [math.nan] * 20
    put(made, broken, calm(300) + nothing, calm(300) + nothing)
    put(made, replace(SLOW, split="held_out"), calm(600))
    put(made, replace(SLOW, seed=1, failure_step=None, outcome="survived"), calm(600))
    return made


def test_the_score_of_recordings_with_known_answers(folder: Path) -> None:
    found = score(watch(folder))
    assert (found["runs"], found["left_out"], list(found["splits"])) == (4, ["ramp seed 1"], ["train", "held_out"])
    train = found["splits"]["train"]
    assert (train["failing"], train["healthy"]) == (1, 2)
    ours, finite, sigma = (train["watchers"][name] for name in (OURS, "not finite", "loss 6 sigma"))
    # Ours names the NaN at once, with its cause, and says nothing of the blip; 1,500 steps are healthy.
    for told in (ours, train["watchers"][CRITICAL], finite):
        assert (told["onsets"]["abrupt"]["recall"], told["all"]["false_alarms"], told["all"]["healthy_steps"]) == (1.0, 0, 1500)
    assert (ours["all"]["causes_right"], ours["all"]["causes_named"]) == (1, 1)
    assert (finite["all"]["causes_right"], finite["all"]["causes_named"]) == (0, 0)
    assert ours["all"]["rate_bound"] == pytest.approx(100_000 * 2.995732 / 1500, rel=1e-6)
    # The loss's sigma cries at the blip; at our rate it has to be duller, and then hears the NaN still.
    assert (sigma["all"]["false_alarms"], sigma["families"]["quiet"]["false_alarms"]) == (1, 1)
    fair = train["watchers"]["loss 6 sigma, at our rate"]
    assert fair["threshold"] > 6.0
    assert (fair["all"]["false_alarms"], fair["all"]["recall"]) == (0, 1.0)
    # Nobody names what nothing shows.
    silent = found["splits"]["held_out"]["watchers"]
    assert all(told["onsets"]["slow"]["recall"] == 0.0 for told in silent.values())
    assert set(silent) == {OURS, CRITICAL, *BASELINES}  # without healthy steps there is no rate to compare at
    assert set(train["watchers"]) == {OURS, CRITICAL, *BASELINES, *(f"{name}, at our rate" for name in SWEEPS)}


def test_the_order_of_runs_does_not_matter_and_nothing_is_left_to_chance(folder: Path) -> None:
    seen = list(watch(folder))
    assert score(seen) == score(reversed(seen)) == score(watch(folder))
    assert all(isinstance(each, Watched) for each in seen)
    assert [each.run for each in watch(folder, "held_out")] == [run for run in recordings(folder) if run.split == "held_out"]


def test_the_command_prints_data_or_tables(folder: Path, tmp_path: Path) -> None:
    def told(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["zoo", "score", "--recordings", str(folder), *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert json.loads(told("--json")) == json.loads(json.dumps(score(watch(folder))))
    shown = told("--split", "train")
    assert "train: 1 failing, 2 healthy" in shown
    assert "held_out" not in shown
    assert "ramp seed 1" in shown
    rescued = Rescue(
        "nan", 0, "train", "family", "abrupt", "diverged", "bad_batch", [], "survived", 1.0, 1.0, True, None, 9, True, None, [], 0
    )
    (folder / FILE).write_text(json.dumps([asdict(rescued), asdict(replace(rescued, seed=1, saved=False))]))
    assert json.loads(told("--json"))["splits"]["train"]["rescued"]["saved"] == 1
    assert "Saved by the recommended intervention: 1 of 2; stopped: 0" in told("--split", "train")
    (folder / FILE).unlink()
    empty = CliRunner().invoke(app, ["zoo", "score", "--recordings", str(tmp_path)])
    assert empty.exit_code == 2
    assert "no recording" in " ".join(empty.stderr.replace("│", " ").split())
