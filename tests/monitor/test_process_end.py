"""How a run ends is how it is marked: by itself, by an exception, by a signal, without a close(), in a fork."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import foreshock
import pytest
from foreshock.storage.records import Run

HEAD = """
import os, sys, threading
import torch
from torch import nn
import foreshock

torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Linear(8, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

def train(monitor, steps):
    for _ in range(steps):
        loss = model(torch.randn(4, 8)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        monitor.step(loss)
"""

FORGOTTEN = "monitor = foreshock.watch(model, optimizer, run='it', store=sys.argv[1])\ntrain(monitor, 30)\n"
RAISED = FORGOTTEN + "raise RuntimeError('planted')\n"
IN_THE_LOOP = """
with foreshock.watch(model, optimizer, run='it', store=sys.argv[1]) as monitor:
    train(monitor, 30)
    raise RuntimeError('planted')
"""
INTERRUPTED = """
with foreshock.watch(model, optimizer, run='it', store=sys.argv[1]) as monitor:
    train(monitor, 30)
    raise KeyboardInterrupt
"""
ENDLESS = """
with foreshock.watch(model, optimizer, run='it', store=sys.argv[1]) as monitor:
    train(monitor, 30)
    print('trained', flush=True)
    while True:
        train(monitor, 1)
"""
OWN_HANDLER = (
    """
import signal
def mine(number, frame):
    print('mine', flush=True)
    os._exit(7)
signal.signal(signal.SIGTERM, mine)
"""
    + ENDLESS
)
WORKERS = """
from torch.utils.data import DataLoader, Dataset

class Data(Dataset):
    def __len__(self): return 64
    def __getitem__(self, i): return torch.full((8,), i / 64)

if __name__ == '__main__':
    with foreshock.watch(model, optimizer, run='it', store=sys.argv[1], every=2) as monitor:
        train(monitor, 5)
        for epoch in range(2):
            for batch in DataLoader(Data(), batch_size=8, num_workers=2, multiprocessing_context='fork'):
                loss = model(batch).square().mean()
                optimizer.zero_grad(); loss.backward(); optimizer.step()
                monitor.step(loss)
        pid = os.fork()
        if pid == 0:
            monitor.step(1.0)
            monitor.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        train(monitor, 4)
"""


def start(code: str, url: str, folder: Path) -> "subprocess.Popen[str]":
    script = folder / "train.py"
    script.write_text(HEAD + code)
    return subprocess.Popen([sys.executable, "-P", str(script), url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def the_run(url: str) -> tuple[Run, int]:
    """The only run, and how many losses it has."""
    store = foreshock.open_store(url)
    try:
        (run,) = store.runs()
        return run, len(store.frame(run, "loss"))
    finally:
        store.close()


@pytest.mark.parametrize(
    ("code", "status", "fails"),
    [
        (FORGOTTEN, "finished", False),
        (RAISED, "crashed", True),
        (IN_THE_LOOP, "crashed", True),
        (INTERRUPTED, "terminated", True),
    ],
    ids=["forgotten close", "exception at the top", "exception in the loop", "keyboard interrupt"],
)
def test_a_process_that_ends_by_itself(code: str, status: str, fails: bool, url: str, tmp_path: Path) -> None:
    process = start(code, url, tmp_path)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode != 0) == fails, errors
    run, losses = the_run(url)
    assert (run.status, losses, run.ended_at is not None) == (status, 30, True)


def test_an_exception_in_the_loop_is_kept_as_an_event(url: str, tmp_path: Path) -> None:
    start(IN_THE_LOOP, url, tmp_path).communicate(timeout=60)
    store = foreshock.open_store(url)
    (event,) = store.events(store.runs()[0].id, kind="crashed")
    assert event.message == "RuntimeError: planted"
    store.close()


def test_sigterm_flushes_and_still_ends_the_process(url: str, tmp_path: Path) -> None:
    process = start(ENDLESS, url, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "trained\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    run, losses = the_run(url)
    assert run.status == "terminated"
    assert losses >= 30
    assert losses == run.last_step + 1


def test_sigterm_reaches_the_users_own_handler(url: str, tmp_path: Path) -> None:
    process = start(OWN_HANDLER, url, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "trained\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == ("mine\n", 7)
    assert the_run(url)[0].status == "terminated"


def test_forked_children_do_not_touch_the_run(url: str, tmp_path: Path) -> None:
    process = start(WORKERS, url, tmp_path)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "foreshock" not in errors
    run, losses = the_run(url)
    assert (run.status, losses) == ("finished", 5 + 16 + 4)


def test_a_kill_leaves_a_run_that_is_seen_as_running_and_loses_its_heartbeat(
    url: str, tmp_path: Path, eventually: Callable[[Callable[[], object], str], None]
) -> None:
    process = start(ENDLESS, url, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "trained\n"
    eventually(lambda: the_run(url)[1] >= 30, "thirty losses in the store")
    process.kill()
    process.communicate(timeout=60)
    run, losses = the_run(url)
    assert run.status == "running"
    assert losses >= 30
