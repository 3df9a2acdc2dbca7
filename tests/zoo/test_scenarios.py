"""The registry's laws, and that every scenario trains and repeats itself; a few of the quickest run whole."""

import math
import tomllib
from importlib.resources import files

import pytest
import torch
from foreshock.zoo.check import check_one
from foreshock.zoo.scenario import SPLITS, Reachable, Scenario, scenarios

ALL = scenarios()
KINDS = ("slow", "abrupt", "silent", None)


@pytest.mark.parametrize("chosen", ALL.values(), ids=lambda each: each.name)
def test_every_scenario_builds_trains_and_repeats_itself(chosen: Scenario) -> None:
    torch.set_num_threads(1)
    runs = []
    for _ in range(2):
        training = chosen.build(3)
        runs.append([training.step(number).item() for number in range(3)])
    assert runs[0] == runs[1]
    assert all(math.isfinite(loss) for loss in runs[0])
    assert chosen.build(4).step(0).item() != runs[0][0]


def test_building_a_scenario_again_repeats_it_whatever_ran_before() -> None:
    chosen = ALL["fine-tuning"]
    first = chosen.build(1).step(0).item()
    ALL["label-noise-burst"].build(2).step(0)
    assert chosen.build(1).step(0).item() == first


@pytest.mark.parametrize("split", SPLITS)
def test_each_split_holds_every_kind(split: str) -> None:
    held = [each for each in ALL.values() if each.split == split]
    counts = {kind: sum(each.onset == kind for each in held) for kind in KINDS}
    assert min(counts.values()) >= 2, counts
    assert counts[None] >= 8


def test_there_are_enough_scenarios_of_different_causes() -> None:
    failing = [each for each in ALL.values() if each.fails]
    assert len(failing) >= 10
    assert len({each.cause_id for each in failing}) >= 8
    assert sum(not each.fails for each in ALL.values()) >= 8


def test_a_family_is_one_file_and_lies_in_one_split() -> None:
    modules = {
        path.name.removesuffix(".py") for path in (files("foreshock.zoo") / "scenarios").iterdir() if path.name[0] not in "_."
    }
    assert {each.family for each in ALL.values()} == modules
    splits = {family: {each.split for each in ALL.values() if each.family == family} for family in modules}
    assert {family: len(found) for family, found in splits.items()} == dict.fromkeys(modules, 1)


def test_every_stuck_scenario_has_a_sound_twin_of_its_family() -> None:
    for each in ALL.values():
        if each.reachable is not None:
            twin = ALL[each.reachable.twin]
            assert (twin.family, twin.expected) == (each.family, "survived")
            assert each.reachable.step < each.steps


def test_words_are_there_and_troubles_lie_within_the_run() -> None:
    assert len({each.title for each in ALL.values()}) == len(ALL)
    for each in ALL.values():
        assert min(len(each.title), len(each.cause), len(each.source)) > 10
        assert each.trouble_step is None or 0 < each.trouble_step < each.steps


def test_causes_that_the_analyzer_knows_are_called_by_its_names() -> None:
    known = set(tomllib.loads((files("foreshock.analyzer") / "causes.toml").read_text()))
    proposed = {"bad_initialisation", "dead_units", "input_drift", "representation_collapse", "second_moment_lag", "stale_updates"}
    assert {each.cause_id for each in ALL.values() if each.fails} <= known | proposed


def test_fields_that_contradict_each_other_are_refused() -> None:
    healthy = ALL["healthy"]
    fields = {name: getattr(healthy, name) for name in Scenario.__slots__}
    with pytest.raises(ValueError, match="healthy: onset and cause_id"):
        Scenario(**fields | {"onset": "slow"})
    with pytest.raises(ValueError, match="healthy: onset and cause_id"):
        Scenario(**fields | {"expected": "diverged"})
    stuck = {"expected": "stuck", "onset": "silent", "cause_id": "dead_units"}
    with pytest.raises(ValueError, match="needs `reachable`"):
        Scenario(**fields | stuck)
    assert Scenario(**fields | stuck | {"reachable": Reachable(1.0, 5, "x")}).fails


@pytest.mark.parametrize("name", ["learning-rate-kick", "nan-in-data", "dead-relu-units", "sparse-units"])
def test_quick_scenarios_end_as_they_say(name: str) -> None:
    found = check_one(name, 0)
    assert found.expected, found
