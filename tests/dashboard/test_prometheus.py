"""The rules for Prometheus: held against its own tools, and once with a real Prometheus, Alertmanager and page."""

import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import foreshock.dashboard
import pytest
from foreshock.dashboard import metrics
from foreshock.storage.base import Store
from foreshock.storage.records import Alert, AlertState, Severity, derived_id

SHIPPED = files(foreshock.dashboard).joinpath("prometheus")
HERE = Path(__file__).parent


def program(*names: str) -> str:
    """The path of a program, by the first of the names that it goes by here."""
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no {names[0]} on this machine: apt-get install prometheus prometheus-alertmanager")
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files as they are shipped."""
    for name in ("foreshock.rules.yml", "scrape.yml", "alertmanager.yml"):
        (tmp_path / name).write_text(SHIPPED.joinpath(name).read_text("utf-8"))
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        ("promtool", "check", "rules", "foreshock.rules.yml"),
        ("promtool", "check", "config", "scrape.yml"),
        ("amtool", "check-config", "alertmanager.yml"),
        ("promtool", "test", "rules", str(HERE / "prometheus_rules.yml")),
    ],
    ids=lambda command: " ".join(command[:3]),
)
def test_what_is_shipped_is_what_prometheus_takes(folder: Path, command: tuple[str, ...]) -> None:
    if command[1] == "test":  # which looks for the rules beside its own file
        shutil.copy(command[-1], folder / "tests.yml")
        command = (*command[:-1], "tests.yml")
    answer = subprocess.run([program(command[0]), *command[1:]], cwd=folder, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_a_run_that_died_is_told_of_for_a_day_and_what_fires_until_a_person_decides(store: Store, simulated: ModuleType) -> None:
    now = time.time()
    simulated.write_steps(store, simulated.begin_run(store, "live").id, simulated.Simulation(failing=False), 0, 21)
    dead = simulated.begin_run(store, "dead", at=now - 600.0)
    simulated.begin_run(store, "long dead", at=now - 2 * metrics.LOST_SHOWN_S)
    alerts = simulated.failing_alerts(dead.id)
    store.save_alerts(alerts)
    store.set_alert_state(alerts[0].id, AlertState.ACKNOWLEDGED, at=now)

    def by_name(metric: str) -> dict[str, float]:
        found = next(family for family in metrics._of_the_store(lambda: store) if family.name == metric)
        return {sample.labels["name"]: sample.value for sample in found.samples}

    ages = by_name("foreshock_run_heartbeat_age_seconds")
    assert ages.keys() == {"live", "dead"}
    assert 600.0 <= ages["dead"] < 660.0
    assert by_name("foreshock_run_dropped") == {"live": 0.0}
    firing = sum(alert.state is AlertState.FIRING for alert in store.alerts(dead))
    told = next(family for family in metrics._of_the_store(lambda: store) if family.name == "foreshock_run_alerts_firing")
    assert sum(sample.value for sample in told.samples) == firing > 0


class Receiver(ThreadingHTTPServer):
    """Keeps what Alertmanager posts."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.alerts += json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def receiving() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@contextmanager
def started(folder: Path, *command: str) -> Iterator[None]:
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
            assert process.poll() is None, log.read_text()
        finally:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def test_a_failing_run_reaches_whoever_alertmanager_tells_until_a_person_takes_over(
    store: Store, simulated: ModuleType, serve_store: Any, folder: Path, until: Callable[..., Any]
) -> None:
    prometheus, alertmanager = program("prometheus"), program("prometheus-alertmanager", "alertmanager")
    page, at, manager = free_port(), free_port(), free_port()
    with ExitStack() as running:
        receiver = running.enter_context(receiving())
        told = (folder / "alertmanager.yml").read_text().replace("127.0.0.1:9000", f"127.0.0.1:{receiver.server_port}")
        (folder / "alertmanager.yml").write_text(told.replace("group_wait: 0s", "group_wait: 0s\n      group_interval: 1s"))
        scrape = (folder / "scrape.yml").read_text().replace("127.0.0.1:8050", f"127.0.0.1:{page}")
        (folder / "scrape.yml").write_text(
            "global: {scrape_interval: 300ms, scrape_timeout: 300ms, evaluation_interval: 300ms}\n"
            + scrape.replace("127.0.0.1:9093", f"127.0.0.1:{manager}")
        )
        # First, because it looks at no target in its first five seconds.
        running.enter_context(
            started(
                folder, prometheus, "--config.file=scrape.yml", f"--web.listen-address=127.0.0.1:{at}", "--storage.tsdb.path=data",
                "--rules.alert.resend-delay=1s",
            )
        )  # fmt: skip
        running.enter_context(
            started(
                folder, alertmanager, "--config.file=alertmanager.yml", f"--web.listen-address=127.0.0.1:{manager}",
                "--cluster.listen-address=", "--storage.path=alertmanager",
            )
        )  # fmt: skip
        run = simulated.begin_run(store, "gpt2-bf16")
        simulated.write_steps(store, run.id, simulated.Simulation(failing=True), 1300, 1391)  # the last loss is NaN
        now, fires = time.time(), AlertState.FIRING
        identity, words = derived_id(run.id, "x"), "The loss is NaN."
        alert = Alert(identity, run.id, "non_finite", "", 0, Severity.CRITICAL, fires, 0, 1390, 1390, now, now, words)
        store.save_alerts([alert])
        running.enter_context(serve_store(store.url, port=page))

        def heard(name: str, status: str) -> dict[str, Any] | None:
            wanted = (one for one in receiver.alerts if (one["labels"]["alertname"], one["status"]) == (name, status))
            return next(wanted, None)

        until(lambda: heard("ForeshockCriticalAlert", "firing") and heard("ForeshockLossNotFinite", "firing"))
        firing = heard("ForeshockCriticalAlert", "firing")
        assert firing is not None
        assert (firing["labels"]["name"], firing["labels"]["run"], firing["labels"]["severity"]) == (
            "gpt2-bf16",
            run.id,
            "critical",
        )
        assert firing["annotations"]["summary"] == "gpt2-bf16: 1 critical alert(s) fire"
        store.set_alert_state(alert.id, AlertState.ACKNOWLEDGED, at=time.time(), by="ann")
        until(lambda: heard("ForeshockCriticalAlert", "resolved"))
        with urllib.request.urlopen(f"http://127.0.0.1:{at}/api/v1/targets", timeout=10) as answer:
            (target,) = json.load(answer)["data"]["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")
