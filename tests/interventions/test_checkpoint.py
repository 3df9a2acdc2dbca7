"""The last good state is there when it is needed, and nothing that goes wrong with the disk reaches training."""

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import foreshock
import pytest
import torch
from foreshock.interventions.base import Training
from foreshock.interventions.checkpoint import Checkpoint
from foreshock.storage.records import Alert, AlertState, Run, Severity
from torch import Tensor, nn

Alarm = Any


class Story:
    """A run whose alerts are those put in ``alerts``."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.model = nn.Linear(2, 2)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.alerts: list[Alert] = []
        self.told: list[str] = []
        self.checkpoint, self.number = checkpoint, 0
        self.weights: dict[int, Tensor] = {}
        run = Run("run1", "r")
        checkpoint.attach(
            Training(
                {"model": self.model},
                [self.optimizer],
                run,
                tell=lambda kind, message, **data: self.told.append(message),
                step=lambda: self.number,
                alerts=lambda: self.alerts,
            )
        )

    def go(self, until: int) -> None:
        while self.number < until:
            self.model(torch.ones(1, 2)).sum().backward()
            self.optimizer.step()
            self.weights[self.number] = self.model.weight.detach().clone()
            self.checkpoint.after_step(self.number)
            self.number += 1


def test_trouble_never_pushes_the_last_good_state_out(tmp_path: Path, alarm: Alarm) -> None:
    story = Story(checkpoint := Checkpoint(tmp_path, every=10, settle=15, keep=2))
    story.go(24)
    assert checkpoint.good is None
    story.go(26)
    assert checkpoint.good is not None
    assert checkpoint.good.name == "step-000000009.pt"
    story.go(32)
    story.alerts = [alarm(step=30)]  # before steps 19 and 29 have proved good
    story.go(100)
    assert checkpoint.good.name == "step-000000009.pt"
    state = torch.load(checkpoint.good)
    assert state["step"] == 9
    assert torch.equal(state["models"]["model"]["weight"], story.weights[9])
    story.optimizer.load_state_dict(state["optimizers"][0])
    assert json.loads((tmp_path / "run1" / "good.json").read_text()) == {"file": "step-000000009.pt", "step": 9}
    story.alerts = [replace(alarm(step=30), state=AlertState.RESOLVED)]
    story.go(160)
    assert checkpoint.good.name > "step-000000100.pt"
    assert len(list((tmp_path / "run1").glob("step-*.pt"))) <= 3


def test_candidates_are_not_pushed_out_before_they_could_prove_good(tmp_path: Path) -> None:
    story = Story(checkpoint := Checkpoint(tmp_path, every=5, settle=30, keep=2))
    story.go(36)
    assert checkpoint.good is not None
    assert (checkpoint.good.name, checkpoint.good_step) == ("step-000000004.pt", 4)
    story.go(90)
    assert checkpoint.good_step > 30
    assert len(list((tmp_path / "run1").glob("step-*.pt"))) <= 3


def test_what_was_not_judged_yet_is_not_called_good(tmp_path: Path) -> None:
    story = Story(checkpoint := Checkpoint(tmp_path, every=5, settle=5))
    checkpoint.training.judged = lambda: 8
    story.go(30)
    assert checkpoint.good is None
    checkpoint.training.judged = lambda: 9
    story.go(31)
    assert checkpoint.good_step == 4


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    story = Story(Checkpoint(tmp_path, every=5, settle=5))
    with torch.no_grad():
        story.model.bias[1] = float("inf")
    story.go(30)
    assert not list(tmp_path.rglob("*.pt"))


def test_an_alert_of_no_weight_is_no_trouble(tmp_path: Path, alarm: Alarm) -> None:
    story = Story(checkpoint := Checkpoint(tmp_path, every=10, settle=5))
    story.alerts = [alarm(severity=Severity.INFO)]
    story.go(30)
    assert checkpoint.good is not None


def test_a_full_disk_is_told_once_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    def full(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    story = Story(Checkpoint(tmp_path, every=5, save=full))
    story.go(30)
    (message,) = story.told
    assert "No checkpoint of step 4 could be written, training goes on" in message
    assert "No space left" in message
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_files_take_no_more_room_than_was_given_and_that_is_told_once(tmp_path: Path) -> None:
    def save(path: Path) -> None:
        path.write_bytes(b"x" * 600_000)

    story = Story(Checkpoint(tmp_path, every=5, settle=0, keep=3, save=save, gigabytes=0.001))
    story.go(60)
    assert len([path for path in tmp_path.rglob("step-*") if path.is_file()]) == 1  # 1,073,741 bytes are no two of them
    (refused,) = [message for message in story.told if "leaves no room" in message]
    assert "gigabytes=0.001 leaves no room beside 600,000 bytes" in refused
    too_large = Story(Checkpoint(tmp_path / "b", every=5, save=save, gigabytes=0.0001))
    too_large.go(20)
    assert not list((tmp_path / "b").rglob("step-*"))


def test_in_a_watched_run_it_changes_no_bit(small: Any, fresh_small: Any, url: str, tmp_path: Path) -> None:
    chosen = [Checkpoint(tmp_path / "saved", every=5)]
    with foreshock.watch(small.model, small.optimizer, store=url, interventions=chosen) as monitor:
        for _ in range(12):
            monitor.step(small.step())
    assert monitor.faults.total == 0
    alone = fresh_small()
    for _ in range(12):
        alone.step()
    assert torch.equal(small.weights(), alone.weights())
    assert len(list((tmp_path / "saved" / monitor.run.id).glob("step-*.pt"))) == 2


def test_a_folder_that_cannot_be_made_does_not_stop_training(small: Any, url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with foreshock.watch(
        small.model, small.optimizer, store=url, interventions=[Checkpoint(tmp_path / "file", every=1)]
    ) as monitor:
        monitor.step(small.step())
        monitor.step(small.step())
    store = foreshock.open_store(url)
    assert [event.kind for event in store.events(monitor.run.id)].count("intervention") == 1
    store.close()


@pytest.mark.parametrize("options", [{"every": 0}, {"keep": 0}, {"settle": -1}])
def test_numbers_that_make_no_sense_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        Checkpoint(**options)
