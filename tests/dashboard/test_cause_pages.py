"""Each cause that an alert names has a page in the dashboard."""

import re
from dataclasses import dataclass
from typing import Any, cast

from foreshock.analyzer.diagnosis import page, patterns
from foreshock.dashboard.pages.alerts import alert_card
from foreshock.dashboard.pages.cause import linked
from foreshock.dashboard.paths import cause_path, place_of
from foreshock.dashboard.router import page_at
from foreshock.storage import Store
from foreshock.storage.records import Alert, AlertState, Cause, Severity


@dataclass
class NoStore:
    """The page of a cause needs none."""


def links(component: Any) -> list[str]:
    """The addresses a component links to, at any depth."""
    return [found.href for found in component._traverse() if getattr(found, "href", None)]


def test_every_cause_has_its_page() -> None:
    for pattern in patterns():
        shown = page_at(cast(Store, NoStore()), cause_path(pattern.doc), None)
        (prose,) = [found for found in shown._traverse() if type(found).__name__ == "Markdown"]
        assert _without_links(prose.children) == _without_links(page(pattern.doc))
        assert not getattr(prose, "dangerously_allow_html", False)
    assert "There is no such cause" in str(page_at(cast(Store, NoStore()), "/cause/nope", None))


def test_a_path_is_a_place_and_a_name() -> None:
    paths = (None, "", "/", "/run/x", "/run/a%2Fb/", "/cause/", cause_path("a-b"))
    expected = [("", ""), ("", ""), ("", ""), ("run", "x"), ("run", "a/b"), ("cause", ""), ("cause", "a-b")]
    assert [place_of(path) for path in paths] == expected


def _without_links(text: str) -> str:
    """The text with links told by what they lead to."""
    text = re.sub(r"\[[^]]*\]\(/cause/([a-z-]+)\)", r"\1", text)
    return re.sub(r"\[(arXiv [\d.]+)\]\([^)]*\)", r"\1", text)


def test_other_causes_and_papers_are_links() -> None:
    text = "See bad-batch, not `bad-batch` nor my-bad-batch (arXiv 2510.04212)."
    assert linked("overflow", text, {"bad-batch": "Bad batch", "overflow": "Overflow"}) == (
        "See [Bad batch](/cause/bad-batch), not `bad-batch` nor my-bad-batch "
        "([arXiv 2510.04212](https://arxiv.org/abs/2510.04212))."
    )
    assert linked("bad-batch", "bad-batch", {"bad-batch": "Bad batch"}) == "bad-batch"


def test_an_alert_links_to_the_pages_of_its_causes() -> None:
    causes = (Cause("bad_batch", "Bad batch", 0.6, ("It leapt.",), "Look.", "bad-batch"), Cause("other", "Other", 0.3, (), "Wait."))
    alert = Alert(
        "id", "run", "loss_spike", "", 0, Severity.INFO, AlertState.FIRING, 0, 7, 9, 0.0, 0.0, "It leapt.", diagnosis=causes
    )  # fmt: skip
    assert links(alert_card(alert)) == ["/alert/id", "/cause/bad-batch", "/rules/loss_spike?run=run"]
