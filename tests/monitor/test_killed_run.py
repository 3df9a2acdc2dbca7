"""A training process killed without warning: the watchdog, a process of its own, raises the alert and sends it."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from foreshock.storage import open_store
from foreshock.storage.records import AlertState, NotificationState

TRAINING = """
import sys, time, torch, foreshock
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), 0.01)
monitor = foreshock.watch(model, optimizer, run="victim", store=sys.argv[1], notify=sys.argv[2], probes="light")
while True:
    loss = model(torch.ones(2, 4)).square().mean()
    loss.backward(); optimizer.step(); optimizer.zero_grad()
    monitor.step(loss)
    time.sleep(0.05)
"""


@pytest.fixture
def inbox() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A channel and what has arrived there."""
    received: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"json://127.0.0.1:{server.server_port}/", received
        server.shutdown()
        thread.join()


def until(condition: Callable[[], object], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_the_alert_of_a_killed_run_arrives_where_the_run_wanted_its_alerts(
    tmp_path: Path, inbox: tuple[str, list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORESHOCK_HOME", str(tmp_path))
    channel, received = inbox
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    store = open_store(url)
    training = subprocess.Popen([sys.executable, "-P", "-c", TRAINING, url, channel], cwd=tmp_path)
    try:
        until(lambda: store.runs() and store.runs()[0].last_step > 5)
        options = ["--store", url, "--every", "0.2", "--lost-after", "2"]
        watching = subprocess.Popen(
            [sys.executable, "-P", "-m", "foreshock", "watchdog", *options], cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        try:
            assert watching.stderr is not None
            assert watching.stderr.readline().startswith("Watching")
            step = store.runs()[0].last_step
            until(lambda: store.runs()[0].last_step > step + 40)
            assert store.alerts() == [], "it lives"
            training.send_signal(signal.SIGKILL)
            training.wait()
            until(lambda: received)
            (alert,) = store.alerts()
            assert (alert.rule, alert.state, alert.run_id) == ("lost_heartbeat", AlertState.FIRING, store.runs()[0].id)
            until(lambda: [entry.state for entry in store.notifications()] == [NotificationState.SENT])
            assert len(received) == 1
            assert received[0]["title"].startswith("foreshock: critical in victim")
            assert "no sign of life" in received[0]["message"]
            watching.send_signal(signal.SIGTERM)
            assert watching.wait(timeout=20) == 0
            assert watching.stderr.read() == ""
        finally:
            watching.kill()
            watching.communicate()
    finally:
        training.kill()
        training.wait()
        store.close()
