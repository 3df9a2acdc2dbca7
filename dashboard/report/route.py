"""The report as the dashboard serves it: ``/report/RUN``, made when it is asked for. What a notification links to."""

import asyncio
from urllib.parse import quote

from fastapi import FastAPI, Query
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from ...storage.errors import StoreError, UnknownRunError
from ..source import StoreSource
from .wanted import NothingToReportError, ReportError, wanted_of

_AT_ONCE = 2
"""Reports that are made at the same time; who asks for more waits. Each takes a thread, and up to a second of one core."""


def serve_reports(server: FastAPI, source: StoreSource) -> None:
    """Add the address. ``?steps=A:B`` and ``?signals=NAME,NAME`` narrow the report as the command's options do."""
    turns = asyncio.Semaphore(_AT_ONCE)

    async def report(run: str, steps: str = "", signals: list[str] = Query(default=[])) -> Response:  # noqa: B008 - FastAPI's way
        async with turns:
            return await asyncio.to_thread(_answer, source, run, steps, signals)

    server.add_api_route("/report/{run:path}", report, methods=["GET", "HEAD"], response_class=HTMLResponse)


def _answer(source: StoreSource, reference: str, steps: str, signals: list[str]) -> Response:
    from .making import make  # numpy and the figures come with the first report, not before the server listens
    from .page import policy
    from .writing import usual_name

    try:
        store = source()
        run = store.run(reference)
        page = make(store, run, wanted_of(steps, signals)).page
    except UnknownRunError as error:
        return _refused(404, str(error))
    except ReportError as error:
        return _refused(404 if isinstance(error, NothingToReportError) else 422, str(error))
    except StoreError as error:
        return _refused(503, f"The store cannot be read just now: {error}")
    headers = {
        "content-security-policy": f"{policy()}; frame-ancestors 'none'",
        "content-disposition": f"inline; filename*=UTF-8''{quote(usual_name(run))}",
        "cache-control": "no-store",
    }
    return HTMLResponse(page, headers=headers)


def _refused(status: int, words: str) -> Response:
    return PlainTextResponse(words, status_code=status)
