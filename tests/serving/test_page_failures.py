"""What the service's web page says where something fails, and what it then does."""

from __future__ import annotations

import json

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from tests.serving import page_flows as flows
from tests.serving.models import MAX_BYTES, picture, wav
from tests.serving.page_flows import MODEL_CALLS, OpenPage, alert, ready, settled

pytest_plugins = ["tests.serving.page_fixtures"]
pytestmark = [pytest.mark.browser, pytest.mark.cluster, flows.needs_chromium]


def test_a_text_is_no_picture_and_the_page_says_so(failing: Page, service: httpx.Client) -> None:
    page = failing
    page.set_input_files("#picture-file", flows.file("note.txt", "text/plain", b"hello"))
    settled(page)
    said = service.post("/tags", files={"file": ("note.txt", b"hello", "text/plain")})
    for section in flows.PICTURE_SECTIONS:
        expect(alert(page, section)).to_have_text(said.json()["detail"])
    expect(page.locator("#picture-alert")).to_contain_text("cannot show the picture")
    flows.choose_picture(page, picture())
    for section in flows.PICTURE_SECTIONS:
        expect(alert(page, section)).to_be_empty()
    expect(page.locator("#picture-alert")).to_be_empty()
    expect(page.locator("#tags .bar").first).to_be_visible()


def test_a_text_is_no_sound_and_the_page_says_so(failing: Page, service: httpx.Client) -> None:
    page = failing
    page.set_input_files("#sound-file", flows.file("note.txt", "text/plain", b"hello"))
    settled(page, "listen")
    said = service.post("/sound", files={"file": ("note.txt", b"hello", "text/plain")})
    expect(alert(page, "listen")).to_have_text(said.json()["detail"])
    expect(page.locator("#sound-note")).to_contain_text("This browser cannot")


def test_a_file_that_is_too_large_is_told_of(failing: Page) -> None:
    page = failing
    page.set_input_files("#sound-file", flows.file("long.wav", "audio/wav", bytes(2 * MAX_BYTES)))
    settled(page, "listen")
    expect(alert(page, "listen")).to_contain_text(f"the limit of {MAX_BYTES:,} bytes")


def test_a_refused_microphone_is_explained(page: Page) -> None:
    page.locator("#record").click()
    expect(alert(page, "listen")).to_contain_text("The microphone may not be used.")
    expect(page.locator("#record")).to_be_enabled()
    expect(page.locator("#record")).to_have_attribute("aria-pressed", "false")
    flows.record(page)
    expect(alert(page, "listen")).to_be_empty()
    expect(page.locator("#overall .bar").first).to_be_visible()


def test_a_service_that_does_not_answer_is_told_of_until_it_does(failing: Page) -> None:
    page = failing
    down = flows.calls_to(*MODEL_CALLS)
    page.route(down, lambda route: route.abort())
    flows.choose_picture(page, picture())
    page.locator("#sum-examples button").first.click()
    flows.choose_sound(page, wav())
    page.locator("#refresh-models").click()
    settled(page, "find", "models")
    for section in (*flows.PICTURE_SECTIONS, "find", "listen", "models"):
        expect(alert(page, section)).to_have_text("The service does not answer.")
    page.unroute(down)
    flows.choose_picture(page, picture())
    expect(page.locator("#story p")).to_have_count(1)
    expect(alert(page, "tell")).to_be_empty()


def test_a_busy_service_is_asked_again(failing: Page) -> None:
    page, refused = failing, []

    def busy_once(route: Route) -> None:
        if refused:
            return route.fallback()
        refused.append(route)
        return flows.refuse(route, 503, "too many requests wait", **{"retry-after": "2"})

    page.route(flows.calls_to("caption"), busy_once)
    page.set_input_files("#picture-file", flows.file("mine.png", "image/png", picture()))
    expect(alert(page, "say")).to_have_text("The service is busy. Trying again in 2 seconds.")
    settled(page)
    expect(page.locator("#caption-words button").first).to_be_visible()
    expect(alert(page, "say")).to_be_empty()


STREAMS = {
    "broken off": ("drafts", {"drafts": ["There was a"]}, "The story broke off."),
    "failed": ("problem", {"title": "Gateway Timeout", "detail": "it took long"}, "it took long"),
    "empty": ("stories", {"stories": [], "captions": []}, "It finds nothing to tell"),
}


@pytest.mark.parametrize("kind", list(STREAMS))
def test_a_story_that_comes_to_nothing_is_told_of(failing: Page, kind: str) -> None:
    page, (name, data, said) = failing, STREAMS[kind]
    body = f"event: {name}\ndata: {json.dumps(data)}\n\n"
    stream = {"content_type": "text/event-stream", "body": body}
    page.route(flows.calls_to("story"), lambda route: route.fulfill(**stream))
    flows.choose_picture(page, picture())
    expect(alert(page, "tell")).to_contain_text(said)
    expect(page.locator("#drafts p")).to_have_count(0)


def test_a_key_is_asked_for_and_kept_in_the_tab(open_page: OpenPage, device: str) -> None:
    page = open_page(device, failures=True, load=False)
    page.route(flows.calls_to(*MODEL_CALLS), only_with_key)
    page.goto("/")
    dialog, text = page.locator("#key-dialog"), page.locator("#key-text")
    for key, said in (("wrong", "Paste the key"), ("the right one", "does not accept that key")):
        expect(text).to_contain_text(said)
        page.locator("#key").fill(key)
        page.keyboard.press("Enter")
    ready(page)
    flows.choose_picture(page, picture())
    expect(page.locator("#tags .bar").first).to_be_visible()
    expect(page.locator("#story p")).to_have_count(1)
    page.reload()
    ready(page)
    expect(dialog).to_be_hidden()


def only_with_key(route: Route) -> None:
    if route.request.headers.get("authorization") == "Bearer the right one":
        return route.fallback()
    return flows.refuse(route, 401, "the API key is missing", **{"www-authenticate": "Bearer"})


def test_without_a_key_the_page_says_what_it_cannot_do(open_page: OpenPage, device: str) -> None:
    page = open_page(device, failures=True, load=False)
    page.route(flows.calls_to(*MODEL_CALLS), only_with_key)
    page.goto("/")
    page.locator("#key-cancel").click()
    expect(page.locator("#key-dialog")).to_be_hidden()
    expect(alert(page, "models")).to_have_text("Without a key the service does not answer this.")
    page.locator("#refresh-models").click()
    page.locator("#key").fill("the right one")
    page.keyboard.press("Enter")
    ready(page)
    expect(alert(page, "models")).to_be_empty()
