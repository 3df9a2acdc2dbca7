"""The rules' pages in a real browser: see, change, a bad value refused, preview, save, conflict, history, reset; hostile names."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
from foreshock.analyzer.engine import Engine
from foreshock.dashboard.who import person
from foreshock.storage import open_store
from foreshock.storage.base import Store
from foreshock.storage.records import RuleVersion, Run, RunStatus, new_id
from playwright.sync_api import Locator, Page, expect

HOSTILE = "<img src=x onerror=alert('rule')>\"'/?&"
REPLAYED = re.compile(r"Replayed all 1,550 steps")


@dataclass
class Site:
    base: str
    store: Store
    failing: Run
    healthy: Run
    empty: Run


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, simulated: ModuleType, serve_store: Any) -> Iterator[Site]:
    url = f"sqlite:///{tmp_path_factory.mktemp('rules') / 'runs.db'}"
    store = open_store(url)
    failing, healthy = simulated.write_failing_run(store), simulated.write_healthy_run(store)
    for run in (failing, healthy):
        engine = Engine.replay(run.id, store.batches(run.id))
        engine.finish(time.time())
        store.save_alerts(engine.alerts)
    empty = Run(new_id(), "no steps yet", project="demo", status=RunStatus.FINISHED, created_at=1.0)
    store.create_run(empty)
    with serve_store(url) as (base, _):
        yield Site(base, store, failing, healthy, empty)
    store.close()


def entry(tab: Page, title: str) -> Locator:
    return tab.locator(".rule-entry").filter(has=tab.get_by_role("link", name=title, exact=True))


def field(tab: Page, label: str) -> Locator:
    return tab.locator(".rule-row").filter(has=tab.locator(".rule-label", has_text=re.compile(f"^{label}$"))).locator("input")


def choose(tab: Page, label: str, choice: str) -> None:
    group = tab.get_by_role("radiogroup", name=label, exact=True)
    group.locator("label").filter(has_text=re.compile(f"^{choice}$")).click()
    expect(group.get_by_role("radio", name=choice, exact=True)).to_be_checked()


def scope(tab: Page, words: str) -> None:
    tab.get_by_role("radiogroup", name="Change it for").locator("label").filter(has_text=words).click()


def no_sideways_scrolling(tab: Page) -> bool:
    tab.wait_for_function("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    return True


def test_the_whole_walk(tab: Page, site: Site) -> None:
    tab.goto(f"{site.base}/rules?run={site.failing.id}")
    expect(tab.locator("#rules-replay-said")).to_have_text(REPLAYED)
    expect(tab.locator("#rules-count")).to_have_text("45 rules")
    creep = entry(tab, "Gradient norm has risen for good")
    expect(creep).to_contain_text("Fired 1 time in this run. It would have fired once, at step 1,058.")
    expect(entry(tab, "Units die")).to_contain_text("Has not fired in this run. It would not have fired.")
    expect(tab.get_by_role("heading", name="Attention", exact=True)).to_be_visible()
    tab.get_by_label("Search").fill("risen FIRED")
    expect(tab.locator("#rules-count")).to_have_text("1 of 45 rules")
    expect(tab.locator(".rule-entry:visible")).to_have_count(1)
    tab.get_by_label("Search").fill("nothing has these words")
    expect(tab.locator("#rules-none")).to_be_visible()
    tab.get_by_label("Search").fill("")
    creep.get_by_role("link").click()

    expect(tab.get_by_role("heading", level=1)).to_have_text("Gradient norm has risen for good")
    expect(tab.locator(".rule-about")).to_contain_text("Watches gradient norm for a shift of its usual level that lasts.")
    expect(tab.locator("#rule-alerts")).to_contain_text("step 1,058")
    row = tab.locator(".rule-row").filter(has_text="a larger sum is flagged")
    expect(row).to_contain_text("log units, summed")
    expect(row).to_contain_text("at least 0.01")
    expect(row).to_contain_text("default 20")

    tab.get_by_role("button", name="Save").click()
    expect(tab.locator("#rule-note")).to_have_text("Nothing is edited: change a value first.")
    field(tab, "Threshold").fill("-3")
    field(tab, "Persistence").fill("soon")
    tab.get_by_role("button", name="Save").click()
    problems = tab.locator("#rule-problems")
    expect(problems).to_contain_text("Threshold: got -3; allowed: a number of log units, summed of at least 0.01")
    expect(problems).to_contain_text("Persistence: got 'soon'; allowed: a whole number of samples of at least 1")
    expect(row.locator(".rule-problem")).to_contain_text("got -3")
    field(tab, "Persistence").fill("10")
    field(tab, "Threshold").fill("1")
    field(tab, "Rebaseline").fill("5")
    tab.get_by_role("button", name="Preview").click()
    expect(tab.locator("#rule-preview")).to_contain_text("must be at least persistence (10)")
    assert site.store.rule_history() == []

    field(tab, "Rebaseline").fill("200")
    field(tab, "Threshold").fill("8")
    tab.locator("#rule-others").click()
    tab.get_by_role("option", name=re.compile("gpt2-fp32")).click()
    tab.keyboard.press("Escape")
    tab.get_by_role("button", name="Preview").click()
    trial = tab.get_by_role("region", name="Preview on gpt2-bf16")
    expect(trial).to_contain_text("1 alert as the rule is, 1 as the form has it: 1 earlier.")
    expect(trial).to_contain_text("The run diverged at step 1,037.")
    expect(trial).to_contain_text("First alert of this rule: 21 steps after it as it is, 23 steps before it as the form has it.")
    expect(trial.locator("tbody tr")).to_contain_text(["earlier by 44"])
    expect(trial.locator(".js-plotly-plot .scatterlayer .points").first).to_be_attached()
    expect(tab.get_by_role("region", name="Preview on gpt2-fp32")).to_contain_text("The run did not fail")
    expect(tab.locator("#rule-preview-said")).to_contain_text("steps of 2 runs")
    expect(tab.locator("#rule-preview-stop")).to_be_hidden()
    assert site.store.rule_history() == []

    other = tab.context.new_page()
    other.goto(f"{site.base}/rules?run={site.failing.id}")
    late = tab.context.new_page()
    late.goto(f"{site.base}/rules/gradient_creep?run={site.failing.id}")
    expect(entry(other, "Gradient norm has risen for good")).not_to_contain_text("changed")
    expect(late.locator("#rule-history")).to_contain_text("Nobody has changed this rule")
    scope(tab, "the project demo")
    tab.get_by_label("Comment").fill("sooner <b>please</b>")
    tab.get_by_role("button", name="Save").click()
    expect(tab.locator("#rule-note")).to_have_text("Saved as version 1 for the project demo.")
    me = person() or "somebody"
    expect(row.locator(".rule-origin")).to_contain_text(re.compile(f"^8{re.escape(me)}, .*, for the project demo$"))
    expect(tab.locator("#rule-history")).to_contain_text("sooner <b>please</b>")
    changed = entry(other, "Gradient norm has risen for good")
    expect(changed).to_contain_text(re.compile(r"threshold 8 \(default 20\) – .*for the project demo"))
    (version,) = site.store.rule_history()
    assert (version.changes, version.project, version.created_by) == ({"parameters": {"threshold": 8}}, "demo", person())

    expect(late.locator("#rule-news")).to_contain_text("has changed this rule since you opened it")
    field(late, "Threshold").fill("30")
    scope(late, "the project demo")
    late.get_by_role("button", name="Save").click()
    expect(late.locator("#rule-problems")).to_contain_text(
        re.compile(r"changed rule 'gradient_creep' at .*sooner.*version 1.*Nothing was saved")
    )
    late.get_by_role("link", name="Load what is in force now").click()
    expect(field(late, "Threshold")).to_have_value("8")
    field(late, "Threshold").fill("30")
    choose(late, "Severity", "critical")
    choose(late, "This rule is", "off")
    scope(late, "all runs of this store")
    late.get_by_role("button", name="Save").click()
    expect(late.locator("#rule-note")).to_contain_text("Saved as version 1 for all runs. But parameters.threshold stays 8")
    expect(entry(other, "Gradient norm has risen for good")).to_contain_text("off")

    expect(tab.locator("#rule-history")).to_contain_text("Version 1 for all runs")
    tab.get_by_role("button", name="Take back what was changed for the project demo").click()
    expect(tab.locator("#rule-note")).to_contain_text("Saved as version 2 for the project demo.")
    expect(field(tab, "Threshold")).to_have_value("30")
    tab.get_by_role("button", name="Go back to version 1 for the project demo").click()
    expect(tab.locator("#rule-note")).to_contain_text("Saved as version 3 for the project demo.")
    expect(field(tab, "Threshold")).to_have_value("8")
    tab.get_by_role("button", name="Take back what was changed for all runs").click()
    expect(tab.locator("#rule-note")).to_contain_text("Saved as version 2 for all runs.")
    expect(entry(other, "Gradient norm has risen for good")).to_contain_text("on")
    assert [dict(each.changes) for each in site.store.rule_history("gradient_creep", project="demo", run_id="")] == [
        {"parameters": {"threshold": 8}},
        {},
        {"parameters": {"threshold": 8}},
    ]
    for page in (tab, other, late):
        assert no_sideways_scrolling(page)


def test_hostile_names_and_comments_are_shown_as_text_and_bad_rows_are_told(
    tab: Page, site: Site, until: Callable[..., Any]
) -> None:
    changes = {"detector": "level", "signals": {"value": "loss"}, "title": HOSTILE, "why": HOSTILE, "parameters": {"level": 99.0}}
    seen = len(site.store.rule_history(HOSTILE))
    site.store.save_rule(
        RuleVersion(new_id(), HOSTILE, changes, created_at=time.time(), created_by=HOSTILE, comment=HOSTILE), seen=seen
    )
    site.store.save_rule(RuleVersion(new_id(), "loss_spike", {"parameters": {HOSTILE: 1}}, created_by=HOSTILE), seen=0)
    tab.goto(f"{site.base}/rules?run={site.failing.id}")
    mine = entry(tab, HOSTILE)
    expect(mine).to_contain_text("It would not have fired.")
    said = f"Version 1 of loss_spike is left out: [rules.loss_spike] parameters.{HOSTILE}"
    expect(tab.locator("#rules-troubles")).to_contain_text(said)
    mine.get_by_role("link").click()
    expect(tab.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    expect(tab.locator("#rule-history")).to_contain_text(f"title = {HOSTILE}")
    field(tab, "Level").fill("0.5")
    tab.get_by_role("button", name="Preview").click()
    expect(tab.locator(".rule-trial")).to_contain_text("new")
    tab.get_by_label("Comment").fill(HOSTILE)
    tab.get_by_role("button", name="Save").click()
    expect(tab.locator("#rule-note")).to_contain_text("Saved as version 1 for this run")
    expect(tab.locator("#rule-history")).to_contain_text("parameters.level = 0.5")  # the buttons move down as it comes
    reset = tab.get_by_role("button", name=re.compile("Take back what was changed for all runs"))

    def refused() -> bool:
        reset.click()  # again where the list was drawn anew under the pointer
        return "could not be used any more" in (tab.locator("#rule-problems").text_content() or "")

    until(refused, pause=1.0)
    assert tab.locator("img[src=x], #page script").count() == 0


def test_without_a_run_and_on_a_phone_and_with_nothing_to_replay(tab: Page, site: Site) -> None:
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.goto(f"{site.base}/rules")
    expect(tab.locator("#rules-count")).to_contain_text("rules")
    assert no_sideways_scrolling(tab)
    expect(tab.locator("#rules-replay")).to_be_hidden()
    tab.goto(f"{site.base}/rules/loss_creep")
    tab.get_by_role("button", name="Preview").click()
    expect(tab.locator("#rule-preview-said")).to_have_text("Choose a run to try it on.")
    tab.goto(f"{site.base}/rules?run={site.empty.id}")
    expect(tab.locator("#rules-replay-said")).to_have_text("This run has no steps yet.")
    tab.goto(f"{site.base}/rules/loss_degradation?run={site.healthy.id}")
    expect(tab.locator("#rule-alerts")).to_contain_text("It has not fired in this run.")
    tab.get_by_role("button", name="Preview").click()
    expect(tab.locator("#rule-preview-said")).to_contain_text("Nothing is edited in the form, so both are the same.")
    expect(tab.locator(".rule-trial")).to_contain_text("No alert, neither by the rule as it is nor as the form has it.")
    assert no_sideways_scrolling(tab)
    tab.goto(f"{site.base}/rules/no-such-rule")
    expect(tab.get_by_role("heading", level=1)).to_have_text("There is no such rule")
    tab.goto(f"{site.base}/rules?run=nobody")
    expect(tab.get_by_role("heading", level=1)).to_have_text("There is no such run")
