"""What people see in a browser: the page, its examples, and the documentation of the routes."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse, Response
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from mmray.serving import examples, reports

FOLDER = Path(__file__).parent / "page"
NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
PAGE = (
    f"{NOTHING}; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'"
)


def routes() -> APIRouter:
    """`/`, `/docs` and `/examples`."""
    page = APIRouter(include_in_schema=False)

    @page.get("/")
    async def home() -> FileResponse:
        return FileResponse(FOLDER / "index.html")

    @page.get("/docs")
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_html())

    @page.get("/examples")
    def listed() -> examples.Examples:
        return examples.listed()

    @page.get("/examples/{name}")
    def example(name: str) -> Response:
        found = examples.read(name)
        if found is None:
            raise HTTPException(404, "there is no such example; GET /examples lists them")
        data, media_type = found
        return Response(data, media_type=media_type, headers={"Cache-Control": "max-age=3600"})

    return page


def static_files() -> dict[str, ASGIApp]:
    """Apps that serve the folders of files, compressed, by path."""
    offline = str(files("fastapi_offline") / "static")
    folders = {"/page": str(FOLDER), "/docs/files": offline}
    return {path: GZipMiddleware(StaticFiles(directory=folder)) for path, folder in folders.items()}


@cache
def docs_html() -> str:
    """Swagger UI, with all that it needs from this host."""
    html = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="mmray: the HTTP API",
        swagger_js_url="/docs/files/swagger-ui-bundle.js",
        swagger_css_url="/docs/files/swagger-ui.css",
        swagger_favicon_url="/page/icon.svg",
        oauth2_redirect_url=None,
    )
    return bytes(html.body).decode()


@cache
def _docs_policy() -> str:
    """The page of the documentation has one script in it, and styles everywhere."""
    (script,) = re.findall(r"<script>(.*?)</script>", docs_html(), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"{NOTHING}; script-src 'self' 'sha256-{digest}'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'"
    )


def headers_of(path: str) -> dict[str, str]:
    """The headers of what lies at a path: what browsers may do with it, and how long keep it."""
    policy = {"/": PAGE, "/docs": _docs_policy()}.get(path, NOTHING)
    if path.startswith(reports.PATH):
        policy = reports.POLICY
    # Of files browsers ask whether they changed, and get 304 where not.
    is_file = path in ("/", "/docs") or path.startswith(("/page/", "/docs/"))
    keep = "no-cache" if is_file else "no-store"
    return {"Content-Security-Policy": policy, "Cache-Control": keep}
