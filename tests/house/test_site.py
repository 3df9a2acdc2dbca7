"""The documentation site is built whole, with no link that leads nowhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def site(tracked_copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    variables = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    answer = subprocess.run(command, cwd=tracked_copy, env=variables, capture_output=True, text=True)
    # Not --quiet: mkdocs then counts no warnings, and nothing is strict.
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return folder


def test_every_document_has_its_page(site: Path, tracked_copy: Path) -> None:
    sources = [*(tracked_copy / "docs").glob("*.md"), *(tracked_copy / "analyzer").glob("causes/*.md")]
    names = {source.stem for source in sources} - {"index"}
    built = {page.parent.name for page in site.rglob("index.html")}
    assert names <= built
    assert (site / "index.html").is_file()
    assert (site / "examples" / "plain_loop.py").is_file(), "linked to"


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loads = re.compile(r"<(?:script|img|iframe)[^>]*\ssrc=\"?https?:|<link[^>]*rel=\"?(?:stylesheet|preconnect)[^>]*https?:")
    assert [str(page) for page in site.rglob("*.html") if loads.search(page.read_text("utf-8"))] == []


def test_a_cause_links_to_those_it_names(site: Path) -> None:
    page = (site / "causes" / "attention-entropy-collapse" / "index.html").read_text("utf-8")
    assert 'href="../attention-logit-growth/"' in page
