"""``foreshock token``, and the commands that ask a dashboard's API where they are given ``--url``."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import pytest
from foreshock.cli import main
from foreshock.storage import open_store
from foreshock.storage.base import Store
from foreshock.storage.records import AlertState


@dataclass
class Done:
    status: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run the command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    for name in ("FORESHOCK_STORE", "FORESHOCK_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, token: str = "") -> Done:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["foreshock", *arguments])
            if token:
                patch.setenv("FORESHOCK_TOKEN", token)
            capfd.readouterr()
            try:
                status: Any = main()
            except SystemExit as exit_:
                status = exit_.code
        shown = capfd.readouterr()
        return Done(int(status or 0), shown.out, shown.err)

    return run


def test_tokens_are_made_listed_and_revoked(command: Command, store: Store) -> None:
    address = store.url
    made = command("token", "create", "ada", "--write", "--store", address)
    assert (made.status, made.out.startswith("fsk_"), len(made.out.strip()) > 40) == (0, True, True)
    assert "shown once" in made.err
    told = json.loads(command("token", "create", "grafana", "--read", "--expires", "30d", "--json", "--store", address).out)
    assert told["expires_at"] - told["created_at"] == 30 * 86400
    listed = command("token", "list", "--store", address)
    assert ("read and decide" in listed.out, made.out.strip() in listed.out) == (True, False)
    assert [each["name"] for each in json.loads(command("token", "list", "--json", "--store", address).out)] == ["grafana", "ada"]
    for wrong, says in (
        (["ada", "--read"], "already"),
        (["eve"], "either --read or --write"),
        (["eve", "--read", "--write"], "either --read or --write"),
        (["eve", "--read", "--expires", "soon"], "no time such as"),
        (["x" * 101, "--read"], "1 to 100 letters"),
    ):
        done = command("token", "create", *wrong, "--store", address)
        assert (done.status, says in " ".join(done.err.replace("│", " ").split())) == (2, True), done.err
    assert command("token", "revoke", "ada", "--store", address).status == 0
    assert "grafana" in command("token", "revoke", "ada", "--store", address).err
    assert store.token(told["name"]) is None
    assert [token.name for token in store.tokens()] == ["grafana"]


@pytest.mark.parametrize("arguments", [["--host", "0.0.0.0"], ["--prefix", "a b"], ["--trusted-proxy", "x"], ["--session", "long"]])
def test_a_dashboard_that_cannot_be_served_so_is_refused(command: Command, store: Store, arguments: list[str]) -> None:
    done = command("dashboard", "--store", store.url, "--port", "0", *arguments)
    assert (done.status, arguments[0] in done.err) == (2, True)


def test_a_log_in_needs_a_token_that_somebody_has(command: Command, store: Store) -> None:
    done = command("dashboard", "--store", store.url, "--port", "0", "--auth")
    assert (done.status, "foreshock token create NAME --write" in done.err) == (2, True)


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory, simulated: ModuleType, serve_store: Any) -> Iterator[tuple[str, Store]]:
    url = f"sqlite:///{tmp_path_factory.mktemp('far') / 'runs.db'}"
    store = open_store(url)
    simulated.write_failing_run(store)
    simulated.write_healthy_run(store)
    from foreshock.dashboard.access.secrets import digest
    from foreshock.storage.records import Token

    store.add_token(Token(digest("fsk_writer"), "ada", True))
    store.add_token(Token(digest("fsk_reader"), "bob", False))
    with serve_store(url, auth=True, prefix="/watch") as (base, _):
        yield base, store
    store.close()


def test_what_is_far_looks_like_what_is_near(command: Command, far: tuple[str, Store]) -> None:
    base, store = far
    far_away = ["--url", base, "--token", "fsk_reader"]
    for words in (["runs"], ["runs", "--project", "demo", "--limit", "1"], ["alerts", "gpt2-bf16", "--open"]):
        shown, seen = command(*words, "--store", store.url), command(*words, *far_away)
        assert (seen.status, seen.err) == (0, "")
        near, distant = (re.sub(r"\d+ (s|min) ago", "lately", each.out).split() for each in (shown, seen))
        assert sorted(distant) == sorted(near)
        told = [json.loads(command(*words, "--json", *where).out) for where in (["--store", store.url], far_away)]
        near_by, far_off = (sorted(each, key=lambda one: str(one["id"])) for each in told)
        assert far_off == near_by


def test_decisions_from_afar_bear_the_name_of_the_token(command: Command, far: tuple[str, Store]) -> None:
    base, store = far
    alert = store.alerts("gpt2-bf16", states=[AlertState.FIRING])[0]
    refused = command("ack", alert.id[:6], "--url", base, token="fsk_reader")
    assert (refused.status, "bob, which may only read" in refused.err) == (2, True)
    assert command("ack", alert.id[:6], "--url", base, "--comment", "known", "--token", "fsk_writer").status == 0
    assert command("resolve", alert.id[:6], "--url", base, token="fsk_writer").out.strip().endswith("resolved")
    data = store.events(alert.run_id, kind="alert_state")[-2].data
    assert (data["by"], data["comment"]) == ("ada", "known")


def test_what_does_not_work_is_told_in_a_line(command: Command, far: tuple[str, Store]) -> None:
    base, store = far
    for words, token, status, says in (
        (["runs", "--url", base], "", 2, "FORESHOCK_TOKEN"),
        (["runs", "--url", base], "fsk_wrong", 2, "not known here"),
        (["runs", "--url", base], "fsk_a\nb", 2, "what no token holds"),
        (["runs", "--url", "ftp://x"], "", 2, "no address of a dashboard"),
        (["runs", "--url", "http://127.0.0.1:9"], "", 1, "No dashboard answers"),
        (["runs", "--url", base, "--store", store.url], "", 2, "one of --url and --store"),
        (["alerts", "nothing", "--url", base], "fsk_reader", 2, "No run 'nothing'"),
        (["ack", "zzzz", "--url", base], "fsk_writer", 2, "no alert has an id"),
    ):
        done = command(*words, token=token)
        assert says in " ".join(done.err.replace("│", " ").split()), done.err
        assert (done.status, "Traceback" in done.err) == (status, False)


class Elsewhere(BaseHTTPRequestHandler):
    """A server that is no dashboard: it sends whoever asks to another address, or answers with a page."""

    seen: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.seen.append(str(self.headers.get("authorization")))
        if self.path.startswith("/page"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")
            return
        self.send_response(302)
        self.send_header("location", "http://127.0.0.1:9/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_a_token_is_not_carried_to_another_address(command: Command) -> None:
    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        base = f"http://127.0.0.1:{server.server_port}"
        moved = command("runs", "--url", base, token="fsk_secret")
        page = command("runs", "--url", f"{base}/page", token="fsk_secret")
        server.shutdown()
        thread.join()
    assert "points to http://127.0.0.1:9/elsewhere" in moved.err
    assert "no dashboard of foreshock's" in page.err
    assert Elsewhere.seen == ["Bearer fsk_secret"] * 2
