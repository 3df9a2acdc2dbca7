"""Errors in their one shape: for every reason why the API says no."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ...analyzer.handling import HandlingError
from ...storage.errors import (
    AlertChangedError,
    IllegalTransitionError,
    InvalidRecordError,
    ReadOnlyStoreError,
    StoreError,
    StoreUnavailableError,
    UnknownRunError,
)
from ..access.reader import Refused
from .shapes import ErrorShape

logger = logging.getLogger(__name__)

_CODES = {404: "not_found", 405: "method_not_allowed", 422: "invalid_request"}
_MEANINGS = {
    401: "Not signed in: no token, or one that is not known here.",
    403: "Not allowed: the token may only read, or the request comes from a page elsewhere.",
    404: "There is no such thing.",
    409: "The alert is in a state from which it cannot go there.",
    413: "The request is too large.",
    422: "The request is wrong; the message and details say where.",
    429: "Too many attempts with a wrong token.",
    503: "The store cannot be read or written just now.",
}


class ApiError(Exception):
    """The API says no."""

    def __init__(self, status: int, code: str, message: str, *, where: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.where = status, code, message, where


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what an endpoint says of the errors it may answer with, besides those that every one may."""
    return {
        status: {"model": ErrorShape, "description": _MEANINGS[status]}
        for status in sorted({401, 403, 413, 422, 429, 503, *statuses})
    }


def shaped(status: int, code: str, message: str, details: list[dict[str, str]] | None = None) -> JSONResponse:
    """Return an error as an answer."""
    headers = {"cache-control": "no-store"}
    return JSONResponse({"error": {"code": code, "message": message, "details": details or []}}, status, headers)


def tell_errors(api: FastAPI) -> None:
    """Have every error told in its shape. A handler is found by the nearest class that the error is of."""

    def tell(kind: type[Exception], status: int, code: str) -> None:
        async def handler(_: Request, error: Exception) -> JSONResponse:
            return shaped(status, code, str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error))

        api.add_exception_handler(kind, handler)

    tell(UnknownRunError, 404, "not_found")
    tell(KeyError, 404, "not_found")
    tell(IllegalTransitionError, 409, "illegal_transition")
    tell(AlertChangedError, 409, "illegal_transition")
    tell(Refused, 403, "may_only_read")
    tell(ReadOnlyStoreError, 403, "store_read_only")
    tell(HandlingError, 422, "invalid_request")
    tell(InvalidRecordError, 422, "invalid_request")
    tell(StoreUnavailableError, 503, "store_unavailable")
    tell(StoreError, 503, "store_unavailable")
    api.add_exception_handler(ApiError, _api_error)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _http)
    api.add_exception_handler(Exception, _unforeseen)


async def _api_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return shaped(
        error.status, error.code, error.message, [{"where": error.where, "message": error.message}] if error.where else []
    )


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    details = [{"where": ".".join(map(str, problem["loc"])), "message": str(problem["msg"])} for problem in error.errors()]
    first = details[0] if details else {"where": "", "message": "it cannot be read"}
    return shaped(422, "invalid_request", f"{first['where']}: {first['message']}", details)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:  # FastAPI's word for a body that is not even text
        message = "body: it cannot be read; write JSON in UTF-8"
        return shaped(422, "invalid_request", message, [{"where": "body", "message": "it cannot be read; write JSON in UTF-8"}])
    message = {
        404: f"There is nothing at {request.url.path}; /api shows what there is.",
        405: f"{request.method} is not allowed here; /api shows what is.",
    }.get(error.status_code, str(error.detail))
    answer = shaped(error.status_code, _CODES.get(error.status_code, "error"), message)
    answer.headers.update(error.headers or {})
    return answer


async def _unforeseen(_: Request, error: Exception) -> JSONResponse:
    logger.error("a request to the API could not be answered", exc_info=error)
    return shaped(500, "internal_error", "Something in the dashboard failed. Its log says what.")
