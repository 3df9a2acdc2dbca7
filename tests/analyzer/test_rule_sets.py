"""Rules as data: defaults are complete, overrides merge, and nothing misspelt is merged silently."""

import re
import tomllib
from pathlib import Path

import foreshock.analyzer
import pytest
from foreshock.analyzer.detectors import COMMON_FACTS, Detector
from foreshock.analyzer.diagnosis import patterns
from foreshock.analyzer.rules import RuleError, RuleSet
from foreshock.analyzer.wording import placeholders
from foreshock.storage.records import Severity

ANALYZER = Path(foreshock.analyzer.__file__).parent
DEFAULTS = tomllib.loads((ANALYZER / "rules.toml").read_text("utf-8"))["rules"]


def test_every_default_rule_is_complete_and_explains_itself():
    rules = RuleSet.default()
    assert set(rules) == set(DEFAULTS)
    for rule in rules.values():
        assert rule.title
        assert rule.why.endswith((".", ")."))
        assert rule.remedy.endswith(".")
        assert rule.message.endswith(".")
        assert set(placeholders(rule.message)) <= {*COMMON_FACTS, *Detector.registry[rule.detector].FACTS}
        assert rule.build().feed is not None
        for key in ("severity", "persistence", "clear", "cooldown", "links", "signals"):
            assert key in DEFAULTS[rule.name], f"{rule.name} leaves {key} to a hidden default"


def test_causes_name_rules_and_facts_that_exist():
    told = "".join((ANALYZER / file).read_text("utf-8") for file in ("facts.py", "traces.py", "alerts.py"))
    facts = set(re.findall(r'"([a-z]+(?:_[a-z]+)+)"', told))
    for pattern in patterns():
        assert set(pattern.signs) <= set(RuleSet.default()) | facts, pattern.name
        assert pattern.requires <= set(pattern.signs), pattern.name
        assert all(-1 < weight < 1 for weight in pattern.signs.values())
        assert pattern.remedy
        assert pattern.doc


def test_overrides_change_a_parameter_disable_a_rule_and_add_one(tmp_path):
    path = tmp_path / "foreshock.toml"
    path.write_text(
        """
store = "sqlite:///other.db"

[rules.attention_logit_growth]
severity = "critical"
parameters = { level = 500 }

[rules.loss_spike]
enabled = false

[rules.reward_collapse]
detector = "level"
signals = { value = "reward" }
parameters = { level = -1.5, direction = "below" }
"""
    )
    rules = RuleSet.load(path)
    growth = rules["attention_logit_growth"]
    assert growth.severity is Severity.CRITICAL
    assert growth.parameters["level"] == 500.0
    assert growth.parameters["limit"] == RuleSet.default()["attention_logit_growth"].parameters["limit"]
    assert "loss_spike" not in {rule.name for rule in rules.active}
    assert rules["loss_spike"].enabled is False
    added = rules["reward_collapse"]
    assert added.signals == {"value": ("reward",)}
    assert added.severity is Severity.WARNING
    assert added.title == "Reward collapse"
    assert len(rules) == len(RuleSet.default()) + 1


def test_mappings_merge_with_or_without_the_rules_table():
    for override in ({"loss_spike": {"parameters": {"z": 12}}}, {"rules": {"loss_spike": {"parameters": {"z": 12}}}}):
        assert RuleSet.load(override)["loss_spike"].parameters["z"] == 12.0
    given = RuleSet.load(None)
    assert RuleSet.load(given) is given


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("[rules.loss_spyke]\nenabled = false\n", 1, ["loss_spyke", "no rule has that name", "loss_spike"]),
        ("[rules.loss_spike]\n\nenable = false\n", 3, ["enable", "did you mean 'enabled'", "allowed"]),
        ("[rules.loss_spike.parameters]\nzz = 3\n", 2, ["parameters.zz", "unknown parameter of spike", "min_rise"]),
        ("[rules.loss_spike]\nseverity = 'fatal'\n", 2, ["severity", "'fatal'", "info, warning, critical"]),
        ("[rules.loss_spike]\nparameters = { z = 0.2 }\n", 2, ["parameters.z", "0.2", "at least 1"]),
        ("[rules.loss_spike]\nparameters = { window = 3.5 }\n", 2, ["3.5", "a whole number", "from 8 to 4096"]),
        ("[rules.loss_spike]\npersistence = 0\n", 2, ["persistence", "at least 1"]),
        ("[rules.loss_spike]\nmessage = 'is {vlaue}'\n", 2, ["{vlaue}", "did you mean 'value'"]),
        ("[rules.loss_spike]\nmessage = 'is {value'\n", 2, ["message", "braces"]),
        ("[rules.loss_spike]\nsignals = { valu = 'loss' }\n", 2, ["valu", "did you mean 'value'"]),
        ("[rules.loss_spike]\nsignals = 'loss'\n", 2, ["signals", "a table of inputs"]),
        ("[rules.loss_spike]\ndetector = 'level'\n", 2, ["detector", "cannot change"]),
        ("[rules.loss_spike]\nreduce = 'mode'\n", 2, ["reduce", "max, min, mean, median"]),
        ("[rules.mine]\ndetector = 'magic'\nsignals = { value = 'loss' }\n", 2, ["'magic'", "spike"]),
        ("[rules.mine]\ndetector = 'spike'\nsignals = { value = ['a', 'b'] }\n", 3, ["one signal"]),
        ("[rules.attention_logit_saturation.parameters]\ndirection = 'up'\n", 2, ["'up'", "'above', 'below'"]),
        ("[rules.loss_spike]\npersistence = 30\nparameters = { rebaseline = 10 }\n", 3, ["rebaseline", "persistence (30)"]),
        ("[rule.loss_spike]\nenabled = false\n", 1, ["unknown table 'rule'", "[rules.loss_spike]"]),
    ],
)
def test_a_mistake_is_named_with_file_line_key_and_what_is_allowed(tmp_path, text, line, said):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RuleError) as caught:
        RuleSet.load(path)
    message = str(caught.value)
    assert f"{path}, line {line}: " in message
    for words in said:
        assert words in message


def test_all_mistakes_are_told_at_once():
    with pytest.raises(RuleError) as caught:
        RuleSet.load({"loss_spike": {"severity": "bad", "clear": -1}, "gradient_spike": {"parameters": {"y": 1}}})
    assert len(caught.value.problems) == 3


def test_broken_toml_names_file_and_line(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[rules.loss_spike\n")
    with pytest.raises(RuleError, match=r"mine\.toml.*line 1"):
        RuleSet.load(path)


def test_a_changed_rule_has_another_fingerprint_and_a_reworded_one_has_not():
    rules = RuleSet.default()
    changed = RuleSet.load({"loss_spike": {"parameters": {"z": 9}}})
    reworded = RuleSet.load({"loss_spike": {"title": "Jump", "severity": "warning"}})
    assert changed["loss_spike"].fingerprint != rules["loss_spike"].fingerprint
    assert reworded["loss_spike"].fingerprint == rules["loss_spike"].fingerprint
