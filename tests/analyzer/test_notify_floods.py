"""Many alerts, many couriers, channels that hang: what is sent, how often, and in how many messages."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from foreshock.analyzer import courier, sending
from foreshock.analyzer.courier import DIGEST_AFTER, DIGEST_WINDOW_S, MOST_ATTEMPTS, Courier, deliver_due, retry_delay
from foreshock.analyzer.notify import Outbox
from foreshock.analyzer.sending import Message
from foreshock.storage import Store, open_store
from foreshock.storage.records import Alert, AlertState, NotificationState, Run, Severity, Silence, derived_id

SENT = NotificationState.SENT


class Channels:
    """Stands in for Apprise: keeps what is sent, fails where told to."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str, str]] = []
        self.failing = ""

    def send(self, channel: str, message: Message) -> str:
        if self.failing:
            return self.failing
        self.messages.append((channel, message.title, message.body))
        return ""


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Channels:
    channels = Channels()
    monkeypatch.setattr(sending, "_send", channels.send)
    return channels


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    opened = open_store(tmp_path / "runs.db")
    opened.create_run(Run("run", "gpt2", created_at=1.0))
    yield opened
    opened.close()


def alert(number: int, severity: Severity = Severity.WARNING) -> Alert:
    state, place = AlertState.FIRING, f"blocks.{number}"
    return Alert(
        derived_id("run", "drift", place, 0),
        "run",
        "drift",
        place,
        0,
        severity,
        state,
        0,
        number,
        number,
        5.0,
        5.0,
        f"About {place}.",
    )


def post(store: Store, *alerts: Alert, channels: tuple[str, ...] = ("json://a",)) -> None:
    outbox = Outbox(channels, run_name="gpt2")
    store.save_alerts(alerts, [entry for each in alerts for entry in outbox.notifications(each)])


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_a_few_alerts_are_told_one_by_one(store: Store, sent: Channels) -> None:
    post(store, *map(alert, range(DIGEST_AFTER)))
    assert deliver_due(store, now=100.0) == DIGEST_AFTER
    assert len(sent.messages) == DIGEST_AFTER


def test_a_flood_becomes_one_message_with_the_critical_ones_first_and_the_rest_when_the_window_ends(
    store: Store, sent: Channels
) -> None:
    post(store, *(alert(number, Severity.CRITICAL if number in (7, 11) else Severity.WARNING) for number in range(12)))
    assert deliver_due(store, now=100.0) == 12
    ((_, title, body),) = sent.messages
    assert title == "foreshock: 12 alerts"
    lines = body.splitlines()
    assert [line.split()[1] for line in lines[:12]] == ["critical"] * 2 + ["warning"] * 10
    assert lines[0].startswith("- critical in gpt2 at step ")
    assert all(f"About blocks.{number}." in body for number in range(12))
    assert {entry.state for entry in store.notifications()} == {SENT}
    post(store, *(alert(number) for number in range(20, 23)))
    assert deliver_due(store, now=100.0 + DIGEST_WINDOW_S - 1.0) == 0
    assert len(sent.messages) == 1
    assert deliver_due(store, now=101.0 + DIGEST_WINDOW_S) == 3
    assert len(sent.messages) == 4


def test_single_messages_count_towards_the_flood(store: Store, sent: Channels) -> None:
    for number in range(DIGEST_AFTER):
        post(store, alert(number))
        deliver_due(store, now=100.0 + number)
    post(store, alert(50), alert(51))
    assert deliver_due(store, now=110.0) == 2
    assert sent.messages[-1][1] == "foreshock: 2 alerts"
    assert len(sent.messages) == DIGEST_AFTER + 1


def test_a_flood_of_one_channel_holds_up_no_other(store: Store, sent: Channels) -> None:
    post(store, *map(alert, range(12)))
    deliver_due(store, now=100.0)
    post(store, alert(30), channels=("json://a", "json://b"))
    assert deliver_due(store, now=101.0) == 1
    assert [channel for channel, _, _ in sent.messages] == ["json://a", "json://b"]


def test_a_clock_set_back_does_not_hold_a_channel_for_hours(store: Store, sent: Channels) -> None:
    post(store, *map(alert, range(12)))
    deliver_due(store, now=7200.0)
    post(store, alert(30))
    assert deliver_due(store, now=100.0) == 1


def test_a_digest_that_fails_is_tried_again_and_becomes_dead_letters_with_the_reason(store: Store, sent: Channels) -> None:
    post(store, *map(alert, range(12)))
    sent.failing = "410 gone"
    now = 100.0
    for _ in range(MOST_ATTEMPTS + 2):
        assert deliver_due(store, now=now) == 0
        now += 2000.0
    dead = store.notifications(states=[NotificationState.FAILED])
    assert (len(dead), {entry.attempts for entry in dead}, {entry.error for entry in dead}) == (12, {MOST_ATTEMPTS}, {"410 gone"})


def test_delays_double_and_are_stretched_differently_but_the_same_everywhere() -> None:
    for attempts, base in [(1, 5.0), (2, 10.0), (8, 640.0), (20, 900.0)]:
        delays = [retry_delay(f"n{number}", attempts) for number in range(50)]
        assert all(base <= delay <= 1.25 * base for delay in delays)
        assert max(delays) - min(delays) > 0.15 * base
        assert delays == [retry_delay(f"n{number}", attempts) for number in range(50)]


def test_two_couriers_at_once_send_everything_once(store: Store, sent: Channels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "DIGEST_AFTER", 1000)
    post(store, *map(alert, range(30)))
    start = threading.Barrier(3)
    counts: list[int] = []

    def work() -> None:
        start.wait()
        counts.append(deliver_due(store, now=100.0))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    start.wait()
    for thread in threads:
        thread.join()
    assert sum(counts) == 30
    assert len({body for _, _, body in sent.messages}) == len(sent.messages) == 30


def test_what_a_courier_that_died_had_claimed_is_sent_by_the_next(store: Store, sent: Channels) -> None:
    post(store, alert(1))
    store.claim_notifications(store.due_notifications(100.0), until=190.0)
    assert deliver_due(store, now=150.0) == 0
    assert deliver_due(store, now=191.0) == 1


class Died(BaseException):
    """A process that is killed."""


def test_couriers_that_die_while_sending_do_not_send_for_ever(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def send(channel: str, message: Message) -> str:
        tried.append(channel)
        raise Died

    monkeypatch.setattr(courier, "send", send)
    post(store, alert(1))
    for look in range(3 * MOST_ATTEMPTS):
        with contextlib.suppress(Died):
            deliver_due(store, now=100.0 + 91.0 * look)
    assert len(tried) == MOST_ATTEMPTS
    (dead,) = store.notifications(states=[NotificationState.FAILED])
    assert "it may have arrived" in dead.error
    monkeypatch.setattr(courier, "send", lambda *_: "")
    assert store.retry_notification(dead.id, at=5000.0)
    assert deliver_due(store, now=5000.0) == 1


def test_a_claim_holds_though_other_channels_took_minutes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, sent_to = [0.0], []

    def send(channel: str, message: Message) -> str:
        sent_to.append(channel)
        clock[0] += 30.0
        if len(sent_to) == 5:
            deliver_due(store, now=100.0 + clock[0])  # another courier looks while this one is still at it
        return ""

    monkeypatch.setattr(courier, "send", send)
    monkeypatch.setattr(courier, "monotonic", lambda: clock[0])
    post(store, alert(1), channels=tuple(f"json://{number}" for number in range(5)))
    deliver_due(store, now=100.0)
    assert sorted(sent_to) == [f"json://{number}" for number in range(5)]


def test_a_channel_that_hangs_is_given_up_and_holds_up_no_other(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, reached = threading.Event(), []

    def send(channel: str, message: Message) -> str:
        if channel == "json://stuck":
            gate.wait(30)
        reached.append(channel)
        return ""

    monkeypatch.setattr(sending, "_send", send)
    monkeypatch.setattr(sending, "PATIENCE_S", 0.1)
    post(store, alert(1), alert(2), channels=("json://stuck", "json://fine"))
    try:
        assert deliver_due(store, now=100.0) == 2
        assert reached == ["json://fine"] * 2
        errors = [entry.error for entry in store.notifications(states=[NotificationState.WAITING])]
        assert sorted(errors) == ["no answer within 0.1 s", "the channel has not answered an earlier message yet"]
    finally:
        gate.set()
        until(lambda: "json://stuck" in reached)


def test_the_courier_tells_what_still_fires_when_a_silence_ends(store: Store, sent: Channels) -> None:
    post(store, alert(1), alert(2))
    silence = Silence("s", run_id="run", created_at=time.time())
    store.add_silence(silence)
    deliverer = Courier(None, store, interval=0.01)
    deliverer.start()
    store.save_alerts([replace(alert(2), state=AlertState.RESOLVED)])
    store.end_silence("s", at=time.time())
    until(lambda: sent.messages)
    deliverer.close(timeout=20.0)
    assert [body.splitlines()[0] for _, _, body in sent.messages] == ["About blocks.1."]


def test_an_alert_of_a_resumed_run_is_told_anew(store: Store) -> None:
    outbox = Outbox(["json://a"])
    (first,), (again,) = outbox.notifications(alert(1)), outbox.notifications(replace(alert(1), segment=1))
    assert first.id != again.id


def test_secrets_of_a_channel_are_not_shown() -> None:
    assert sending.printable("slack://tokenA/tokenB") == "slack://..."
    assert sending.printable("nonsense") == "..."
