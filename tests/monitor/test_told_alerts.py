"""A run that fails while somebody listens: what arrives by the settings of ``foreshock.toml``, and what the store keeps of it."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import foreshock
import pytest
from foreshock.analyzer.channels import Channel
from foreshock.config import ConfigurationError

# One of Apprise's own plug-ins still imports a deprecated module of the standard library.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An address for ``notify``, and what is posted there."""
    posts: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"json://127.0.0.1:{server.server_port}/hook", posts
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_failing_run_is_told_by_its_own_courier_as_the_settings_say(
    small: Any,
    url: str,
    tmp_path: Path,
    hook: tuple[str, list[dict[str, Any]]],
    eventually: Callable[[Callable[[], object], str], None],
) -> None:
    address, posts = hook
    settings = tmp_path / "foreshock.toml"
    settings.write_text(
        f'store = "{url}"\nproject = "language"\nnotify = ["{address}"]\ndashboard_url = "https://watch.example"\n'
        'quiet_hours = "00:00-23:59 UTC"\n[message]\ntitle = "{{ severity | upper }} {{ run }} of {{ project }}"\n'
    )
    with foreshock.watch(small.model, small.optimizer, run="gpt2", config=settings) as monitor:
        for _ in range(5):
            monitor.step(small.step())
        monitor.step(float("nan"))
        eventually(lambda: posts, "the alert is critical: it comes through quiet hours")
    (body,) = posts
    assert (body["title"], body["type"]) == ("CRITICAL gpt2 of language", "failure")
    (told,) = body["foreshock"]["alerts"]
    assert told["url"] == f"https://watch.example/alert/{told['alert']['id']}"
    assert told["url"] in body["message"]
    assert [attached["mimetype"] for attached in body["attachments"]] == ["image/png"]
    store = foreshock.open_store(url)
    (kept,) = map(Channel.of, store.channels(monitor.run.id))
    store.close()
    assert kept.url == address
    assert kept.quiet is not None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ('quiet_hours = "at night"', "quiet_hours: 'at night' names no quiet hours; allowed: "),
        ('notify = ["json://h?quiet=x"]', "notify: json://...?quiet=: 'x' names no quiet hours"),
        ('[message]\nbody = "{{ mesage }}"', "message: body: there is no field 'mesage'; allowed: message, "),
    ],
)
def test_settings_that_cannot_work_are_refused_before_training(small: Any, tmp_path: Path, given: str, says: str) -> None:
    settings = tmp_path / "foreshock.toml"
    settings.write_text(given)
    with pytest.raises(ConfigurationError) as refused:
        foreshock.watch(small.model, store=f"sqlite:///{tmp_path / 'runs.db'}", config=settings)
    assert says in str(refused.value)
    assert not (tmp_path / "runs.db").exists()
