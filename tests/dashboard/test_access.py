"""Who may open the dashboard, over real server processes: tokens, sessions, origins, limits, what machines ask."""

import contextlib
import http.client
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from foreshock.dashboard import listening, who
from foreshock.dashboard.access import throttle
from foreshock.dashboard.access.door import Door
from foreshock.dashboard.access.login import local
from foreshock.dashboard.access.reader import READS, Refused
from foreshock.dashboard.access.secrets import digest, new_token
from foreshock.dashboard.access.throttle import Throttle
from foreshock.dashboard.reading import OPEN_STATES
from foreshock.dashboard.source import StoreSource
from foreshock.storage import ReadOnlyStoreError, StoreUnavailableError, open_store
from foreshock.storage.base import Store
from foreshock.storage.records import AlertState, Session, Token
from prometheus_client.parser import text_string_to_metric_families


class Unmoved(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


OPENER = urllib.request.build_opener(Unmoved)


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def told(self) -> Any:
        return json.loads(self.body)


@dataclass
class Site:
    base: str
    store: Store
    writer: str
    reader: str
    failing: str
    process: Any

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            with OPENER.open(urllib.request.Request(self.base + path, body, named, method=method), timeout=20) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.headers, error.read())

    def bearer(self, token: str, path: str, method: str = "GET", **more: Any) -> Answer:
        return self.ask(path, method, authorization=f"Bearer {token}", **more)

    def sign_in(self, token: str, onward: str = "/", **headers: str) -> Answer:
        headers = {"origin": self.base, **headers}
        return self.ask("/login", "POST", urlencode({"token": token, "next": onward}).encode(), **headers)

    def cookie(self, token: str) -> str:
        answer = self.sign_in(token)
        assert answer.status == 303, answer.body
        return str(answer.headers["set-cookie"].split(";")[0])


def make_token(store: Store, name: str, *, write: bool = False, expires_at: float | None = None) -> str:
    token = new_token()
    store.add_token(Token(digest(token), name, write, time.time(), "test", expires_at))
    return token


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, simulated: ModuleType, serve_store: Any) -> Iterator[Site]:
    url = f"sqlite:///{tmp_path_factory.mktemp('access') / 'runs.db'}"
    store = open_store(url)
    failing = simulated.write_failing_run(store)
    writer, reader = make_token(store, "ada", write=True), make_token(store, "bob")
    with serve_store(url, auth=True, allowed_hosts=["train.example"]) as (base, process):
        yield Site(base, store, writer, reader, failing.id, process)
    store.close()


def test_what_everybody_may_ask_tells_nothing(site: Site) -> None:
    assert site.ask("/healthz").told == {"status": "ok", "signed_in": False}
    assert site.ask("/readyz").told == {"status": "ready"}
    assert b"--page" in site.ask("/assets/foreshock.css").body
    form = site.ask("/login?next=/run/x")
    assert (form.status, form.headers["cache-control"]) == (200, "no-store")
    assert b'name="next" value="/run/x"' in form.body
    assert "form-action 'self'" in form.headers["content-security-policy"]
    assert "camera=()" in form.headers["permissions-policy"]


@pytest.mark.parametrize("path", ["/", "/run/x", "/api", "/api/openapi.json", "/api/v1/runs", "/metrics", "/_dash-layout", "/none"])
def test_everything_else_is_for_those_who_are_signed_in(site: Site, path: str) -> None:
    answer = site.ask(path)
    assert (answer.status, answer.told["error"]["code"]) == (401, "not_signed_in")
    assert site.bearer("nonsense", path).status == 401
    shown = site.ask(path, accept="text/html,*/*")
    assert (shown.status, "/login?next=" in (shown.headers["location"] or "")) == (
        (401, False) if "/v1/" in path or path.endswith(".json") else (303, True)
    )


def test_a_reader_sees_everything_and_changes_nothing(site: Site) -> None:
    assert site.bearer(site.reader, "/api/v1/me").told == {"name": "bob", "may_write": False, "signed_in": True, "expires_at": None}
    (alert, *_) = site.bearer(site.reader, "/api/v1/alerts?open=true").told["alerts"]
    before = site.store.alert(alert["id"])
    for action in ("acknowledge", "resolve", "silence"):
        refused = site.bearer(site.reader, f"/api/v1/alerts/{alert['id']}/{action}", "POST")
        assert (refused.status, refused.told["error"]["code"]) == (403, "may_only_read")
        assert "bob, which may only read" in refused.told["error"]["message"]
    cookie = site.cookie(site.reader)
    click = press(site, alert["id"], "acknowledged", cookie)
    assert "bob, which may only read" in click.body.decode()
    assert site.store.alert(alert["id"]) == before


def press(site: Site, alert_id: str, state: str, cookie: str, **headers: str) -> Answer:
    """Send what the page sends when a button is pressed."""
    note = {"kind": "decision-note", "alert": alert_id}
    button = {"kind": "decision", "alert": alert_id, "state": state}
    body = {
        "output": '{"alert":["MATCH"],"kind":"decision-note"}.children',
        "outputs": {"id": note, "property": "children"},
        "inputs": [[{"id": button, "property": "n_clicks", "value": 1}]],
        "changedPropIds": [json.dumps(button, sort_keys=True, separators=(",", ":")) + ".n_clicks"],
        "state": [{"id": note, "property": "id", "value": note}],
    }
    headers = {"origin": site.base, "content_type": "application/json", "cookie": cookie, **headers}
    return site.ask("/_dash-update-component", "POST", json.dumps(body).encode(), **headers)


def test_a_decision_bears_the_name_of_the_token(site: Site) -> None:
    (one, two) = site.store.alerts(site.failing, states=OPEN_STATES)
    assert "Saved" in press(site, one.id, "acknowledged", site.cookie(site.writer)).body.decode()
    assert site.bearer(site.writer, f"/api/v1/alerts/{two.id}/acknowledge", "POST").status == 200
    decided = site.store.events(site.failing, kind="alert_state")
    assert [event.data["by"] for event in decided[-2:]] == ["ada", "ada"]
    assert site.store.alert(one.id).state is AlertState.ACKNOWLEDGED


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site", "origin": ""},
        {"origin": ""},
    ],
)
def test_pages_elsewhere_cannot_make_a_browser_decide(site: Site, headers: dict[str, str]) -> None:
    alert = site.store.alerts(site.failing, states=OPEN_STATES)[0]
    cookie = site.cookie(site.writer)
    answer = press(site, alert.id, "resolved", cookie, **headers)
    assert (answer.status, answer.told["error"]["code"]) == (403, "cross_site")
    for path in (f"/api/v1/alerts/{alert.id}/resolve", "/logout", "/login"):
        assert site.ask(path, "POST", b"", cookie=cookie, **headers).status == 403
    assert site.store.alert(alert.id).state is not AlertState.RESOLVED
    assert site.ask("/healthz", cookie=cookie).told["signed_in"] is True


def upgrade(site: Site, **headers: str) -> int:
    """Ask for a WebSocket; return the status of the answer: 101 when it opens."""
    where = urlsplit(site.base)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=20)
    with contextlib.closing(connection):
        plain = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "x" * 22 + "==",
        }
        connection.request("GET", "/_dash-ws-callback", headers=plain | headers)
        return connection.getresponse().status


def test_a_socket_needs_a_session_and_our_own_page(site: Site) -> None:
    cookie = site.cookie(site.reader)
    assert upgrade(site, Origin=site.base, Cookie=cookie) == 101
    assert upgrade(site, Origin=site.base) == 403
    assert upgrade(site, Origin="https://evil.example", Cookie=cookie) == 403
    assert upgrade(site, Cookie=cookie) == 403
    assert upgrade(site, Origin=site.base, Cookie="foreshock_session=" + "x" * 43) == 403


def test_signing_out_and_revoking_end_a_session_for_whoever_has_its_cookie(site: Site, until: Callable[..., Any]) -> None:
    carol = make_token(site.store, "carol")
    one, two = site.cookie(carol), site.cookie(carol)
    assert one != two
    answer = site.ask("/logout", "POST", b"", cookie=one, origin=site.base)
    assert (answer.status, answer.headers["location"]) == (303, "/login")
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert site.ask("/healthz", cookie=one).told["signed_in"] is False
    assert site.ask("/healthz", cookie=two).told["signed_in"] is True
    assert site.store.remove_token("carol")
    until(lambda: site.ask("/healthz", cookie=two).told["signed_in"] is False, timeout=15)
    assert site.bearer(carol, "/api/v1/me").status == 401


def test_what_is_kept_lets_nobody_in(site: Site) -> None:
    secret = site.cookie(site.writer).partition("=")[2]
    kept = site.store.session(digest(secret))
    assert kept is not None
    assert site.writer not in repr(kept) + repr(site.store.tokens())
    for word in (kept[0].digest, kept[1].digest):
        assert site.bearer(word, "/api/v1/me").status == 401
        assert site.ask("/healthz", cookie=f"foreshock_session={word}").told["signed_in"] is False


def test_the_cookie_is_out_of_reach_and_only_goes_where_it_should(site: Site) -> None:
    cookie = site.sign_in(site.reader).headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    old = site.cookie(site.reader)
    site.sign_in(site.writer, cookie=old)
    assert site.ask("/healthz", cookie=old).told["signed_in"] is False, "signing in again ends the session before"


@pytest.mark.parametrize(
    "onward", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/login", "x\r\ny: z"]
)
def test_nobody_is_sent_elsewhere_after_signing_in(site: Site, onward: str) -> None:
    assert local(onward) == "/"
    assert site.sign_in(site.reader, onward).headers["location"] == "/"
    assert site.sign_in(site.reader, "/run/a%2Fb?x=1&y=2").headers["location"] == "/run/a%2Fb?x=1&y=2"


def test_foreign_host_names_are_turned_away(site: Site) -> None:
    assert site.ask("/healthz", host="evil.example").status == 421
    assert site.ask("/healthz", host="train.example").status == 200
    assert upgrade(site, Host="evil.example", Origin="http://evil.example") == 403


def test_what_is_too_large_is_not_even_read(site: Site) -> None:
    where = urlsplit(site.base)
    with socket.create_connection((where.hostname, where.port), timeout=20) as line:
        line.sendall(b"POST /api/v1/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999\r\n\r\n")
        with line.makefile("rb") as answer:
            told = answer.read()
        assert told.startswith(b"HTTP/1.1 413 ")
        assert json.loads(told.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_large"
    with socket.create_connection((where.hostname, where.port), timeout=20) as line:
        head = ["POST /api/v1/alerts/x/resolve HTTP/1.1", f"Host: {where.netloc}", f"Origin: {site.base}"]
        head += [f"Cookie: {site.cookie(site.reader)}", "Content-Type: application/json", "Transfer-Encoding: chunked"]
        line.sendall("\r\n".join([*head, "", ""]).encode())
        with contextlib.suppress(OSError):
            for _ in range(40):
                line.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        assert b" 413 " in line.recv(200)
    with socket.create_connection((where.hostname, where.port), timeout=20) as line, contextlib.suppress(OSError):
        line.sendall(b"GET / HTTP/1.1\r\nX-Long: " + b"x" * (listening.MOST_HEAD + 200_000))
        assert line.recv(200) == b""


def test_metrics_are_prometheus_own_text_and_bounded(site: Site, simulated: ModuleType) -> None:
    assert site.ask("/metrics").status == 401
    odd = 'a"b\\c\nd<script>'
    run = simulated.begin_run(site.store, odd)
    simulated.write_steps(site.store, run.id, simulated.Simulation(failing=False), 0, 30)
    for number in range(60):
        simulated.begin_run(site.store, f"many-{number}", at=time.time() - 20)
    answer = site.bearer(site.reader, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
    value = {name: family.samples[0].value for name, family in families.items() if len(family.samples) == 1}
    assert value["foreshock_store_up"] == 1.0
    assert value["foreshock_runs_left_out"] == 11.0
    assert value["foreshock_watchdog_on_duty"] in (0.0, 1.0)
    states = {sample.labels["state"]: sample.value for sample in families["foreshock_runs"].samples}
    assert (states["crashed"], states["live"] + states["stale"]) == (1.0, 61.0)
    steps = {sample.labels["name"]: sample.value for sample in families["foreshock_run_step"].samples}
    assert (len(steps), steps[odd]) == (50, 29.0)
    for name in ("foreshock_run_loss", "foreshock_run_risk", "foreshock_run_heartbeat_age_seconds"):
        assert odd in {sample.labels["name"] for sample in families[name].samples}


def test_guessing_is_slowed_down_and_others_are_not(site: Site, serve_store: Any) -> None:
    with serve_store(site.store.url, auth=True, trusted_proxies=["127.0.0.1"]) as (base, process):
        here = Site(base, site.store, site.writer, site.reader, site.failing, process)
        statuses = [here.sign_in("wrong", x_forwarded_for="203.0.113.9").status for _ in range(throttle.PER_ADDRESS + 1)]
        assert statuses == [401] * throttle.PER_ADDRESS + [429]
        late = here.sign_in(site.writer, x_forwarded_for="203.0.113.9")
        assert (late.status, int(late.headers["retry-after"]) <= throttle.WINDOW) == (429, True)
        assert here.bearer(site.writer, "/api/v1/me", x_forwarded_for="203.0.113.9").status == 429
        assert here.sign_in(site.writer, x_forwarded_for="203.0.113.10").status == 303
        secure = here.sign_in(site.writer, x_forwarded_proto="https", x_forwarded_host="train.example", host="127.0.0.1")
        assert secure.status == 421, "the name that the visitor used is looked at, not the proxy's"
        secure = here.sign_in(site.writer, x_forwarded_proto="https")
        assert "Secure" in secure.headers["set-cookie"]
    plain = site.sign_in(site.writer, x_forwarded_proto="https", x_forwarded_host="evil.example")
    assert (plain.status, "Secure" in plain.headers["set-cookie"]) == (303, False), "who is no trusted proxy is not believed"


def test_two_addresses_of_one_network_count_as_one() -> None:
    now = [0.0]
    guard = Throttle(lambda: now[0])
    for number in range(throttle.PER_ADDRESS):
        assert guard.wait("2001:db8::1") == 0.0
        guard.failed(f"2001:db8::{number}")
    assert guard.wait("2001:db8::ffff") > 0.0
    assert guard.wait("2001:db8:1::1") == 0.0
    now[0] = throttle.WINDOW + 1
    assert guard.wait("2001:db8::1") == 0.0
    for number in range(throttle.ALTOGETHER):
        guard.failed(f"198.51.{number // 200}.{number % 200}")
    assert guard.wait("198.51.0.7") > 0.0, "a flood from many addresses slows all of them"
    assert guard.wait("192.0.2.1") == 0.0, "and nobody who has not failed"
    guard.succeeded("198.51.0.7")
    assert guard.wait("198.51.0.7") == 0.0


def test_every_method_of_a_store_is_known_to_read_or_to_write() -> None:
    """A new one must be put into one of the two: readers are refused what is not known to read."""
    writes = {
        "abandon", "add_event", "add_segment", "add_series", "add_session", "add_silence", "add_token", "claim_notifications",
        "close", "create_run", "delete_run", "end_session", "end_silence", "interrupt", "lift_silences", "note_delivery",
        "open_segment", "release_lease", "remove_token", "retry_notification", "save_alerts", "save_rule", "session",
        "set_alert_state", "set_channels",
        "settle_notification", "take_lease", "token", "tokens", "update_run", "write", "write_together",
    }  # fmt: skip
    public = {name for name in dir(Store) if not name.startswith("_")} | {"url"}
    assert public == READS | writes
    assert READS & writes == set()


def test_the_store_of_a_reader_refuses_whatever_page_asks(store: Store) -> None:
    source = StoreSource(store)
    assert source() is store
    who.receive(who.Visitor("eve", may_write=False))
    try:
        seen = source()
        assert seen.runs() == []
        for name in ("update_run", "tokens", "create_run", "database"):
            with pytest.raises(Refused, match="eve, which may only read"):
                getattr(seen, name)
        assert source.whole() is store
        who.receive(who.Visitor("ada", may_write=True))
        assert source() is store
        who.receive(who.Visitor("ada", may_write=True, expires_at=time.time() - 1))
        with pytest.raises(ReadOnlyStoreError, match="session is over"):
            source().add_token  # noqa: B018 - looking is refused already
    finally:
        who.receive(None)


class Frail:
    """A store that may be read only, or is away."""

    def __init__(self, store: Store) -> None:
        self.store, self.away = store, False

    def __getattr__(self, name: str) -> Any:
        if self.away:
            raise StoreUnavailableError("away")
        if name in ("add_session", "end_session"):
            raise ReadOnlyStoreError("may only read")
        return getattr(self.store, name)


@pytest.mark.parametrize("fresh", [0.0])
def test_a_door_over_a_store_that_can_only_be_read_and_goes_away(
    store: Store, monkeypatch: pytest.MonkeyPatch, fresh: float
) -> None:
    import asyncio

    from foreshock.dashboard.access import door as module

    monkeypatch.setattr(module, "FRESH", fresh)
    token, brief = make_token(store, "ada", write=True), make_token(store, "brief", expires_at=time.time() + 1000.0)
    frail = Frail(store)
    source = StoreSource(store)
    monkeypatch.setattr(source, "whole", lambda: frail)

    async def story() -> None:
        door = Door(source, 3600.0)
        opened = await door.open_session(token)
        assert opened is not None
        secret, ends = opened
        assert abs(ends - time.time() - 3600.0) < 5
        assert await door.open_session(token + "x") is None
        assert await door.open_session("x" * 1000) is None
        found = await door.by_session(secret)
        assert found == who.Visitor("ada", True, ends)
        assert store.session(digest(secret)) is None, "held in this process"
        shorter = await door.open_session(brief)
        assert shorter is not None
        assert shorter[1] - time.time() < 1001.0, "no session outlives its token"
        frail.away = True
        assert await door.by_session(secret) == found, "nobody can have revoked it"
        with pytest.raises(StoreUnavailableError):
            await door.by_session("unknown")
        frail.away = False
        store.remove_token("ada")
        assert await door.by_session(secret) is None
        assert await door.by_token(token) is None
        await door.close_session(shorter[0])
        assert await door.by_session(shorter[0]) is None

    asyncio.run(story())


def test_a_session_and_a_decision_in_one_process_hold_in_another(site: Site, serve_store: Any, until: Callable[..., Any]) -> None:
    with serve_store(site.store.url, auth=True) as (base, process):
        other = Site(base, site.store, site.writer, site.reader, site.failing, process)
        cookie = site.cookie(site.writer)
        assert other.ask("/healthz", cookie=cookie).told["signed_in"] is True
        site.ask("/logout", "POST", b"", cookie=cookie, origin=site.base)
        until(lambda: other.ask("/healthz", cookie=cookie).told["signed_in"] is False, timeout=15)


def test_a_store_that_goes_away_is_told_without_its_address(tmp_path: Path, serve_store: Any) -> None:
    path = tmp_path / "gone.db"
    store = open_store(path)
    token = make_token(store, "ada", write=True)
    store.close()
    with serve_store(f"sqlite:///{path}", auth=True) as (base, process):
        here = Site(base, store, token, token, "", process)
        assert here.ask("/readyz").status == 200
        for each in (path, *tmp_path.glob("gone.db-*")):
            each.unlink()
        time.sleep(1.1)  # what was heard a moment ago serves a second for everybody
        answer = here.ask("/readyz")
        assert (answer.status, answer.told) == (503, {"status": "not ready"})
        assert here.ask("/healthz").status == 200
        refused = here.bearer(token, "/api/v1/runs")
        assert (refused.status, refused.told["error"]["code"]) == (503, "store_unavailable")
        assert str(tmp_path).encode() not in refused.body


def test_sessions_are_forgotten_when_they_are_over(store: Store) -> None:
    store.add_token(Token("a" * 64, "ada", True))
    store.add_session(Session("b" * 64, "a" * 64, 1.0, 2.0))
    store.add_session(Session("c" * 64, "a" * 64, 3.0, 4.0))
    assert store.session("b" * 64) is None
