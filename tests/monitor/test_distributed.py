"""Several ranks, one run: real jobs of two and four processes over gloo."""

import fcntl
import importlib.util
import json
import math
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreshock
import pandas as pd
import pytest

pytestmark = pytest.mark.timeout(400)  # many processes, perhaps on few cores

SCRIPT = Path(__file__).with_name("distributed_job.py")

# float32 sums in another order; for a turn, a difference of numbers close to 1, and growth, one of numbers close together.
TOLERANCE = {"": (1e-5, 1e-6), "spectral_alignment.turn": (1e-2, 1e-5), "weight.spectral_growth": (1e-2, 1e-6)}
"""(relative, absolute) by signal."""


class Job:
    """A job that has ended: what its scenarios returned, and the runs they left."""

    def __init__(self, folder: Path, world: int) -> None:
        self.folder, self.world = folder, world

    def results(self, scenario: str) -> list[dict[str, Any]]:
        return [json.loads((self.folder / f"{scenario} {rank}.json").read_text()) for rank in range(self.world)]

    def frame(self, name: str) -> pd.DataFrame:
        store = foreshock.open_store(f"sqlite:///{self.folder / name}.db")
        runs = store.runs()
        assert len(runs) == 1, "one rank writes"
        frame = store.frame(runs[0])
        store.close()
        return frame


def launch_once(factory: pytest.TempPathFactory, world: int, *scenarios: str) -> Job:
    """Run a job, once for all processes that pytest runs tests in."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / f"job of {world}"
    with (base / f"job of {world}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return Job(folder, world) if folder.exists() else launch(folder, world, *scenarios)


def launch(folder: Path, world: int, *scenarios: str) -> Job:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FORESHOCK_")}
    environment |= {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    environment |= {"FORESHOCK_HOME": str(folder / "home"), "PYTHONWARNINGS": "error"}
    ranks = []
    for rank in range(world):
        with (folder / f"output {rank}").open("w") as output:
            command = [sys.executable, "-P", str(SCRIPT), str(folder), *scenarios]
            ranks.append(
                subprocess.Popen(
                    command, env=environment | {"RANK": str(rank)}, cwd=folder, stdout=output, stderr=subprocess.STDOUT
                )
            )
    try:
        codes = [rank.wait(timeout=300) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    outputs = "\n".join(f"rank {rank}:\n{(folder / f'output {rank}').read_text()}" for rank in range(world))
    assert codes == [0] * world, outputs
    return Job(folder, world)


BOTH = ("ddp", "fsdp", "zero", "drift", "failing_probe", "broken", "governed", "refused")
TWO = ("compiled", "fsdp_clipped", "first_rank_only", "first_rank_not", "leaving_ddp", "failing_shards", "leaving_fsdp")
# Killed ranks come last: nobody can be met after that.


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return launch_once(tmp_path_factory, 2, *BOTH, *TWO, "dying_leader")


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return launch_once(tmp_path_factory, 4, *BOTH, "dying_follower")


@pytest.fixture(params=["two", "four"])
def job(request: pytest.FixtureRequest) -> Job:
    found: Job = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float | None], pd.DataFrame]:
    """The same training by one process, with the whole batch."""
    folder = tmp_path_factory.mktemp("alone")

    def trained(clip: float | None = None) -> pd.DataFrame:
        path = folder / f"{clip}.db"
        if not path.exists():
            specification = importlib.util.spec_from_file_location("distributed_job", SCRIPT)
            assert specification is not None
            assert specification.loader is not None
            script = importlib.util.module_from_spec(specification)
            specification.loader.exec_module(script)
            script.train(script.fresh(), 12, f"sqlite:///{path}", every=3, clip=clip)
        return Job(folder, 1).frame(str(clip))

    return trained


def series(frame: pd.DataFrame, signals: set[str] | None = None) -> dict[tuple[Any, ...], float]:
    """What was measured, by (signal, module, head, step); not of single ranks, nor of the monitor itself."""
    own = frame[~frame["signal"].str.startswith(("rank.", "monitor.", "system.")) & (frame["signal"] != "loss")]
    keys = own[["signal", "module", "head", "step"]].itertuples(index=False, name=None)
    found = dict(zip(keys, own["value"], strict=True))
    assert len(found) == len(own), "a series was measured twice"
    return {key: value for key, value in found.items() if signals is None or key[0] in signals}


def assert_alike(found: dict[tuple[Any, ...], float], expected: dict[tuple[Any, ...], float]) -> None:
    assert found.keys() == expected.keys()
    wrong = {}
    for key, value in expected.items():
        relative, absolute = TOLERANCE.get(key[0], TOLERANCE[""])
        if not math.isclose(found[key], value, rel_tol=relative, abs_tol=absolute):
            wrong[key] = found[key], value
    assert not wrong


def test_ranks_together_measure_what_one_process_would(job: Job, alone: Callable[..., pd.DataFrame]) -> None:
    frame, whole = job.frame("ddp"), alone()
    assert_alike(series(frame), series(whole))
    ranks = frame[frame["signal"] == "rank.loss"]
    assert sorted(set(ranks["rank"])) == list(range(job.world))
    means = ranks.groupby("step")["value"].mean()
    expected = whole[whole["signal"] == "loss"].set_index("step")["value"]
    assert means.tolist() == pytest.approx(expected[means.index].tolist(), rel=1e-5)
    checksums = frame[frame["signal"] == "rank.checksum"].groupby("step")["value"]
    assert (checksums.count() == job.world).all()
    assert (checksums.nunique() == 1).all()
    assert checksums.first().nunique() == 4, "training changes the weights"


@pytest.mark.parametrize("scenario", ["ddp", "fsdp", "zero"])
def test_training_is_bit_identical_on_every_rank(job: Job, scenario: str) -> None:
    results = job.results(scenario)
    assert [result["identical"] for result in results] == [True] * job.world
    assert [result["faults"] for result in results] == [0] * job.world
    assert [result["kind"] for result in results] == ["Monitor"] + ["FollowingMonitor"] * (job.world - 1)


def test_sharded_weights_measure_as_whole_ones(job: Job, alone: Callable[..., pd.DataFrame]) -> None:
    """A fused projection is among them, whose parts cross the borders of shards; and rows do not divide evenly."""
    found, expected = series(job.frame("fsdp")), series(alone())
    expected = {key: value for key, value in expected.items() if key[0] != "update.stable_rank"}
    sampled = {key[3] for key in found if key[0] == "weight.spectral_norm"}
    exact = {key: value for key, value in expected.items() if key[0] != "gradient.norm"}
    of_samples = {key: value for key, value in exact.items() if not key[0].startswith("gradient.norm") or key[3] in sampled}
    assert_alike({key: value for key, value in found.items() if key[0] != "gradient.norm"}, of_samples)
    assert {key[1] for key in found if key[0] == "weight.spectral_norm"} == {"up", "qkv.q", "qkv.k", "qkv.v", "down"}
    # Between samples the norm of gradients that lie in parts is not known; a checksum of parts says nothing.
    norms = {key[3] for key in found if key[0] == "gradient.norm"}
    assert norms == sampled
    assert "rank.checksum" not in set(job.frame("fsdp")["signal"])


def test_an_optimizer_that_ranks_share_measures_as_a_whole_one(job: Job, alone: Callable[..., pd.DataFrame]) -> None:
    """Moments of a module's weight may lie on one rank and those of its bias on another."""
    found, expected = series(job.frame("zero")), series(alone())
    assert {key[1] for key in found if key[0] == "adam.first_moment_norm"} == {"up", "qkv", "down"}
    assert_alike(found, expected)


def test_a_compiled_model_in_two_ranks(two: Job, alone: Callable[..., pd.DataFrame]) -> None:
    """Layer inputs are seen in the graphs; the gradients at outputs are not. No graph more than without the monitor."""
    results = two.results("compiled")
    assert [result["identical"] for result in results] == [True, True]
    assert [result["faults"] for result in results] == [0, 0]
    found, expected = series(two.frame("compiled")), series(alone())
    unseen = {key for key in expected if key[0].startswith(("spectral_alignment.output", "activation."))}
    assert_alike(found, {key: value for key, value in expected.items() if key not in unseen})
    assert [result["graphs"] for result in results] == [2, 2], "one of the watched model, one of the other"


def test_a_clip_gives_the_norm_of_sharded_gradients_at_every_step(two: Job, alone: Callable[..., pd.DataFrame]) -> None:
    signals = {"gradient.norm", "gradient.norm_clipped", "weight.spectral_norm"}
    found = series(two.frame("fsdp_clipped"), signals)
    assert_alike(found, series(alone(0.5), signals))
    assert sum(key[0] == "gradient.norm" for key in found) == 12
    assert all(result["identical"] and not result["faults"] for result in two.results("fsdp_clipped"))


def test_a_rank_that_drifts_is_named(job: Job) -> None:
    alerts = [alert for alert in job.results("drift")[0]["alerts"] if alert[0] == "rank_drift"]
    assert len(alerts) == 1
    _, message, step = alerts[0]
    assert (f"of rank {job.world - 1} are" if job.world > 2 else "of one of ranks 0 and 1 are") in message
    assert step == 9, "seen at the first sample after the change, believed at the second"


def test_a_probe_that_fails_on_one_rank_leaves_the_others_numbers_in_their_places(
    job: Job, alone: Callable[..., pd.DataFrame]
) -> None:
    found, expected = series(job.frame("failing_probe")), series(alone())
    weights = {"weight.spectral_norm", "spectral_alignment.gap", "learning_rate", "gradient.norm"}
    assert_alike({key: found[key] for key in found if key[0] in weights}, {k: v for k, v in expected.items() if k[0] in weights})
    tokens = {"spectral_alignment.mean", "spectral_alignment.std", "spectral_alignment.output_mean"}
    whole = {key: value for key, value in expected.items() if key[0] in tokens}
    assert {key for key in found if key[0] in tokens} == whole.keys(), "at step 3 of the other ranks alone"
    assert_alike({k: v for k, v in found.items() if k in whole and k[3] != 3}, {k: v for k, v in whole.items() if k[3] != 3})
    faults = [result["faults"] for result in job.results("failing_probe")]
    assert faults[1] >= 4
    assert sum(faults) == faults[1]
    said = job.results("failing_probe")[0]["said"]
    assert any(message.startswith("rank 1: probe failing failed: RuntimeError: planted") for message in said)
    assert any(message.startswith("rank 1: probe spectral failed: RuntimeError: planted") for message in said)


def test_all_ranks_sample_soon_after_a_loss_that_is_not_finite(job: Job) -> None:
    first, *others = (result["seen"] for result in job.results("broken"))
    assert first[0] == 10
    assert len(first) == 2, "one sample besides the planned ones"
    assert 21 < first[1] < 90
    assert others == [first] * len(others), "as the first rank said"
    frame = job.frame("broken")
    found = frame[(frame["signal"] == "nonfinite.count") & (frame["step"] == first[1])]
    assert not found.empty
    losses = frame[(frame["signal"] == "rank.loss") & (frame["step"] == first[1])]
    assert sorted(losses["rank"]) == list(range(job.world))


def test_ranks_sample_the_same_steps_with_the_same_probes(job: Job) -> None:
    """Whoever hears of a sample too late leaves it out: another step than the first rank's is never sampled."""
    first, *others = (dict(result["seen"]) for result in job.results("governed"))
    assert len(first) > 9
    assert len({b - a for a, b in zip(list(first), list(first)[1:], strict=False)}) > 2, "the cadence changed"
    assert len({tuple(due) for due in first.values()}) > 1, "so did the probes"
    for seen in others:
        assert {step: first.get(step) for step in seen} == seen
        assert len(seen) >= len(first) - 2


def test_other_ways_of_sharding_are_refused(job: Job) -> None:
    for result in job.results("refused"):
        assert "down.weight is sharded as S(1) over a mesh of" in result["columns"]
        assert "fully_shard() over all ranks, can be watched" in result["columns"]
        assert job.world == 2 or "over a mesh of 2x2 of 4 ranks" in result["hybrid"]
        assert result["fsdp1"].startswith("0 is wrapped in FSDP1, which hides the weights: use fully_shard()")


def test_where_only_the_first_rank_watches_it_watches_itself_and_says_so(two: Job) -> None:
    said = two.results("first_rank_only")[0]["said"]
    assert [message for message in said if "call watch() and step() on every rank" in message]
    frame = two.frame("first_rank_only")
    assert set(frame[frame["signal"] == "weight.spectral_norm"]["step"]) == {0, 3, 6, 9}
    assert set(frame[frame["signal"] == "rank.loss"]["rank"]) == {0}


def test_where_the_first_rank_does_not_watch_nobody_waits_long(two: Job) -> None:
    assert two.results("first_rank_not")[1]["kind"] == "DisabledMonitor"


@pytest.mark.parametrize("scenario", ["leaving_ddp", "leaving_fsdp"])
def test_a_rank_that_leaves_is_named_and_holds_nobody_up(two: Job, scenario: str) -> None:
    results = two.results(scenario)
    assert [result["identical"] for result in results] == [True, True]
    assert any(message.startswith("Rank 1 of 2 sent nothing for step") for message in results[0]["said"])
    frame = two.frame(scenario)
    alignment = set(frame[frame["signal"] == "rank.loss"]["step"])
    assert alignment == set(range(12)), "the first rank goes on"
    sigma = set(frame[frame["signal"] == "weight.spectral_norm"]["step"])
    assert sigma == (set(range(12)) if scenario == "leaving_ddp" else set(range(7))), "step 6 was agreed on before"


def test_a_rank_that_fails_between_reductions_costs_two_samples(two: Job) -> None:
    """The one it fails in, and the next, at which ranks find that they would do different things and begin anew."""
    frame = two.frame("failing_shards")
    sigma = frame[frame["signal"] == "weight.spectral_norm"]
    assert len(set(sigma["step"])) == 4
    assert sigma["value"].notna().all()
    assert two.results("failing_shards")[1]["faults"] == 2


def test_ranks_that_die_take_nobody_with_them(two: Job, four: Job) -> None:
    orphan = json.loads((two.folder / "dying_leader 1.json").read_text())
    assert orphan["kind"] == "FollowingMonitor"
    survivors = [json.loads((four.folder / f"dying_follower {rank}.json").read_text()) for rank in (0, 2, 3)]
    assert [survivor["kind"] for survivor in survivors] == ["Monitor", "FollowingMonitor", "FollowingMonitor"]
    named = [re.findall(r"\d+", message.partition(" of 4 ")[0]) for message in survivors[0]["said"] if " of 4 " in message]
    assert any("1" in ranks for ranks in named), survivors[0]["said"]
    frame = four.frame("dying")
    losses = frame[frame["signal"] == "rank.loss"]
    assert set(losses[losses["rank"] == 0]["step"]) == set(range(0, 40, 2)), survivors[0]["said"]
    assert set(losses[losses["rank"] == 1]["step"]) <= {0, 2, 4}
