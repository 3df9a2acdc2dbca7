"""From findings to ranked causes."""

from foreshock.analyzer.diagnosis import changed_materially, diagnose, patterns
from foreshock.analyzer.facts import Facts, Observation
from foreshock.analyzer.tracks import Track
from foreshock.storage.records import SeriesKey


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
    assert first("non_finite") == "overflow"
    assert first("spectral_alignment_collapse", "spectral_norm_growth") == "spectral_alignment_collapse"
    assert first("spectral_norm_growth") == "runaway_weights"


def test_no_cause_without_what_it_requires():
    assert diagnose([]) == ()
    assert diagnose(seen("gradient_spike", "key_shift_healthy")) == ()
    assert {cause.name for cause in diagnose(seen("attention_logit_growth", "common_logit_shift_growth"))} == {
        "attention_logit_growth"
    }


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
    return {observation.name: observation.text for observation in facts.observations(len(rates) - 1, ())}


def test_the_course_of_the_learning_rate():
    assert set(facts_of([0.01] * 100)) == {"no_warmup"}
    assert facts_of([1e-4 * (step + 1) for step in range(100)]) == {
        "learning_rate_rising": "the learning rate is still rising: 0.01 at step 99, its highest so far"
    }
    assert facts_of([1e-4 * min(50, step + 1) for step in range(100)]) == {}
    jumped = facts_of([1e-5] + [1e-3] * 50 + [2e-2] * 30)
    assert jumped == {"learning_rate_jump": "the learning rate rose from 0.001 to 0.02 at step 51"}
    assert facts_of([]) == {}


def test_healthy_rounding_is_said_only_where_it_was_measured():
    track = Track(SeriesKey("rounding.key_shift_excess", "a", 0))
    assert Facts().observations(10, [track]) == []
    track.points.append((10, 1.1))
    (healthy,) = Facts().observations(10, [track])
    assert healthy.name == "key_shift_healthy"
    assert "at most 1.1 times" in healthy.text
    track.points.append((20, 9.0))
    assert Facts().observations(20, [track]) == []
