import importlib.util
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest
from foreshock.storage import open_store
from foreshock.storage.base import Store
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

expect.set_options(timeout=20_000)  # a busy machine is no defect of the page's
HERE = Path(__file__).parent
SERVE = """
import json
import sys
from foreshock.dashboard import live
from foreshock.dashboard.options import Options
from foreshock.dashboard.server import serve

live.LIVENESS_EVERY = live.ANSWER_WITHIN = float(sys.argv[3])

def opener():
    from foreshock.storage import open_store
    return open_store(sys.argv[1], create=False)

serve(opener, port=int(sys.argv[2]), options=Options(**json.loads(sys.argv[4])))
"""


def _simulated_runs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("simulated_runs", HERE / "simulated_runs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def simulated() -> ModuleType:
    """The generator of believable runs."""
    return _simulated_runs()


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of our own for what monitors note beside the store."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORESHOCK_HOME", str(folder))
        yield folder


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path / 'runs.db'}")
    yield opened
    opened.close()


def poll(condition: Callable[[], Any], timeout: float = 40.0, pause: float = 0.05) -> Any:
    """Return the first true answer, or fail with the last one."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"still {answer!r} after {timeout} s"
        time.sleep(pause)
    return answer


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    """Wait for a condition by asking again and again."""
    return poll


@contextmanager
def serving(
    store_url: str, port: int = 0, patience: float = 5.0, *, faulty: bool = False, **options: object
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A dashboard in a process of its own: (its URL, the process). A traceback in its log fails the test.

    ``patience``: seconds that a tab has to answer; ``faulty``: faults are part of the test; ``options``: as ``dashboard.options``
    has them.
    """
    command = [sys.executable, "-P", "-c", SERVE, store_url, str(port), str(patience), json.dumps(options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert "http://" in said, (said, process.stderr.read() if process.stderr else "")
        yield "http://" + said.split("http://")[1].split()[0], process
    finally:
        if process.poll() is None:
            process.terminate()
        _, log = process.communicate(timeout=20)
    assert faulty or "Traceback" not in log, log


@pytest.fixture(scope="session")
def serve_store() -> Any:
    """Serve a store: a context manager that gives (URL, process)."""
    return serving


# Not for the whole session: Playwright's event loop would run on through every later test of this process.
@pytest.fixture(scope="module")
def browser(chromium: Callable[[], AbstractContextManager[Browser]]) -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


# Dash's own words when a server asks a page that has just been left whether it is still there (the answer, "no", ends the asking),
# and when what it sent arrives a moment after the page was left. On a tab that never left a page they are a fault.
LEFT_BEHIND = re.compile(r"(GET_PROPS_REQUEST|SET_PROPS): Component \S+ not found in layout")


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    """A fresh tab. What it complains about on its console fails the test."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, color_scheme="light")
    page = context.new_page()
    page.set_default_timeout(40_000)
    complaints: list[str] = []
    visited: set[str] = set()

    def listen(message: ConsoleMessage) -> None:
        left = len(visited) > 1 and LEFT_BEHIND.fullmatch(message.text)
        if message.type in ("error", "warning") and not left:
            complaints.append(message.text)

    page.on("console", listen)
    page.on("framenavigated", lambda frame: visited.add(urlsplit(frame.url).path))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
    yield page
    context.close()
    assert complaints == []
