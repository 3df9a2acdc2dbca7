"""``foreshock run``: a script is run as python runs it, and what it trains is watched."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import foreshock
import pandas as pd
import pytest

# Prints the weights bit by bit, and all that a script sees of how it was started.
HEAD = """
import json, os, sys
import torch
from torch import nn
torch.manual_seed(0)
torch.set_num_threads(1)
losses = []

def told(*modules):
    bits = [p.detach().view(torch.int32).sum().item() for module in modules for p in module.parameters()]
    where = [sys.argv, __name__, __file__, sys.path[0], sys.modules["__main__"].__dict__ is globals()]
    print(json.dumps([bits, losses, where]))
"""
PLAIN = HEAD + (
    """
model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Dropout(0.1), nn.Linear(32, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=float(sys.argv[1]))
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10)
for step in range(30):
    total = 0.0
    for _ in range(2):
        loss = model(torch.randn(16, 10)).square().mean() / 2
        loss.backward()
        total += loss.item()
    losses.append(total)
    nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
told(model)
"""
)
SCALED = HEAD + (
    """
model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
for step in range(12):
    loss = model(torch.randn(16, 10)).square().mean() * (float("inf") if step == 5 else 1.0)
    losses.append(loss.item())
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
told(model)
"""
)
GAN = HEAD + (
    """
class Generator(nn.Sequential): pass
small, large = nn.Sequential(nn.Linear(4, 1)), Generator(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 4))
matrices, vectors = ([p for p in large.parameters() if (p.dim() > 1) is wide] for wide in (True, False))
d = torch.optim.Adam(small.parameters(), lr=0.01)
g, biases = torch.optim.Adam(matrices, lr=0.01), torch.optim.SGD(vectors, lr=0.01)
for step in range(10):
    x = torch.randn(8, 4)
    d.zero_grad()
    (small(x).mean() - small(large(x).detach()).mean()).square().backward()
    d.step()
    g.zero_grad(), biases.zero_grad()
    loss = small(large(x)).square().mean()
    losses.append(loss.item())
    loss.backward()
    g.step(), biases.step()
told(small, large)
"""
)
BROKEN = PLAIN.replace("told(model)", "def deeper():\n    raise ValueError('planted')\n\ndeeper()\n")


def run(folder: Path, *command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FORESHOCK_", "PYTHON"))}
    environment = {
        **kept,
        "FORESHOCK_HOME": str(folder / "home"),
        "FORESHOCK_STORE": f"sqlite:///{folder / 'runs.db'}",
        **variables,
    }
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def watched(folder: Path, *command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return run(folder, "-m", "foreshock", "run", *command, **variables)


def measured(folder: Path) -> tuple[Any, dict[str, pd.DataFrame]]:
    store = foreshock.open_store(f"sqlite:///{folder / 'runs.db'}")
    try:
        (found,) = store.runs()
        return found, {str(name): part for name, part in store.frame(found).groupby("signal")}
    finally:
        store.close()


def test_a_script_runs_as_python_runs_it_and_every_step_is_kept(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "train.py").write_text(PLAIN)
    alone = run(tmp_path, "sub/train.py", "0.01", "--run", "its own")
    beside = watched(tmp_path, "--run", "mine", "--every", "5", "--tag", "a", "sub/train.py", "0.01", "--run", "its own")
    assert (alone.returncode, alone.stderr) == (beside.returncode, beside.stderr) == (0, "")
    assert alone.stdout == beside.stdout
    _, losses, where = json.loads(alone.stdout)
    assert where == [
        ["sub/train.py", "0.01", "--run", "its own"],
        "__main__",
        str(tmp_path / "sub/train.py"),
        str(tmp_path / "sub"),
        True,
    ]
    found, signal = measured(tmp_path)
    assert (found.name, found.tags, found.status, found.last_step) == ("mine", ("a",), "finished", 29)
    assert found.meta["command"] == "train.py 0.01 --run its own"
    assert signal["loss"]["value"].tolist() == pytest.approx(losses, rel=1e-6)
    assert signal["learning_rate"]["value"].tolist() == pytest.approx([0.01] * 10 + [0.001] * 10 + [0.0001] * 10)
    assert len(signal["gradient.norm"]) == 30
    assert signal["gradient.norm_clipped"]["value"].max() <= 0.01001 < signal["gradient.norm"]["value"].max()
    assert sorted(set(signal["spectral_alignment.mean"]["step"])) == [2, 5, 10, 15, 20, 25]
    assert set(signal["spectral_alignment.mean"]["module"]) == {"0", "3"}


def test_a_module_and_settings_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "train.py").write_text(SCALED)
    alone = run(tmp_path, "-m", "package.train")
    beside = watched(tmp_path, "-m", "package.train", FORESHOCK_PROBES="light", FORESHOCK_PROJECT="ours")
    assert alone.stdout == beside.stdout != ""
    assert (beside.returncode, beside.stderr.count("foreshock")) == (0, beside.stderr.count("foreshock CRITICAL"))
    _, losses, _ = json.loads(alone.stdout)
    found, signal = measured(tmp_path)
    assert found.project == "ours"
    # What the scaler skips is a step too, and its loss is its own.
    assert signal["loss"]["value"].tolist() == pytest.approx(losses, rel=1e-6)
    assert len(signal["gradient.norm"]) == 11
    assert "activation.rms" not in signal


def test_of_several_optimizers_the_largest_models_count(tmp_path: Path) -> None:
    (tmp_path / "gan.py").write_text(GAN)
    beside = watched(tmp_path, "--every", "1", "gan.py")
    assert beside.stderr == ""
    _, losses, _ = json.loads(beside.stdout)
    found, signal = measured(tmp_path)
    assert found.meta["model"] == "Generator"
    assert signal["loss"]["step"].tolist() == list(range(10))
    assert signal["loss"]["value"].tolist()[1:] == pytest.approx(losses[1:], rel=1e-6)
    assert set(signal["gradient.module_norm"]["module"]) == {"0", "2"}


def test_exceptions_exit_codes_and_interrupts_are_pythons(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    beside = watched(tmp_path, "broken.py", "0.01")
    assert beside.returncode == 1
    assert re.fullmatch(
        r'Traceback .*\n  File ".*broken.py", line \d+, in <module>\n.*in deeper\n.*\nValueError: planted\n', beside.stderr, re.S
    )
    assert measured(tmp_path)[0].status == "crashed"
    nested = "def deeper():\n    try:\n        1 / 0\n    except ZeroDivisionError as e:\n        raise ValueError from e\ndeeper()"
    for code in (nested, "x = (", "import sys; sys.exit(3)", "import sys; sys.exit('so')", "raise KeyboardInterrupt"):
        (tmp_path / "small.py").write_text(code)
        alone, beside = run(tmp_path, "small.py"), watched(tmp_path, "small.py")
        note = "foreshock: no optimizer stepped, so nothing was watched\n"
        assert beside.returncode == alone.returncode != 0
        assert beside.stderr.replace(note, "") == alone.stderr
        assert beside.stderr.count(note) == 1
    assert alone.returncode == -signal.SIGINT


def test_what_does_not_train_loads_nothing_and_says_so_once(tmp_path: Path) -> None:
    (tmp_path / "quiet.py").write_text("import sys\nprint(sorted({'torch', 'numpy', 'pandas', 'sqlalchemy'} & set(sys.modules)))\n")
    beside = watched(tmp_path, "quiet.py")
    assert (beside.returncode, beside.stdout) == (0, "[]\n")
    assert beside.stderr == "foreshock: no optimizer stepped, so nothing was watched\n"
    assert not (tmp_path / "runs.db").exists()
    missing = watched(tmp_path, "nowhere.py")
    assert missing.returncode == 2
    assert "there is no 'nowhere.py'" in missing.stderr
    wrong = watched(tmp_path, "--compiled", "perhaps", "quiet.py")
    assert wrong.returncode == 2
    assert (wrong.stdout, "compiled = 'perhaps'" in wrong.stderr) == ("", True)


def test_a_script_that_watches_itself_is_left_alone_and_so_is_one_while_disabled(tmp_path: Path) -> None:
    own = PLAIN.replace("for step in", "import foreshock\nmonitor = foreshock.watch(model, optimizer, run='own')\nfor step in")
    (tmp_path / "own.py").write_text(own.replace("    schedule.step()", "    schedule.step()\n    monitor.step(loss)"))
    beside = watched(tmp_path, "own.py", "0.01")
    assert beside.stderr == "the script watches its training itself: foreshock run adds nothing\n"
    assert measured(tmp_path)[0].name == "own"
    (tmp_path / "train.py").write_text(PLAIN)
    assert watched(tmp_path, "train.py", "0.01", FORESHOCK_DISABLE="1").stderr == ""
    assert measured(tmp_path)[0].name == "own"


LIGHTNING = """
import json, logging, warnings
warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
import torch, lightning.pytorch as pl
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)

class Small(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.body, self.losses = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)), []
    def training_step(self, batch):
        loss = self.body(batch).square().mean()
        self.losses.append(loss.item())
        return loss
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)

module = Small()
quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer = pl.Trainer(accelerator="cpu", max_epochs=1, gradient_clip_val=0.1, **quiet)
trainer.fit(module, torch.utils.data.DataLoader(torch.randn(80, 8), batch_size=4))
print(json.dumps(module.losses))
"""
TRAINER = """
import json, os
os.environ["HF_HUB_OFFLINE"] = "1"
import torch, transformers
torch.set_num_threads(1)
torch.manual_seed(0)
ids = dict(bos_token_id=0, eos_token_id=0, use_cache=False, loss_type="ForCausalLM")
model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=32, **ids))
rows = [torch.arange(start, start + 12) % 50 for start in range(64)]
quiet = dict(report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no", logging_steps=1)
sizes = dict(max_steps=8, gradient_accumulation_steps=2, per_device_train_batch_size=4)
arguments = transformers.TrainingArguments("out", **sizes, **quiet)
trainer = transformers.Trainer(model, arguments, train_dataset=[dict(input_ids=row, labels=row) for row in rows])
trainer.remove_callback(transformers.PrinterCallback)
trainer.train()
print(json.dumps([entry["loss"] for entry in trainer.state.log_history if "loss" in entry]))
"""


@pytest.mark.parametrize("code", [LIGHTNING, TRAINER], ids=["lightning", "transformers"])
def test_a_script_with_a_trainer_underneath(code: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(code)
    beside = watched(tmp_path, "--every", "3", "train.py")
    assert beside.returncode == 0, beside.stderr
    losses = json.loads(beside.stdout.splitlines()[-1])
    found, signal = measured(tmp_path)
    assert found.status == "finished"
    assert signal["loss"]["value"].tolist() == pytest.approx(losses, rel=1e-5)
    assert len(signal["gradient.norm"]) == len(losses)
    assert len(signal["spectral_alignment.mean"]) > 0
