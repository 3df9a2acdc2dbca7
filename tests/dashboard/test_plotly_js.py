"""The part of plotly.js that is served in place of all of it."""

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from foreshock.dashboard.plotly_js import plotly_js
from foreshock.storage import open_store
from plotly.offline import get_plotlyjs_version


def test_it_is_of_the_version_that_the_python_package_has() -> None:
    pinned = re.search(r"^plotly==(\S+)$", (Path(__file__).parents[2] / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    if version("plotly") != pinned[1]:
        pytest.skip(f"goes with plotly {pinned[1]}, and draws what others make too")
    found = re.search(r"plotly\.js \(cartesian - minified\) v(\S+)", plotly_js()[:200])
    assert found is not None
    assert found[1] == get_plotlyjs_version(), "mend it with: make plotly"


def test_a_browser_that_has_it_is_told_so(serve_store: Any, tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    open_store(url).close()
    with serve_store(url) as (base, _):
        address = f"{base}/_dash-component-suites/plotly/package_data/plotly.min.js"
        with urlopen(address, timeout=20) as answer:
            assert answer.read().decode() == plotly_js()
            assert "javascript" in answer.headers["content-type"]
            again = {"if-none-match": answer.headers["etag"]}
        with pytest.raises(HTTPError) as told:
            urlopen(Request(address, headers=again), timeout=20)
        assert told.value.code == 304
        told.value.close()
