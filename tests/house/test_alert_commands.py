"""``foreshock ack``, ``resolve``, ``silence`` and ``notify`` as commands."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from foreshock import open_store
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


@pytest.mark.parametrize("command", [["ack"], ["resolve"], ["silence"], ["watchdog"], ["notify", "test"], ["notify", "failed"]])
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
