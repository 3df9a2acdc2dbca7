"""From findings to ranked causes."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from foreshock.analyzer.diagnosis import INTERVENTIONS, changed_materially, diagnose, page, patterns
from foreshock.analyzer.facts import NAMES, Facts, Observation
from foreshock.analyzer.rules import RuleSet
from foreshock.analyzer.tracks import Track
from foreshock.storage.records import SeriesKey

SECTIONS = ["How it looks", "Why it happens", "How to be sure", "What to do now", "What to do next time"]


@pytest.fixture
def root():
    return Path(__file__).parents[2]


def seen(*names):
    return [Observation(name, f"{name} was seen.", 100, "blocks.1.attn") for name in names]


def first(*names):
    return diagnose(seen(*names))[0].name


def test_each_pattern_puts_its_own_cause_first():
    assert first("key_shift_bias", "attention_logit_growth", "common_logit_shift_growth") == "low_precision_attention"
    assert first("key_shift_bias", "loss_degradation", "learning_rate_rising") == "low_precision_attention"
    assert first("attention_logit_growth", "key_shift_healthy") == "attention_logit_growth"
    assert first("attention_logit_growth", "attention_entropy_collapse", "learning_rate_rising") == "learning_rate_too_high"
    assert first("attention_logit_growth", "attention_logit_saturation", "no_warmup") == "missing_warmup"
    assert first("attention_entropy_collapse") == "attention_entropy_collapse"
    assert first("loss_stays_high", "loss_degradation", "learning_rate_jump") == "learning_rate_too_high"
    assert first("spectral_norm_growth", "learning_rate_rising", "loss_degradation") == "learning_rate_too_high"
    assert first("loss_spike", "gradient_spike", "loss_came_back") == "bad_batch"
    assert first("loss_spike", "gradient_spike", "sudden_break", "learning_rate_jump") == "learning_rate_too_high"
    assert first("non_finite", "gradient_non_finite", "non_finite_values", "loss_broke_first", "sudden_break") == "bad_batch"
    assert first("non_finite", "gradient_non_finite", "non_finite_values", "gradient_broke_first") == "overflow"
    assert first("non_finite", "gradient_broke_first", "learning_rate_jump") == "learning_rate_too_high"
    assert first("gradient_spike", "no_warmup", "weights_start_small", "loss_never_fell") == "bad_initialisation"
    assert first("spectral_alignment_collapse", "spectral_norm_growth", "learning_rate_rising") == "learning_rate_too_high"
    assert first("non_finite") == "overflow"
    assert first("fp16_range") == "overflow"
    assert first("second_moment_lag", "gradient_creep", "learning_rate_constant", "loss_stays_high") == "second_moment_lag"
    assert (
        first("second_moment_lag", "learning_rate_rising", "loss_degradation", "spectral_norm_growth") == "learning_rate_too_high"
    )
    assert first("stale_updates", "no_warmup", "learning_rate_constant") == "stale_updates"
    assert first("dead_units", "no_warmup", "learning_rate_constant", "loss_never_fell") == "dead_units"
    assert first("gradient_creep", "learning_rate_constant", "loss_creep", "loss_degradation") == "input_drift"
    assert first("gradient_creep", "learning_rate_rising", "loss_creep", "loss_degradation") == "learning_rate_too_high"
    assert first("stuck_saturated", "weights_start_large", "no_warmup", "loss_never_fell") == "bad_initialisation"
    assert first("stuck_attention", "no_warmup", "attention_logit_growth") == "missing_warmup"
    assert first("spectral_alignment_collapse", "spectral_norm_growth") == "spectral_alignment_collapse"
    assert first("spectral_norm_growth") == "runaway_weights"


def test_no_cause_without_what_it_requires():
    assert diagnose([]) == ()
    assert diagnose(seen("gradient_spike", "key_shift_healthy")) == ()
    assert {cause.name for cause in diagnose(seen("attention_logit_growth", "common_logit_shift_growth"))} == {
        "attention_logit_growth"
    }


def test_some_causes_ask_for_two_kinds_of_signs():
    assert diagnose(seen("no_warmup", "gradient_spike", "loss_spike"))[0].name == "bad_batch"
    assert diagnose(seen("no_warmup", "gradient_spike")) == ()
    assert diagnose(seen("weights_start_large")) == ()


def test_every_sign_is_a_rule_or_a_fact_and_every_cause_can_be_named():
    known = {rule.name for rule in RuleSet.default().active} | NAMES
    for pattern in patterns():
        named = {*pattern.signs, *pattern.requires, *pattern.also}
        assert named <= known, f"{pattern.name} names {sorted(named - known)}, which are neither rules nor facts"
        assert all(-1 < weight < 1 for weight in pattern.signs.values())
        assert any(pattern.signs.get(name, 0) > 0 for name in pattern.requires), pattern.name


def test_a_remedy_names_what_is_known_of_the_run_and_leaves_out_what_is_not():
    def remedy(facts):
        found = diagnose([Observation("loss_degradation", "It rose.", 70, ""), *facts])
        return next(cause.remedy for cause in found if cause.name == "learning_rate_too_high")

    facts = Facts()
    for step in range(100):
        facts.feed_rate(step, 0.02 if step >= 60 else 0.001)
    told = remedy(facts.observations(100, ()))
    assert told.startswith("Go back to a checkpoint from before step 70 and go on at 5e-4 to 1e-4")
    assert told.endswith("The rate jumped from 0.001 at step 60: look at the schedule there.")
    # A rate that goes on rising is judged by what it was at the first warning.
    rising = Facts()
    for step in range(100):
        rising.feed_rate(step, 1e-4 * (step + 1))
    lasting = [item for item in rising.observations(99, ()) if item.name == "learning_rate_rising"]
    for step in range(100, 200):
        rising.feed_rate(step, 1e-4 * (step + 1))
    seen_now = [item for item in rising.observations(199, ()) if item.name != "learning_rate_rising"]
    assert "at 0.005 to 0.001" in remedy([*seen_now, *lasting])
    assert "[" not in "".join(cause.remedy for pattern in patterns() for cause in diagnose(seen(*pattern.requires, *pattern.also)))


def test_a_late_beginning_speaks_against_a_missing_warmup():
    def sure(step):
        found = diagnose([Observation("loss_stays_high", "High.", step), Observation("no_warmup", "None.", 0)])
        return {cause.name: cause.confidence for cause in found}.get("missing_warmup", 0.0)

    assert sure(5000) < 0.5 * sure(100)


def test_every_cause_has_its_page_and_every_page_its_cause(root):
    for pattern in patterns():
        text = page(pattern.doc)
        assert text.startswith(f"# {pattern.title}\n")
        assert re.findall("^## (.*)$", text, re.MULTILINE) == SECTIONS, pattern.doc
        assert page(pattern.name) == text
    files = {file.stem for file in (root / "analyzer" / "causes").glob("*.md")}
    assert files == {pattern.doc for pattern in patterns()}
    with pytest.raises(ValueError, match=r"no cause 'nope'; there are: .*bad-batch"):
        page("nope")


def test_a_page_is_shown_by_the_command_that_alerts_name():
    from foreshock.cli import app
    from typer.testing import CliRunner

    def told(*arguments):
        result = CliRunner().invoke(app, ["explain", *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert told("bad_batch") == told("bad-batch") == page("bad-batch")
    assert len(told().splitlines()) == len(patterns())
    listed = json.loads(told("--json"))
    assert [(each["cause"], tuple(each["interventions"])) for each in listed] == [(p.doc, p.interventions) for p in patterns()]
    assert CliRunner().invoke(app, ["explain", "nope"]).exit_code == 2


def test_each_cause_recommends_interventions_and_its_page_says_which():
    from foreshock.interventions.registry import NAMES as DONE

    assert set(DONE) <= set(INTERVENTIONS)
    for pattern in patterns():
        named = ", then ".join(f"`{name}`" for name in pattern.interventions)
        assert f"(`watch(interventions=...)`): {named}.\n" in page(pattern.doc), pattern.name
    with pytest.raises(ValueError, match=r"\[bad_batch\] interventions: got \['pray'\]; allowed: capture, .*stop"):
        replace(next(pattern for pattern in patterns() if pattern.name == "bad_batch"), interventions=("pray",))


def test_confidence_is_what_the_weights_say_and_causes_are_ranked_by_it():
    (cause, *_) = diagnose(seen("key_shift_bias", "attention_logit_growth"))
    weights = {pattern.name: pattern.signs for pattern in patterns()}["low_precision_attention"]
    expected = 1 - (1 - weights["key_shift_bias"]) * (1 - weights["attention_logit_growth"])
    assert cause.confidence == round(expected, 2)
    ranked = diagnose(seen("key_shift_bias", "attention_logit_growth", "loss_spike", "no_warmup", "spectral_norm_growth"))
    assert [cause.confidence for cause in ranked] == sorted((cause.confidence for cause in ranked), reverse=True)
    assert len(ranked) <= 4


def test_what_speaks_against_a_cause_is_said():
    (cause,) = [
        cause for cause in diagnose(seen("attention_logit_growth", "key_shift_bias")) if cause.name == "attention_logit_growth"
    ]
    assert cause.reasons[-1] == "Against it: key_shift_bias was seen"


def test_other_modules_are_named_once_and_counted_when_many():
    def reason(*modules):
        return diagnose([Observation("attention_logit_growth", "Grew.", 1, module) for module in modules])[0].reasons[0]

    assert reason("a") == "Grew"
    assert reason("a", "b", "b", "c") == "Grew; likewise b and c"
    assert reason(*"abcdef") == "Grew; likewise 5 other modules"


def test_a_diagnosis_is_worth_rewriting_when_the_first_cause_or_its_confidence_changes():
    some, more = (
        diagnose(seen("key_shift_bias")),
        diagnose(seen("key_shift_bias", "attention_logit_growth", "common_logit_shift_growth")),
    )
    other = diagnose(seen("loss_spike"))
    slight = diagnose(seen("key_shift_bias", "spectral_norm_growth"))
    assert changed_materially((), some)
    assert changed_materially(some, other)
    assert not changed_materially(some, slight)
    assert not changed_materially((), ())
    assert changed_materially(other, more)


def facts_of(rates):
    facts = Facts()
    for step, rate in enumerate(rates):
        facts.feed_rate(step, rate)
    return {observation.name: observation.text for observation in facts.observations(len(rates) - 1, ()) if observation.text}


def test_the_course_of_the_learning_rate():
    assert set(facts_of([0.01] * 100)) == {"no_warmup", "learning_rate_constant"}
    assert facts_of([1e-4 * (step + 1) for step in range(100)]) == {
        "learning_rate_rising": "the learning rate is still rising: 0.01 at step 99, its highest so far"
    }
    assert facts_of([1e-4 * min(50, step + 1) for step in range(100)]) == {}
    jumped = facts_of([1e-5] + [1e-3] * 50 + [2e-2] * 30)
    assert jumped == {"learning_rate_jump": "the learning rate rose from 0.001 to 0.02 at step 51"}
    assert facts_of([]) == {}


def test_a_momentum_that_rises_is_a_rate_that_rises():
    def told_of(effective):
        facts = Facts()
        for step in range(300):
            facts.feed_rate(step, 0.1)
            if step % 10 == 0:
                facts.feed_effective(effective(step))
        again = Facts()
        again.load_state_dict(json.loads(json.dumps(facts.state_dict())))
        return {item.name: item.text for item in again.observations(299, ()) if item.text}

    rising = told_of(lambda step: 1.0 + step / 100)
    assert rising["learning_rate_rising"].startswith(
        "momentum makes updates reach ever further: the effective rate has risen from 1 "
    )
    assert "learning_rate_rising" not in told_of(lambda step: 1.0)
    assert "learning_rate_rising" not in told_of(lambda step: 4.0 - step / 100)


def test_inputs_that_kept_their_size_and_those_that_cannot_break():
    def with_inputs(sizes, loss=()):
        tracks = [Track(SeriesKey("loss")), Track(SeriesKey("weight.spectral_norm", "head"))]
        tracks[0].points.extend(enumerate(loss))
        tracks[1].points.append((0, 1.0))
        if sizes:
            tracks.append(Track(SeriesKey("input.rms")))
            tracks[-1].points.extend((10 * place, size) for place, size in enumerate(sizes))
        return {item.name for item in Facts().observations(400, tracks)}

    assert "inputs_steady" in with_inputs([1.0, 1.1] * 10)
    assert not {"inputs_steady"} & (
        with_inputs([1.0 + 0.02 * place for place in range(20)]) | with_inputs([1.0] * 3) | with_inputs([])
    )
    broke = [1.0] * 40 + [NAN] * 5
    assert "token_inputs" in with_inputs([], broke)
    assert "token_inputs" not in with_inputs([1.0] * 20, broke)
    assert "token_inputs" not in told(broke, [2.0] * 40 + [NAN] * 5), "nothing was measured that would tell"
    assert first("non_finite", "gradient_non_finite", "loss_broke_first", "sudden_break", "token_inputs") == "overflow"


def test_a_start_that_went_well_speaks_against_a_missing_warmup():
    fell = course_of([3.5 * 0.99**step for step in range(300)]).observations(300, ())
    assert "began_well" in {item.name for item in fell}
    assert "began_well" not in {item.name for item in course_of([3.5 * 0.997**step for step in range(300)]).observations(300, ())}

    def confidence(*names):
        return {cause.name: cause.confidence for cause in diagnose(seen(*names))}["missing_warmup"]

    assert confidence("no_warmup", "loss_degradation", "began_well") < 0.5 * confidence("no_warmup", "loss_degradation")


def test_what_comes_after_the_failure_counts_for_half():
    """Units that died because the inputs had grown: the drift came first."""

    def at(**steps):
        return {cause.name: cause.confidence for cause in diagnose(Observation(name, name, step) for name, step in steps.items())}

    before, after = at(dead_units=300, loss_degradation=400), at(dead_units=500, loss_degradation=400)
    assert after["dead_units"] == pytest.approx(0.5 * before["dead_units"], abs=0.01)
    broken = at(odd_inputs=456, broken_by_update=455, units_dead=480, loss_degradation=517)
    assert max(broken, key=broken.get) == "bad_batch", "one update broke it, and the units died of that"
    found = at(input_growth=410, loss_degradation=488, dead_units=670, units_dead=690)
    assert max(found, key=found.get) == "input_drift"


def test_queries_and_keys_whose_updates_grow_are_told_from_other_layers():
    def first_of(*modules):
        found = [Observation("layer_update_growth", "Updates grow.", 340, module) for module in modules]
        return diagnose([*found, *seen("loss_degradation", "attention_logit_growth", "learning_rate_constant")])[0]

    reasons = first_of("blocks.0.attention.q", "blocks.1.attention.k").reasons
    assert any("queries and keys" in reason for reason in reasons)
    for modules in (("blocks.0.attention.q", "blocks.0.up"), ("blocks.0.mask",)):
        assert not any("queries and keys" in reason for reason in first_of(*modules).reasons)
    fused = ("h.0.attn.c_attn.q", "layers.3.self_attn.k_proj", "encoder.query", "x.to_k", "wq")
    assert any("queries and keys" in reason for reason in first_of(*fused).reasons)


def test_healthy_rounding_is_said_only_where_it_was_measured():
    track = Track(SeriesKey("rounding.key_shift_excess", "a", 0))
    assert Facts().observations(10, [track]) == []
    track.points.append((10, 1.1))
    (healthy,) = Facts().observations(10, [track])
    assert healthy.name == "key_shift_healthy"
    assert "at most 1.1 times" in healthy.text
    track.points.append((20, 9.0))
    assert Facts().observations(20, [track]) == []


def told(loss=(), gradient=(), norms=(), begins=0):
    """What the tracks of a run say, by name."""
    tracks = [Track(SeriesKey("loss")), Track(SeriesKey("gradient.norm"))]
    for track, values in zip(tracks, (loss, gradient), strict=True):
        track.points.extend((begins + place, value) for place, value in enumerate(values))
    for place, norm in enumerate(norms):
        tracks.append(Track(SeriesKey("weight.spectral_norm", f"layers.{place}")))
        tracks[-1].points.extend([(begins, norm), (begins + 10, 1.0)])
    return {observation.name: observation.text for observation in Facts().observations(100, tracks)}


NAN, INF = float("nan"), float("inf")


def test_which_was_not_finite_first():
    assert "loss_broke_first" in told([1.0] * 40 + [NAN] * 5, [2.0] * 40 + [NAN] * 5)
    assert told([1.0] * 40 + [NAN] * 5, [2.0] * 40 + [NAN] * 5)["loss_broke_first"].startswith("the loss was not finite at step 40")
    found = told([1.0] * 41 + [NAN] * 4, [2.0] * 40 + [INF] + [NAN] * 4)
    assert found["gradient_broke_first"] == "the gradient was not finite at step 40, when the loss still was"
    assert "loss_broke_first" not in found
    assert "gradient_broke_first" in told([1.0] * 45, [2.0] * 40 + [INF] + [2.0] * 4)
    assert told([1.0] * 45, [2.0] * 45) == {}
    assert told([NAN] * 45, [NAN] * 45) == {}  # its beginning is forgotten


def test_a_break_is_sudden_only_where_nothing_stirred_before():
    calm, late = [2.0] * 45, [2.0] * 35 + [9.0] * 10
    assert "sudden_break" in told([1.0] * 40 + [9.0] * 5, calm)
    assert "sudden_break" in told([1.0] * 40 + [NAN] * 5, calm)
    assert "sudden_break" not in told([1.0] * 40 + [9.0] * 5, late)  # the gradient grew before
    assert "sudden_break" not in told([1.0 * 1.05**place for place in range(80)], [2.0] * 80)
    assert "sudden_break" not in told([1.0] * 10 + [9.0] * 5, calm)  # nothing known of what is usual


def test_weights_of_the_wrong_size_at_the_start():
    assert "largest singular value was 10," in told(norms=[9.0, 10.0, 11.0])["weights_start_large"]
    assert set(told(norms=[0.1, 0.1, 1.0])) == {"weights_start_small"}
    assert told(norms=[1.0, 0.3, 2.0, 30.0]) == {}
    assert told(norms=[10.0], begins=500) == {}  # the run's beginning is not held any more


def course_of(losses):
    facts = Facts()
    for step, loss in enumerate(losses):
        facts.feed_loss(step, loss)
    return facts


def test_a_loss_that_never_fell_is_said_once_there_was_time_to_fall():
    def never_fell(losses):
        return [item.text for item in course_of(losses).observations(len(losses), ()) if item.name == "loss_never_fell"]

    assert never_fell([3.5] * 300) == ["the loss has never fallen far: 3.5 at the start, at best 3.5 in 300 steps"]
    assert never_fell([3.5] * 50) == []
    assert never_fell([3.5 * 0.99**step for step in range(300)]) == []
    assert never_fell([3.5 * 0.99**step for step in range(200)] + [9.0] * 200) == []  # it fell and rose again
    assert never_fell([NAN] * 300) == []


def test_facts_survive_a_checkpoint_and_an_older_one():
    facts = course_of([3.5] * 150)
    facts.feed_rate(0, 0.1)
    again, older = Facts(), Facts()
    again.load_state_dict(facts.state_dict())
    assert again.observations(150, ()) == facts.observations(150, ())
    state = facts.state_dict()
    del state["losses"]
    older.load_state_dict(state)
    assert [item.name for item in older.observations(150, ()) if item.text] == ["no_warmup", "learning_rate_constant"]
