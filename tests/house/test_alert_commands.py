"""``foreshock ack``, ``resolve``, ``silence`` and ``notify`` as commands."""

import json
import threading
import time
import tomllib
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from foreshock import open_store
from foreshock.analyzer.messages import BODY, TITLE
from foreshock.storage.records import Alert, AlertState, Notification, NotificationState, Run, Severity, derived_id

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store with one run, two alerts and a dead letter."""
    address = f"sqlite:///{tmp_path / 'runs.db'}"
    kept = open_store(address)
    kept.create_run(Run("r" * 32, "gpt2", project="language", created_at=1.0))
    one = Alert(
        "a" * 32, "r" * 32, "spike", "", 0, Severity.WARNING, AlertState.FIRING, 0, 7, 7, 1.0, 1.0, "It spikes."
    )  # fmt: skip
    two = replace(one, id=derived_id("two"), rule="drift", module="blocks.1")
    dead = Notification("n", one.id, "slack://secretA/secretB/secretC", "Title", "Body", NotificationState.FAILED, 8, error="gone")
    kept.save_alerts([one, two], [dead])
    kept.close()
    return address


def states(url: str) -> dict[str, str]:
    store = open_store(url)
    try:
        return {alert.rule: alert.state.value for alert in store.alerts()}
    finally:
        store.close()


@pytest.mark.parametrize(
    "command", [["ack"], ["resolve"], ["silence"], ["watchdog"], ["notify", "test"], ["notify", "failed"], ["notify", "print"]]
)
def test_every_command_helps_with_an_example(foreshock: Command, command: list[str]) -> None:
    answer = foreshock(*command, "--help")
    assert answer.returncode == 0, answer.stderr
    assert f"Example: foreshock {' '.join(command)}" in answer.stdout


def test_an_alert_is_acknowledged_and_resolved_by_its_first_letters(foreshock: Command, url: str) -> None:
    assert foreshock("ack", "aaaa", "--comment", "known", "--store", url).returncode == 0
    assert states(url) == {"spike": "acknowledged", "drift": "firing"}
    assert foreshock("resolve", "aaaaaa", "--store", url).returncode == 0
    assert states(url)["spike"] == "resolved"
    refused = foreshock("ack", "aaaa", "--store", url)
    assert (refused.returncode, "resolved and cannot become acknowledged" in refused.stderr) == (2, True)
    for wrong in ("zzzz", "a"):
        answer = foreshock("ack", wrong, "--store", url)
        assert (answer.returncode, "foreshock alerts" in answer.stderr) == (2, True)


def test_alerts_are_silenced_by_scope_for_a_time_and_sound_again(foreshock: Command, url: str) -> None:
    answer = foreshock("silence", "--run", "gpt2", "--rule", "drift", "--for", "2h", "--json", "--store", url)
    made = json.loads(answer.stdout)
    assert made["until"] - made["created_at"] == 7200.0
    assert states(url) == {"spike": "firing", "drift": "silenced"}
    assert made["id"] in foreshock("silence", "--list", "--store", url).stdout
    assert "1 alerts fire again" in foreshock("silence", "--end", made["id"], "--store", url).stdout
    assert states(url)["drift"] == "firing"
    assert "No silence holds" in foreshock("silence", "--list", "--store", url).stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [([], "name an alert"), (["--rule", "x", "--for", "soon"], "no time such as"), (["--end", "x"], "No silence")],
)
def test_a_silence_that_makes_no_sense_is_refused(foreshock: Command, url: str, options: list[str], says: str) -> None:
    answer = foreshock("silence", *options, "--store", url)
    assert (answer.returncode, says in answer.stderr) == (2, True)


def test_dead_letters_are_shown_without_secrets_and_put_back(foreshock: Command, url: str) -> None:
    answer = foreshock("notify", "failed", "--store", url)
    assert answer.returncode == 1
    assert "slack://...  Title  after 8 tries: gone" in answer.stdout
    assert "secret" not in answer.stdout + foreshock("notify", "failed", "--json", "--store", url).stdout
    assert foreshock("notify", "failed", "--retry", "--store", url).returncode == 0
    assert foreshock("notify", "failed", "--store", url).returncode == 0


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
def test_a_test_message_says_why_it_did_not_arrive(foreshock: Command) -> None:
    for channel in ("nonsense://x", "json://127.0.0.1:9/secret"):
        answer = foreshock("notify", "test", channel)
        assert (answer.returncode, "Not delivered to" in answer.stderr, "secret" in answer.stderr) == (1, True, False)


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
def test_a_test_message_looks_as_alerts_will_and_says_what_holds_it_back(foreshock: Command) -> None:
    posts: list[dict[str, object]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200 if not posts[-1]["attachments"] or "strict" not in self.path else 415)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        channel, hour = f"json://127.0.0.1:{server.server_port}", time.gmtime().tm_hour
        quiet = f"quiet={hour:02}:00-{(hour + 2) % 24:02}:00+UTC"
        answer = foreshock("notify", "test", f"{channel}/secret?{quiet}", FORESHOCK_MESSAGE='{"title": "Mine, {{ run }}"}')
        assert (answer.returncode, answer.stdout) == (0, "Delivered to json://....\n")
        assert "Quiet hours hold there until" in answer.stderr
        assert "alerts that are not critical wait" in answer.stderr
        strict = foreshock("notify", "test", f"{channel}/strict")
        assert (strict.returncode, "Put chart=no into its URL" in strict.stderr) == (0, True)
        assert foreshock("notify", "test", f"{channel}/strict?chart=no").stderr == ""
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    message = str(posts[0]["message"]).splitlines()
    assert (message[0].startswith("This is a test message"), message[2]) == (True, "Mine, example")
    assert [len(post["attachments"]) for post in posts] == [1, 1, 0, 0]  # type: ignore[arg-type]
    assert {post["foreshock"]["kind"] for post in posts} == {"test"}  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "variables", "says"),
    [
        (["json://host?quiet=night"], {}, "names no quiet hours; allowed: "),
        (["json://host"], {"FORESHOCK_QUIET_HOURS": "night"}, "quiet_hours: 'night' names no quiet hours"),
        (["json://host"], {"FORESHOCK_MESSAGE": '{"body": "{{ x }}"}'}, "there is no field 'x'; allowed: message, "),
    ],
)
def test_what_holds_for_messages_is_checked(foreshock: Command, arguments: list[str], variables: dict[str, str], says: str) -> None:
    answer = foreshock("notify", "test", *arguments, **variables)
    assert (answer.returncode, says in answer.stderr) == (2, True), answer.stderr


def test_what_receivers_need_is_printed(foreshock: Command, root: Path) -> None:
    schema = foreshock("notify", "print", "schema").stdout
    assert json.loads(schema)["properties"].keys() >= {"title", "message", "foreshock"}
    for what, name in {"rules": "foreshock.rules.yml", "scrape": "scrape.yml", "alertmanager": "alertmanager.yml"}.items():
        assert foreshock("notify", "print", what).stdout == (root / "dashboard" / "prometheus" / name).read_text()
    template = tomllib.loads(foreshock("notify", "print", "template").stdout)
    assert template == {"message": {"title": TITLE, "body": BODY}}
    assert "schema" in foreshock("notify", "print", "nothing").stderr
