"""The examples run, and their runs are in the store; so do the snippets of docs/integrations.md."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "arguments", "steps"),
    [
        ("huggingface_trainer", ["--steps", "12"], 12),
        ("lightning_module", ["--batches", "24"], 12),
        ("accelerate_loop", ["--epochs", "1"], 16),
        ("torchtitan_style", ["--steps", "8", "--layers", "1", "--compile", "aot_eager"], 8),
    ],
)
def test_the_example_trains_and_is_watched(
    name: str, arguments: list[str], steps: int, url: str, stored: Callable[[], Any], capfd: pytest.CaptureFixture[str]
) -> None:
    torch._dynamo.reset()
    assert example(name).main([*arguments, "--store", url]) == 0
    run, frame = stored()
    assert (run.status, run.last_step) == ("finished", steps - 1)
    losses = frame[frame["signal"] == "loss"]["value"].tolist()
    assert len(losses) == steps
    assert sum(losses[-4:]) < sum(losses[:4])
    assert frame["signal"].str.startswith("spectral_alignment.").any()
    assert not frame[frame["signal"] == "monitor.errors"]["value"].any()


def test_the_example_of_torchtitans_shape_goes_on(url: str, stored: Callable[[], Any]) -> None:
    train = example("torchtitan_style").main
    small = ["--layers", "1", "--store", url, "--out", "parts"]
    train(["--steps", "6", *small])
    train(["--steps", "12", "--resume", *small])
    _, frame = stored()
    losses = frame[frame["signal"] == "loss"]
    assert losses["step"].tolist() == list(range(12))
    assert losses["segment"].tolist() == [0] * 6 + [1] * 6
    assert set(frame[frame["signal"] == "attention.max_logit"]["module"]) == {"layers.0.attention"}


def test_too_high_a_learning_rate_raises_the_alert(url: str, alerts: Callable[[], Any]) -> None:
    example("torchtitan_style").main(["--steps", "60", "--layers", "1", "--store", url, "--learning-rate", "10"])
    assert alerts()


def test_the_script_as_it_is(tmp_path: Path, stored: Callable[[], Any], url: str) -> None:
    command = [sys.executable, "-P", "-m", "foreshock", "run", "--store", url, str(ROOT / "examples" / "plain_loop.py")]
    answer = subprocess.run([*command, "--steps", "25"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("step    0   loss")
    assert stored()[0].last_step == 24


def test_the_snippets_run_as_they_stand() -> None:
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "integrations.md").read_text(), re.S):
        exec(compile(code, "docs/integrations.md", "exec"), {})
