"""The log of last resort: bounded, readable while damaged, and never the cause of more trouble."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from foreshock.storage import trouble
from foreshock.storage.trouble import Trouble


def entry(number: int, message: str = "the store is away") -> Trouble:
    return Trouble(float(number), "run", "id", "sqlite:////x.db", "store_unavailable", message, number)


def test_what_is_recorded_is_read_newest_first() -> None:
    assert trouble.recent() == []
    for number in range(5):
        trouble.record(entry(number, "ü\n\udc80" if number == 4 else "m"))
    assert trouble.recent(2) == [entry(4, "ü\n?"), entry(3, "m")]
    assert len(trouble.recent()) == 5


def test_the_log_stays_near_one_megabyte(tmp_path: Path) -> None:
    for number in range(1200):
        trouble.record(entry(number, "x" * 5000))
    files = sorted((tmp_path / "home").iterdir())
    assert [path.name for path in files] == ["trouble.1.jsonl", "trouble.jsonl"]
    assert sum(path.stat().st_size for path in files) < 1_100_000
    assert [item.time for item in trouble.recent(400)] == [float(number) for number in range(1199, 799, -1)]


def test_damaged_lines_and_unknown_fields_are_passed_over() -> None:
    trouble.record(entry(1))
    with trouble.path().open("ab") as log:
        log.write(b'{"broken": \n[1, 2]\nnull\n\xff\xfe\n{"time": 1}\n')
    trouble.record(entry(2))
    text = trouble.path().read_text("utf-8", "replace").replace('"lost": 2', '"lost": 2, "since_version_9": true')
    trouble.path().write_text(text, "utf-8")
    assert trouble.recent() == [entry(2), entry(1)]


def test_nothing_raises_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FORESHOCK_HOME", str(tmp_path / "file"))
    trouble.record(entry(1))
    assert trouble.recent() == []
    monkeypatch.setenv("FORESHOCK_HOME", "/proc/nothing/here")
    trouble.record(entry(1))
    assert trouble.recent() == []


def test_the_default_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORESHOCK_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    trouble.record(entry(1))
    assert (tmp_path / ".foreshock" / "trouble.jsonl").exists()


def test_lines_of_several_processes_do_not_mix() -> None:
    code = "from foreshock.storage.trouble import *\nfor i in range(200): record(Trouble(1.0, 'r', 'i', 's', 'k', 'm' * 500))"
    processes = [subprocess.Popen([sys.executable, "-c", code], env=dict(os.environ)) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert len(trouble.recent(10_000)) == 600
