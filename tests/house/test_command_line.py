import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from foreshock import __version__, open_store
from foreshock.storage.records import (
    Alert,
    AlertState,
    Batch,
    Cause,
    Run,
    SeriesKey,
    Severity,
    StepRecord,
    derived_id,
    new_id,
)

Command = Callable[..., CompletedProcess[str]]

MARKUP = "[red]odd[/red] [/] name"


def alert(run: Run, module: str, severity: Severity, state: AlertState, step: int) -> Alert:
    return Alert(
        id=derived_id(run.id, "spectral_norm_growth", module, 0),
        run_id=run.id,
        rule="spectral_norm_growth",
        module=module,
        episode=0,
        severity=severity,
        state=state,
        segment=0,
        first_step=step,
        last_step=step,
        created_at=time.time() + step,
        updated_at=time.time() + step,
        message="Doubles every 120 steps.",
        value=float("inf"),
        diagnosis=(Cause("bias", "Low-precision bias", 0.8, ("The residual is high.",), "Use float32."),),
        remedy="Lower the learning rate.",
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with two runs: one quiet, one with an odd name and two alerts."""
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/runs.db"
    now = time.time()
    quiet = Run("a" * 32, "quiet", project="one", created_at=now - 7200, heartbeat_at=now - 7200)
    odd = Run("b" * 32, MARKUP, project="two", created_at=now, heartbeat_at=now)
    kept = open_store(url)
    for run in (quiet, odd):
        kept.create_run(run)
        kept.write(
            Batch(
                new_id(),
                run.id,
                kept.open_segment(run.id, 0, now),
                (StepRecord(7, run.heartbeat_at, (SeriesKey("loss"),), (1.0,)),),
            )
        )
    kept.save_alerts(
        [
            alert(odd, "blocks[0]", Severity.CRITICAL, AlertState.FIRING, 5),
            alert(odd, "blocks[1]", Severity.WARNING, AlertState.RESOLVED, 6),
        ]
    )
    kept.close()
    return url


def test_version(foreshock_process: Command) -> None:
    assert foreshock_process("--version").stdout == f"foreshock {__version__}\n"


def test_data_alone_on_stdout_in_a_process_of_its_own(foreshock_process: Command, store: str) -> None:
    answer = foreshock_process("alerts", "--store", store, "--json")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert len(json.loads(answer.stdout)) == 2
    wrong = foreshock_process("runs", "--store", "oracle://host/x")
    assert (wrong.returncode, wrong.stdout, len(wrong.stderr.splitlines())) == (2, "", 1)


@pytest.mark.parametrize(
    "command", [["demo"], ["dashboard"], ["runs"], ["alerts"], ["doctor"], ["bench", "overhead"]], ids=lambda command: command[-1]
)
def test_every_command_helps_with_an_example(foreshock: Command, command: list[str]) -> None:
    answer = foreshock(*command, "--help")
    assert answer.returncode == 0, answer.stderr
    assert f"Example: foreshock {' '.join(command)}" in answer.stdout


def test_runs_as_data(foreshock: Command, store: str) -> None:
    answer = foreshock("runs", "--store", store, "--json")
    assert (answer.returncode, answer.stderr) == (0, "")
    odd, quiet = json.loads(answer.stdout)
    assert (odd["name"], odd["last_step"], odd["status"], odd["open_alerts"]) == (MARKUP, 7, "running", {"critical": 1})
    assert (quiet["name"], quiet["open_alerts"]) == ("quiet", {})


def test_runs_narrowed(foreshock: Command, store: str) -> None:
    assert [run["name"] for run in json.loads(foreshock("runs", "--json", "--project", "one", FORESHOCK_STORE=store).stdout)] == [
        "quiet"
    ]
    assert len(json.loads(foreshock("runs", "--json", "--limit", "1", FORESHOCK_STORE=store).stdout)) == 1


@pytest.mark.parametrize("columns", ["50", "80", "120"])
def test_tables_fit_the_terminal_and_show_names_as_they_are(foreshock: Command, store: str, columns: str) -> None:
    runs = foreshock("runs", "--store", store, COLUMNS=columns).stdout
    alerts = foreshock("alerts", "--store", store, COLUMNS=columns).stdout
    for shown in (runs, alerts):
        assert "\x1b" not in shown
        assert max(len(line.rstrip()) for line in shown.splitlines()) <= int(columns)
    assert "2 h ago" in runs
    assert "1 critical" in runs
    assert "[red]" in runs
    assert "blocks[0]" in alerts
    assert "[red]odd[/red]" in alerts


def test_what_is_piped_is_not_cut(foreshock: Command, store: str) -> None:
    (line,) = [line for line in foreshock("runs", "--store", store).stdout.splitlines() if MARKUP in line]
    assert line.split()[-2:] == ["1", "critical"]


def test_alerts_say_what_why_and_what_to_do(foreshock: Command, store: str) -> None:
    shown = foreshock("alerts", MARKUP, "--open", "--store", store).stdout
    head, *body = [line.strip() for line in shown.splitlines()]
    assert head == f"critical spectral_norm_growth · step 5 · blocks[0] · firing · run {MARKUP}"
    assert body[:3] == [
        "Doubles every 120 steps.",
        "Likely cause: Low-precision bias (80%). The residual is high.",
        "Remedy: Use float32.",
    ]
    assert "blocks[1]" not in shown


def test_alerts_as_data(foreshock: Command, store: str) -> None:
    first, second = json.loads(foreshock("alerts", "b" * 8, "--store", store, "--json").stdout)
    assert (first["module"], first["severity"], first["value"]) == ("blocks[0]", "critical", "inf")
    assert first["diagnosis"][0]["reasons"] == ["The residual is high."]
    assert second["state"] == "resolved"
    assert json.loads(foreshock("alerts", "quiet", "--store", store, "--json").stdout) == []


def test_empty_store_says_what_to_do(foreshock: Command, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/empty.db"
    open_store(url).close()
    answer = foreshock("runs", "--store", url)
    assert (answer.returncode, answer.stdout) == (0, "")
    assert "No runs in" in answer.stderr
    assert "foreshock demo" in answer.stderr
    assert "No alerts." in foreshock("alerts", "--store", url).stderr
    assert foreshock("runs", "--store", url, "--json").stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["runs"], {}, "There is no store at"),
        (["runs", "--store", "nonsense"], {}, "nonsense"),
        (["runs", "--store", "oracle://host/x"], {}, "oracle"),
        (["runs"], {"FORESHOCK_EVERY": "often"}, "FORESHOCK_EVERY: every = 'often'"),
        (["dashboard", "--port", "0"], {"FORESHOCK_BUDGET": "7"}, "FORESHOCK_BUDGET: budget"),
        (["dashboard", "--store", "gone.db", "--port", "0"], {}, "There is no store at"),
    ],
)
def test_wrong_configuration_is_one_line_and_status_2(
    foreshock: Command, arguments: list[str], variables: dict[str, str], message: str, tmp_path: Path
) -> None:
    answer = foreshock(*arguments, **variables)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert message in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert list(tmp_path.glob("*.db")) == []


def test_dashboard_tells_of_an_address_it_cannot_have(foreshock: Command, store: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        answer = foreshock("dashboard", "--store", store, "--port", str(taken.getsockname()[1]))
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "choose a port with --port" in answer.stderr


@pytest.mark.parametrize("arguments", [["alerts", "nobody"], ["alerts", "nobody", "--json"]])
def test_unknown_run_names_those_there_are(foreshock: Command, store: str, arguments: list[str]) -> None:
    answer = foreshock(*arguments, "--store", store)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "quiet" in answer.stderr


@pytest.mark.parametrize(
    "arguments", [["runs", "--limit", "0"], ["demo", "--scenario", "nosuch"], ["nosuch"], ["runs", "--nosuch"]]
)
def test_wrong_usage_is_status_2(foreshock: Command, arguments: list[str]) -> None:
    answer = foreshock(*arguments)
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr


def test_a_command_that_needs_torch_says_what_to_install(foreshock: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("foreshock.zoo", "foreshock.benchmarks"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    for command in (["demo"], ["bench", "overhead"]):
        answer = foreshock(*command)
        assert (answer.returncode, answer.stdout) == (2, "")
        assert answer.stderr == "This command needs torch: pip install 'foreshock[train]'\n"


def test_an_unknown_scenario_names_those_there_are(foreshock: Command) -> None:
    answer = foreshock("demo", "--scenario", "none")
    assert answer.returncode == 2
    assert "low-precision-attention" in answer.stderr
    assert "healthy" in answer.stderr
