"""Whose turn it is: quick work before slow, first what a reader waits for, and never more at once than are allowed."""

import asyncio

import pytest
from foreshock.dashboard import turns as module
from foreshock.dashboard.turns import Turns


def order_of(wanted: list[tuple[str, bool, bool]]) -> tuple[list[str], int]:
    """Let all of (name, heavy, first) ask at once while every turn is taken; return who came when, and how many at once."""
    came: list[str] = []
    most = at_once = 0

    async def work(turns: Turns, name: str, heavy: bool, first: bool) -> None:
        nonlocal most, at_once
        async with turns.mine(heavy=heavy, first=first):
            came.append(name)
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.01)
            at_once -= 1

    async def play() -> None:
        turns = Turns()
        held = [turns.mine(heavy=False, first=False) for _ in range(module.AT_ONCE)]
        for one in held:
            await one.__aenter__()
        tasks = [asyncio.create_task(work(turns, *one)) for one in wanted]
        await asyncio.sleep(0.01)
        for one in held:
            await one.__aexit__(None, None, None)
        await asyncio.gather(*tasks)

    asyncio.run(play())
    return came, most


def test_quick_work_goes_before_slow_and_first_of_all_what_a_reader_waits_for() -> None:
    wanted = [
        ("slow", True, False),
        ("quick", False, False),
        ("also quick", False, False),
        ("mine", False, True),
        ("slower", True, False),
    ]
    came, most = order_of(wanted)
    assert came == ["mine", "quick", "also quick", "slow", "slower"]
    assert most <= module.AT_ONCE


def test_slow_work_is_not_put_off_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    came, _ = order_of([("slow", True, False), *((f"quick {number}", False, False) for number in range(12))])
    assert came.index("slow") < 6


def test_who_gives_up_takes_no_turn() -> None:
    async def play() -> bool:
        turns = Turns()
        held = [turns.mine(heavy=False, first=False) for _ in range(module.AT_ONCE)]
        for one in held:
            await one.__aenter__()

        async def wait() -> None:
            async with turns.mine(heavy=False, first=False):
                raise AssertionError("it had given up")

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        for one in held:
            await one.__aexit__(None, None, None)
        async with turns.mine(heavy=True, first=False):
            return True

    assert asyncio.run(asyncio.wait_for(play(), 10))
