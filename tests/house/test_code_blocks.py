"""Every block of code in the documents works: Python is run, commands are parsed as the command line does, settings are loaded."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
from foreshock.cli import app

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- given: (?P<given>[^>]+) -->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^(?P=indent)```", re.S | re.M
)
SHELL = {"", "bash", "sh"}


@dataclass(frozen=True)
class Block:
    place: str
    language: str
    code: str
    given: str


def blocks(*languages: str) -> list[Any]:
    return list(_found(languages))


def _found(languages: Container[str]) -> Iterator[Any]:
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        for found in BLOCK.finditer(text):
            if found["language"] in languages:
                line = text[: found.start("code")].count("\n")
                place = f"{document.relative_to(ROOT)}:{line}"
                yield pytest.param(Block(place, found["language"], found["code"], found["given"] or ""), id=place)


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a reader has: a model that gives its loss, its optimizer, batches, attention's tensors, a run that was watched."""
    import foreshock
    import pandas
    import torch
    from torch import Tensor, nn

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORESHOCK_HOME", str(tmp_path / "home"))
    for name in [name for name in os.environ if name.startswith("FORESHOCK_") and name != "FORESHOCK_HOME"]:
        monkeypatch.delenv(name)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 1)

        def forward(self, x: Tensor) -> Tensor:
            loss: Tensor = self.down(torch.tanh(self.up(x))).square().mean()
            return loss

    torch.manual_seed(0)
    model = Model()
    q, k, v = torch.randn(3, 2, 4, 16, 8)
    loader = [torch.randn(4, 8) for _ in range(8)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return {
        "foreshock": foreshock, "torch": torch, "pandas": pandas, "model": model, "optimizer": optimizer, "loader": loader,
        "q": q, "k": k, "v": v, "reward": 1.0,
    }  # fmt: skip


@pytest.fixture
def watched(given: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The same, with runs in the store that blocks read back, and the files that they name."""
    foreshock, torch = given["foreshock"], given["torch"]
    for name in ("first", "gpt2-bf16"):
        model = torch.nn.Linear(8, 1)
        with foreshock.watch(model, run=name) as monitor:
            monitor.step(model(torch.ones(1, 8)).sum())
    store = foreshock.open_store()
    store.frame("gpt2-bf16").to_parquet(tmp_path / "gpt2-bf16.parquet")
    store.frame("gpt2-bf16").to_csv(tmp_path / "loss.csv.gz", index=False)
    return given | {"store": store, "run": "gpt2-bf16", "monitor": monitor}


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def dashboard(watched: dict[str, Any], tmp_path: Path) -> Iterator[str]:
    """A page and an API over the runs that were watched: its address."""
    code = "import sys; from foreshock.cli import main; sys.exit(main())"
    command = [sys.executable, "-P", "-c", code, "dashboard", "--port", "0"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield "http://" + process.stdout.readline().split("http://")[1].split()[0]
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")  # torch.compile's own
@pytest.mark.parametrize("block", blocks("python"))
def test_python_runs(
    block: Block, watched: dict[str, Any], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if block.given == "a process group":
        request.getfixturevalue("process_group")
    if block.given == "a dashboard":
        address = request.getfixturevalue("dashboard")
        block = Block(block.place, block.language, block.code.replace("http://127.0.0.1:8050", address), "")
    if "mirror=" in block.code:
        # Trackers that would look for a network or an account: that they are mirrored to is tested in tests/storage/transfer.
        block = Block(block.place, block.language, block.code.replace('"wandb", "prometheus:9464"', '"tensorboard:runs/y"'), "")
    if "torch.compile" in block.code:
        compile_graphs = watched["torch"].compile  # C++ takes a minute to compile and is tested in tests/monitor
        monkeypatch.setattr(watched["torch"], "compile", partial(compile_graphs, backend="aot_eager"))
    names = watched | {"__name__": "document"}
    exec(compile(block.code, block.place, "exec"), names)
    for opened in (names.get("monitor"), names["store"], watched["store"]):
        opened.close()


def commands(code: str) -> Iterator[list[str]]:
    """Yield the arguments of each line that calls foreshock."""
    for line in code.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|;|\|", line):
            match = re.match(r"\s*(?:[A-Z_]+=\S+ )*foreshock\b(?P<rest>.*)", part)
            if match:
                rest = re.split(r"\s{2,}(?![-#])|\s#", match["rest"].strip() + " ", maxsplit=1)[0]
                yield shlex.split(rest)


@pytest.mark.parametrize("block", blocks(*sorted(SHELL)))
def test_commands_are_understood(block: Block) -> None:
    root = typer.main.get_command(app)
    for arguments in commands(block.code):
        understood(root, arguments, block.place)


def understood(command: Any, arguments: list[str], place: str) -> None:
    """Parse arguments as the command line would, down to the command itself, and run nothing."""
    context = command.make_context("foreshock", list(arguments))
    while hasattr(command, "commands"):
        name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None, f"{place}: no command {name}"
        command = found
        try:
            context = command.make_context(name, rest, parent=context)
        except typer.BadParameter as error:
            if "does not exist" in str(error):  # the reader's file
                return
            pytest.fail(f"{place}: foreshock {shlex.join(arguments)}: {error}")


@pytest.mark.parametrize("block", blocks("toml"))
def test_settings_are_accepted(block: Block, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foreshock.analyzer.rules import RuleSet
    from foreshock.config import load_settings

    found = tomllib.loads(block.code)
    if "project" in found:
        assert set(found["project"]["entry-points"]) <= {"foreshock.mirrors", "foreshock.detectors", "foreshock.rules"}
        return
    (tmp_path / "foreshock.toml").write_text(block.code)
    settings = load_settings()
    if "rules" in found:
        RuleSet.load(settings.rules)
