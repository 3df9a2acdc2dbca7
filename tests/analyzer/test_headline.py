"""A run's state in plain words, and the numbers in them."""

import math
from dataclasses import replace

import pytest
from foreshock.analyzer.headline import headline
from foreshock.analyzer.wording import fill, join, number, place, series_name, step_number
from foreshock.storage.records import Alert, AlertState, Cause, RunStatus, SeriesKey, Severity

ALERT = Alert(
    "id", "run", "attention_logit_growth", "blocks.1.attn", 0, Severity.WARNING, AlertState.FIRING, 0, 700, 740, 0.0, 0.0,
    "The largest attention logit of blocks.1.attn head 0 grew from 60 to 640 since step 400, doubling every 170 steps.",
    remedy="Lower the learning rate.",
)  # fmt: skip


def test_a_healthy_run():
    said = headline([], step=900, loss=0.4123)
    assert (said.level, said.text, said.detail) == ("healthy", "Healthy: no open alerts, loss 0.412 at step 900.", "")
    assert headline([], step=900, loss=0.4, status=RunStatus.FINISHED).text == "Finished: no open alerts, loss 0.4 at step 900."
    assert headline([], step=12_000).text == "Healthy: no open alerts, at step 12,000."


def test_an_empty_run():
    assert headline([], step=-1).level == "empty"


def test_the_worst_open_alert_speaks_with_its_likeliest_cause():
    cause = Cause("low", "Low-precision rounding bias in attention", 0.9, (), "Switch to stabilised attention.")
    critical = replace(
        ALERT, id="b", severity=Severity.CRITICAL, first_step=900, message="The loss is going up for good.", diagnosis=(cause,)
    )
    said = headline([ALERT, critical], step=950, loss=1.3)
    assert said.level == "critical"
    assert said.text == "The loss is going up for good. One more alert is open."
    assert said.detail == "Likeliest cause: low-precision rounding bias in attention. Switch to stabilised attention."
    assert headline([ALERT], step=950, loss=1.3).detail == "No known cause fits what was seen. Lower the learning rate."
    assert headline([ALERT, ALERT, critical], step=950).text.endswith("2 more alerts are open.")


def test_how_sure_a_diagnosis_is_shows_in_its_words():
    def detail(*confidences):
        causes = tuple(
            Cause(name, f"Cause {name}", sure, (), f"Mend {name}.") for name, sure in zip("abc", confidences, strict=False)
        )
        return headline([replace(ALERT, diagnosis=causes)], step=950).detail

    assert detail(0.7, 0.5) == "Likeliest cause: cause a. Mend a."
    assert detail(0.3) == "A possible cause: cause a. Mend a."
    assert detail(0.7, 0.65, 0.3) == "Likeliest causes, hard to tell apart: cause a, or cause b. Mend a."


def test_resolved_pending_and_info_alerts_do_not_frighten():
    resolved = replace(ALERT, state=AlertState.RESOLVED)
    note = replace(ALERT, severity=Severity.INFO, message="The gradient norm jumped to 30 at step 700. More.")
    pending = replace(ALERT, state=AlertState.PENDING)
    assert headline([resolved, pending], step=950, loss=0.4).text == "Healthy: no open alerts, 1 resolved, loss 0.4 at step 950."
    said = headline([note], step=950, loss=0.4)
    assert said.level == "info"
    assert said.text == "Healthy: no open alerts, loss 0.4 at step 950; note: the gradient norm jumped to 30 at step 700."


def test_an_acknowledged_alert_is_still_open():
    assert headline([replace(ALERT, state=AlertState.ACKNOWLEDGED)], step=950).level == "warning"


def test_runs_that_ended_or_were_lost():
    assert (
        headline([], step=10, loss=math.nan, status=RunStatus.CRASHED).text
        == "Crashed, loss not a number at step 10; no open alerts."
    )
    assert headline([ALERT], step=950, loss=0.4, status=RunStatus.FINISHED).text.startswith(
        "Finished, loss 0.4 at step 950. The largest"
    )
    lost = headline([ALERT], step=950, loss=0.4, lost_since="14:02")
    assert lost.level == "lost"
    assert lost.text == "Lost: no sign of life since 14:02, loss 0.4 at step 950."


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (0.04123, "0.0412"), (3.1649, "3.16"), (12.34, "12.3"), (99.97, "100"), (643.2, "643"), (999.7, "1,000"),
        (52_049, "52,000"),
        (1e8, "100,000,000"), (1.32e12, "1.32e12"), (1e12, "1e12"), (0.000123, "1.23e-4"), (-3.5, "-3.5"), (-1234.0, "-1,230"),
        (math.nan, "NaN"), (math.inf, "infinity"), (-math.inf, "-infinity"), (0.5, "0.5"), (10.0, "10"), (100.0, "100"),
    ],
)  # fmt: skip
def test_numbers_have_three_sensible_digits(value, text):
    assert number(value) == text


def test_templates_leave_out_what_was_not_measured():
    template = "{place} is {value}[, near {limit}][ at {step}]."
    assert fill(template, {"place": "loss", "value": 1.5, "limit": math.nan, "step": 1200}) == "loss is 1.5 at 1,200."
    assert fill(template, {"place": "loss", "value": 1.5}) == "loss is 1.5."
    assert fill("{missing}", {}) == "n/a"


def test_names_for_people():
    assert place("") == "the run"
    assert place("blocks.1.attn", 0) == "blocks.1.attn head 0"
    assert series_name(SeriesKey("loss")) == "loss"
    assert series_name(SeriesKey("attention.max_logit", "a.b", 1)) == "attention.max_logit of a.b head 1"
    assert step_number(12345) == "12,345"
    assert [join(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
