"""MLflow's file store: ``EXPERIMENT/RUN/`` with ``meta.yaml``, a file a metric (lines of time, value, step), a parameter, a tag."""

import heapq
from collections.abc import Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

from typing_extensions import override

from ..packages import TransferError, load
from .mlflow import Extent, Facts, MlflowRun
from .source import Found, Point, Progress

_STATUSES = ("", "RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")  # meta.yaml has their numbers
_READ = 1 << 16
_META = "meta.yaml"


def find(path: Path) -> Found:
    """Return the runs of a file store, of an experiment in it, or the one run of a folder.

    Raises:
        TransferError: there is none.
    """
    metas = [
        path / _META,
        *sorted(path.glob(f"*/{_META}")),
        *sorted(path.glob(f"*/*/{_META}")),
        *sorted(path.glob(f"mlruns/*/*/{_META}")),
    ]
    runs: dict[str, MlflowRun] = {}
    deleted = 0
    for meta in metas:
        facts = _yaml(meta) if meta.is_file() else {}
        if "run_id" not in facts and "run_uuid" not in facts:
            continue
        if facts.get("lifecycle_stage") == "deleted":
            deleted += 1
            continue
        run = FileRun(meta.parent, facts)
        runs.setdefault(run.aliases[0], run)
    if not runs and not deleted:
        raise TransferError(
            f"No MLflow runs in {path}: give an mlruns folder, an experiment's or a run's folder in it, or mlflow.db."
        )
    return Found(list(runs.values()), [f"deleted runs: {deleted}"] if deleted else [])


class FileRun(MlflowRun):
    """A run's folder."""

    def __init__(self, folder: Path, meta: Mapping[str, Any]) -> None:
        experiment = _yaml(folder.parent / _META) if (folder.parent / _META).is_file() else {}
        tags = _texts(folder / "tags")
        super().__init__(
            Facts(
                id=str(meta.get("run_id") or meta["run_uuid"]),
                name=str(meta.get("run_name") or tags.get("mlflow.runName") or ""),
                experiment=str(experiment.get("name", "")),
                status=_STATUSES[meta["status"]] if isinstance(meta.get("status"), int) else str(meta.get("status", "")),
                start=meta.get("start_time"),
                end=meta.get("end_time"),
                params=_texts(folder / "params"),
                tags=tags,
            )
        )
        self.home = str(folder.resolve())
        self._folder = folder / "metrics"
        self._files = {file.relative_to(self._folder).as_posix(): (file, file.stat().st_size) for file in _files(self._folder)}
        self.size = sum(size for _, size in self._files.values())

    @override
    def extents(self, progress: Progress) -> dict[str, Extent]:
        found: dict[str, Extent] = {}
        for name, (file, size) in self._files.items():
            count, stepless = 0, True
            for _, step, _, _ in _points(name, file, size):
                count += 1
                stepless &= step == 0
            found[name] = Extent(count, stepless)
            progress(size)
        return found

    @override
    def points(self) -> Iterator[Point]:
        # By time, so that a restart is seen in all metrics at once; a batch logged in one go by its steps.
        return heapq.merge(*(_points(name, *place) for name, place in self._files.items()), key=itemgetter(2, 1))


def _points(name: str, file: Path, size: int) -> Iterator[Point]:
    """Yield the values of a metric's file. The file is opened for each piece: there may be more metrics than files may be open.

    Raises:
        TransferError: a line is not what MLflow writes.
    """
    line, place, rest = 0, 0, b""
    while place < size:
        with file.open("rb") as opened:
            opened.seek(place)
            block = opened.read(min(_READ, size - place))
        if not block:
            break
        place += len(block)
        *lines, rest = (rest + block).split(b"\n")
        if place >= size and rest:
            lines, rest = [*lines, rest], b""
        for text in lines:
            line += 1
            parts = text.split()
            if not parts:
                continue
            try:
                # Oldest stores have no step; newest have a model and a data set after it.
                yield name, int(parts[2]) if len(parts) > 2 else 0, int(parts[0]) / 1000, float(parts[1])
            except (ValueError, IndexError):
                raise TransferError(f"{file}, line {line}: {text.decode(errors='replace')!r} is not 'TIME VALUE STEP'.") from None


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _texts(folder: Path) -> dict[str, str]:
    """Return the text of each file of a folder, by its path there."""
    return {file.relative_to(folder).as_posix(): file.read_text(errors="replace") for file in _files(folder)}


def _yaml(file: Path) -> dict[str, Any]:
    yaml = load("yaml", "mlflow", "Reading MLflow's file store")
    try:
        facts = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise TransferError(f"{file} is no YAML: {error}") from error
    return facts if isinstance(facts, dict) else {}
