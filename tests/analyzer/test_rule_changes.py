"""What a run keeps of the rules that judge it."""

import json

from foreshock.analyzer.report_link import report_line
from foreshock.analyzer.rule_changes import changes
from foreshock.analyzer.rules import RuleSet


def test_the_package_s_own_rules_are_not_kept() -> None:
    assert changes(RuleSet.default()) == {}


def test_what_differs_is_kept_in_plain_values_and_gives_the_rules_again() -> None:
    own = {"detector": "spike", "signals": {"value": "loss"}, "severity": "info", "message": "It leapt.", "remedy": "Look."}
    changed = RuleSet.load({"loss_spike": {"enabled": False, "parameters": {"z": 9.0}, "cooldown": 7}, "mine": own})
    kept = changes(changed)
    assert kept["loss_spike"] == {"enabled": False, "parameters": {"z": 9.0}, "cooldown": 7}
    assert set(kept) == {"loss_spike", "mine"}
    assert (kept["mine"]["detector"], kept["mine"]["severity"]) == ("spike", "info")
    stored = json.loads(json.dumps(kept))
    again = RuleSet.default().merged(stored)
    assert {name: again[name] for name in again} == {name: changed[name] for name in changed}


def test_where_a_report_is() -> None:
    assert report_line("0123456789abcdef") == "The whole run in one file: foreshock report 01234567"
    assert report_line("a/b", "https://host/foreshock").endswith(" https://host/foreshock/report/a%2Fb")
