"""Quiet hours in the outbox: what waits, what comes through, and that nothing is lost or told twice, whoever delivers and when."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from foreshock.analyzer import sending
from foreshock.analyzer.channels import Channel, with_quiet
from foreshock.analyzer.courier import deliver_due
from foreshock.analyzer.notify import Outbox
from foreshock.analyzer.sending import Message
from foreshock.storage import Store, open_store
from foreshock.storage.records import Alert, AlertState, NotificationState, Run, Severity, Silence, derived_id
from hypothesis import given, settings
from hypothesis import strategies as st

NIGHT = "22:00-07:00 Europe/Berlin"
(PHONE,) = with_quiet(["json://phone"], NIGHT, critical_waits=False)
(DEAF,) = with_quiet(["json://deaf"], NIGHT, critical_waits=True)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Europe/Berlin")).timestamp()


EVENING, MORNING = at("2026-03-28T23:30"), at("2026-03-29T07:00")  # an hour of that night is left out


@dataclass
class Sent:
    """What was sent: (when, channel, title, body)."""

    now: float = 0.0
    messages: list[tuple[float, str, str, str]] = field(default_factory=list)
    failing: str = ""

    def send(self, channel: str, message: Message) -> str:
        if not self.failing:
            self.messages.append((self.now, channel, message.title, message.body))
        return self.failing

    def deliver(self, store: Store, now: float) -> int:
        self.now = now
        return deliver_due(store, now)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    found = Sent()
    monkeypatch.setattr(sending, "_send", found.send)
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def store(place: Path) -> Iterator[Store]:
    opened = open_store(place)
    opened.create_run(Run("run", "gpt2", created_at=1.0))
    yield opened
    opened.close()


def alert(number: int, severity: Severity = Severity.WARNING, when: float = EVENING) -> Alert:
    module, state = f"blocks.{number}", AlertState.FIRING
    identity, words = derived_id("run", "drift", module, 0), f"About {module}."
    return Alert(identity, "run", "drift", module, 0, severity, state, 0, number, number, when, when, words)


def post(store: Store, *alerts: Alert, channel: str = PHONE) -> None:
    outbox = Outbox([channel], run_name="gpt2")
    store.save_alerts(alerts, [entry for each in alerts for entry in outbox.notifications(each)])


def test_what_is_not_critical_waits_and_comes_as_one_message_when_the_night_is_over(store: Store, sent: Sent, place: Path) -> None:
    post(store, alert(1), alert(2), alert(3, Severity.CRITICAL))
    assert sent.deliver(store, EVENING) == 1
    ((_, channel, title, _),) = sent.messages
    assert (channel, title) == ("json://phone", "foreshock: critical in gpt2 at step 3")
    post(store, alert(4, when=EVENING + 3600))
    for hours in range(1, 6):
        assert sent.deliver(store, EVENING + 3600 * hours) == 0
    store.save_alerts([replace(alert(2), state=AlertState.RESOLVED)])
    store.close()
    with closing(open_store(place)) as again:  # another process, in the morning
        assert sent.deliver(again, MORNING - 1) == 0
        assert sent.deliver(again, MORNING) == 3
        _, _, title, body = sent.messages[-1]
        assert title == "foreshock: 3 alerts from quiet hours"
        assert [line for line in body.splitlines() if "About" in line] == [
            "- warning in gpt2 at step 1: About blocks.1.",
            "- warning in gpt2 at step 2: About blocks.2. (over since)",
            "- warning in gpt2 at step 4: About blocks.4.",
        ]
        assert sent.deliver(again, MORNING + 3600) == 0
    assert len(sent.messages) == 2


def test_one_that_waited_alone_comes_as_itself(store: Store, sent: Sent) -> None:
    post(store, alert(1))
    sent.deliver(store, EVENING)
    assert sent.deliver(store, MORNING) == 1
    assert sent.messages[0][2] == "foreshock: warning in gpt2 at step 1"


def test_a_channel_may_want_not_even_what_is_critical_and_others_want_all(store: Store, sent: Sent) -> None:
    post(store, alert(1, Severity.CRITICAL), channel=DEAF)
    post(store, alert(2), channel="json://log")
    assert sent.deliver(store, EVENING) == 1
    assert sent.messages[0][1] == "json://log"
    assert sent.deliver(store, MORNING) == 1


def test_what_was_left_lying_all_night_is_one_message_too(store: Store, sent: Sent) -> None:
    post(store, alert(1), alert(2))  # and no courier was there
    assert sent.deliver(store, MORNING + 7200) == 2
    assert len(sent.messages) == 1


def test_a_try_that_failed_in_the_evening_is_not_repeated_in_the_night_and_a_digest_that_failed_stays_one(
    store: Store, sent: Sent
) -> None:
    evening = at("2026-03-28T21:59:58")
    post(store, alert(1, when=evening), alert(2, when=evening))
    sent.failing = "503"
    sent.deliver(store, evening)
    sent.failing = ""
    assert sent.deliver(store, EVENING) == 0
    sent.failing = "503"
    sent.deliver(store, MORNING)
    sent.failing = ""
    assert sent.deliver(store, MORNING + 60) == 2
    assert len(sent.messages) == 1
    assert {entry.state for entry in store.notifications()} == {NotificationState.SENT}


def test_a_silence_that_ends_in_the_night_wakes_nobody(store: Store, sent: Sent) -> None:
    store.add_silence(Silence("s", run_id="run", created_at=EVENING - 60.0))
    post(store, alert(1))
    assert sent.deliver(store, EVENING) == 0
    assert store.end_silence("s", at=EVENING + 60.0) == 1
    assert sent.deliver(store, EVENING + 120.0) == 0
    assert sent.deliver(store, MORNING) == 1


def test_what_a_person_acknowledged_in_the_night_is_not_told_in_the_morning(store: Store, sent: Sent) -> None:
    post(store, alert(1), alert(2))
    sent.deliver(store, EVENING)
    store.set_alert_state(alert(1).id, AlertState.ACKNOWLEDGED, at=EVENING + 60, by="ann")
    assert sent.deliver(store, MORNING) == 1
    assert "About blocks.2." in sent.messages[0][3]


def test_other_quiet_hours_do_not_make_another_channel_of_it() -> None:
    first, again = (Outbox([channel]).notifications(alert(1)) for channel in ("json://phone", PHONE))
    assert first[0].id == again[0].id
    assert Outbox([PHONE, "json://phone", "json://b"]).channels == (PHONE, "json://b")


def test_a_channel_that_another_version_wrote_is_told_rather_than_held_for_ever(store: Store, sent: Sent) -> None:
    post(store, alert(1), channel="json://phone?quiet=nights")
    assert sent.deliver(store, EVENING) == 1
    assert sent.messages[0][1] == "json://phone"


MINUTES = st.integers(0, 40 * 60)


@settings(max_examples=15)
@given(
    st.lists(st.tuples(MINUTES, st.booleans(), st.sampled_from([PHONE, DEAF, "json://log"])), min_size=1, max_size=14),
    st.lists(MINUTES, max_size=12),
    st.sets(st.integers(0, 11)),
)
def test_nothing_is_lost_or_doubled_and_nobody_is_woken(
    events: list[tuple[int, bool, str]], looks: list[int], broken: set[int]
) -> None:
    """Alerts at random minutes of 40 hours, couriers that look at random ones, some in vain; then a look a minute after all."""
    begin = at("2026-10-24T18:00")  # into the night that is an hour longer
    sent = Sent()
    with pytest.MonkeyPatch.context() as patch, closing(open_store("sqlite://")) as store:
        patch.setattr(sending, "_send", sent.send)
        store.create_run(Run("run", "gpt2", created_at=1.0))
        for number, (minute, critical, channel) in enumerate(sorted(events)):
            when = begin + 60.0 * minute
            for look in [look for look in sorted(looks) if look <= minute]:
                looks.remove(look)
                sent.failing = "503" if look % 12 in broken else ""
                sent.deliver(store, begin + 60.0 * look)
            post(store, alert(number, Severity.CRITICAL if critical else Severity.WARNING, when), channel=channel)
            sent.failing = ""
            sent.deliver(store, when)
        for hour in (41, 43, 45, 50, 55, 60, 61, 62):
            sent.deliver(store, begin + 3600.0 * hour)
        assert {entry.state for entry in store.notifications()} == {NotificationState.SENT}
    for number, (_, critical, channel) in enumerate(sorted(events)):
        words = f"About blocks.{number}."
        told = [(now, to) for now, to, _, body in sent.messages if f" {words}" in f" {body}".replace("\n", " ")]
        assert [to for _, to in told] == [Channel.of(channel).url], words
        quiet = Channel.of(channel).quiet
        woken = quiet is not None and quiet.end(told[0][0]) is not None
        assert not woken or (critical and channel == PHONE)
