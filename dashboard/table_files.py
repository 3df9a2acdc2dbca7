"""Serve what a chart draws as a CSV file, as it is read."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import chain
from urllib.parse import quote

from fastapi import FastAPI, Request
from starlette.concurrency import iterate_in_threadpool
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from ..storage.errors import StoreError, UnknownRunError
from .lens import Lens
from .paths import table_path
from .source import StoreSource
from .wiring import LENS, Charted, section_of


def serve_tables(server: FastAPI, source: StoreSource, charts: Mapping[str, Charted]) -> None:
    """Add ``/table/RUN/GRAPH.csv``. Its query is that of the run's page: what the chart shows there stands in the file.

    Args:
        charts: What can be had, by the id of the graph.
    """

    async def table(request: Request) -> Response:
        run, graph = request.path_params["run"], request.path_params["graph"]
        if graph not in charts:
            return PlainTextResponse(f"{graph!r} is no chart over steps; there are: {', '.join(charts)}.", 404)
        try:
            name, pieces = await asyncio.to_thread(_begun, source, charts[graph], graph, run, request.query_params)
        except UnknownRunError as error:
            return PlainTextResponse(str(error), 404)
        except StoreError as error:
            return PlainTextResponse(f"The store cannot be read just now: {error}", 503)
        return StreamingResponse(_encoded(pieces), media_type="text/csv", headers={"content-disposition": _attachment(name)})

    server.add_api_route(f"{table_path('')}{{run}}/{{graph}}.csv", table, methods=["GET"], include_in_schema=False)


def _begun(source: StoreSource, chart: Charted, graph: str, reference: str, query: Mapping[str, str]) -> tuple[str, Iterator[str]]:
    """Return the file's name and its pieces, the first of which has been read: what is wrong with the question shows now."""
    store = source()
    run = store.run(reference)
    given = {**query, "run": run.id}
    section = section_of(chart.name, store, [*chart.told, *(given.get(part) for part in chart.inputs)])
    section.lens = Lens.of(graph, *(given.get(part) for part in LENS))
    pieces = section.table()
    return f"{run.name or run.id}-{graph}.csv", chain([next(pieces)], pieces)


async def _encoded(pieces: Iterator[str]) -> AsyncIterator[bytes]:
    async for piece in iterate_in_threadpool(pieces):
        yield piece.encode()


def _attachment(name: str) -> str:
    """Return the header that saves the answer under a name, which may hold anything."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
