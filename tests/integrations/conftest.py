"""What the integrations are tested with: a quiet machine, tiny models, and the run that came of it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import foreshock
import pandas as pd
import pytest
import torch
from foreshock.storage.records import Run


@pytest.fixture(autouse=True)
def _quiet_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, a home of its own, no settings from outside, and no checkpoint or log beside the repository's files."""
    for name in [name for name in os.environ if name.startswith("FORESHOCK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FORESHOCK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


Read = Callable[[], tuple[Run, pd.DataFrame]]


@pytest.fixture
def stored(url: str) -> Read:
    """Return the only run, and all that was measured."""

    def read() -> tuple[Run, pd.DataFrame]:
        store = foreshock.open_store(url)
        try:
            (run,) = store.runs()
            return run, store.frame(run)
        finally:
            store.close()

    return read


@pytest.fixture
def alerts(url: str) -> Callable[[], dict[str, Any]]:
    """Return the only run's alerts of severity warning and above, by rule."""

    def read() -> dict[str, Any]:
        store = foreshock.open_store(url)
        try:
            (run,) = store.runs()
            return {alert.rule: alert for alert in store.alerts(run) if alert.severity.rank >= 1}
        finally:
            store.close()

    return read
