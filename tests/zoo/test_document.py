"""docs/zoo.md says what the scenarios say, and nothing of runs that were not made."""

from collections.abc import Iterable
from pathlib import Path

from foreshock.zoo.check import recorded
from foreshock.zoo.document import document
from foreshock.zoo.scenario import scenarios


def plain(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    return f"{list(head)}\n" + "".join(f"{list(row)}\n" for row in rows)


def test_every_scenario_and_family_is_in_the_document() -> None:
    written = (Path(__file__).parents[2] / "docs" / "zoo.md").read_text()
    made = document(plain)
    for each in scenarios().values():
        for text in (written, made):
            assert f"- `{each.name}`: {each.title}." in text
            assert f"### `{each.family}`" in text
    assert made.index("## Split `train`") < made.index("## Split `held_out`")


def test_the_results_that_come_along_are_of_scenarios_there_are_and_say_what_they_say() -> None:
    found = recorded()
    assert len(found) >= 5 * (len(scenarios()) - 4)
    for each in found:
        chosen = scenarios()[each.scenario]
        assert each.expected <= (each.outcome == chosen.expected), each
        assert each.step is None or each.step < chosen.steps
