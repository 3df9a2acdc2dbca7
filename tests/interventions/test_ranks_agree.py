"""What the first rank is warned of is done on every rank at the same step, or on none."""

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import foreshock
import pytest
import torch
from foreshock.probes.distributed import company, council
from foreshock.probes.distributed.company import Company
from foreshock.probes.distributed.council import Council, Proposal
from foreshock.probes.distributed.exchange import Exchange

RANK = Path(__file__).with_name("rank_of_two.py")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes that have trained together; the folder that they left."""
    tmp_path = tmp_path_factory.mktemp("two ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = []
    for rank in (0, 1):
        with (tmp_path / f"output {rank}").open("w") as output:
            command = [sys.executable, "-P", str(RANK), str(tmp_path), str(rank), port]
            ranks.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=tmp_path))
    try:
        codes = [rank.wait(timeout=240) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert codes == [0, 0], "\n".join((tmp_path / f"output {rank}").read_text() for rank in (0, 1))
    return tmp_path


pytestmark = pytest.mark.timeout(300)  # two processes, perhaps on few cores


def test_a_bad_batch_of_one_rank_is_skipped_by_all(job: Path) -> None:
    store = foreshock.open_store(f"sqlite:///{job / 'skipping.db'}")
    assert [event.step for event in store.events(store.runs()[0].id) if "Skipped" in event.message] == [4, 20, 50]
    store.close()
    first, second = (torch.load(job / f"skipping {rank}.pt") for rank in (0, 1))
    assert first["skipped"] == second["skipped"] == 3
    assert all(torch.equal(a, b) for a, b in zip(first["state"], second["state"], strict=True))
    assert all(t.isfinite().all() for t in first["state"])


def test_two_ranks_act_together_and_keep_the_same_bits(job: Path) -> None:
    first, second = (json.loads((job / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second, "every step of both: factor, switch, roll backs, weights"
    factors, switched, backs, weights = zip(*first["seen"], strict=True)
    assert set(factors) == {1.0, 0.5, 0.125}, "a warning, and the roll back"
    assert set(switched) == {False, True}
    assert set(backs) == {0, 1}
    assert "nan" in weights
    assert "nan" not in weights[backs.index(1) :]
    assert first["ended"]
    assert first["faults"] == 0
    mine, theirs = (torch.load(job / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(mine["state"], theirs["state"], strict=True))
    assert all(t.isfinite().all() for t in (*mine["state"], *mine["buffers"])), "moments and running statistics too"
    assert not (job / "kept 1").exists()
    store = foreshock.open_store(f"sqlite:///{job / 'runs.db'}")
    (run,) = store.runs()
    assert run.status == "terminated"
    told = [event.message.split(" ")[0] for event in store.events(run.id) if event.kind == "intervention"]
    # "Ranks could not agree": one was late for a moment, and a later one was found.
    done = [word for word in told if word not in ("Saved", "The", "Ranks")]
    assert done == ["Learning", "Switched", "Rolled", "Learning", "Training"]
    store.close()


class Wire(Exchange):
    """An exchange that carries nothing: the test does."""

    def __init__(self, rank: int) -> None:
        self.proposals, self.sent, self.said = council.deque(), list[Proposal](), list[str]()

    def joint(self, pending: Any) -> Any: ...
    def _turn(self) -> bool: ...
    def _end(self) -> None: ...

    def propose(self, proposal: Proposal) -> None:
        self.sent.append(Proposal.from_text(proposal.to_text()))

    def say(self, kind: str, message: str) -> None:
        self.said.append(message)


class Job:
    """Two seats, whose ``step()`` is called by two threads."""

    def __init__(self) -> None:
        store = torch.distributed.HashStore()
        self.wires = [Wire(0), Wire(1)]
        self.seats = [Council(Company(rank, 2, store), "room", self.wires[rank]) for rank in (0, 1)]
        company_keys = Company(0, 2, store).keys("")
        company_keys.add("accepted room", 1)

    def step(self, ranks: tuple[int, ...] = (0, 1)) -> dict[int, tuple[list[str], list[str]]]:
        found = {}
        threads = [threading.Thread(target=lambda rank=rank: found.update({rank: self.seats[rank].ripe()})) for rank in ranks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    def carry(self) -> None:
        self.wires[1].proposals.extend(self.wires[0].sent)
        self.wires[0].sent.clear()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(company, "MEETING_SECONDS", 0.05)
    monkeypatch.setattr(council, "HEARD_WITHIN_SECONDS", 0.0)  # the next step but one


def test_what_was_heard_in_time_is_done_by_both_in_order() -> None:
    job = Job()
    job.step()
    job.seats[0].propose("a")
    job.seats[0].propose("b")
    job.carry()
    assert job.step() == {0: (["a", "b"], []), 1: (["a", "b"], [])}
    assert job.step() == {0: ([], []), 1: ([], [])}


def test_what_was_heard_too_late_is_done_by_none_and_proposed_anew() -> None:
    job = Job()
    job.seats[0].propose("a")
    assert job.step() == {0: ([], []), 1: ([], [])}
    assert "not all ranks came" in job.wires[0].said[0]
    job.carry()  # both: the first, too late, and the second
    found = job.step()
    while not any(texts for texts, _ in found.values()):
        found = job.step()
    assert found == {0: (["a"], []), 1: (["a"], [])}


def test_where_the_other_never_hears_the_first_gives_up_and_nobody_waits_for_good() -> None:
    job = Job()
    job.seats[0].propose("a")
    given_up = []
    for _ in range(6):
        found = job.step()
        given_up += found[0][1]
        assert found[0][0] == found[1][0] == []
    assert given_up == ["a"]
