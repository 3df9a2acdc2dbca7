"""The HTTP API over a real server: what it tells, what it decides, and that nothing sent to it breaks it."""

import json
import math
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
import schemathesis
from foreshock.dashboard.reading import OPEN_STATES
from foreshock.storage import open_store
from foreshock.storage.base import Store
from foreshock.storage.records import Alert, AlertState, Batch, Event, Run, SeriesKey, Severity, StepRecord, derived_id, new_id
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode

HOSTILE = [
    "<script>alert(1)</script>",
    "\"'`;--\n\t",
    "x" * 10_000,
    "\u202eevil\u2066 שלום",
    "null\0byte",
    "a/b?c#d%2F",
    "{{7*7}}${7*7}",
]


@dataclass
class Api:
    base: str
    store: Store
    failing: Run
    hostile: list[Run]

    def ask(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, dict[str, str], Any]:
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json", **headers}
        request = urllib.request.Request(
            self.base + path, data, {k.replace("_", "-"): v for k, v in headers.items()}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, dict(answer.headers), json.loads(answer.read(), parse_constant=_no_constants)
        except urllib.error.HTTPError as error:
            content = error.read()
            return error.code, dict(error.headers), json.loads(content) if content else None

    def get(self, path: str, **query: Any) -> Any:
        status, _, told = self.ask(path + ("?" + urlencode(query, doseq=True) if query else ""))
        assert status == 200, told
        return told


def _no_constants(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, simulated: ModuleType, serve_store: Any) -> Iterator[Api]:
    url = f"sqlite:///{tmp_path_factory.mktemp('api') / 'runs.db'}"
    store = open_store(url)
    failing = simulated.write_failing_run(store)
    hostile = []
    for place, name in enumerate(HOSTILE):
        run = Run(
            new_id(), name, name, created_at=1000.0, heartbeat_at=1000.0, tags=(name,), meta={name: math.nan, "nested": [math.inf]}
        )
        store.create_run(run)
        segment = store.open_segment(run.id, 0, 1000.0)
        keys = (SeriesKey(name, name), SeriesKey("loss"))
        steps = [StepRecord(step, 1000.0, keys, [value, value]) for step, value in enumerate((1.0, math.nan, math.inf, -math.inf))]
        store.write(Batch(new_id(), run.id, segment, tuple(steps)))
        alert = Alert(
            derived_id(place), run.id, name, name, 0, Severity.INFO, AlertState.FIRING, 0, 1, 1, 5.0, 5.0, name,
            value=math.inf, threshold=math.nan,
        )  # fmt: skip
        store.save_alerts([alert])
        store.add_event(Event(new_id(), run.id, segment, 1, 1000.0, name, name, {name: -math.inf}))
        hostile.append(store.run(run.id))
    with serve_store(url) as (base, process):
        yield Api(base, store, failing, hostile)
        process.terminate()
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    store.close()


def test_runs_are_listed_filtered_and_paged(api: Api) -> None:
    everything = api.get("/api/v1/runs")["runs"]
    assert everything[0]["id"] == api.failing.id, "newest first"
    assert {run["name"] for run in everything} == {run.name for run in [api.failing, *api.hostile]}
    assert (everything[0]["state"], everything[0]["open_alerts"]) == ("crashed", {"warning": 1, "critical": 1})
    seen, cursor = [], None
    while True:
        page = api.get("/api/v1/runs", limit=3, **({"cursor": cursor} if cursor else {}))
        seen += [run["id"] for run in page["runs"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [run["id"] for run in everything], "all runs of one moment, each once"
    assert [run["id"] for run in api.get("/api/v1/runs", contains="GPT2")["runs"]] == [api.failing.id]
    assert [run["id"] for run in api.get("/api/v1/runs", state="crashed")["runs"]] == [api.failing.id]
    assert api.get("/api/v1/runs", project="none of these")["runs"] == []
    assert api.get(f"/api/v1/runs/{api.failing.id[:8]}") == everything[0]
    assert api.get("/api/v1/runs/gpt2-bf16") == everything[0]


def test_samples_decimated_raw_and_by_window(api: Api) -> None:
    run = f"/api/v1/runs/{api.failing.id}"
    (loss,) = api.get(f"{run}/samples", signal="loss", max_points=50)["samples"]
    assert loss["decimated"]
    assert 40 <= len(loss["steps"]) == len(loss["values"]) == len(loss["kinds"]) == len(loss["segments"]) <= 150
    odd = [(step, value) for step, value, kind in zip(loss["steps"], loss["values"], loss["kinds"], strict=True) if kind == "nan"]
    assert odd == [(1390, None), (1391, None), (1405, None)]
    told = api.get(f"{run}/samples", signal="loss", raw=True, start=100, stop=110)
    assert (told["samples"][0]["steps"], told["next_start"]) == (list(range(100, 110)), None)
    assert len(api.get(f"{run}/samples", signal="weight.spectral_norm")["samples"]) == 12
    assert len(api.get(f"{run}/samples", signal="weight.spectral_norm", module="blocks.0.attn.q")["samples"]) == 1
    assert api.get(f"{run}/samples", signal="no.such")["samples"] == []
    series = api.get(f"{run}/series", limit=5)
    assert (len(series["series"]), series["series"][0]["signal"]) == (5, "loss")
    more = api.get(f"{run}/series", cursor=series["next_cursor"])
    assert more["series"][0] not in series["series"]
    newest = {each["signal"]: each["value"] for each in api.get(f"{run}/newest")["values"]}
    assert set(newest) == {"loss", "gradient.norm", "risk", "monitor.overhead"}
    assert newest["loss"]["kind"] == "finite"


def test_a_long_run_is_read_raw_in_parts(api: Api) -> None:
    run = Run(new_id(), "long", created_at=900.0)
    api.store.create_run(run)
    api.store.open_segment(run.id, 0, 0.0)
    key = (SeriesKey("loss"),)
    for first in range(0, 50_000, 10_000):
        steps = tuple(StepRecord(step, 0.0, key, [float(step)]) for step in range(first, first + 10_000))
        api.store.write(Batch(new_id(), run.id, 0, steps))
    read: list[int] = []
    start, parts = 0, 0
    while start is not None:
        told = api.get(f"/api/v1/runs/{run.id}/samples", signal="loss", raw=True, start=start)
        read += told["samples"][0]["steps"]
        start, parts = told["next_start"], parts + 1
    assert read == list(range(50_000))
    assert parts == 3


def test_hostile_names_come_back_as_they_were_written(api: Api) -> None:
    for place, run in enumerate(api.hostile):
        told = api.get(f"/api/v1/runs/{run.id}")
        assert (told["name"], told["project"], told["tags"]) == (run.name, run.project, list(run.tags))
        assert told["meta"] == {HOSTILE[place]: "nan", "nested": ["inf"]}, "inside facts even a null byte is kept"
        (points,) = api.get(f"/api/v1/runs/{run.id}/samples", signal="loss")["samples"]
        assert points["values"] == [1.0, None, None, None]
        assert points["kinds"] == ["finite", "nan", "positive_infinity", "negative_infinity"]
        alert = api.get(f"/api/v1/alerts/{derived_id(place)}")
        assert (alert["message"], alert["module"]) == (run.name, run.name)
        assert (alert["value"], alert["threshold"]) == (
            {"value": None, "kind": "positive_infinity"}, {"value": None, "kind": "nan"}
        )  # fmt: skip
        (event,) = api.get(f"/api/v1/runs/{run.id}/events")["events"]
        assert (event["message"], event["data"]) == (run.name, {HOSTILE[place]: "-inf"})
        by_name = api.get("/api/v1/runs", **({"name": run.name} if len(run.name) <= 1000 else {"contains": run.name[:1000]}))[
            "runs"
        ]
        assert [each["id"] for each in by_name] == [run.id]
    assert "�" in api.hostile[4].name, "a null byte cannot be stored; what stands for it is shown"


def test_alerts_are_listed_decided_and_told_by_whom(api: Api) -> None:
    open_ones = api.get("/api/v1/alerts", open=True, run=api.failing.id)["alerts"]
    assert {alert["state"] for alert in open_ones} <= {state.value for state in OPEN_STATES}
    critical = api.get("/api/v1/alerts", severity="critical")["alerts"]
    assert [(alert["rule"], alert["diagnosis"][0]["name"]) for alert in critical] == [("logit_growth", "rounding_bias")]
    assert critical[0]["evidence"][0]["values"] == [1.9, 1.1, 0.3]
    paged: list[str] = []
    cursor = None
    while True:
        page = api.get("/api/v1/alerts", limit=4, **({"cursor": cursor} if cursor else {}))
        paged += [alert["id"] for alert in page["alerts"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert paged == [alert.id for alert in api.store.alerts()]
    one = f"/api/v1/alerts/{critical[0]['id']}"
    status, headers, told = api.ask(one + "/acknowledge", "POST", {"comment": "<b>known</b>"})
    assert (status, told["state"], headers["cache-control"]) == (200, "acknowledged", "no-store")
    event = api.get(f"/api/v1/runs/{api.failing.id}/events", kind="alert_state")["events"][-1]
    assert event["data"]["comment"] == "<b>known</b>"
    assert event["data"]["by"] == api.get("/api/v1/me")["name"]
    assert api.ask(one + "/silence", "POST", {"seconds": 60})[2]["state"] == "silenced"
    (silence,) = api.get("/api/v1/silences")["silences"]
    assert 0 < silence["until"] - silence["created_at"] <= 60
    assert api.ask(f"/api/v1/silences/{silence['id']}", "DELETE")[2] == {"silences": []}
    assert api.get(one)["state"] == "firing"
    assert api.ask(one + "/silence", "POST", {"scope": "layer", "seconds": None})[2]["state"] == "silenced"
    status, _, told = api.ask(one + "/comment", "POST", {"comment": "<i>seen</i>"})
    assert (status, told["events"][-1]["data"]["comment"]) == (200, "<i>seen</i>")
    assert api.get(one + "/events") == told
    assert api.ask(one + "/reopen", "POST", {"comment": "again"})[2]["state"] == "firing"
    assert api.ask(one + "/resolve", "POST")[2]["state"] == "resolved"
    status, _, told = api.ask(one + "/acknowledge", "POST", {})
    assert (status, told["error"]["code"]) == (409, "illegal_transition")


@pytest.mark.parametrize(
    ("path", "method", "body", "status", "says"),
    [
        ("/api/v1/runs/zzz", "GET", None, 404, "Newest runs"),
        ("/api/v1/alerts/zzz", "GET", None, 404, "foreshock alerts"),
        ("/api/v1/alerts/zzz/acknowledge", "POST", {}, 404, "foreshock alerts"),
        ("/api/v1/silences/zzz", "DELETE", None, 404, "No silence"),
        ("/api/v1/nothing", "GET", None, 404, "/api shows"),
        ("/api/v1/runs", "DELETE", None, 405, "not allowed"),
        ("/api/v1/runs?limit=0", "GET", None, 422, "query.limit"),
        ("/api/v1/runs?cursor=abc", "GET", None, 422, "next_cursor"),
        ("/api/v1/runs?cursor=" + "W" * 600, "GET", None, 422, "next_cursor"),
        ("/api/v1/runs?state=odd", "GET", None, 422, "query.state"),
        ("/api/v1/alerts/zzz/resolve", "POST", b"{", 422, "body"),
        ("/api/v1/alerts/zzz/resolve", "POST", {"comment": "x" * 10_001}, 422, "body.comment"),
        ("/api/v1/alerts/zzz/resolve", "POST", {"reason": "x"}, 422, "body.reason"),
    ],
)
def test_errors_have_one_shape_and_say_what_is_wrong(api: Api, path: str, method: str, body: Any, status: int, says: str) -> None:
    found, headers, told = api.ask(path, method, body)
    assert (found, set(told), set(told["error"])) == (status, {"error"}, {"code", "message", "details"})
    assert says in told["error"]["message"]
    assert headers["content-type"] == "application/json"


def test_what_a_caller_has_already_is_not_sent_again(api: Api) -> None:
    path = f"/api/v1/runs/{api.failing.id}/samples?signal=loss"
    _, headers, _ = api.ask(path)
    assert headers["cache-control"] == "private, no-cache"
    status, again, told = api.ask(path, if_none_match=f'W/{headers["etag"]}, "x"')
    assert (status, told, again["etag"]) == (304, None, headers["etag"])
    assert api.ask(path + "&max_points=7", if_none_match=headers["etag"])[0] == 200


def test_the_page_of_the_api_is_made_of_its_description_without_scripts(api: Api) -> None:
    with urllib.request.urlopen(api.base + "/api", timeout=20) as answer:
        page = answer.read().decode()
    described = api.get("/api/openapi.json")
    assert described["openapi"].startswith("3.1")
    for path, methods in described["paths"].items():
        assert f"<code>{path}</code>" in page
        assert all("200" in operation["responses"] and "422" in operation["responses"] for operation in methods.values())
    assert page.count("<script") == 1
    assert "https://" not in page


def test_nothing_that_can_be_sent_breaks_it(api: Api) -> None:
    """Schemathesis makes requests of the description, valid and broken ones; answers must be as described, and none a failure."""
    schema = schemathesis.openapi.from_url(api.base + "/api/openapi.json")
    ids = {"run": [run.id for run in api.hostile], "alert_id": [derived_id(place) for place in range(len(HOSTILE))]}
    session, tried = requests.Session(), 0
    for found in schema.get_all_operations():
        operation = found.ok()
        takes = operation.definition.raw.get("parameters") or "requestBody" in operation.definition.raw
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE) if takes else (GenerationMode.POSITIVE,):

            @settings(
                max_examples=6, database=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
            )
            @given(case=operation.as_strategy(generation_mode=mode), real=st.data())
            def try_it(case: schemathesis.Case, real: st.DataObject) -> None:
                nonlocal tried
                for name, known in ids.items():
                    if name in (case.path_parameters or {}) and real.draw(st.booleans()):
                        case.path_parameters[name] = real.draw(st.sampled_from(known))
                tried += 1
                answer = case.call(session=session, timeout=20)
                assert answer.status_code < 500, (case.as_curl_command(), answer.text)
                case.validate_response(
                    answer,
                    checks=[
                        schemathesis.checks.not_a_server_error,
                        schemathesis.specs.openapi.checks.status_code_conformance,
                        schemathesis.specs.openapi.checks.content_type_conformance,
                        schemathesis.specs.openapi.checks.response_schema_conformance,
                    ],
                )

            try_it()
    session.close()
    assert tried > 100


def test_alerts_are_found_by_rule_and_by_their_first_letters(api: Api) -> None:
    alert = api.store.alert(derived_id(0))
    api.store.save_alerts([replace(alert, id=new_id(), episode=1)])
    assert len(api.get("/api/v1/alerts", rule=HOSTILE[0])["alerts"]) == 2
    assert len(api.get("/api/v1/alerts", id_prefix=derived_id(0)[:12])["alerts"]) == 1
