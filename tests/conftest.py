"""What tests of several rooms share."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from hypothesis import settings
from playwright.sync_api import Browser, sync_playwright

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests run side by side: one thread each, here and in the processes they start. Before torch is imported, or it is not heard.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# What goes wrong in a test is no trouble of the person's who runs it.
if "FORESHOCK_HOME" not in os.environ:
    _home = tempfile.TemporaryDirectory(prefix="foreshock-home-")
    os.environ["FORESHOCK_HOME"] = _home.name

# No test is timed: a busy machine is no defect of the code's.
settings.register_profile("foreshock", deadline=None)
settings.load_profile("foreshock")

CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def launched() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
    if path is None:
        pytest.skip("no Chromium on this machine: install it to test the pages")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def chromium() -> Callable[[], AbstractContextManager[Browser]]:
    """Start a headless Chromium: a context manager that gives the browser."""
    return launched
