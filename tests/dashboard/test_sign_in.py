"""Signing in and out in a real browser: by keyboard, for readers, until the session is over, and behind a reverse proxy."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from foreshock.dashboard.access.secrets import digest, new_token
from foreshock.storage import open_store
from foreshock.storage.base import Store
from foreshock.storage.records import AlertState, Token
from playwright.sync_api import Browser, BrowserContext, Page, expect

HOSTILE = "<script>alert(1)</script>\"' \u202eevil " + "x" * 300
POSTGRES = "postgresql+psycopg://postgres@127.0.0.1:5432/test"


def make_token(store: Store, name: str, *, write: bool) -> str:
    token = new_token()
    store.add_token(Token(digest(token), name, write, time.time(), "test"))
    return token


def a_tab(browser: Browser, **options: Any) -> tuple[BrowserContext, Page]:
    """A tab of a browser of its own: with its own cookies."""
    context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, "color_scheme": "light"} | options)
    page = context.new_page()
    page.set_default_timeout(40_000)
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
    return context, page


def sign_in(page: Page, token: str) -> None:
    """Do it by keyboard alone: the field has the focus."""
    expect(page.get_by_label("Access token")).to_be_focused()
    page.keyboard.insert_text(token)
    page.keyboard.press("Enter")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, simulated: ModuleType) -> Iterator[tuple[Store, str]]:
    url = f"sqlite:///{tmp_path_factory.mktemp('sign-in') / 'runs.db'}"
    store = open_store(url)
    simulated.write_failing_run(store)
    yield store, url
    store.close()


def test_from_the_form_to_the_page_that_was_asked_for_and_out_again(
    browser: Browser, filled: tuple[Store, str], serve_store: Any, until: Callable[..., Any]
) -> None:
    store, url = filled
    writer, reader = make_token(store, "ada", write=True), make_token(store, HOSTILE[:100], write=False)
    with serve_store(url, auth=True) as (base, _):
        context, page = a_tab(browser)
        page.goto(base + "/run/gpt2-bf16?signal=attention.max_logit")
        sign_in(page, "wrong")
        expect(page.get_by_role("alert")).to_contain_text("not known here")
        assert page.evaluate("document.activeElement.id") == "token"
        sign_in(page, reader)
        expect(page.locator("#verdict")).to_contain_text("Critical")
        assert "/run/gpt2-bf16?" in page.url
        assert "signal=attention.max_logit" in page.url
        expect(page.locator("#account")).to_contain_text(HOSTILE[:100])
        expect(page.locator("#account")).to_contain_text("may only read")
        buttons = page.locator("article.alert").first.get_by_role("button")
        expect(buttons.first).to_be_disabled()
        expect(buttons.first).to_have_attribute("title", re.compile("which may only read: sign in with a token made with --write"))
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Access token")).to_be_visible()
        page.go_back()
        expect(page.get_by_label("Access token")).to_be_visible()
        page.goto(base + "/run/gpt2-bf16")
        sign_in(page, writer)
        expect(page.locator("#account")).to_contain_text("may decide")
        page.locator("article.alert").first.get_by_role("button", name="Acknowledge").click()
        until(lambda: any(event.data["by"] == "ada" for event in store.events(store.run("gpt2-bf16").id, kind="alert_state")))
        expect(page.locator("article.alert").first).to_contain_text("acknowledged")
        # Revoked elsewhere: the page notices by itself, and comes back to where it was after signing in again.
        assert store.remove_token("ada")
        expect(page.get_by_label("Access token")).to_be_visible(timeout=30_000)
        sign_in(page, make_token(store, "grace", write=True))
        expect(page.locator("#verdict")).to_contain_text("Critical")
        expect(page.locator("#account")).to_contain_text("grace")
        context.close()


def test_a_session_that_is_over_pushes_nothing_more(
    browser: Browser, filled: tuple[Store, str], serve_store: Any, simulated: ModuleType, until: Callable[..., Any]
) -> None:
    store, url = filled
    token, watcher = make_token(store, "brief", write=True), make_token(store, "prometheus", write=False)
    live = simulated.begin_run(store, "brief-run")
    simulated.write_steps(store, live.id, simulated.Simulation(failing=True, seed=2), 0, 200)

    def tabs(base: str) -> float:
        request = urllib.request.Request(base + "/metrics", headers={"authorization": f"Bearer {watcher}"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            found = re.search(r"^foreshock_dashboard_tabs (\S+)$", answer.read().decode(), re.MULTILINE)
        assert found is not None
        return float(found[1])

    with serve_store(url, auth=True) as (base, _):
        context, page = a_tab(browser)
        page.add_init_script("setInterval = () => 0;")  # this page does not look whether it is signed in
        page.goto(base + f"/run/{live.id}")
        sign_in(page, token)
        expect(page.locator("#verdict")).to_contain_text("199")
        until(lambda: tabs(base) == 1.0)
        (cookie,) = (cookie for cookie in context.cookies() if cookie["name"] == "foreshock_session")
        store.end_session(digest(str(cookie["value"])))
        until(lambda: tabs(base) == 0.0)
        simulated.write_steps(store, live.id, simulated.Simulation(failing=True, seed=2), 200, 300)
        page.wait_for_timeout(1500)  # twice what a push takes
        expect(page.locator("#verdict")).to_contain_text("199")
        page.reload()
        expect(page.get_by_label("Access token")).to_be_visible()
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_form_is_sound_without_scripts_and_on_a_phone(
    browser: Browser, filled: tuple[Store, str], serve_store: Any, scheme: str
) -> None:
    store, url = filled
    token = make_token(store, f"plain-{scheme}", write=False)
    with serve_store(url, auth=True) as (base, _):
        context, page = a_tab(browser, viewport={"width": 390, "height": 800}, color_scheme=scheme, java_script_enabled=False)
        page.goto(base + "/api")
        sign_in(page, token)
        expect(page.get_by_role("heading", level=1)).to_have_text("HTTP API")
        page.get_by_text("/api/v1/runs/{run}/samples").click()
        expect(page.get_by_text("Every point, some steps at a time")).to_be_visible()
        context.close()
        context, page = a_tab(browser, viewport={"width": 390, "height": 800}, color_scheme=scheme)
        page.goto(base + "/login")
        page.wait_for_function("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        page.fill("#token", token)
        page.keyboard.press("Enter")
        page.wait_for_selector("table.runs")
        page.wait_for_function("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        page.goto(base + "/api")
        page.wait_for_function("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        context.close()


# -- two processes on PostgreSQL behind nginx -----------------------------------------------------------------------------

NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream dashboards {{ server 127.0.0.1:{one}; server 127.0.0.1:{two}; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ return 404 "not below the prefix"; }}
    location /watch/foreshock/ {{
      proxy_pass http://dashboards{onward};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_set_header Host dashboards;
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_read_timeout 1h;
    }}
  }}
}}
"""


def missing(what: str) -> None:
    """Skip, except in CI, where what is missing is a failure."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


@pytest.fixture
def postgres() -> Iterator[str]:
    psycopg = pytest.importorskip("psycopg")
    url = os.environ.get("FORESHOCK_TEST_POSTGRES", POSTGRES)
    schema = f"foreshock_test_{uuid.uuid4().hex[:8]}"
    plain = url.replace("postgresql+psycopg://", "postgresql://")
    try:
        with psycopg.connect(plain, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {schema}")
    except psycopg.OperationalError as error:
        missing(f"no server at {url}: {error}")
    yield f"{url}?options=-csearch_path%3D{schema}"
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA {schema} CASCADE")


@contextlib.contextmanager
def nginx(folder: Path, one: str, two: str, *, keep_prefix: bool) -> Iterator[str]:
    """A reverse proxy before two dashboards, turn by turn; it passes the prefix on, or takes it away."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        missing("no nginx on this machine")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    folder.mkdir()
    (folder / "nginx.conf").write_text(
        NGINX.format(
            folder=folder, port=port, one=one.rsplit(":", 1)[1].split("/")[0], two=two.rsplit(":", 1)[1].split("/")[0],
            onward="" if keep_prefix else "/",
        )
    )  # fmt: skip
    process = subprocess.Popen(
        [str(program), "-p", str(folder), "-c", str(folder / "nginx.conf")], stderr=subprocess.PIPE, text=True
    )
    base = f"http://127.0.0.1:{port}/watch/foreshock"
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(base + "/healthz", timeout=5):
                break
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield base
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.mark.timeout(400)  # two servers and two readers, in a browser, on a machine that may be busy
def test_two_processes_behind_a_proxy_with_a_prefix(
    browser: Browser,
    postgres: str,
    serve_store: Any,
    simulated: ModuleType,
    tmp_path: Path,
    until: Callable[..., Any],
) -> None:
    store = open_store(postgres)
    run = simulated.begin_run(store, HOSTILE)
    simulated.write_steps(store, run.id, simulated.Simulation(failing=True, seed=2), 0, 400)
    store.save_alerts(simulated.failing_alerts(run.id))
    token = make_token(store, "ada", write=True)
    options = {"auth": True, "prefix": "/watch/foreshock", "trusted_proxies": ["127.0.0.1"]}
    with (
        contextlib.closing(store),
        serve_store(postgres, **options) as (one, _),
        serve_store(postgres, **options) as (two, _),
        nginx(tmp_path / "nginx", one, two, keep_prefix=False) as base,
        nginx(tmp_path / "keeps", one, two, keep_prefix=True) as keeps,
    ):
        context, page = a_tab(browser)
        complaints: list[str] = []
        page.on("response", lambda answer: complaints.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(base + "/")
        sign_in(page, token)
        page.get_by_role("link", name=re.compile("^<script>")).click()
        expect(page.locator("#verdict")).to_contain_text("since step 640")
        assert page.url.startswith(base + "/run/")
        assert page.locator(".places a[aria-current=page]").inner_text() == "Runs"
        hrefs = page.evaluate("[...document.querySelectorAll('a[href]')].map((link) => link.getAttribute('href'))")
        assert all(href.startswith(("#", "/watch/foreshock/")) for href in hrefs), hrefs
        page.wait_for_function("() => location.search.includes('module=')")
        # The other reader sits before the second process; what is decided through the proxy shows there at once.
        _, other = a_tab(browser)
        other.goto(two.replace("/watch/foreshock", "") + f"/watch/foreshock/run/{run.id}")
        sign_in(other, token)
        card = other.locator("article.alert").first
        expect(card).to_contain_text("open")
        page.locator("article.alert").first.get_by_role("button", name="Resolve").click()
        page.get_by_role("dialog").get_by_role("button", name="Resolve 1 alert").click()
        until(lambda: sum(alert.state is AlertState.RESOLVED for alert in store.alerts(run)) == 2)
        expect(other.locator("article.alert.closed")).to_have_count(2)
        simulated.write_steps(store, run.id, simulated.Simulation(failing=True, seed=2), 400, 450)
        for each in (page, other):
            expect(each.locator("#verdict")).to_contain_text("449")
        page.get_by_role("link", name="All runs").first.click()
        page.wait_for_selector("table.runs")
        assert page.url == base + "/"
        page.goto(base + "/api")
        page.get_by_role("link", name="openapi.json").click()
        expect(page.locator("body")).to_contain_text('"servers":[{"url":"/watch/foreshock"}]')
        page.goto(base + "/")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Access token")).to_be_visible()
        assert page.url == base + "/login"
        assert [each for each in complaints if not each.endswith("/favicon.ico")] == []
        # A proxy that passes the prefix on: the first page, its files and its socket.
        page.goto(keeps + "/")
        sign_in(page, token)
        page.wait_for_selector("table.runs")
        page.wait_for_function("() => document.documentElement.dataset.connection !== 'off'")
        assert page.url == keeps + "/"
        context.close()
        other.context.close()
