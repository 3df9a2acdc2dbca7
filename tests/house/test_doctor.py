import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from foreshock import doctor, open_store
from foreshock.doctor import Check, examine
from foreshock.storage import trouble
from foreshock.storage.records import Batch, Event, Run, SeriesKey, StepRecord, new_id

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store with a run in it."""
    url = f"sqlite:///{tmp_path}/runs.db"
    store = open_store(url)
    store.create_run(Run("a" * 32, "gpt2[red]", created_at=time.time()))
    store.close()
    return url


@pytest.fixture
def looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, list[Check]]]:
    """Examine in this process, in an empty folder, without torch; lines by name."""
    for name in [name for name in os.environ if name.startswith("FORESHOCK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FORESHOCK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "_device", lambda: iter(()))

    def look(store: str | None = None) -> dict[str, list[Check]]:
        found: dict[str, list[Check]] = {}
        for check in examine(store):
            found.setdefault(check.name, []).append(check)
        return found

    return look


Look = Callable[..., dict[str, list[Check]]]


def test_a_healthy_machine(foreshock: Command, url: str) -> None:
    answer = foreshock("doctor", "--store", url, "--json")
    assert (answer.returncode, answer.stderr) == (0, "")
    lines = {check["name"]: check for check in json.loads(answer.stdout)}
    assert {check["level"] for check in lines.values()} <= {"ok", "warn"}
    assert {"foreshock", "packages", "torch", "GPU", "Triton", "SQLite", "PostgreSQL", "settings", "trouble", "store"} <= set(lines)
    assert "sqlalchemy 2" in lines["packages"]["message"]
    assert "can be written" in lines["store"]["message"]
    assert "gpt2[red]" in lines["store"]["message"]


def test_a_read_only_store_is_a_problem(foreshock: Command, url: str) -> None:
    answer = foreshock("doctor", "--store", f"{url}?mode=ro", COLUMNS="60")
    assert answer.returncode == 1
    assert "problem store" in answer.stdout
    assert "read-only" in answer.stdout
    assert "->" in answer.stdout


def test_a_store_that_is_not_there_yet_is_fine_and_is_not_made(looked: Look, tmp_path: Path) -> None:
    (store,) = looked()["store"]
    assert (store.level, str(tmp_path / "foreshock.db") in store.message) == ("ok", True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sqlite:///nowhere/runs.db", "nowhere"),
        ("sqlite:///", "memory"),
        ("sqlite:///broken.db", "not a SQLite database"),
        ("what", "what"),
    ],
)
def test_a_store_that_cannot_work_is_a_problem(looked: Look, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "broken.db").write_text("no database, but long enough to have the header of one" * 20)
    (store,) = looked(name)["store"]
    if name == "sqlite:///":
        assert store.level == "ok"
    else:
        assert (store.level, message in store.message) == ("problem", True), store


def test_faults_and_losses_of_runs_are_told(looked: Look, url: str) -> None:
    store = open_store(url)
    (run,) = store.runs()
    segment = store.open_segment(run.id, 0, time.time())
    steps = tuple(StepRecord(step, time.time(), (SeriesKey("monitor.dropped"),), (3.0 * step,)) for step in range(4))
    store.write(Batch(new_id(), run.id, segment, steps))
    store.add_event(Event(new_id(), run.id, segment, 7, time.time(), "fault", "probe spectral failed: ValueError: x"))
    store.close()
    fault, dropped = looked(url)["run"]
    assert "fault at step 7: probe spectral failed" in fault.message
    assert "9 samples were dropped" in dropped.message
    assert {fault.level, dropped.level} == {"warn"}


def test_recent_trouble_is_told_and_old_trouble_is_not(looked: Look, url: str) -> None:
    trouble.record(trouble.Trouble(time.time() - 30 * 86400, "old", "b" * 32, url, "write", "long ago"))
    assert [check.level for check in looked(url)["trouble"]] == ["ok"]
    for number in range(doctor.MOST_TROUBLES + 2):
        trouble.record(trouble.Trouble(time.time(), f"run{number}", "a" * 32, url, "write", "the disk is full", lost=12))
    *told, rest = looked(url)["trouble"]
    assert len(told) == doctor.MOST_TROUBLES
    assert "the disk is full (12 samples lost)" in told[0].message
    assert rest.message == "and 2 more"


def test_settings_are_looked_at(looked: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESHOCK_STOER", "sqlite://")
    monkeypatch.setenv("FORESHOCK_DISABLE", "1")
    found = looked()
    assert found["environment"][0].remedy == "did you mean FORESHOCK_STORE?"
    assert any("measures nothing" in check.message for check in found["settings"])
    monkeypatch.setenv("FORESHOCK_BUDGET", "9")
    (settings,) = looked()["settings"]
    assert (settings.level, "FORESHOCK_BUDGET: budget" in settings.message) == ("problem", True)


def test_the_root_on_the_import_path_is_told(looked: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "import path" not in looked()
    monkeypatch.syspath_prepend(str(Path(doctor.__file__).resolve().parent))
    (path,) = looked()["import path"]
    assert (path.level, "PYTHONSAFEPATH=1" in path.remedy) == ("warn", True)


def test_a_missing_package_is_a_problem(looked: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "REQUIRED", ("rich", "no-such-package-here"))
    *_, missing = looked()["packages"]
    assert (missing.level, missing.remedy) == ("problem", "pip install no-such-package-here")


def test_torch_that_cannot_be_imported_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (torch,) = doctor._device()
    assert (torch.level, "libcudart.so" in torch.message) == ("problem", True)


def test_a_gpu_whose_triton_fails_is_warned_of() -> None:
    facts = {"torch": "2.13.0", "threads": 2, "gpus": ["H200"], "triton": "3.9.0", "kernel": "RuntimeError: no C compiler"}
    *_, gpu, triton = doctor._device_lines(facts)
    assert (gpu.message, triton.level) == ("H200", "warn")
    assert "no C compiler" in triton.message


BUILD = """
import torch
from torch import nn

def build():
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    optimizer = torch.optim.AdamW(model.parameters())

    def step():
        optimizer.zero_grad()
        model(torch.ones(5, 8)).square().mean().backward()
        optimizer.step()

    return model, step

def wrong():
    return 3
"""


def test_what_presets_would_cost(foreshock: Command, tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text(BUILD)
    answer = foreshock("doctor", "--estimate", f"{file}:build", "--json")
    assert (answer.returncode, answer.stderr) == (0, "")
    found = {each["preset"]: each for each in json.loads(answer.stdout)}
    assert list(found) == ["light", "default", "full"]
    assert [probe["name"] for probe in found["light"]["probes"]]
    assert all(each["step_ms"] > 0 and each["interval"] >= 10 and each["held_bytes"] > 0 for each in found.values())


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("train.py", "is not FILE:FUNCTION"),
        ("nowhere.py:build", "cannot be loaded"),
        ("no.such.module:build", "cannot be loaded"),
        ("train.py:nothing", "has no function 'nothing'"),
        ("train.py:wrong", "must return a model and a function that trains it one step, got int"),
    ],
)
def test_a_model_that_cannot_be_built_is_explained(foreshock: Command, tmp_path: Path, target: str, message: str) -> None:
    (tmp_path / "train.py").write_text(BUILD)
    answer = foreshock("doctor", "--estimate", target, COLUMNS="200")
    assert answer.returncode == 2
    assert message in " ".join(answer.stderr.split())
