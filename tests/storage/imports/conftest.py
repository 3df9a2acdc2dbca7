"""Runs written by the real packages, brought into a store."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from foreshock.cli import app
from foreshock.storage import Store
from foreshock.storage.records import Run
from foreshock.storage.transfer.imports.intake import Imported, import_run
from foreshock.storage.transfer.imports.source import Source
from typer.testing import CliRunner, Result

FAILING = """
def failing(step, noise=__import__("random").Random(0)):
    wave = 1 + 0.03 * noise.uniform(-1, 1)
    grown = 2.718 ** (max(0, min(step, 360) - 250) / 12)
    return {"loss": (0.5 + 2 * 0.99**step) * wave * (1 if step < 340 else 40), "grad_norm": wave * grown}

"""
"""Defined for what writes runs: a run whose gradients grow from step 250 on, and whose loss jumps at 340."""

QUIET = {
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "DO_NOT_TRACK": "1",
    "PYTHONSAFEPATH": "1",
}
"""What keeps trackers from the network, and MLflow from refusing the store that half of its users have."""


@pytest.fixture
def bring() -> Callable[..., list[Imported]]:
    """Look runs over and import them."""

    def brought(store: Store, sources: Iterable[Source], **options: Any) -> list[Imported]:
        return [import_run(store, source, source.survey(lambda size: None), **options) for source in sources]

    return brought


@pytest.fixture
def points() -> Callable[[Store, Run | str], dict[tuple[int, str, int], str]]:
    """Return {(segment, signal, step): value}, values as text, for nan equals nothing."""

    def read(store: Store, run: Run | str) -> dict[tuple[int, str, int], str]:
        frame = store.frame(run)
        return {
            (row.segment, row.signal, row.step): repr(row.value)
            for row in frame[["segment", "signal", "step", "value"]].itertuples()
        }

    return read


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run ``foreshock`` with a store of the test's own, ``tmp_path / "store.db"``."""
    monkeypatch.setenv("FORESHOCK_STORE", f"sqlite:///{tmp_path / 'store.db'}")
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="session")
def quiet() -> dict[str, str]:
    """The environment for trackers, without W&B's own marks: a test in this process may have a service, which others would join."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "_WANDB_"))} | QUIET


@pytest.fixture(scope="session")
def write_with(quiet: dict[str, str]) -> Callable[[str, Path], None]:
    """Run a script in a process of its own, as a training job would: what a tracker leaves behind in a process stays there."""

    def write(script: str, folder: Path) -> None:
        command = [sys.executable, "-c", FAILING + script]
        answer = subprocess.run(command, cwd=folder, env=quiet, capture_output=True, text=True, timeout=120)
        assert answer.returncode == 0, answer.stdout + answer.stderr

    return write


@pytest.fixture
def warned_of_failure(command: Callable[..., Result]) -> Callable[[str], None]:
    """Have an imported run that fails as ``failing`` says judged, and look whether it is warned of as a watched one would be."""

    def check(name: str) -> None:
        found = json.loads(command("backtest", name, "--json").stdout)
        first = {alert["rule"]: alert["step"] for alert in reversed(found["alerts"])}
        assert 250 < first["gradient_creep"] < 340, first
        assert first["loss_spike"] == 340
        assert found["outcome"] == "diverged"
        assert min(first.values()) > 250

    return check


@pytest.fixture
def command_without(tmp_path: Path, quiet: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``foreshock`` where a package is not installed."""

    def run(missing: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        script = f"import sys; sys.modules[{missing!r}] = None; from foreshock.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", script, *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=quiet, capture_output=True, text=True)

    return run
