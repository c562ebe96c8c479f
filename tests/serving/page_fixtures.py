"""The page in a browser, open on a device; test modules name this one in `pytest_plugins`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.serving import page_flows as flows
from tests.serving.page_flows import CHROMIUM, OpenPage, ready

WAIT_MS = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=flows.ARGS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Browser, service: httpx.Client) -> Iterator[OpenPage]:
    """Opens the page on a device; in the end nothing may be wrong with it."""
    home = str(service.base_url)
    opened: list[tuple[Page, list[str], int]] = []

    def open_on(device: str, *, failures: bool = False, load: bool = True, **options: Any) -> Page:
        options = {**flows.DEVICES[device], "reduced_motion": "reduce", **options}
        page = browser.new_context(base_url=home, **options).new_page()
        page.set_default_timeout(WAIT_MS)
        faults = flows.watch(page, home, failures)
        opened.append((page, faults, options["viewport"]["width"]))
        if load:
            page.goto("/")
            ready(page)
        return page

    yield open_on
    for page, faults, width in opened:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.context.close()
        assert faults == []


@pytest.fixture(params=list(flows.DEVICES))
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def page(open_page: OpenPage, device: str) -> Page:
    return open_page(device)


@pytest.fixture
def failing(open_page: OpenPage, device: str) -> Page:
    """A page whose calls may fail."""
    return open_page(device, failures=True)
