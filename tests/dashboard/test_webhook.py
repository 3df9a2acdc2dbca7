"""What is sent, as it arrives: posts to a real HTTP server held against the schema, a mail with its picture, chat in Markdown."""

import base64
import io
import json
import math
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import replace
from email import message_from_bytes
from email.message import Message as Mail
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

import foreshock.dashboard.messages
import jsonschema_rs
import pytest
from foreshock.analyzer.courier import deliver_due
from foreshock.analyzer.messages import Messages
from foreshock.analyzer.notify import Outbox
from foreshock.dashboard.messages import MessageExtras
from foreshock.dashboard.messages.example import example_alert
from foreshock.dashboard.messages.payload import webhook_schema
from foreshock.storage.base import Store
from foreshock.storage.records import Alert, NotificationState, Run, derived_id
from PIL import Image

# One of Apprise's own plug-ins still imports a deprecated module of the standard library.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

ALERT = replace(example_alert(5.0), run_id="run")
PAGE = "https://watch.example/foreshock"


class Web(ThreadingHTTPServer):
    """Keeps what is posted, and refuses as many posts as ``refusals`` says."""

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        self.refusals = 0
        super().__init__(("127.0.0.1", 0), WebHandler)


class WebHandler(BaseHTTPRequestHandler):
    server: Web

    def do_POST(self) -> None:
        self.server.posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.server.refusals -= 1
        self.send_response(200 if self.server.refusals < 0 else 500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


class Post(socketserver.ThreadingTCPServer):
    """A mail server that takes everything."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []
        super().__init__(("127.0.0.1", 0), PostHandler)


class PostHandler(socketserver.StreamRequestHandler):
    server: Post

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            command = line[:4].upper().strip()
            if command == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = []
                while (text := self.rfile.readline()) != b".\r\n":
                    lines.append(text.removeprefix(b"."))
                self.server.mails.append(message_from_bytes(b"".join(lines)))
            self.wfile.write(b"221 bye\r\n" if command == b"QUIT" else b"250 ok\r\n")
            if command == b"QUIT":
                return


def running(server: Any) -> Iterator[Any]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def web() -> Iterator[Web]:
    yield from running(Web())


@pytest.fixture
def post() -> Iterator[Post]:
    yield from running(Post())


@pytest.fixture
def schema() -> Any:
    """The schema as it is shipped."""
    return jsonschema_rs.validator_for(files(foreshock.dashboard.messages).joinpath("webhook.schema.json").read_text())


def tell(store: Store, channel: str, *alerts: Alert, now: float = 10.0) -> None:
    outbox = Outbox([channel], run_name="gpt2", messages=Messages(PAGE))
    store.save_alerts(alerts, [entry for alert in alerts for entry in outbox.notifications(alert)])
    deliver_due(store, now, extras=MessageExtras())


@pytest.fixture
def told(store: Store) -> Store:
    store.create_run(Run("run", "gpt2", created_at=1.0))
    return store


def test_a_webhook_is_told_in_words_as_data_and_with_a_picture(told: Store, web: Web, schema: Any) -> None:
    tell(told, f"json://127.0.0.1:{web.server_port}/hook?:team=research", ALERT)
    (body,) = web.posts
    schema.validate(body)
    assert (body["title"], body["type"], body["team"]) == ("foreshock: warning in gpt2 at step 1,740", "warning", "research")
    assert "Likeliest cause: Attention logits grow without bound (86%)." in body["message"].splitlines()
    data = body["foreshock"]
    assert (data["version"], data["kind"]) == (1, "alert")
    (one,) = data["alerts"]
    assert (one["run"], one["url"], one["alert"]["rule"]) == ("gpt2", f"{PAGE}/alert/{ALERT.id}", ALERT.rule)
    assert one["alert"]["evidence"][0]["steps"][-1] == one["alert"]["first_step"] == 1740
    (attached,) = body["attachments"]
    assert attached["mimetype"] == "image/png"
    assert Image.open(io.BytesIO(base64.b64decode(attached["base64"]))).format == "PNG"


def test_several_alerts_and_values_that_json_does_not_know_keep_to_the_schema_too(told: Store, web: Web, schema: Any) -> None:
    lost = replace(
        ALERT, value=math.nan, threshold=math.inf, evidence=(replace(ALERT.evidence[0], values=(math.nan,), steps=(1,)),)
    )
    many = [replace(lost, id=derived_id(str(number)), episode=number) for number in range(7)]
    tell(told, f"json://127.0.0.1:{web.server_port}/hook", *many)
    (body,) = web.posts
    schema.validate(body)
    assert (body["title"], body["foreshock"]["kind"], len(body["foreshock"]["alerts"])) == ("foreshock: 7 alerts", "digest", 7)
    assert body["attachments"] == []
    assert body["foreshock"]["alerts"][0]["alert"]["value"] == {"value": None, "kind": "nan"}


def test_the_schema_refuses_what_is_no_such_body(told: Store, web: Web, schema: Any) -> None:
    tell(told, f"json://127.0.0.1:{web.server_port}/hook", ALERT)
    body = web.posts[0]
    assert schema.is_valid(body | {"new": 1}), "a newer version may say more"
    for wrong in (body | {"type": "loud"}, body | {"foreshock": {**body["foreshock"], "version": 2}}, {"title": "x"}):
        assert not schema.is_valid(wrong)


def test_the_schema_that_is_shipped_is_that_of_the_shapes() -> None:
    text = files(foreshock.dashboard.messages).joinpath("webhook.schema.json").read_text("utf-8")
    assert json.loads(text) == webhook_schema(), "run: make docs"


def test_a_message_whose_chart_or_data_fail_arrives_all_the_same(told: Store, web: Web, schema: Any) -> None:
    class Broken(MessageExtras):
        def chart(self, alert: Alert) -> bytes:
            raise RuntimeError("no ink")

        def data(self, *_: object, **__: object) -> dict[str, Any]:
            raise RuntimeError("no data")

    outbox = Outbox([f"json://127.0.0.1:{web.server_port}/hook"])
    told.save_alerts([ALERT], outbox.notifications(ALERT))
    assert deliver_due(told, 10.0, extras=Broken()) == 1
    schema.validate(web.posts[0])
    assert (web.posts[0]["attachments"], "foreshock" in web.posts[0]) == ([], False)


def test_a_chart_goes_with_the_first_try_only_and_not_where_it_is_not_wanted(told: Store, web: Web) -> None:
    web.refusals = 1
    tell(told, f"json://127.0.0.1:{web.server_port}/hook", ALERT)
    deliver_due(told, 100.0, extras=MessageExtras())
    assert [len(body["attachments"]) for body in web.posts] == [1, 0]
    assert [entry.state for entry in told.notifications()] == [NotificationState.SENT]
    tell(told, f"json://127.0.0.1:{web.server_port}/hook?chart=no", replace(ALERT, id="b" * 32, episode=1), now=200.0)
    assert web.posts[-1]["attachments"] == []


def test_a_mail_is_html_with_the_picture_attached(told: Store, post: Post) -> None:
    mail = f"mailto://127.0.0.1:{post.server_address[1]}/?from=a@example.com&to=b@example.com&mode=insecure"
    tell(told, mail, replace(ALERT, message="Layers <q> & *k* turn."))
    (got,) = post.mails
    assert str(got["Subject"]) == "foreshock: warning in gpt2 at step 1,740"
    parts = {part.get_content_type(): part for part in got.walk()}
    html = parts["text/html"].get_payload(decode=True)
    assert isinstance(html, bytes)
    assert b"<strong>What to do:</strong>" in html
    assert b"&lt;q&gt; &amp; *k* turn." in html
    assert f'<a href="{PAGE}/alert/{ALERT.id}">'.encode() in html
    picture = parts["image/png"].get_payload(decode=True)
    assert isinstance(picture, bytes)
    assert Image.open(io.BytesIO(picture)).size == (960, 600)


def test_a_chat_that_knows_markdown_gets_markdown(told: Store, web: Web) -> None:
    tell(told, f"rocket://{'a' * 17}/{'b' * 43}@127.0.0.1:{web.server_port}/#runs?avatar=no", ALERT)
    text = json.dumps(web.posts)
    assert "**What to do:**" in text
    assert f"[Evidence, history, and what you decide]({PAGE}/alert/{ALERT.id})" in text
