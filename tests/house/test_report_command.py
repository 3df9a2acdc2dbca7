"""``foreshock report``: what it prints, its exit status, and a file that is whole or not there."""

import json
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from foreshock import open_store
from foreshock.storage.records import Batch, Run, RunStatus, SeriesKey, StepRecord, new_id

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with a short run, and one of which nothing was recorded."""
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/runs.db"
    kept, now = open_store(url), time.time()
    for name in ("short", "empty"):
        kept.create_run(Run(new_id(), name, status=RunStatus.FINISHED, created_at=now, heartbeat_at=now))
    run = kept.run("short")
    segment = kept.open_segment(run.id, 0, now)
    kept.write(Batch(new_id(), run.id, segment, tuple(StepRecord(step, now, (SeriesKey("loss"),), (1.0,)) for step in range(9))))
    kept.close()
    return url


@contextmanager
def no_room_for(size: int) -> Iterator[None]:
    """Let no file grow beyond ``size`` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_path_alone_on_stdout(foreshock: Command, store: str, tmp_path: Path) -> None:
    answer = foreshock("report", "short", "--store", store)
    path = Path(answer.stdout.removesuffix("\n"))
    assert answer.returncode == 0
    assert path.parent == tmp_path.resolve()
    assert path.name.startswith("foreshock-short-")
    assert "</html>" in path.read_text()[-20:]
    assert "Healthy: " in answer.stderr
    again = foreshock("report", "short", "--store", store, "--to", "named.html", "--json")
    facts = json.loads(again.stdout)
    assert (again.returncode, again.stderr) == (0, "")
    assert facts["file"] == str(tmp_path.resolve() / "named.html")
    assert facts["bytes"] == (tmp_path / "named.html").stat().st_size
    assert (facts["run"], facts["level"], facts["alerts"], facts["charts"]) == ("short", "healthy", 0, 4)
    assert foreshock("report", "short", "--store", store, "--to", "named.html").returncode == 0, "an older report is replaced"


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["nobody"], 2, "short"),
        (["empty"], 1, "Nothing has been recorded"),
        (["short", "--to", "no/such/folder.html"], 2, "mkdir -p"),
        (["short", "--to", "."], 2, "is a folder"),
        (["short", "--to", "/proc/report.html"], 2, "cannot be written"),
        (["short", "--to", "mine.txt"], 2, "--force"),
        (["short", "--steps", "9"], 2, "A:B"),
        (["short", "--steps", "100:"], 2, "it has 0 to 8"),
        (["short", "--signals", "weight.*"], 2, "weight.*"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    foreshock: Command, store: str, tmp_path: Path, arguments: list[str], status: int, says: str
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    answer = foreshock("report", *arguments, "--store", store)
    assert (answer.returncode, answer.stdout) == (status, "")
    assert says in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["mine.txt"]
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_full_disk_leaves_the_older_report(foreshock: Command, store: str, tmp_path: Path) -> None:
    old = tmp_path / "report.html"
    assert foreshock("report", "short", "--store", store, "--to", "report.html").returncode == 0
    content = old.read_bytes()
    with no_room_for(500_000):
        answer = foreshock("report", "short", "--store", store, "--to", "report.html", "--steps", "0:5")
    assert answer.returncode == 2
    assert "cannot be written" in answer.stderr
    assert old.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["report.html"]
