"""What each tracker was told, read back by the tracker's own means."""

import json
import math
import struct
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from foreshock.storage.records import (
    Alert,
    AlertState,
    Batch,
    Cause,
    Histogram,
    Run,
    SeriesKey,
    Severity,
    StepRecord,
    derived_id,
    new_id,
)
from foreshock.storage.transfer.mirrors import feeding
from foreshock.storage.transfer.mirrors.base import Mirror
from foreshock.storage.transfer.mirrors.registry import Mirrors, choose_mirrors
from foreshock.storage.transfer.packages import TransferError

RUN = Run(new_id(), "gpt2 bf16", "tests", tags=("bf16",))
LOSS, DROPPED = SeriesKey("loss"), SeriesKey("monitor.dropped")
NORM = SeriesKey("weight.spectral_norm", "h.0.attn")
HEAD = SeriesKey("attention.logits_max", "h.1", 3, 1)
SHAPE = Histogram(SeriesKey("weight.shape", "h.0"), -1.0, 3.0, (1, 0, 5, 2))


@pytest.fixture(autouse=True)
def _no_network_and_no_waiting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_DIR": str(tmp_path),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "OTEL_SDK_DISABLED": "false",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(feeding, "_FIRST_PAUSE", 0.01)
    monkeypatch.chdir(tmp_path)


def batch(steps: range, odd: float | None = None) -> Batch:
    """Ten steps, of which every fifth looks into modules."""
    records = []
    for step in steps:
        keys, values, shapes = (LOSS, DROPPED), [odd if odd is not None else step / 4, 7.0], ()
        if step % 5 == 0:
            keys, values, shapes = (LOSS, NORM, HEAD), [step / 4, 2.0 * step, 0.5], (SHAPE,)
        records.append(StepRecord(step, 1000.0 + step, keys, values, shapes))
    return Batch(new_id(), RUN.id, 0, tuple(records))


def alert(rule: str = "loss_spike", state: AlertState = AlertState.FIRING) -> Alert:
    cause = Cause("bf16", "Too little precision", 0.75, ("a",), "use float32")
    id = derived_id(rule)
    places = (0, 4, 4, 1004.0, 1004.0)
    return Alert(id, RUN.id, rule, "h.0", 0, Severity.CRITICAL, state, *places, "it spikes", diagnosis=(cause,), remedy="lr down")


def chosen(given: Any) -> list[Mirror]:
    """Return mirrors as ``watch()`` does."""
    found = choose_mirrors(given)
    for mirror in found:
        mirror.prepare()
    return found


def mirrored(given: str | Mirror, *batches: Batch, alerts: tuple[Alert, ...] = ()) -> None:
    """Tell a mirror, and let it finish; nothing may have gone wrong."""
    faults: list[tuple[str, Exception]] = []
    mirrors = Mirrors(lambda *fault: faults.append(fault))
    mirrors.begin(chosen(given), RUN)
    (feed,) = mirrors.feeds
    complete = mirrors.after(lambda batch: batch)
    for each in batches:
        mirrors.hear(alerts)
        assert complete(each) is each
    mirrors.close()
    assert faults == []
    assert (feed.taken, feed.dropped) == (len(batches), 0)


# -- TensorBoard -------------------------------------------------------------------------------------------------


def read_events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0, "tensors": 0}).Reload()


def test_tensorboard(tmp_path: Path) -> None:
    mirrored("tensorboard:runs/x?signals=weight.*", batch(range(10)), batch(range(10, 12), math.nan), alerts=(alert(),))
    found = read_events(tmp_path / "runs" / "x")
    tags = found.Tags()
    assert set(tags["scalars"]) == {"foreshock/loss", "foreshock/monitor.dropped", "foreshock/weight.spectral_norm/h.0.attn"}
    assert [(each.step, each.value) for each in found.Scalars("foreshock/loss")][:9] == [(step, step / 4) for step in range(9)]
    assert math.isnan(found.Scalars("foreshock/loss")[-1].value)
    assert [(each.step, each.wall_time) for each in found.Scalars("foreshock/weight.spectral_norm/h.0.attn")] == [
        (0, 1000.0),
        (5, 1005.0),
        (10, 1010.0),
    ]
    shapes = found.Histograms("foreshock/weight.shape/h.0")
    assert [each.step for each in shapes] == [0, 5, 10]
    assert list(shapes[0].histogram_value.bucket_limit) == [0.0, 1.0, 2.0, 3.0]
    assert list(shapes[0].histogram_value.bucket) == [1.0, 0.0, 5.0, 2.0]
    (text,) = found.Tensors("foreshock/alerts/loss_spike")
    assert text.step == 4
    assert text.tensor_proto.string_val[0].decode().startswith("**critical: loss_spike at step 4 in h.0**\n\nit spikes")


def test_by_default_what_is_about_the_whole_run(tmp_path: Path) -> None:
    mirrored("tensorboard", batch(range(10)))
    tags = read_events(tmp_path / "runs" / "gpt2_bf16").Tags()
    assert set(tags["scalars"]) == {"foreshock/loss", "foreshock/monitor.dropped"}
    assert tags["histograms"] == []


def test_a_module_can_be_picked(tmp_path: Path) -> None:
    mirrored("tensorboard:logs?modules=h.1", batch(range(10)))
    tags = set(read_events(tmp_path / "logs").Tags()["scalars"])
    assert tags == {"foreshock/loss", "foreshock/monitor.dropped", "foreshock/attention.logits_max/h.1/head 3/rank 1"}


# -- W&B ---------------------------------------------------------------------------------------------------------


def wandb_records(path: Path) -> Iterator[bytes]:
    """Yield the records of an offline run: a LevelDB log of blocks of 32 KiB, which W&B itself reads in Go alone."""
    data, place, piece = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        piece += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield piece
            piece = b""


def read_wandb(folder: Path) -> tuple[list[dict[str, Any]], list[Any]]:
    """Return the rows of history and the alerts of an offline run, once W&B's own process has written its end."""
    deadline = time.monotonic() + 30
    while True:
        rows, alerts, ended = _read_wandb(folder)
        if ended:
            return rows, alerts
        assert time.monotonic() < deadline, "the run has no end"
        time.sleep(0.01)


def _read_wandb(folder: Path) -> tuple[list[dict[str, Any]], list[Any], bool]:
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    rows, alerts, ended = [], [], False
    for data in wandb_records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item})
        if record.HasField("alert"):
            alerts.append(record.alert)
        ended = ended or record.HasField("exit")
    return rows, alerts, ended


def test_wandb_in_a_run_of_our_own(tmp_path: Path) -> None:
    mirrored(f"wandb:team/stability?signals=weight.*&mode=offline&dir={tmp_path}", batch(range(10)), alerts=(alert(),))
    rows, alerts = read_wandb(tmp_path)
    assert [row["foreshock/step"] for row in rows] == list(range(10))
    assert [row["foreshock/loss"] for row in rows] == [step / 4 for step in range(10)]
    assert [row["foreshock/weight.spectral_norm/h.0.attn"] for row in rows[::5]] == [0.0, 10.0]
    assert rows[0]["foreshock/weight.shape/h.0/values"] == [1, 0, 5, 2]
    assert rows[0]["foreshock/weight.shape/h.0/bins"] == [-1, 0, 1, 2, 3]
    assert [(each.title, each.level) for each in alerts] == [("critical: loss_spike at step 4 in h.0", "ERROR")]


def test_wandb_in_the_users_run_never_costs_the_user_a_row(tmp_path: Path) -> None:
    """A row of ours would move W&B's own count on, and it would then drop what the user logs under smaller numbers."""
    import wandb

    tracked = wandb.init(project="mine", dir=str(tmp_path), settings=wandb.Settings(console="off"))
    try:
        mirrors = Mirrors(_no_fault)
        mirrors.begin(chosen("wandb"), RUN)
        complete = mirrors.after(lambda batch: batch)
        for step in range(5):
            complete(batch(range(10 * step, 10 * step + 10)))
            tracked.log({"mine": step}, step=step)
        mirrors.close()
        tracked.log({"mine": 5}, step=5)
        assert wandb.run is tracked  # still theirs, and open
    finally:
        tracked.finish()
    rows, _ = read_wandb(tmp_path)
    assert [row["mine"] for row in rows if "mine" in row] == list(range(6))
    assert [row["_step"] for row in rows] == list(range(6))
    ours = [row["foreshock/step"] for row in rows if "foreshock/step" in row]
    assert ours == sorted(ours)
    assert ours[-1] == 49


def test_wandb_rows_of_its_own_on_request(tmp_path: Path) -> None:
    import wandb

    tracked = wandb.init(project="mine", dir=str(tmp_path), settings=wandb.Settings(console="off"))
    try:
        mirrored("wandb?rows=own", batch(range(10)))
    finally:
        tracked.finish()
    rows, _ = read_wandb(tmp_path)
    assert [row["foreshock/step"] for row in rows] == list(range(10))


def _no_fault(source: str, error: Exception) -> None:
    raise AssertionError(f"{source}: {error!r}")


# -- MLflow ------------------------------------------------------------------------------------------------------

# MLflow 3.17 still uses what SQLAlchemy 2.1 has deprecated, and other things of its own.
mlflow_warnings = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")


@mlflow_warnings
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning", "ignore:The.*ResourceWarning")
def test_mlflow_in_the_active_run_and_in_one_of_our_own(tmp_path: Path) -> None:
    import mlflow

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        experiment = mlflow.create_experiment("mine", artifact_location=str(tmp_path / "artifacts"))
        with mlflow.start_run(experiment_id=experiment) as active:
            mirrored("mlflow?signals=weight.*", batch(range(10)), batch(range(10, 11)), alerts=(alert(),))
            assert mlflow.active_run() is not None
        client = mlflow.MlflowClient(tracking_uri=uri)
        history = client.get_metric_history(active.info.run_id, "foreshock/loss")
        assert sorted((each.step, each.value) for each in history) == [(step, step / 4) for step in range(11)]
        assert {each.timestamp for each in history} == {1_000_000 + 1000 * step for step in range(11)}
        found = client.get_run(active.info.run_id)
        assert found.data.metrics["foreshock/weight.spectral_norm/h.0.attn"] == 20.0
        assert found.data.tags["foreshock.alert.loss_spike"].startswith("**critical: loss_spike at step 4")
        assert found.data.tags["foreshock.alerts"] == "1"
    finally:
        mlflow.set_tracking_uri(before)

    mirrored(f"mlflow:{uri}?experiment=theirs&name=mirror", batch(range(3)))
    theirs = client.get_experiment_by_name("theirs")
    assert theirs is not None
    (ours,) = client.search_runs([theirs.experiment_id])
    assert (ours.info.run_name, ours.info.status) == ("mirror", "FINISHED")
    assert ours.data.metrics == {"foreshock/loss": 0.5, "foreshock/monitor.dropped": 7.0}


# -- Prometheus --------------------------------------------------------------------------------------------------


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scraped(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted((name, value) for name, value in sample.labels.items() if name != "run"))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels["run"] == RUN.name
    }


def test_prometheus(free_port: int, wait_until: Callable[[Callable[[], bool]], None]) -> None:
    mirrors = Mirrors(_no_fault)
    mirrors.begin(chosen(f"prometheus:{free_port}?signals=weight.*,attention.*"), RUN)
    complete = mirrors.after(lambda batch: batch)
    complete(batch(range(10)))
    mirrors.hear([alert()])
    mirrors.hear([alert()])  # it fires on: not a new one
    complete(batch(range(10, 12)))
    (feed,) = mirrors.feeds
    wait_until(lambda: feed.taken == 2)
    found = scraped(free_port)
    none = (("head", ""), ("module", ""), ("rank", ""))
    assert found["foreshock_loss", none] == 11 / 4
    assert found["foreshock_weight_spectral_norm", (("head", ""), ("module", "h.0.attn"), ("rank", ""))] == 20.0
    assert found["foreshock_attention_logits_max", (("head", "3"), ("module", "h.1"), ("rank", "1"))] == 0.5
    assert found["foreshock_steps_total", ()] == 12
    assert found["foreshock_dropped_samples_total", ()] == 7
    assert found["foreshock_alerts_total", (("severity", "critical"),)] == 1
    assert found["foreshock_alerts_total", (("severity", "info"),)] == 0
    mirrors.close()
    with pytest.raises(OSError, match="refused"):
        scraped(free_port)


# -- OpenTelemetry -----------------------------------------------------------------------------------------------


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    """An OTLP/HTTP endpoint, and what it was sent."""
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    sent: list[Any] = []

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            import gzip

            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            sent.append(ExportMetricsServiceRequest.FromString(body))
            assert self.path == "/v1/metrics"
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", sent
    server.shutdown()
    server.server_close()
    thread.join()


def test_opentelemetry(collector: tuple[str, list[Any]]) -> None:
    address, sent = collector
    mirrored(f"otlp:{address}?signals=weight.*&interval=3600", batch(range(10)), batch(range(10, 12)), alerts=(alert(),))
    (resource,) = sent[-1].resource_metrics
    about = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert about.items() >= {"service.name": "foreshock", "foreshock.run": RUN.name, "foreshock.run_id": RUN.id}.items()
    metrics = {each.name: each for scope in resource.scope_metrics for each in scope.metrics}
    (loss,) = metrics["foreshock.loss"].gauge.data_points
    assert loss.as_double == 11 / 4
    (norm,) = metrics["foreshock.weight.spectral_norm"].gauge.data_points
    assert (norm.as_double, {each.key: each.value.string_value for each in norm.attributes}) == (
        20.0,
        {"run": RUN.name, "module": "h.0.attn"},
    )
    assert metrics["foreshock.steps"].sum.data_points[0].as_int == 12
    assert metrics["foreshock.alerts"].sum.data_points[0].as_int == 1
    assert len(sent) == 2  # at the first batch, whose alert could not wait either, and at the end


# -- of one's own ---------------------------------------------------------------------------------------------------


def test_another_package_may_bring_a_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs.py").write_text(
        "from pathlib import Path\n"
        "from foreshock.storage.transfer.mirrors.base import Mirror\n"
        "class Theirs(Mirror):\n"
        "    NAME, OPTIONS = 'theirs', ('colour',)\n"
        "    def open(self): self.told = []\n"
        "    def take(self, batch, alerts): self.told.append(batch)\n"
        "    def close(self): Path(self.target).write_text(f'{len(self.told)} {self.options[\"colour\"]} {self.run.name}')\n"
    )
    made = tmp_path / "theirs-1.0.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Name: theirs\nVersion: 1.0\n")
    (made / "entry_points.txt").write_text("[foreshock.mirrors]\ntheirs = theirs:Theirs\nbroken = theirs:Missing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    mirrored(f"theirs:{tmp_path / 'told'}?colour=red", batch(range(3)), batch(range(3, 4)))
    assert (tmp_path / "told").read_text() == f"2 red {RUN.name}"
    with pytest.raises(TransferError, match="'broken' of another package cannot be loaded: AttributeError"):
        choose_mirrors("broken")
    with pytest.raises(TransferError, match=r"allowed: .*otlp, broken, theirs"):
        choose_mirrors("nothing")
