"""The pages of what the models have learned, where `jobs/report.py` wrote them."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException
from fastapi.responses import HTMLResponse

from mmray import storage
from mmray.serving.problems import openapi_responses

PATH = "/reports/"
POLICY = (
    "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
    # Vega compiles its charts. In a sandbox the page is a stranger to this host.
    "sandbox allow-scripts; script-src 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'unsafe-inline'; img-src data:; media-src data:"
)


def address_of(folder: str | None, kind: str | None) -> str | None:
    """Where a kind's page is served; None where there is none."""
    if folder is None or kind is None or not storage.exists(_file(folder, kind)):
        return None
    return f"{PATH}{kind}"


def routes(folder: str | None, kinds: frozenset[str]) -> APIRouter:
    """The route.

    Args:
        folder: of the pages; None for no pages.
        kinds: of models that may have one.
    """
    pages = APIRouter(tags=["service"])

    @pages.get(
        PATH + "{kind}",
        response_class=HTMLResponse,
        responses=openapi_responses(401, 404, 421, 429),
    )
    def report(kind: str) -> HTMLResponse:
        """Show what a model has learned: the page that `jobs/report.py` wrote."""
        if kind not in kinds or folder is None or not storage.exists(_file(folder, kind)):
            raise HTTPException(404, "there is no such page; GET /models lists those there are")
        with storage.open_file(_file(folder, kind)) as page:
            return HTMLResponse(page.read())

    return pages


def _file(folder: str, kind: str) -> str:
    return storage.join(folder, f"{kind}.html")
