"""The list of runs in a real browser, with some thousand runs in it."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from foreshock.storage import open_store
from foreshock.storage.base import Store
from foreshock.storage.records import AlertState, Run, RunStatus, new_id
from playwright.sync_api import Locator, Page, expect

RUNS = 2000
PROJECTS = ("alpha", "beta/two", "<b>gamma</b>", "")
HOSTILE = ["<script>alert(1)</script>", "a'b\"c", "100%_done", "مرحبا بالعالم", "y" * 10_000]


@dataclass
class Site:
    """A served store of many runs, one of them live."""

    base: str
    store: Store
    live: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, simulated: ModuleType, serve_store: Any) -> Iterator[Site]:
    url = f"sqlite:///{tmp_path_factory.mktemp('many') / 'runs.db'}"
    store = open_store(url)
    began = time.time() - 86400.0
    for number in range(RUNS):
        at, status = began + number, RunStatus.CRASHED if number % 10 == 3 else RunStatus.FINISHED
        name = HOSTILE[number] if number < len(HOSTILE) else f"run-{number:04}"
        tags = ("sweep",) if number % 4 == 0 else ()
        meta = {"host": f"gpu-{number % 7}", "lr": 0.001 if number % 2 else 0.01}
        store.create_run(Run(new_id(), name, PROJECTS[number % 4], status, at, at + 60, at + 60, tags=tags, meta=meta))
    live = simulated.begin_run(store, "alive", project="alpha")
    simulated.write_steps(store, live.id, simulated.Simulation(failing=True), 0, 60)
    with serve_store(url) as (base, _):
        yield Site(base, store, live.id)
    store.close()


def rows(tab: Page) -> Locator:
    return tab.locator("table.runs tbody tr:not(.group)")


def asked(tab: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(tab.url).query)


def test_a_search_narrows_thousands_of_runs(tab: Page, site: Site) -> None:
    tab.goto(site.base)
    expect(rows(tab)).to_have_count(50)
    expect(tab.locator("#runs-count")).to_have_text("2,001 runs")
    tab.evaluate("window.loadedOnce = true")
    box = tab.locator("#run-search")
    box.focus()
    tab.keyboard.type("lr=0.01 gpu-3 17")
    expect(tab.locator("#runs-count")).to_contain_text(re.compile(r"^\d+ of 2,001 runs"))
    expect(box).to_be_focused()
    tab.wait_for_function("() => new URLSearchParams(location.search).get('q') === 'lr=0.01 gpu-3 17'")
    names = [name for name in rows(tab).locator(".run-link").all_inner_texts() if name not in HOSTILE]
    assert names
    assert all(int(name[4:]) % 2 == 0 and int(name[4:]) % 7 == 3 for name in names)
    tab.locator("#clear-filters").click()
    expect(tab.locator("#runs-count")).to_have_text("2,001 runs")
    expect(box).to_have_value("")
    tab.go_back()
    expect(box).to_have_value("lr=0.01 gpu-3 17")
    expect(tab.locator("#runs-count")).to_contain_text("of 2,001")
    box.fill("no such run anywhere")
    expect(tab.locator("#no-match")).to_contain_text("No run matches")
    tab.locator("#no-match").get_by_role("link", name="Clear all filters").click()
    expect(rows(tab)).to_have_count(50)
    last = tab.locator("#page-last")
    last.click()
    expect(tab.locator(".pager")).to_contain_text("2,001–2,001 of 2,001 runs")
    expect(rows(tab)).to_have_count(1)
    tab.locator("#page-previous").click()
    expect(tab.locator("#page-previous")).to_be_focused()
    tab.locator("#sort-name").press("Enter")
    expect(tab.locator("th[aria-sort=ascending]")).to_have_text(re.compile("Run"))
    expect(tab.locator("#sort-name")).to_be_focused()
    expect(rows(tab).first).to_contain_text("100%_done")
    assert asked(tab) == {"sort": ["name"], "order": ["asc"]}
    assert tab.evaluate("window.loadedOnce"), "all without loading the page again"
    tab.get_by_role("link", name="Runs", exact=True).click()
    expect(rows(tab).first).to_contain_text("alive")
    tab.reload()
    expect(rows(tab).first).to_contain_text("alive")


def test_hostile_searches_and_names_are_text(tab: Page, site: Site) -> None:
    tab.goto(site.base)
    box = tab.locator("#run-search")
    for name in HOSTILE:
        box.fill(name[:200])
        expect(rows(tab)).to_have_count(1)
        expect(rows(tab).locator(".run-link")).to_have_text(name)
    expect(rows(tab).locator(".run-link")).to_have_css("text-overflow", "ellipsis")
    tab.wait_for_function("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    for odd in ("<img src=x onerror=alert(1)>", "'; DROP TABLE runs; --", "\\", "%' OR 1=1", "\u202egnitset"):
        box.fill(odd)
        expect(tab.locator("#no-match")).to_contain_text(odd)
    tab.goto(f"{site.base}/?q=a%00b&state=%3Cscript%3E&page=99999999999999999999")
    expect(tab.locator("#no-match")).to_contain_text("<script>")
    tab.goto(f"{site.base}/?q={'z' * 10_000}")
    expect(tab.locator("#runs-count")).to_contain_text("only the first 200 letters")
    tab.goto(f"{site.base}/?project=%3Cb%3Egamma%3C%2Fb%3E&group=open")
    expect(tab.locator("tr.group")).to_contain_text("<b>gamma</b>")
    tab.goto("about:blank")


def test_filters_groups_and_the_address(tab: Page, site: Site) -> None:
    tab.goto(site.base)
    tab.locator("#filter-state").click()
    tab.get_by_text(re.compile(r"^crashed \(200\)")).first.click()
    expect(tab.locator("#runs-count")).to_contain_text("200 of 2,001 runs")
    tab.keyboard.press("Escape")
    tab.locator("#group-runs input").check()
    heads = tab.locator("tr.group")
    expect(heads.first).to_contain_text("100 crashed")
    assert asked(tab) == {"state": ["crashed"], "group": ["open"]}
    first = heads.first.get_by_role("link")
    name = first.inner_text()[1:]
    first.press("Enter")
    expect(first).to_have_attribute("aria-expanded", "false")
    expect(first).to_be_focused()
    expect(heads).to_have_count(2)
    expect(first).to_contain_text(name)
    tab.reload()
    expect(heads).to_have_count(2)
    expect(heads.first.get_by_role("link")).to_have_attribute("aria-expanded", "false")
    tab.locator("#group-runs input").uncheck()
    expect(heads).to_have_count(0)
    tab.goto(f"{site.base}/?group=closed")
    expect(heads).to_have_count(4)
    expect(rows(tab)).to_have_count(0)


def test_a_row_changes_and_goes_while_the_list_is_narrowed(
    tab: Page, site: Site, simulated: ModuleType, until: Callable[..., Any]
) -> None:
    site.store.update_run(site.live, heartbeat_at=time.time())
    tab.goto(f"{site.base}/?q=alive&state=live&state=stale&state=lost")
    row = rows(tab)
    expect(row).to_have_count(1)
    pick = row.get_by_role("checkbox")
    pick.focus()
    simulated.write_steps(site.store, site.live, simulated.Simulation(failing=True), 60, 120)
    site.store.update_run(site.live, heartbeat_at=time.time())
    expect(row.locator(".col-step")).to_have_text("119")
    expect(row.locator(".life-live")).to_be_visible()
    alerts = simulated.failing_alerts(site.live)[:2]
    site.store.save_alerts(alerts)
    expect(row.locator(".badge.severity-critical")).to_have_attribute("aria-label", "1 critical")
    site.store.set_alert_state(alerts[1].id, AlertState.RESOLVED, at=time.time())
    expect(row.locator(".badge.severity-critical")).to_have_count(0)
    expect(pick).to_be_focused()
    other = simulated.begin_run(site.store, "alive too")
    expect(row).to_have_count(2)
    expect(tab.locator("#runs-count")).to_contain_text("2 of 2,002 runs")
    site.store.update_run(other.id, status=RunStatus.FINISHED, ended_at=time.time())
    expect(row).to_have_count(1)
    site.store.delete_run(other.id)
    expect(tab.locator("#runs-count")).to_contain_text("1 of 2,001 runs")


def test_runs_are_selected_over_pages_by_keyboard(tab: Page, site: Site) -> None:
    tab.goto(f"{site.base}/?sort=name&order=desc")
    bar = tab.locator("#selection")
    expect(rows(tab)).to_have_count(50)
    expect(bar).to_be_hidden()
    boxes = rows(tab).get_by_role("checkbox")
    boxes.nth(2).press("Space")
    expect(boxes.nth(2)).to_have_attribute("aria-checked", "true")
    expect(bar).to_contain_text("Select another")
    tab.locator("#page-next").click()
    expect(tab.locator(".pager")).to_contain_text("51–100")
    boxes.nth(0).click()
    boxes.nth(1).click()
    boxes.nth(1).click()
    expect(bar).to_contain_text("2 runs selected")
    tab.locator("#page-previous").click()
    expect(boxes.nth(2)).to_have_attribute("aria-checked", "true")
    expect(boxes.nth(0)).to_have_attribute("aria-checked", "false")
    tab.reload()
    expect(boxes.nth(2)).to_have_attribute("aria-checked", "true")
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.wait_for_function("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    bar.get_by_role("link", name="Compare (2)").click()
    expect(tab.get_by_role("heading", level=1)).to_have_text("Compare 2 runs")
    tab.go_back()
    expect(bar).to_contain_text("2 runs selected")
    bar.get_by_role("button", name="Clear selection").click()
    expect(bar).to_be_hidden()
