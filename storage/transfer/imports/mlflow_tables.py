"""MLflow's database: ``runs``, ``experiments``, ``metrics``, ``params``, ``tags``. In it an infinity is the largest float."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, exc, func, make_url, select
from sqlalchemy.sql import column, table
from typing_extensions import override

from ..packages import TransferError
from .mlflow import Extent, Facts, MlflowRun
from .source import Found, Point, Progress

_ROWS = 10_000

_RUNS = table("runs", *map(column, ("run_uuid", "name", "status", "start_time", "end_time", "lifecycle_stage", "experiment_id")))
_EXPERIMENTS = table("experiments", column("experiment_id"), column("name"))
_METRICS = table("metrics", *map(column, ("run_uuid", "key", "value", "timestamp", "step", "is_nan")))
_PARAMS = table("params", column("run_uuid"), column("key"), column("value"))
_TAGS = table("tags", column("run_uuid"), column("key"), column("value"))


def find(url: str) -> Found:
    """Return the runs of a database, oldest first. Nothing is written to it.

    Raises:
        TransferError: it cannot be read, or holds no runs.
    """
    from ...database import sqlite_path

    parsed = make_url(url)
    path = sqlite_path(parsed)
    if path is not None and not Path(path).is_file():
        raise TransferError(f"There is no file {path}.")
    home = parsed.render_as_string(hide_password=True)
    try:
        engine = create_engine(url if path is None else f"sqlite:///file:{Path(path).resolve()}?mode=ro&uri=true")
        with engine.connect() as connection:
            runs = [TableRun(engine, home, facts) for facts in _facts(connection)]
            deleted = connection.execute(select(func.count()).where(_RUNS.c.lifecycle_stage == "deleted")).scalar_one()
    except (exc.SQLAlchemyError, ModuleNotFoundError) as error:
        raise TransferError(f"{home} cannot be read as a database of MLflow's: {str(error).splitlines()[0]}") from error
    if not runs and not deleted:
        raise TransferError(f"{home} holds no runs.")
    return Found(runs, [f"deleted runs: {deleted}"] if deleted else [])


def _facts(connection: Connection) -> Iterator[Facts]:
    texts: dict[str, dict[str, dict[str, str]]] = {}
    for there in (_PARAMS, _TAGS):
        texts[there.name] = {}
        for run, key, value in connection.execute(select(there.c.run_uuid, there.c.key, there.c.value)):
            texts[there.name].setdefault(run, {})[key] = value or ""
    query = (
        select(_RUNS, _EXPERIMENTS.c.name.label("experiment"))
        .outerjoin_from(_RUNS, _EXPERIMENTS, _RUNS.c.experiment_id == _EXPERIMENTS.c.experiment_id)
        .where(_RUNS.c.lifecycle_stage != "deleted")
        .order_by(_RUNS.c.start_time, _RUNS.c.run_uuid)
    )
    for row in connection.execute(query):
        params, tags = (texts[name].get(row.run_uuid, {}) for name in ("params", "tags"))
        name = row.name or tags.get("mlflow.runName", "")
        yield Facts(row.run_uuid, name, row.experiment or "", row.status, row.start_time, row.end_time, params, tags)


class TableRun(MlflowRun):
    """A run's rows."""

    def __init__(self, engine: Engine, home: str, facts: Facts) -> None:
        super().__init__(facts)
        self.home = home
        self._engine = engine

    @override
    def extents(self, progress: Progress) -> dict[str, Extent]:
        steps = func.min(_METRICS.c.step), func.max(_METRICS.c.step)
        query = select(_METRICS.c.key, func.count(), *steps).where(_METRICS.c.run_uuid == self._facts.id)
        with self._engine.connect() as connection:
            rows = connection.execute(query.group_by(_METRICS.c.key).order_by(_METRICS.c.key)).all()
        return {name: Extent(count, first == last == 0) for name, count, first, last in rows}

    @override
    def points(self) -> Iterator[Point]:
        wanted = (_METRICS.c.key, _METRICS.c.step, _METRICS.c.timestamp, _METRICS.c.value, _METRICS.c.is_nan)
        query = select(*wanted).where(_METRICS.c.run_uuid == self._facts.id)
        # Rows have no order of their own: by time, so that a restart is seen in all metrics at once.
        query = query.order_by(*(_METRICS.c[name] for name in ("timestamp", "step", "key", "value")))
        with self._engine.connect() as connection:
            rows: Any = connection.execution_options(yield_per=_ROWS).execute(query)
            for name, step, time, value, is_nan in rows:
                yield name, step, time / 1000, math.nan if is_nan else _infinite(value)


def _infinite(value: float) -> float:
    """Return a value with the infinity that MLflow wrote as the largest float."""
    return math.copysign(math.inf, value) if abs(value) == sys.float_info.max else value
