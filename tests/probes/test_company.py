"""Ranks find each other and agree; the ranks are threads here, the store one in memory."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from foreshock.probes.distributed import company
from foreshock.probes.distributed.company import Company, Meeting
from foreshock.probes.model import WatchedModel
from torch import nn


@pytest.fixture
def companies() -> list[Company]:
    store = dist.HashStore()
    return [Company(rank, 3, store) for rank in range(3)]


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Run each in a thread; return results, or exceptions."""
    found: list[Any] = [None] * len(works)

    def run(place: int, work: Callable[[], Any]) -> None:
        try:
            found[place] = work()
        except Exception as error:  # noqa: BLE001 - handed to the test
            found[place] = error

    threads = [threading.Thread(target=run, args=each) for each in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return found


def meetings(companies: list[Company], model: WatchedModel) -> list[Meeting]:
    room = companies[0].invite(model, {})
    for other in companies[1:]:
        assert other.accept(model, 1.0) == (room, {})
    found = [Meeting(each, room) for each in companies]
    for meeting in found:
        meeting.begin()
    return found


def test_an_invitation_is_for_one_model_and_until_it_is_withdrawn(companies: list[Company]) -> None:
    first, second, third = companies
    one, other = WatchedModel(nn.Linear(2, 3)), WatchedModel(nn.Linear(3, 2))
    old = first.invite(one, {"step": 1})
    first.withdraw(old)
    for_other, for_one = first.invite(other, {"step": 2}), first.invite(one, {"step": 3})
    assert len({old, for_other, for_one}) == 3
    assert second.accept(one, 1.0) == (for_one, {"step": 3})
    assert third.accept(other, 1.0) == (for_other, {"step": 2})
    assert second.accept(one, 0.05) is None, "each invitation is accepted once"
    again = first.invite(one, {"step": 4})
    assert second.accept(one, 1.0) == (again, {"step": 4})


def test_all_who_meet_go_and_may_meet_again_at_the_same_step(companies: list[Company]) -> None:
    ranks = meetings(companies, WatchedModel(nn.Linear(2, 2)))
    for place in ("0", "10"):
        assert at_once(*[lambda m=m, p=place: m.agree(p, "same") for m in ranks]) == [True] * 3
    for meeting in ranks:
        meeting.begin()
    assert at_once(*[lambda m=m: m.agree("0", "same") for m in ranks]) == [True] * 3


def test_ranks_with_different_purposes_do_not_begin(companies: list[Company]) -> None:
    ranks = meetings(companies, WatchedModel(nn.Linear(2, 2)))
    found = at_once(*[lambda m=m, i=i: m.agree("0", f"purpose {i == 2}") for i, m in enumerate(ranks)])
    assert ["different things" in str(each) for each in found] == [True] * 3
    assert at_once(*[lambda m=m: m.agree("1", "same") for m in ranks]) == [True] * 3


def test_whoever_comes_too_late_finds_that_it_is_off(companies: list[Company], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(company, "MEETING_SECONDS", 0.1)
    ranks = meetings(companies, WatchedModel(nn.Linear(2, 2)))
    found = at_once(*[lambda m=m: m.agree("0", "same") for m in ranks[:2]])
    assert ["not all ranks came" in str(each) for each in found] == [True] * 2
    with pytest.raises(TimeoutError, match="not all ranks came"):
        ranks[2].agree("0", "same")
    monkeypatch.setattr(company, "MEETING_SECONDS", 10.0)
    assert at_once(*[lambda m=m: m.agree("1", "same") for m in ranks]) == [True] * 3


def test_after_three_times_in_a_row_nobody_waits_any_more(companies: list[Company], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(company, "MEETING_SECONDS", 0.01)
    ranks = meetings(companies, WatchedModel(nn.Linear(2, 2)))
    for step in range(3):
        with pytest.raises(TimeoutError):
            ranks[0].agree(str(step), "same")
    monkeypatch.setattr(company, "MEETING_SECONDS", 1e6)
    assert ranks[0].agree("3", "same") is False


def test_where_not_all_watch_one_wait_is_enough(companies: list[Company], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(company, "MEETING_SECONDS", 0.01)
    meeting = Meeting(companies[0], companies[0].invite(WatchedModel(nn.Linear(2, 2)), {}))
    with pytest.raises(TimeoutError, match="only 1 of 3 ranks called watch"):
        meeting.agree("0", "same")
    assert meeting.agree("1", "same") is False


def test_a_process_alone_is_in_no_company() -> None:
    assert not torch.distributed.is_initialized()
    assert Company.here() is None
