"""Detectors and rules that another distribution brings, as pip leaves it: modules and a dist-info on the path."""

import logging
import sys
import textwrap

import pytest
from foreshock.analyzer import plugins
from foreshock.analyzer.detectors import Detector
from foreshock.analyzer.engine import Engine
from foreshock.analyzer.rules import RuleError, RuleSet
from foreshock.storage.records import Batch, SeriesKey, StepRecord

GOOD = """
    from foreshock.analyzer.detectors import Detector, Finding, Parameter

    class Odd(Detector, name="odd_number"):
        '''Sees odd numbers.'''
        PARAMETERS = {"least": Parameter(0, "units", "smaller numbers are not judged", 0)}
        def feed(self, step, value, *others):
            return Finding(value) if value % 2 and value >= self.number("least") else None
        def reset(self):
            pass

    RULES = {"odd_loss": {"detector": "odd_number", "signals": {"value": "loss"}, "severity": "info", "remedy": "Nothing."}}
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a distribution on the path: its module's text and its entry points."""
    monkeypatch.setattr(Detector, "registry", dict(Detector.registry))
    for found in (plugins.load, plugins.problems):
        found.cache_clear()

    def put(name, text, **groups):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        info = tmp_path / f"{name}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = [f"[foreshock.{group}]\n{name} = {target}\n" for group, target in groups.items()]
        (info / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(str(tmp_path))
        put_names.append(name)

    put_names = []
    yield put
    for name in put_names:
        sys.modules.pop(name, None)
    for found in (plugins.load, plugins.problems):
        found.cache_clear()


def losses(*values):
    return Batch(
        "b", "run", 0, tuple(StepRecord(step, float(step), (SeriesKey("loss"),), (value,)) for step, value in enumerate(values))
    )


@pytest.mark.parametrize("target", ["foreshock_odd", "foreshock_odd:Odd"])
def test_an_installed_detector_and_its_rules_are_there_without_being_asked_for(install, target):
    install("foreshock_odd", GOOD, detectors=target, rules="foreshock_odd:RULES")
    rules = RuleSet.default()
    assert rules["odd_loss"].parameters == {"least": 0}
    engine = Engine("run", rules)
    engine.feed(losses(2.0, 4.0, 7.0))
    assert [(alert.rule, alert.first_step) for alert in engine.alerts] == [("odd_loss", 2)]
    assert RuleSet.load({"odd_loss": {"parameters": {"least": 9}}})["odd_loss"].parameters == {"least": 9}
    assert plugins.problems() == {}


def test_rules_may_stand_in_a_toml_file_of_the_distribution(install, tmp_path):
    (tmp_path / "their.toml").write_text('[rules.odd_loss]\ndetector = "odd_number"\nsignals = { value = "loss" }\n')
    text = f"{textwrap.dedent(GOOD)}\nFILE = {str(tmp_path / 'their.toml')!r}\n"
    install("foreshock_odd", text, detectors="foreshock_odd", rules="foreshock_odd:FILE")
    assert "odd_loss" in RuleSet.default()


BROKEN = {
    "raises": ("raise OSError('no licence')", {"detectors": "foreshock_bad"}, "OSError: no licence"),
    "is missing": ("", {"detectors": "foreshock_bad:Mine"}, "Mine"),
    "is no detector": ("Mine = 3", {"detectors": "foreshock_bad:Mine"}, "it names 3; allowed: a module"),
    "takes a name": (GOOD.replace("odd_number", "spike"), {"detectors": "foreshock_bad"}, "'spike' is taken by"),
    "is half done": (GOOD.replace("def reset", "def forget"), {"detectors": "foreshock_bad"}, "lacks reset"),
    "has bad rules": ("RULES = {'loss_spike': {'zz': 1}}", {"rules": "foreshock_bad:RULES"}, "unknown key"),
    "has no rules": ("RULES = 7", {"rules": "foreshock_bad:RULES"}, "it names 7; allowed: the path of a TOML file"),
    "has a lost file": ("RULES = '/nowhere/rules.toml'", {"rules": "foreshock_bad:RULES"}, "No such file"),
}


@pytest.mark.parametrize(("text", "groups", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plug_in_is_reported_and_left_out(install, caplog, text, groups, said):
    builtin = dict(Detector.registry)
    usual = set(RuleSet.default())
    plugins.load.cache_clear()
    install("foreshock_bad", text, **groups)
    with caplog.at_level(logging.WARNING, "foreshock"):
        assert set(RuleSet.default()) == usual
        RuleSet.default()
    assert len(plugins.problems()) == 1
    assert said in "".join(plugins.problems().values())
    assert len([record for record in caplog.records if said in record.getMessage()]) == 1
    assert Detector.registry == builtin


def test_a_rule_that_asks_for_a_broken_plug_ins_detector_is_told_why_it_is_not_there(install):
    install("foreshock_bad", "import no_such_library", detectors="foreshock_bad")
    with pytest.raises(RuleError, match=r"'odd_number'.*; allowed: .*'foreshock_bad' of foreshock_bad 1.2: .*no_such_library"):
        RuleSet.load({"mine": {"detector": "odd_number", "signals": {"value": "loss"}}})


def test_a_detector_that_fails_while_it_runs_is_switched_off_and_the_others_go_on(install, caplog):
    install("foreshock_odd", GOOD.replace("value % 2", "1 / (value - 4)"), detectors="foreshock_odd", rules="foreshock_odd:RULES")
    engine = Engine("run", RuleSet.default())
    with caplog.at_level(logging.ERROR, "foreshock"):
        engine.feed(losses(4.0, 4.0, 5.0, float("nan")))
    assert [record.getMessage() for record in caplog.records] == [
        "rule odd_loss is off from step 0 on: its detector 'odd_number' failed"
    ]
    assert [alert.rule for alert in engine.alerts] == ["non_finite"]
