"""The inbox and the page of an alert in a real browser: two people at once, by keyboard, on a phone, and among 10,000 alerts."""

import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from foreshock.analyzer import handling
from foreshock.cli import app
from foreshock.storage import open_store
from foreshock.storage.base import Store
from foreshock.storage.records import Alert, AlertState, Cause, Evidence, Run, RunStatus, SeriesKey, Severity, derived_id
from playwright.sync_api import Browser, Locator, Page, expect
from typer.testing import CliRunner

HOSTILE = "<script>alert('x')</script>\"' <img src=x onerror=alert(1)>"
RIGHT_TO_LEFT = "\u202eتنبيه\u202c شديد"
MANY = 10_000


@dataclass
class House:
    """A store that two servers serve, each run by another user."""

    ann: str
    bob: str
    store: Store
    url: str
    run: Run

    def raised(self, rule: str, count: int = 1, severity: Severity = Severity.WARNING, **fields: Any) -> list[Alert]:
        """Raise alerts of a rule, so that a test may look at its own."""
        now = time.time()
        made = [
            Alert(
                derived_id(rule, number), self.run.id, rule, f"blocks.{number}.attn.q", 0, severity, AlertState.FIRING, 0,
                640 + number, 700 + number, now - number, now, f"Logits of {rule} {number} grow.", 820.0, 200.0,
            )
            for number in range(count)
        ]  # fmt: skip
        made = [replace(alert, **fields) for alert in made]
        self.store.save_alerts(made)
        return made

    def state(self, alert: Alert) -> AlertState:
        return self.store.alert(alert.id).state


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, simulated: ModuleType, serve_store: Any) -> Iterator[House]:
    url = f"sqlite:///{tmp_path_factory.mktemp('house') / 'runs.db'}"
    store = open_store(url)
    run = simulated.begin_run(store, "gpt2-bf16")
    simulated.write_steps(store, run.id, simulated.Simulation(failing=True), 0, 1400)
    store.update_run(run.id, status=RunStatus.FINISHED, ended_at=time.time())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOGNAME", "ann")
        with serve_store(url) as (ann, _):
            patch.setenv("LOGNAME", "bob")
            with serve_store(url) as (bob, _):
                yield House(ann, bob, store, url, run)
    store.close()


def row(tab: Page, alert: Alert) -> Locator:
    return tab.locator(".inbox-row").filter(has_text=alert.message)


def opened(tab: Page, base: str, query: str) -> None:
    """Open the inbox and wait until the server follows it: what is touched before is not heard."""
    tab.goto(f"{base}/alerts?{query}")
    expect(tab.locator("#inbox")).to_be_visible()
    tab.wait_for_function("() => document.title.includes('Alerts')")


def no_sideways_scrolling(tab: Page) -> bool:
    tab.wait_for_function("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    return True


def test_two_people_work_on_the_same_alerts_at_once(tab: Page, browser: Browser, house: House, until: Callable[..., Any]) -> None:
    first, second, third = house.raised("shared", 3, Severity.CRITICAL)
    bobs = browser.new_page()
    opened(tab, house.ann, "rule=shared")
    opened(bobs, house.bob, "rule=shared")
    expect(tab.locator("#alerts-count")).to_contain_text("undecided")
    expect(row(bobs, first).get_by_role("button", name="Acknowledge")).to_be_visible()
    row(tab, first).get_by_role("button", name="Acknowledge").click()
    expect(tab.locator("#said")).to_contain_text("1 alert acknowledged.")
    decided = house.store.alert_events(first.id)[-1].time
    seen = bobs.wait_for_function(
        "text => [...document.querySelectorAll('.inbox-row')].some(row => row.innerText.includes(text)"
        " && row.innerText.includes('acknowledged')) && Date.now() / 1000",
        arg=first.message,
    ).json_value()
    assert seen - decided < 5.0, "about half a second on an idle machine"

    row(bobs, second).get_by_role("button", name="Resolve").click()
    dialog = bobs.get_by_role("dialog")
    expect(dialog).to_contain_text("Resolve 1 alert?")
    expect(dialog).to_contain_text(second.message)
    assert CliRunner().invoke(app, ["resolve", second.id[:8], "--comment", HOSTILE, "--store", house.url]).exit_code == 0
    expect(row(tab, second)).to_have_count(0)
    dialog.get_by_role("button", name="Resolve 1 alert").click()
    expect(bobs.locator("#said")).to_contain_text("Meanwhile")
    expect(bobs.locator("#said")).to_contain_text(f"{HOSTILE}. Nothing was changed.")

    row(bobs, third).get_by_role("button", name="Silence").click()
    dialog.get_by_label("What is to be silent").select_option("layer")
    dialog.get_by_label("For how long").select_option("28800")
    dialog.get_by_label("Comment").fill(RIGHT_TO_LEFT)
    dialog.get_by_role("button", name="Silence 1 alert").click()
    expect(row(tab, third)).to_contain_text("silenced")
    silences = tab.locator("#inbox-silences")
    expect(silences).to_contain_text(f"rule shared in layer {third.module} in run gpt2-bf16 until")
    expect(silences).to_contain_text(f"by bob{RIGHT_TO_LEFT}")
    assert house.store.silences(active_at=time.time())[0].created_by == "bob"
    row(tab, third).get_by_role("button", name="Undo silence").click()
    until(lambda: house.state(third) is AlertState.FIRING)
    row(bobs, first).get_by_role("button", name="Take back").click()
    bobs.get_by_role("dialog").get_by_role("button", name="Take back 1 alert").click()
    until(lambda: house.state(first) is AlertState.FIRING)
    assert [event.data["by"] for event in house.store.alert_events(first.id)] == ["ann", "bob"]
    bobs.close()


def test_several_are_decided_together_by_keyboard_alone(tab: Page, house: House, until: Callable[..., Any]) -> None:
    alerts = house.raised("keys", 3)
    opened(tab, house.ann, "rule=keys")
    box = row(tab, alerts[0]).get_by_role("checkbox")
    box.focus()
    tab.keyboard.press("Space")
    expect(box).to_have_attribute("aria-checked", "true")
    for _ in range(5):  # its message, run and three buttons lie between
        tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    expect(row(tab, alerts[1]).get_by_role("checkbox")).to_be_focused()
    tab.keyboard.press("Space")
    bar = tab.get_by_role("region", name="Selected alerts")
    expect(bar).to_contain_text("2 selected")
    wider, height = tab.locator("[data-pick-all]").evaluate("one => [one.scrollWidth - one.clientWidth, one.offsetHeight]")
    assert (wider <= 0, height < 60) == (True, True), "its words stand beside the box, in one line"
    expect(tab.locator("[data-pick-all]")).to_have_attribute("aria-checked", "mixed")
    house.store.save_alerts([replace(alerts[1], last_step=9999)])
    expect(row(tab, alerts[1])).to_contain_text("last seen step 9,999")
    expect(bar).to_contain_text("2 selected")
    bar.get_by_role("button", name="Silence").focus()
    tab.keyboard.press("Enter")
    dialog = tab.get_by_role("dialog")
    expect(dialog.get_by_role("heading")).to_have_text("Silence 2 alerts?")
    expect(dialog).to_contain_text("2 warning")
    tab.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(bar.get_by_role("button", name="Silence")).to_be_focused()
    tab.keyboard.press("Enter")
    dialog.get_by_label("For how long").select_option("until")
    when = dialog.get_by_label("Until, in your time zone")
    for wrong in ("soon", "2026-02-31 09:00", "2020-01-01 09:00"):
        when.fill(wrong)
        when.press("Enter")
        expect(dialog.get_by_role("alert")).to_contain_text("future" if wrong.startswith("2020") else f"“{wrong}” is no time")
    when.fill("2099-12-31 23:59")
    when.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("within ten years")
    dialog.get_by_label("For how long").select_option("")
    dialog.get_by_role("button", name="Silence 2 alerts").press("Enter")
    expect(tab.locator("#said")).to_contain_text("2 alerts silenced.")
    expect(bar).to_be_hidden()
    assert [house.state(alert) for alert in alerts] == [AlertState.SILENCED, AlertState.SILENCED, AlertState.FIRING]
    expect(tab.locator(".inbox-row").filter(has_text="silenced")).to_have_count(2)  # who is quicker acts on what is no longer so
    tab.locator("[data-pick-all]").press("Enter")
    expect(bar).to_contain_text("3 selected")
    bar.get_by_role("button", name="Acknowledge").press("Enter")
    expect(dialog.get_by_role("heading")).to_have_text("Acknowledge 3 alerts?")
    dialog.get_by_label("Comment").fill("Mine.")
    dialog.get_by_label("Comment").press("Control+Enter")
    expect(tab.locator(".inbox-row").filter(has_text="acknowledged")).to_have_count(3)
    assert {house.state(alert) for alert in alerts} == {AlertState.ACKNOWLEDGED}
    assert all(house.store.alert_events(alert.id)[-1].data["comment"] == "Mine." for alert in alerts)


def test_the_page_of_an_alert(tab: Page, house: House, until: Callable[..., Any]) -> None:
    module = "blocks.1.attn.q"
    logits = Evidence(
        SeriesKey("attention.max_logit", module), tuple(range(540, 641, 10)), tuple(2.0**n for n in range(11)), 200.0, 1.0
    )
    cause = Cause("rounding_bias", HOSTILE, 0.82, (HOSTILE,), "Use float32.", "low-precision-attention")
    fields = {"module": module, "message": f"Logits {HOSTILE} grow.", "evidence": (logits,), "diagnosis": (cause,)}
    (alert,) = house.raised(HOSTILE, severity=Severity.CRITICAL, remedy="Wait.", first_step=640, **fields)
    house.raised("beside", first_step=650)
    tab.goto(f"{house.ann}/run/{house.run.id}")
    tab.locator("article.alert").filter(has_text=alert.message).get_by_role("link", name=alert.message).click()
    expect(tab).to_have_url(re.compile(f"/alert/{alert.id}"))
    expect(tab.get_by_role("heading", level=1)).to_have_text(alert.message)
    page = tab.locator("#alert-page")
    expect(page).to_contain_text("step 640")
    expect(page.locator("#alert-why")).to_contain_text("82 %")
    expect(page.locator("#alert-why")).to_contain_text("measured 820, threshold 200")
    expect(page.get_by_role("link", name="How to be sure")).to_have_attribute("href", "/cause/low-precision-attention")
    expect(page.locator("#alert-remedy")).to_contain_text("Use float32.")
    expect(page.locator("#alert-related")).to_contain_text("10 steps later")
    expect(page.locator("#alert-bundles")).to_contain_text("Nothing was captured")
    for graph in ("evidence-0", "around-loss", "around-risk"):
        tab.wait_for_selector(f"#{graph} .scatterlayer .trace", state="attached")
    assert "threshold" in tab.locator("#evidence-0").inner_text()

    for comment in (HOSTILE, RIGHT_TO_LEFT, "x" * 10_000, 'two\nlines & "more"'):
        field = tab.get_by_label("Add a comment")
        field.fill(comment)
        tab.get_by_role("button", name="Add comment").click()
        expect(page.locator("#alert-history li").filter(has_text=comment[:500]).last).to_contain_text("ann commented")
        expect(field).to_have_value("")
    said = [event.data["comment"] for event in house.store.alert_events(alert.id)]
    assert said == [HOSTILE, RIGHT_TO_LEFT, "x" * 10_000, 'two\nlines & "more"']
    tab.get_by_role("button", name="Add comment").click()
    expect(tab.locator("#said")).to_contain_text("a comment needs words")
    assert no_sideways_scrolling(tab)

    page.locator("#alert-decisions").get_by_role("button", name="Silence").click()
    dialog = tab.get_by_role("dialog")
    dialog.get_by_label("What is to be silent").select_option("project")
    dialog.get_by_role("button", name="Silence 1 alert").click()
    expect(page.locator("#alert-decisions")).to_contain_text("project demo until")
    page.locator("#alert-decisions").get_by_role("button", name="Undo silence").click()
    expect(tab.locator("#said")).to_contain_text("A wider silence covers it still")
    page.locator("#alert-decisions").get_by_role("button", name="End the silence").click()
    expect(dialog).to_contain_text("project demo")
    dialog.get_by_role("button", name="End this silence").click()
    expect(page.locator("#alert-state")).to_have_text("open")
    handling.decide(house.store, {alert.id: None}, AlertState.RESOLVED, by=HOSTILE, comment="Over.")
    expect(page.locator("#alert-head")).to_contain_text(f"Resolved by {HOSTILE} at")
    expect(page.locator("#alert-decisions")).to_contain_text("what comes later is a new alert")
    expect(page.locator("#alert-decisions button")).to_have_count(0)
    assert tab.locator("img[src=x], #page script").count() == 0
    page.locator(".alert-facts").get_by_role("link", name=module).click()
    expect(tab.locator("#module")).to_contain_text(module)
    assert parse_qs(urlsplit(tab.url).query)["module"] == [module]


def test_addresses_of_alerts_that_lead_nowhere(tab: Page, house: House) -> None:
    for path, says in (("/alert/no-such", "no such alert"), ("/alert/", "no such alert"), ("/alerts/more", "no such page")):
        tab.goto(house.ann + path)
        expect(tab.get_by_role("heading", level=1)).to_contain_text(says)


def test_an_alert_is_acknowledged_with_one_thumb(browser: Browser, house: House, until: Callable[..., Any]) -> None:
    loud, quiet = house.raised("thumb", 2, message=f"Loss {'x' * 10_000} {RIGHT_TO_LEFT}")
    phone = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    tab = phone.new_page()
    opened(tab, house.ann, "rule=thumb")
    assert no_sideways_scrolling(tab)
    small = "all => all.filter(one => one.offsetParent && one.getBoundingClientRect().height < 43).map(one => one.outerHTML)"
    assert tab.locator(".inbox-actions button, #inbox-bar button").evaluate_all(small) == []
    tab.locator(f'button[data-alert="{loud.id}"]').first.tap()
    until(lambda: house.state(loud) is AlertState.ACKNOWLEDGED)
    tab.get_by_role("checkbox", name=re.compile("^Select: ")).last.tap()
    expect(tab.locator("#inbox-bar")).to_be_in_viewport()
    tab.goto(f"{house.ann}/alert/{quiet.id}")
    expect(tab.get_by_role("heading", level=1)).to_contain_text("Loss x")
    assert no_sideways_scrolling(tab)
    expect(tab.locator("#alert-decisions").get_by_role("button", name="Acknowledge")).to_be_visible()
    phone.close()


def test_ten_thousand_alerts_do_not_lag(tab: Page, tmp_path: Path, simulated: ModuleType, serve_store: Any) -> None:
    url = f"sqlite:///{tmp_path / 'many.db'}"
    store = open_store(url)
    for name in ("first", "second"):
        run = simulated.begin_run(store, name)
        store.save_alerts([replace(alert, evidence=alert.evidence * 20) for alert in simulated.failing_alerts(run.id)])
        store.update_run(run.id, status=RunStatus.FINISHED)
    with closing(sqlite3.connect(tmp_path / "many.db")) as raw, raw:
        columns = [row[1] for row in raw.execute("PRAGMA table_info(alerts)")]
        changed = {
            "id": "lower(hex(randomblob(16)))",
            "digest": "lower(hex(randomblob(16)))",
            "episode": "n",
            "rule": "'rule_' || (n % 7)",
        }
        copied = ", ".join(changed.get(column, f'"{column}"') for column in columns)
        raw.execute(
            f"WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < {MANY // 6}) "
            f"INSERT INTO alerts SELECT {copied} FROM alerts, counted"
        )
    with serve_store(url) as (base, _):
        opened(tab, base, "state=all")
        expect(tab.locator("#inbox-counts")).to_contain_text(re.compile(r"(9,99|10,00)\d match"))
        expect(tab.locator(".inbox-row")).to_have_count(50)

        def shows(act: Callable[[], object], what: str) -> None:
            act()
            expect(tab.locator("#inbox-pager, #inbox-list").filter(has_text=what).first).to_be_visible()

        shows(lambda: tab.get_by_role("button", name="Next").click(), "51–100 of")
        shows(lambda: tab.get_by_role("button", name="Critical").click(), "1–50 of 3,")
        assert parse_qs(urlsplit(tab.url).query) == {"state": ["all"], "severity": ["critical"]}
        tab.get_by_text("Run, project, rule, cause").click()
        shows(lambda: tab.get_by_label("Rule").select_option("rule_3"), "1–50 of 476")
        shows(lambda: tab.get_by_label("Search alerts").fill("SECOND"), "1–50 of 238")
        shows(lambda: tab.get_by_role("button", name="Group by run").click(), "second")
        expect(tab.locator(".inbox-group")).to_have_count(1)
        shows(lambda: tab.get_by_label("Search alerts").fill("\u202e<b>%_"), "No alert matches")
        tab.reload()
        expect(tab.get_by_label("Search alerts")).to_have_value("\u202e<b>%_")
        expect(tab.get_by_label("Rule")).to_have_value("rule_3")
        expect(tab.locator("#inbox-list")).to_contain_text("No alert matches")
        tab.goto("about:blank")  # a page outliving its server would complain, and rightly
    store.close()


def test_an_empty_inbox_wakes_up_by_itself(tab: Page, tmp_path: Path, simulated: ModuleType, serve_store: Any) -> None:
    url = f"sqlite:///{tmp_path / 'empty.db'}"
    store = open_store(url)
    with serve_store(url) as (base, _):
        tab.goto(f"{base}/alerts")
        expect(tab.locator("#inbox-empty")).to_contain_text("No alerts yet")
        run = simulated.begin_run(store, "first")
        store.save_alerts(simulated.failing_alerts(run.id))
        expect(tab.locator(".inbox-row")).to_have_count(2)
        expect(tab.locator("#alerts-count")).to_contain_text("2 open alerts")
        expect(tab).to_have_title(re.compile("1 critical · Alerts"))
        tab.goto("about:blank")
    store.close()
