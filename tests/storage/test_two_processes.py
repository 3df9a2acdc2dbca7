"""Two processes at once on one store: no alert is doubled, no message is sent twice, one judges."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from foreshock.storage import open_store
from foreshock.storage.records import Run, analyzer_lease
from foreshock.storage.tables import metadata

PROCESS = Path(__file__).with_name("analyzing.py")


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "mariadb"])
def test_two_processes_that_judge_one_run_raise_each_alert_once(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, new_run: Callable[..., Run]
) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}" if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    store = open_store(url)
    run = new_run()
    store.create_run(run)
    command = [sys.executable, "-P", str(PROCESS), url, run.id]
    processes = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for name in ("one", "two")
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            _say(process)
        claimed: list[str] = []
        counts: list[tuple[int, int]] = []
        for process in processes:
            assert process.stdout is not None
            for line in process.stdout:
                word, *rest = line.split()
                if word == "end":
                    counts.append((int(rest[0]), int(rest[1])))
                    break
                claimed += rest
        alerts = store.alerts(run)
        assert sorted(alert.episode for alert in alerts if alert.rule == "shared") == list(range(10))
        assert sorted(claimed) == sorted(f"shared-{episode}" for episode in range(10))
        assert sorted(counts) == [(0, 10), (10, 0)], "one judged all the time, the other never"
        assert len({alert.module for alert in alerts if alert.rule == "leased"}) == 1
        assert len([alert for alert in alerts if alert.rule == "leased"]) == 10
        assert not store.take_lease(analyzer_lease(run.id, "three"))
    finally:
        for process in processes:
            process.kill()
            process.communicate()
        with store._database.write() as connection:  # type: ignore[attr-defined]
            for table in reversed(metadata.sorted_tables):  # the next test finds the server empty
                connection.execute(table.delete())
        store.close()


def _say(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
