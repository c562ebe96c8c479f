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


def problem(
    status: int, detail: str, *, headers: Mapping[str, str] | None = None, instance: str = ""
) -> JSONResponse:
    """The response that reports one problem."""
    body = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=instance or uuid.uuid4().urn,
    )
    return JSONResponse(
        body.model_dump(), status_code=status, headers=headers, media_type=MEDIA_TYPE
    )


def openapi_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may end in one of these problems."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {s: {"description": HTTPStatus(s).phrase, "content": content} for s in statuses}


def install(app: FastAPI) -> None:
    """Make `app` answer every error with a problem."""
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(UserError, _unusable_input)
    app.add_exception_handler(Exception, _internal_error)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), headers=error.headers)


async def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # The location and the rule, never the value: a value may be a whole upload.
    told = [f"{' '.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()]
    return problem(422, "; ".join(told))


async def _unusable_input(request: Request, error: Exception) -> JSONResponse:
    # A MediaError carries a server-side path in its `uri`; only the reason is for the client.
    return problem(422, error.reason if isinstance(error, MediaError) else str(error))


async def _internal_error(request: Request, error: Exception) -> JSONResponse:
    instance = uuid.uuid4().urn
    logger.error("%s %s failed (%s)", request.method, request.url.path, instance, exc_info=error)
    return problem(500, "the service failed on this request; its log says why", instance=instance)
