"""The dashboard as a process: how it starts, whom it answers, how it ends."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from foreshock.dashboard import listening
from foreshock.dashboard.options import OptionError, Options
from foreshock.dashboard.server import AddressError, serve
from foreshock.storage import open_store
from foreshock.storage.base import Store
from foreshock.storage.records import Lease


@pytest.fixture
def url(tmp_path: Path) -> str:
    address = f"sqlite:///{tmp_path / 'runs.db'}"
    open_store(address).close()
    return address


def fetch(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def test_it_answers_with_headers_that_keep_the_page_safe_and_ends_well(url: str, serve_store) -> None:
    with serve_store(url) as (base, process):
        status, _, body = fetch(base + "/healthz")
        assert (status, json.loads(body)["status"]) == (200, "ok")
        for path in ("/", "/run/anything", "/no/such/page"):
            status, headers, body = fetch(base + path)
            assert status == 200
            assert b"/assets/foreshock.css" in body, "the first page of a fresh process has its style sheet"
            assert headers["x-content-type-options"] == "nosniff"
            assert "default-src 'self'" in headers["content-security-policy"]
            assert b"https://" not in body
        assert fetch(base + "/healthz", Host="evil.example")[0] == 421
        for path in ("/docs", "/openapi.json", "/redoc"):
            assert b"swagger" not in fetch(base + path)[2].lower()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_the_watchdog_runs_beside_the_page_and_makes_room_at_the_end(url: str, serve_store) -> None:
    store, other = open_store(url), Lease("watchdog", "other")
    try:
        with serve_store(url) as (_, process):
            until(lambda: not store.take_lease(other) or store.release_lease(other))
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 0
        assert store.take_lease(other), "its right was given back, not left to run out"
    finally:
        store.close()


def until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_ctrl_c_ends_it_well(url: str, serve_store) -> None:
    with serve_store(url) as (_, process):
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gpu-7", ""])
def test_other_addresses_are_refused_with_the_ways_out(host: str) -> None:
    with pytest.raises(OptionError, match=r"token create(.|\n)*--auth(.|\n)*ssh -L"):
        Options(host)
    assert Options(host, auth=True).local is False


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prefix": "foreshock"}, "would be '/foreshock'"),
        ({"prefix": "/a/../b"}, "--prefix"),
        ({"prefix": "/<b>"}, "--prefix"),
        ({"prefix": "//evil.example"}, "would be '/evil.example'"),
        ({"trusted_proxies": ("proxy.local",)}, "names are not looked up"),
        ({"allowed_hosts": ("*",)}, "--allow-host"),
        ({"allowed_hosts": ("https://a/",)}, "--allow-host"),
    ],
)
def test_options_that_make_no_sense_say_what_would(options: dict[str, object], says: str) -> None:
    with pytest.raises(OptionError) as error:
        Options(**options)  # type: ignore[arg-type]
    assert says in str(error.value)


def test_a_taken_port_says_so(store: Store) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(AddressError, match="--port"):
            serve(store, port=taken.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "here", "beyond"),
    [
        ("127.0.0.1:8050", True, True),
        ("localhost", True, True),
        ("[::1]:8050", True, True),
        ("Train.Example:8050", True, True),
        ("train.example.", True, True),
        ("10.0.0.7:8050", False, True),
        (socket.gethostname(), False, True),
        ("evil.example:8050", False, False),
        ("127.0.0.1.evil.example", False, False),
        ("[bad", False, False),
        ("", False, False),
    ],
)
def test_the_names_it_answers_to(host: str, here: bool, beyond: bool) -> None:
    assert Options(allowed_hosts=("train.example",)).answers_to(host) is here
    assert Options("0.0.0.0", auth=True, allowed_hosts=("train.example",)).answers_to(host) is beyond


def test_who_is_slow_with_the_head_of_a_request_is_cut_off_and_who_waits_for_an_answer_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "HEAD_WITHIN", 0.3)

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.9)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def story() -> None:
        config = uvicorn.Config(slow, http=listening.Impatient, lifespan="off", log_level="error", log_config=None)
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        listener = socket.create_server(("127.0.0.1", 0))
        await server.startup(sockets=[listener])
        where = listener.getsockname()[:2]
        reader, writer = await asyncio.open_connection(*where)
        writer.write(b"GET / HTTP/1.1\r\nX-Slow: ")
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()
        reader, writer = await asyncio.open_connection(*where)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await asyncio.wait_for(reader.readuntil(b"ok"), 20)).startswith(b"HTTP/1.1 200")
        writer.write(b"GET / HTTP/1.1\r\n")
        assert await asyncio.wait_for(reader.read(), 20) == b"", "the second request of a connection too"
        writer.close()
        await server.shutdown(sockets=[listener])

    asyncio.run(story())


def test_a_store_that_cannot_be_opened_ends_the_server_with_the_reason(tmp_path: Path) -> None:
    script = (
        "import sys; from foreshock.dashboard.server import serve; from foreshock.storage import StoreError, open_store\n"
        "try:\n    serve(lambda: open_store(sys.argv[1], create=False), port=0)\n"
        "except StoreError as error:\n    print('told:', error)"
    )
    missing = f"sqlite:///{tmp_path / 'missing.db'}"
    said = subprocess.run([sys.executable, "-P", "-c", script, missing], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("told:")
    assert "missing.db" in said.stdout
    assert said.stderr == ""


def test_neither_torch_nor_what_is_slow_is_imported_before_the_first_page() -> None:
    script = (
        "import sys; from foreshock.dashboard import app, listening, source; app.build_app(source.StoreSource(lambda: None)); "
        "print([name for name in ('torch', 'pandas', 'numpy', 'scipy', 'alembic', 'sqlalchemy', 'flask') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_torch_is_not_imported_by_any_page(url: str) -> None:
    script = (
        "import sys; from foreshock.storage import open_store; from foreshock.dashboard import factory, router; "
        f"print(type(router.page_at(open_store({url!r}), '/', '')).__name__, 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["Main", "False"]
