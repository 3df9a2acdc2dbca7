"""``watch(mirror=...)``: trackers hear what the store is given, and nothing they do reaches training."""

import math
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import foreshock
import numpy as np
import pytest
import torch
from foreshock.storage import StoreConfigurationError
from foreshock.storage.records import Alert, Batch
from foreshock.storage.transfer.mirrors import feeding, registry
from foreshock.storage.transfer.mirrors.base import Mirror


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_DIR": str(tmp_path),
        "DO_NOT_TRACK": "true",
    }.items():
        monkeypatch.setenv(name, value)


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def test_a_tracker_hears_what_the_store_is_given(small: Any, url: str, tmp_path: Path) -> None:
    mirror = f"tensorboard:{tmp_path / 'logs'}?signals=weight.*"
    with foreshock.watch(small.model, small.optimizer, store=url, every=5, mirror=mirror) as monitor:
        for step in range(30):
            loss = small.step()
            monitor.step(math.nan if step == 20 else loss, accuracy=step / 30)
    found = events(tmp_path / "logs")
    frame = foreshock.open_store(url).frame(monitor.run.id)
    wide = (frame["module"] == "") & (frame["head"] < 0) & (frame["rank"] < 0)
    picked = frame["signal"].str.startswith("weight.") & (frame["module"] != "")
    assert picked.sum() > 0
    tags = found.Tags()["scalars"]
    for signal, rows in frame[wide].groupby("signal"):
        told = found.Scalars(f"foreshock/{signal}")
        tags.remove(f"foreshock/{signal}")
        assert [each.step for each in told] == rows["step"].tolist()
        np.testing.assert_array_equal(np.float32([each.value for each in told]), np.float32(rows["value"]))
    assert {"foreshock/" + "/".join(pair) for pair in frame[picked][["signal", "module"]].to_numpy()} == set(tags)
    texts = [tag for tag in found.Tags()["tensors"] if tag.startswith("foreshock/alerts/")]
    assert len(texts) == len({alert.rule for alert in monitor.alerts}) > 0  # of the loss at step 20


class Hanging(Mirror):
    """Hangs in whatever it is told."""

    NAME = "hanging"

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def open(self) -> None:
        """Do nothing."""

    def take(self, batch: Batch, alerts: Sequence[Alert]) -> None:
        self.gate.wait(60)

    def close(self) -> None:
        """Do nothing."""


class Failing(Hanging):
    NAME = "failing"

    def take(self, batch: Batch, alerts: Sequence[Alert]) -> None:
        raise RuntimeError("quota exceeded")


def test_a_tracker_that_hangs_holds_up_neither_training_nor_the_store(
    small: Any, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(registry, "_CLOSING", 0.2)
    monkeypatch.setattr(feeding, "_MOST_BATCHES", 2)
    mirror = Hanging()
    longest = 0.0
    with foreshock.watch(small.model, small.optimizer, store=url, every=10, mirror=mirror) as monitor:
        for _ in range(10):
            for _ in range(10):
                loss = small.step()
                started = time.perf_counter()
                monitor.step(loss)
                longest = max(longest, time.perf_counter() - started)
            assert monitor.flush()
    assert longest < 2.0  # it hangs for a minute
    store = foreshock.open_store(url)
    assert store.run(monitor.run.id).last_step == 99
    assert len(store.frame(monitor.run.id, "loss")) == 100
    assert "mirror hanging was not told of" in caplog.text
    assert monitor.faults.count("mirror hanging (queue)") > 0
    assert max(store.frame(monitor.run.id, "monitor.errors")["value"]) > 0
    mirror.gate.set()


def test_a_tracker_that_fails_is_told_of_once_and_counted(
    small: Any, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(feeding, "_FIRST_PAUSE", 0.001)
    with foreshock.watch(small.model, small.optimizer, store=url, every=10, mirror=[Failing()]) as monitor:
        for _ in range(3):
            monitor.step(small.step())
            assert monitor.flush()
    assert monitor.faults.count("mirror failing") == 3
    assert caplog.text.count("mirror failing failed and was skipped; training goes on. RuntimeError: quota exceeded") == 1
    told = [event for event in foreshock.open_store(url).events(monitor.run.id, kind="fault") if "mirror failing" in event.message]
    assert len(told) == 1


def trained(fresh: Callable[[], Any], url: str, mirror: Sequence[str]) -> tuple[torch.Tensor, object, object, torch.Tensor]:
    """Train; return the weights, and the state of every global random generator afterwards."""
    random.seed(1)
    np.random.seed(1)
    small = fresh()
    with foreshock.watch(small.model, small.optimizer, store=url, every=7, mirror=mirror) as monitor:
        for _ in range(100):
            monitor.step(small.step())
        for feed in monitor._mirrors.feeds:
            deadline = time.monotonic() + 60
            while feed.taken + feed.dropped == 0 and not monitor.faults.count("mirror otlp"):
                assert time.monotonic() < deadline
                time.sleep(0.01)
    return small.weights(), random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()


def test_training_is_bit_identical_with_mirrors(fresh_small: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among them one whose server is away: what asks it again and again draws random numbers."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nowhere = "otlp:http://127.0.0.1:9?interval=0"  # a port that refuses
    mirrors = [f"tensorboard:{tmp_path / 'logs'}", f"wandb:foreshock?mode=offline&dir={tmp_path}", f"prometheus:{port}", nowhere]
    plain = trained(fresh_small, f"sqlite:///{tmp_path / 'a.db'}", ())
    mirrored = trained(fresh_small, f"sqlite:///{tmp_path / 'b.db'}", mirrors)
    assert torch.equal(plain[0], mirrored[0])
    assert plain[1:3] == mirrored[1:3]
    assert torch.equal(plain[3], mirrored[3])


def test_a_missing_package_is_told_at_watch_and_nothing_is_begun(small: Any, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(StoreConfigurationError, match=r'pip install "foreshock\[tensorboard\]"'):
        foreshock.watch(small.model, small.optimizer, store=url, mirror="tensorboard")
    foreshock.watch(small.model, small.optimizer, store=url).close()  # not watched already


def test_a_tracker_that_is_not_ready_is_told_at_watch_and_the_model_is_free_again(small: Any, url: str) -> None:
    with pytest.raises(StoreConfigurationError, match="there is no W&B run now"):
        foreshock.watch(small.model, small.optimizer, store=url, mirror="wandb")
    assert foreshock.open_store(url).runs() == []  # no run that never began
    foreshock.watch(small.model, small.optimizer, store=url).close()


@pytest.mark.parametrize("how", ["environment", "file"])
def test_mirrors_are_a_setting(small: Any, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "environment":
        monkeypatch.setenv("FORESHOCK_MIRROR", f"tensorboard:{tmp_path / 'a'} tensorboard:{tmp_path / 'b'}")
    else:
        (tmp_path / "foreshock.toml").write_text(f'mirror = ["tensorboard:{tmp_path / "a"}", "tensorboard:{tmp_path / "b"}"]\n')
    with foreshock.watch(small.model, small.optimizer, store=url) as monitor:
        monitor.step(small.step())
    for folder in ("a", "b"):
        assert [each.step for each in events(tmp_path / folder).Scalars("foreshock/loss")] == [0]
