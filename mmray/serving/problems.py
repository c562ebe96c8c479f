"""Errors of the HTTP service as problem details (RFC 9457), without internals."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from mmray.errors import MediaError, UserError

MEDIA_TYPE = "application/problem+json"
logger = logging.getLogger("ray.serve")  # what a replica logs under this name lands in its file


class Problem(BaseModel):
    """What went wrong with one request (RFC 9457)."""

    type: str = Field(default="about:blank", description="kind of problem; the status says it all")
    title: str = Field(description="the status in words", examples=["Content Too Large"])
    status: int = Field(description="the HTTP status", examples=[413])
    detail: str = Field(description="what is wrong with this request, and what to do")
    instance: str = Field(description="names this occurrence; the service's log has the same name")


def problem(status: int, detail: str, *, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The response that reports one problem."""
    return response(_problem(status, detail), headers)


def problem_of(error: Exception) -> Problem:
    """The problem that an exception is; one that nobody expected is logged under its name."""
    if isinstance(error, HTTPException):
        return _problem(error.status_code, str(error.detail))
    if isinstance(error, RequestValidationError):
        # The location and the rule, never the value: a value may be a whole upload.
        told = [f"{' '.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()]
        return _problem(422, "; ".join(told))
    if isinstance(error, UserError):
        # A MediaError carries a server-side path in its `uri`; only the reason is for the client.
        return _problem(422, error.reason if isinstance(error, MediaError) else str(error))
    known = _problem(500, "the service failed on this request; its log says why")
    logger.error("a request failed (%s)", known.instance, exc_info=error)
    return known


def openapi_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may end in one of these problems."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {s: {"description": HTTPStatus(s).phrase, "content": content} for s in statuses}


def install(app: FastAPI) -> None:
    """Make `app` answer every error that is foreseen with a problem; `RequestLog` does the rest."""
    for kind in (HTTPException, RequestValidationError, UserError):
        app.add_exception_handler(kind, _answer)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    return response(problem_of(error), getattr(error, "headers", None))


def _problem(status: int, detail: str) -> Problem:
    return Problem(
        title=HTTPStatus(status).phrase, status=status, detail=detail, instance=uuid.uuid4().urn
    )


def response(told: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The response that reports a problem."""
    return JSONResponse(
        told.model_dump(), status_code=told.status, headers=headers, media_type=MEDIA_TYPE
    )
