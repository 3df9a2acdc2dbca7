"""The second law: whatever breaks, training goes on untouched, and the fault is counted and can be seen."""

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import foreshock
import pytest
import torch
from foreshock.probes.base import Counts, Probe, Scalars
from foreshock.probes.model import WatchedModel
from foreshock.storage import trouble
from torch import nn


class FailingProbe(Probe):
    name = "failing"
    presets = frozenset()

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def _fail(self, where: str) -> None:
        if where == self.where:
            raise RuntimeError(f"planted in {where}")

    def attach(self, model: WatchedModel) -> None:
        self.module = next(iter(model.roots.values()))
        self._fail("attach")

    def arm(self, step: int) -> None:
        self._fail("arm")

        def on_input(module: nn.Module, args: Any) -> None:
            self.guard(lambda: self._fail("hook"))

        self.handle = self.module.register_forward_pre_hook(on_input)

    def collect(self, step: int) -> Iterator[Scalars | Counts]:
        self._fail("collect")
        yield from ()

    def disarm(self) -> None:
        if hasattr(self, "handle"):
            self.handle.remove()
        self._fail("disarm")


def untouched(fresh: Any, steps: int) -> torch.Tensor:
    """The weights that the same training without a monitor ends with."""
    run = fresh()
    for _ in range(steps):
        run.step()
    return run.weights()


@pytest.mark.parametrize("where", ["attach", "arm", "hook", "collect", "disarm"])
def test_a_failing_probe(where: str, fresh_small: Any, url: str, caplog: pytest.LogCaptureFixture) -> None:
    run = fresh_small()
    with (
        caplog.at_level(logging.WARNING, "foreshock"),
        foreshock.watch(run.model, run.optimizer, store=url, every=1, probes=["spectral", FailingProbe(where)]) as monitor,
    ):
        for _ in range(20):
            monitor.step(run.step())
    assert torch.equal(run.weights(), untouched(fresh_small, 20))
    assert monitor.faults.total >= 1
    assert caplog.text.count("probe failing failed and was skipped") == 1
    store = foreshock.open_store(url)
    record = store.runs()[0]
    faults = store.events(record.id, kind="fault")
    assert any(f"planted in {where}" in event.message for event in faults)
    if where != "attach":
        assert any("switched off after 3 faults in a row" in event.message for event in faults)
        frame = store.frame(record, "monitor.errors")
        assert frame["value"].max() >= 1
    # The other probe measured all the while.
    assert (store.frame(record)["signal"] == "weight.spectral_norm").sum() == 2 * 20
    store.close()


def test_nan_in_everything(fresh_small: Any, url: str) -> None:
    def poisoned() -> Any:
        run = fresh_small()
        with torch.no_grad():
            run.model[0].weight[0, 0] = float("nan")
        return run

    run = poisoned()
    seen: list[Any] = []
    with foreshock.watch(run.model, run.optimizer, store=url, every=1, on_alert=seen.append) as monitor:
        for _ in range(30):
            monitor.step(run.step(), extra=float("nan"))
    plain = poisoned()
    for _ in range(30):
        plain.step()
    assert torch.equal(run.weights().isnan(), plain.weights().isnan())
    assert monitor.faults.total == 0
    store = foreshock.open_store(url)
    frame = store.frame(store.runs()[0])
    assert set(frame[frame["signal"] == "loss"]["kind"]) == {"nan"}
    assert set(frame[frame["signal"] == "extra"]["kind"]) == {"nan"}
    assert "nan" in set(frame[frame["signal"] == "weight.spectral_norm"]["kind"])
    critical = [alert for alert in store.alerts(store.runs()[0]) if alert.severity == "critical"]
    assert critical
    assert min(alert.first_step for alert in critical) == 0
    store.close()


def test_a_vanished_database_file(
    fresh_small: Any, url: str, tmp_path: Path, eventually: Callable[[Callable[[], object], str], None]
) -> None:
    run = fresh_small()
    with foreshock.watch(run.model, run.optimizer, run="vanished", store=url, every=5) as monitor:
        for _ in range(20):
            monitor.step(run.step())
        assert monitor._writer.flush(10)
        for file in tmp_path.glob("runs.db*"):
            file.unlink()
        for _ in range(20):
            monitor.step(run.step())
        eventually(lambda: trouble.recent(), "the trouble on record")
    assert torch.equal(run.weights(), untouched(fresh_small, 40))
    assert trouble.recent()[0].run == "vanished"
    store = foreshock.open_store(url)
    record = store.run("vanished")
    steps = store.frame(record, "loss")["step"].tolist()
    assert steps[-1] == 39
    assert any(event.kind == "store_recovered" for event in store.events(record.id))
    store.close()


def test_a_read_only_database(fresh_small: Any, url: str, tmp_path: Path) -> None:
    """The file loses its write permission in mid-run; as root, permissions bind nobody, so the file is made immutable by SQLite."""
    run = fresh_small()
    with foreshock.watch(run.model, run.optimizer, run="frozen", store=url, every=5) as monitor:
        for _ in range(10):
            monitor.step(run.step())
        assert monitor._writer.flush(10)
        from sqlalchemy import event

        store = monitor._writer.store
        engine = store._database.engine  # type: ignore[union-attr]
        event.listen(engine, "checkout", lambda connection, record, proxy: connection.execute("PRAGMA query_only = ON"))
        for _ in range(10):
            monitor.step(run.step())
        assert not monitor._writer.flush(2)
        assert not monitor._writer.stats.store_ok
    assert torch.equal(run.weights(), untouched(fresh_small, 20))
    assert any(entry.run == "frozen" for entry in trouble.recent())


FULL_DISK = """
import resource, signal, sys
import foreshock, torch
from torch import nn
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
torch.manual_seed(0); torch.set_num_threads(1)
model = nn.Linear(8, 4); optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with foreshock.watch(model, optimizer, run="full", store=sys.argv[1], every=1) as monitor:
    for step in range(400):
        if step == 5:
            monitor._writer.flush(10)
            resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
        loss = model(torch.randn(4, 8)).square().mean()
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        monitor.step(loss, **{f"metric_{i}": float(step) for i in range(40)})
    stats = monitor._writer
print("trained", float(model.weight.sum()))
"""


def test_a_full_disk(url: str, tmp_path: Path) -> None:
    import subprocess

    script = tmp_path / "full.py"
    script.write_text(FULL_DISK)
    done = subprocess.run([sys.executable, "-P", str(script), url], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "trained" in done.stdout
    assert "Traceback" not in done.stderr
    assert any(entry.run == "full" for entry in trouble.recent())


def test_a_database_that_is_away_from_the_start(fresh_small: Any, caplog: pytest.LogCaptureFixture) -> None:
    run = fresh_small()
    seen: list[Any] = []
    away = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    with foreshock.watch(run.model, run.optimizer, run="away", store=away, every=5, on_alert=seen.append) as monitor:
        for _ in range(20):
            monitor.step(run.step())
        monitor.step(float("nan"))
        monitor._writer.flush(3)
        monitor.step(run.step())
    assert torch.equal(run.weights(), untouched(fresh_small, 21))
    assert "training goes on" in caplog.text
    # Alerts do not need the store.
    assert any(alert.rule == "non_finite" for alert in seen)
    assert any(entry.run == "away" for entry in trouble.recent())


def test_a_callback_that_raises_and_a_loss_that_is_no_number(small: Any, url: str, caplog: pytest.LogCaptureFixture) -> None:
    def explode(alert: Any) -> None:
        raise ZeroDivisionError("planted in the callback")

    with foreshock.watch(small.model, small.optimizer, store=url, on_alert=explode) as monitor:
        monitor.step(torch.tensor([1.0, 2.0]))
        monitor.step("three")  # type: ignore[arg-type]
        monitor.step(float("nan"))
        assert monitor._writer.flush(10)
        monitor.step(small.step())
    assert "planted in the callback" in caplog.text
    assert "it has shape (2,); pass one number" in caplog.text
    store = foreshock.open_store(url)
    assert store.runs()[0].last_step == 3
    store.close()
