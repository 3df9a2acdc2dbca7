"""Notifications: a real store, a real HTTP server, Apprise in between."""

import contextlib
import io
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from foreshock.analyzer import courier as couriers
from foreshock.analyzer.courier import JITTER, MOST_ATTEMPTS, Courier, deliver_due
from foreshock.analyzer.messages import Messages
from foreshock.analyzer.notify import ConsoleNotifier, Outbox
from foreshock.storage import Store, StoreUnavailableError, open_store
from foreshock.storage.records import Alert, AlertState, Cause, NotificationState, Run, Severity

# One of Apprise's own plug-ins still imports a deprecated module of the standard library.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

CAUSE = Cause("low", "Low-precision rounding bias", 0.9, ("errors add up", "logits grow"), "Switch to stabilised attention.")
ALERT = Alert(
    "a" * 32, "run", "key_shift_bias", "blocks.1.attn", 0, Severity.WARNING, AlertState.FIRING, 0, 1740, 1740, 5.0, 5.0,
    "The rounding errors of blocks.1.attn head 0 add up.", diagnosis=(CAUSE,), remedy="Look closer.",
)  # fmt: skip


class Server:
    """Takes JSON posts; answers with the statuses it is given, then 200; holds back while ``gate`` is shut."""

    def __init__(self) -> None:
        self.received: list[dict[str, str]] = []
        self.statuses: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.gate.wait(20)
                status = outer.statuses.pop(0) if outer.statuses else 200
                if status == 200:
                    outer.received.append(json.loads(body))
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                except OSError:  # the sender lost patience, as it should
                    return

            def log_message(self, *_: object) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://127.0.0.1:{self.http.server_port}/hook"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.gate.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    store = open_store(f"sqlite:///{tmp_path}/runs.db")
    store.create_run(Run("run", "gpt2", created_at=1.0))
    yield store
    store.close()


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        threading.Event().wait(0.02)


def posted(store, outbox, *alerts):
    store.save_alerts(alerts, [entry for alert in alerts for entry in outbox.notifications(alert)])


def test_an_alert_reaches_the_channel_once_with_cause_and_remedy(store, server):
    outbox = Outbox([server.url, server.url], run_name="gpt2")
    posted(store, outbox, ALERT)
    posted(store, outbox, replace(ALERT, last_step=1800))  # rewritten later: no second message
    assert deliver_due(store, now=10.0) == 1
    assert deliver_due(store, now=1e9) == 0
    (message,) = server.received
    assert message["title"] == "foreshock: warning in gpt2 at step 1,740"
    assert "head 0 add up." in message["message"]
    assert "Likeliest cause: Low-precision rounding bias (90%)" in message["message"]
    assert "- logits grow" in message["message"]
    assert "What to do: Switch to stabilised attention." in message["message"]


def test_a_message_leads_to_the_page_of_its_alert(store, server):
    outbox = Outbox([server.url], messages=Messages("https://watch.example/foreshock"))
    posted(store, outbox, ALERT)
    deliver_due(store, now=10.0)
    link = f"https://watch.example/foreshock/alert/{ALERT.id}"
    (message,) = server.received
    assert [line for line in message["message"].splitlines() if line.endswith(f": {link}")]
    many = [replace(ALERT, id=f"{number:032x}", episode=number) for number in range(1, 8)]
    posted(store, outbox, *many)
    deliver_due(store, now=10.0)
    listed = server.received[-1]["message"]
    assert all(f"https://watch.example/foreshock/alert/{each.id}" in listed for each in many)
    (sent,) = store.notifications(alert_id=ALERT.id)
    assert 10.0 <= sent.next_attempt_at < 20.0, "when it was sent"


def test_every_channel_gets_its_own_and_quiet_alerts_get_none():
    outbox = Outbox(["json://a", "json://b"])
    quiet = [
        replace(ALERT, severity=Severity.INFO),
        replace(ALERT, state=AlertState.RESOLVED),
        replace(ALERT, state=AlertState.ACKNOWLEDGED),
    ]
    assert [outbox.notifications(alert) for alert in quiet] == [[], [], []]
    assert not outbox.filled.is_set()
    made = outbox.notifications(ALERT)
    assert {entry.channel for entry in made} == {"json://a", "json://b"}
    assert {entry.id for entry in made} == {entry.id for entry in Outbox(["json://b", "json://a"]).notifications(ALERT)}
    assert len({entry.id for entry in made}) == 2
    assert outbox.filled.is_set()
    assert Outbox(["json://a"], least=Severity.CRITICAL).notifications(ALERT) == []


def test_a_server_that_fails_is_tried_again_later_and_later(store, server):
    server.statuses = [500, 503]
    posted(store, Outbox([server.url]), ALERT)
    assert deliver_due(store, now=100.0) == 0
    assert store.due_notifications(104.9) == []
    (waiting,) = store.due_notifications(100.0 + 5.0 * (1 + JITTER))
    assert (waiting.attempts, waiting.state) == (1, NotificationState.WAITING)
    assert "500" in waiting.error
    assert deliver_due(store, now=107.0) == 0
    assert store.due_notifications(116.9) == []
    assert deliver_due(store, now=107.0 + 10.0 * (1 + JITTER)) == 1
    assert len(server.received) == 1


def test_a_channel_that_never_answers_is_given_up_with_the_error(store, server):
    server.statuses = [500] * 100
    posted(store, Outbox([server.url]), ALERT)
    settled = []
    original = store.settle_notification
    store.settle_notification = lambda entry: (settled.append(entry), original(entry))
    for attempt in range(MOST_ATTEMPTS + 3):
        deliver_due(store, now=1000.0 * (attempt + 1))
    assert len(settled) == MOST_ATTEMPTS
    assert settled[-1].state is NotificationState.FAILED
    assert "500" in settled[-1].error
    assert store.due_notifications(1e12) == []


def test_a_bad_url_is_said_and_does_not_hold_up_the_others(store, server):
    posted(store, Outbox(["nonsense://x", server.url]), ALERT)
    assert deliver_due(store, now=10.0) == 1
    (left,) = store.due_notifications(1e9)
    assert left.channel == "nonsense://x"
    assert "Apprise URL" in left.error


def test_the_courier_delivers_by_itself_and_what_comes_at_the_end(store, server):
    outbox = Outbox([server.url])
    courier = Courier(outbox, store, interval=60.0)
    courier.start()
    posted(store, outbox, ALERT)
    until(lambda: len(server.received) == 1)
    posted(store, outbox, replace(ALERT, id="b" * 32, episode=1))
    courier.close(timeout=20.0)
    courier.close()
    assert len(server.received) == 2


def test_the_courier_retries_a_server_that_fails_first(store, server, monkeypatch):
    monkeypatch.setattr(couriers, "FIRST_DELAY_S", 0.05)
    server.statuses = [500, 500]
    outbox = Outbox([server.url])
    courier = Courier(outbox, store, interval=0.05)
    courier.start()
    posted(store, outbox, ALERT)
    until(lambda: len(server.received) == 1)
    courier.close()


def test_a_slow_server_holds_up_neither_the_trainer_nor_the_end(store, server):
    server.gate.clear()
    outbox = Outbox([server.url])
    courier = Courier(outbox, store, interval=60.0)
    courier.start()
    started = time.monotonic()
    posted(store, outbox, ALERT)
    assert time.monotonic() - started < 1.0
    courier.close(timeout=0.5)
    assert time.monotonic() - started < 3.0
    server.gate.set()
    until(lambda: not courier._thread.is_alive())


def test_a_store_that_is_away_does_not_end_the_courier(store, server, monkeypatch):
    monkeypatch.setattr(couriers, "_UNTIL_SAVED_S", 0.0)
    outbox = Outbox([server.url])
    posted(store, outbox, ALERT)
    original, away = store.due_notifications, [StoreUnavailableError("the file is locked"), RuntimeError("odd")]

    def due(*arguments, **keywords):
        if away:
            raise away.pop(0)
        return original(*arguments, **keywords)

    store.due_notifications = due
    courier = Courier(outbox, store, interval=0.02)
    courier.start()
    until(lambda: server.received)
    courier.close()
    assert courier.error == ""


def test_the_console_prints_one_plain_line_an_alert():
    stream = io.StringIO()
    console = ConsoleNotifier(stream)
    for alert in (ALERT, ALERT, replace(ALERT, id="c", severity=Severity.INFO), replace(ALERT, id="d", state=AlertState.RESOLVED)):
        console.tell(alert)
    console.close()
    assert stream.getvalue() == (
        "foreshock WARNING step 1,740: The rounding errors of blocks.1.attn head 0 add up. "
        "Likeliest cause: Low-precision rounding bias. Switch to stabilised attention.\n"
    )


def test_a_closed_console_is_no_error():
    stream = io.StringIO()
    stream.close()
    console = ConsoleNotifier(stream)
    console.tell(ALERT)
    console.close()


def test_the_console_writes_to_stderr_as_it_is_now(capsys):
    console = ConsoleNotifier()
    console.tell(replace(ALERT, diagnosis=()))
    console.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("add up. Look closer.\n")


def test_a_console_that_takes_nothing_keeps_nobody_waiting():
    read_end, write_end = os.pipe()
    try:
        os.set_blocking(write_end, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(write_end, b"x" * 4096)
        os.set_blocking(write_end, True)
        with open(write_end, "w", closefd=False) as full:
            console = ConsoleNotifier(full)
            began = time.monotonic()
            for number in range(20):
                console.tell(replace(ALERT, id=str(number)))
            console.close(timeout=0.2)
            assert time.monotonic() - began < 5  # it returned, and the pipe is still full
            os.set_blocking(read_end, False)
            said = b""
            while said.count(b"foreshock WARNING") < 20:  # nothing told is lost once somebody reads
                with contextlib.suppress(BlockingIOError):
                    said += os.read(read_end, 65536)
    finally:
        os.close(read_end)
        os.close(write_end)
