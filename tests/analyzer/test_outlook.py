"""What the head of a run says of its course: every number in it is that of the series it names."""

import math
from dataclasses import replace

import numpy as np
import pytest
from foreshock.analyzer.outlook import outlook, thresholds
from foreshock.analyzer.outlook_words import sentences
from foreshock.analyzer.rules import RuleSet
from foreshock.storage import open_store
from foreshock.storage.records import Alert, AlertState, Batch, Run, RunStatus, SeriesKey, Severity, StepRecord, new_id

LAYERS = [f"blocks.{number}.attn.q" for number in range(4)]
EVERY = 20


class Course:
    """A run of four layers in which, where it is told to, blocks.1 collapses as the issue's example does."""

    def __init__(self, *, failing, turn=4100):
        self.failing, self.turn = failing, turn
        self.random = np.random.default_rng(0)

    def loss(self, step):
        return 0.4 + 5 * math.exp(-step / 200) + 0.01 * self.random.standard_normal()

    def layer(self, index, step):
        gone = self.failing and index == 1
        since = max(0, step - self.turn)
        noise = self.random.standard_normal(3)
        diversity = max(0.1, 0.9 - 0.004 * since) if gone else 0.9
        sigma = 2.0 * math.exp(math.log(1.03) / 100 * since) if gone else 2.0 + 0.0001 * step
        logit = 20.0 * math.exp(0.006 * since) if gone else 20.0
        return diversity + 0.01 * noise[0], sigma * (1 + 0.0002 * noise[1]), logit * (1 + 0.01 * noise[2])

    def write(self, store, run_id, start, stop, segment=0):
        records = []
        for step in range(start, stop):
            keys, values = [SeriesKey("loss")], [self.loss(step)]
            if step % EVERY == 0:
                for index, layer in enumerate(LAYERS):
                    found = zip(
                        ("spectral_alignment.sign_diversity", "weight.spectral_norm"), self.layer(index, step), strict=False
                    )
                    keys += [SeriesKey("attention.max_logit", layer.removesuffix(".q"), head) for head in range(2)]
                    values += [self.layer(index, step)[2] / (1 + head) for head in range(2)]
                    for signal, value in found:
                        keys.append(SeriesKey(signal, layer))
                        values.append(value)
                keys.append(SeriesKey("risk"))
                values.append(12.3)
            records.append(StepRecord(step, 0.0, tuple(keys), values))
        store.write(Batch(new_id(), run_id, segment, tuple(records)))


@pytest.fixture
def store():
    opened = open_store("sqlite://")
    yield opened
    opened.close()


def begin(store, **fields):
    run = Run(new_id(), "gpt2", status=RunStatus.RUNNING, created_at=1.0, heartbeat_at=1.0, **fields)
    store.create_run(run)
    store.open_segment(run.id, 0, 1.0)
    return run.id


def alert(run_id, rule="spectral_alignment_collapse", step=4240, severity=Severity.WARNING, module=LAYERS[1]):
    return Alert(new_id(), run_id, rule, module, 0, severity, AlertState.FIRING, 0, step, step, 0.0, 0.0, "It fell.")


def test_a_collapse_in_plain_words(store):
    run = begin(store)
    Course(failing=True).write(store, run, 0, 4600)
    found = outlook(store, store.run(run), [alert(run)])
    assert found.moved.key.module in (LAYERS[1], "blocks.1.attn")
    assert (found.signals, found.layers) == (3, 8)
    assert found.growth[0] == SeriesKey("weight.spectral_norm", LAYERS[1])
    assert 100 * found.growth[1].per_hundred == pytest.approx(3.0, abs=0.2)
    assert found.meeting.key == SeriesKey("attention.max_logit", "blocks.1.attn", 0)
    crossed = 4100 + math.log(found.meeting.threshold / 20.0) / 0.006
    assert found.meeting.at.first < crossed < found.meeting.at.last
    assert abs(found.meeting.at.step - crossed) < 20
    said = " ".join(sentences(found, healthy=False))
    assert "since step 4,1" in said
    assert "σ₁ of blocks.1.attn.q is growing 3" in said
    assert "% per 100 steps" in said
    assert f"passes 1,000 near step {found.meeting.at.step:,} (between steps" in said
    assert "The first warning came at step 4,240 in blocks.1.attn.q: spectral alignment collapsed." in said


def test_the_fall_of_sign_diversity_is_the_issues_sentence(store):
    run, course = begin(store), Course(failing=True)
    course.layer = lambda index, step: (
        (max(0.1, 0.9 - 0.004 * max(0, step - 4100)) if index == 1 else 0.9), 2.0, 20.0
    )  # fmt: skip
    course.write(store, run, 0, 4600)
    (said, *_) = sentences(outlook(store, store.run(run), []), healthy=False)
    assert said == "Sign diversity of blocks.1.attn.q fell from its usual 0.9 to 0.1 since step 4,100."


def test_a_run_that_is_over_is_told_in_the_past(store):
    run = begin(store)
    Course(failing=True).write(store, run, 0, 4600)
    store.update_run(run, status=RunStatus.FINISHED)
    found = outlook(store, store.run(run), [])
    assert found.meeting is None
    said = " ".join(sentences(found, healthy=False))
    assert "per 100 steps at its end" in said
    assert "passes" not in said


def test_a_healthy_run_in_one_sentence(store):
    run = begin(store)
    Course(failing=False).write(store, run, 0, 1500)
    found = outlook(store, store.run(run), [])
    assert (found.moved, found.growth, found.meeting) == (None, None, None)
    (said,) = sentences(found, healthy=True)
    assert said.startswith("Nothing watched has moved far from its own past in 1,500 steps: loss 0.")
    assert "risk 12 of 100, 3 signals of 8 layers measured." in said


def test_young_and_empty_runs(store):
    run = begin(store)
    assert sentences(outlook(store, store.run(run), []), healthy=True) == []
    Course(failing=False).write(store, run, 0, 100)
    (said,) = sentences(outlook(store, store.run(run), []), healthy=True)
    assert said.startswith("Too early to compare with its own past, after 100 steps")


def test_a_broken_loss_comes_first(store):
    run = begin(store)
    course = Course(failing=False)
    course.write(store, run, 0, 400)
    course.loss = lambda step: math.nan if step != 410 else math.inf
    course.write(store, run, 400, 500)
    found = outlook(store, store.run(run), [alert(run, "non_finite", 400, Severity.CRITICAL, "")])
    assert (found.broken, found.lowest is not None) == (400, True)
    said = sentences(found, healthy=False)
    assert said[0] == "The loss has not been finite since step 400."
    assert said[-1] == "The first warning came at step 400: not a number."
    assert len(said) == 2


def test_a_resumed_run_is_judged_by_what_holds(store):
    """The collapse was rolled back: the points of the older segment hold no more."""
    run = begin(store)
    Course(failing=True, turn=1000).write(store, run, 0, 1500)
    assert outlook(store, store.run(run), []).moved is not None
    segment = store.open_segment(run, 1000, 2.0)
    Course(failing=False).write(store, run, 1000, 1600, segment)
    assert outlook(store, store.run(run), []).moved is None


def test_the_cost_does_not_follow_the_length(store, monkeypatch):
    run = begin(store)
    Course(failing=False).write(store, run, 0, 6000)
    points = []
    read, envelopes = store.read, store.envelopes

    def counted(series, **place):
        found = read(series, **place)
        points.extend(len(data.steps) for data in found)
        return found

    def stretches(series, **place):
        found = envelopes(series, **place)
        points.extend(len(one.start_step) for one in found)
        return found

    monkeypatch.setattr(store, "read", counted)
    monkeypatch.setattr(store, "envelopes", stretches)
    outlook(store, store.run(run), [])
    assert points
    assert max(points) <= 700, "6,000 losses were read as stretches"


def test_thresholds_are_those_of_the_rules():
    found = thresholds(RuleSet.default())
    assert {(value, upwards) for value, upwards, _ in found["attention.max_logit"]} == {(1000.0, True), (10_000.0, True)}
    assert (0.04, False, "Attention entropy collapsed") in found["attention.entropy_mean"]
    lower = RuleSet.default().merged({"attention_logit_saturation": {"parameters": {"level": 500.0}}})
    assert 500.0 in [value for value, _, _ in thresholds(lower)["attention.max_logit"]]
    off = RuleSet.default().merged({"attention_entropy_collapse": {"enabled": False}})
    assert "attention.entropy_mean" not in thresholds(off)


def test_pending_and_harmless_alerts_are_not_the_first(store):
    run = begin(store)
    Course(failing=False).write(store, run, 0, 100)
    alerts = [
        replace(alert(run, step=10), state=AlertState.PENDING),
        alert(run, step=20, severity=Severity.INFO),
        alert(run, step=30),
    ]
    assert outlook(store, store.run(run), alerts).first_alert.first_step == 30
