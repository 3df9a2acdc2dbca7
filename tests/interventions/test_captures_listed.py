"""What interventions wrote is known to the store: listed, measured, removed, and nothing else is."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import foreshock
import foreshock.interventions.checkpoint
import torch
from foreshock.interventions.bundle import CapturedStep, write_bundle
from foreshock.storage import Store
from foreshock.storage.captures import EVENT, listed, remove
from foreshock.storage.records import Event, Run, RunStatus, new_id
from torch import nn

NOW = 10_000.0


def told(store: Store, run: Run, by: str, message: str, path: Path, step: int = 7) -> None:
    data = {"intervention": by, "path": str(path), "at": step}
    store.add_event(Event(new_id(), run.id, 0, step, 1000.0 + step, "intervention", message, data))


def test_a_watched_runs_checkpoints_are_listed_and_the_good_one_is_spared_while_it_runs(url: str, tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    checkpoint = foreshock.interventions.checkpoint.Checkpoint(folder=tmp_path / "states", every=5, settle=2)
    with foreshock.watch(model, optimizer, store=url, interventions=[checkpoint]) as monitor:
        for _ in range(20):
            loss = model(torch.ones(1, 2)).square().sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            monitor._writer.flush(10)
            monitor.step(loss)
        monitor._writer.flush(10)
        with closing(foreshock.open_store(url)) as store:
            there = [item for item in listed(store, monitor.run.id) if item.exists]
            assert {item.path for item in there} == set((tmp_path / "states").rglob("step-*.pt"))
            assert all(item.bytes == item.path.stat().st_size and item.kind == "checkpoint" for item in there)
            (good,) = [item for item in there if item.protected]
            assert good.path == checkpoint.good
            gone, troubles = remove(store, there, now=store.run(monitor.run.id).heartbeat_at, why="asked")
            assert {item.path for item in gone} == {item.path for item in there} - {good.path}
            assert "still going" in troubles[0]
            assert good.path.exists()
    with closing(foreshock.open_store(url)) as store:
        remove(store, [item for item in listed(store) if item.exists], now=NOW, why="asked")
        assert not list((tmp_path / "states").rglob("*"))


def test_only_what_looks_like_ours_is_touched(url: str, tmp_path: Path) -> None:
    """Many write into a shared store: an event that names any other file must not cost it."""
    run = Run(new_id(), "r", status=RunStatus.FINISHED)
    precious, bundle, foreign, linked = (tmp_path / name for name in ("thesis.pt", "bundle", "foreign", "linked"))
    precious.write_text("years of work")
    about = {"run": {"id": run.id, "name": "r"}, "alert": {"rule": "spike", "severity": "warning"}, "written_at_step": 7}
    write_bundle(bundle, about, [CapturedStep(5)])
    write_bundle(foreign, about | {"run": {"id": "other", "name": "o"}}, [CapturedStep(5)])
    linked.symlink_to(bundle)
    with closing(foreshock.open_store(url)) as store:
        store.create_run(run)
        told(store, run, "checkpoint", "Saved a checkpoint of step 7: ...", precious)
        for path in (bundle, foreign, linked, tmp_path):
            told(store, run, "capture", "Captured the last 1 sampled steps for spike: ...", path)
        told(store, run, "capture", "The capture for spike could not be written, training goes on: disk full", tmp_path / "no")
        found = listed(store)
        assert [item.path for item in found if item.exists] == [bundle]
        size = sum(file.stat().st_size for file in bundle.iterdir())
        assert [item.bytes for item in found if item.exists] == [size]
        gone, troubles = remove(store, [replace(item, exists=True) for item in found], now=NOW, why="older than 90d")
        assert ([item.path for item in gone], troubles) == ([bundle], [])
        (event,) = store.events(run.id, kind=EVENT)
        assert (event.data["paths"], event.data["bytes"], event.data["why"]) == ([str(bundle)], size, "older than 90d")
    assert not bundle.exists()
    assert precious.read_text() == "years of work"
    assert json.loads((foreign / "bundle.json").read_text())["run"]["id"] == "other"


def test_a_strangers_file_in_a_bundle_stays(url: str, tmp_path: Path) -> None:
    run = Run(new_id(), "r", status=RunStatus.FINISHED)
    about = {"run": {"id": run.id, "name": "r"}, "alert": {"rule": "spike", "severity": "warning"}, "written_at_step": 7}
    write_bundle(tmp_path / "b", about, [CapturedStep(5)])
    (tmp_path / "b" / "notes.txt").write_text("mine")
    with closing(foreshock.open_store(url)) as store:
        store.create_run(run)
        told(store, run, "capture", "Captured ...", tmp_path / "b")
        remove(store, listed(store), now=NOW, why="asked")
        assert [file.name for file in (tmp_path / "b").iterdir()] == ["notes.txt"]
        assert not listed(store)[0].exists
