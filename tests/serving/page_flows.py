"""What people do on the page, as functions of a Playwright page; each waits until it is done."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import ConsoleMessage, Locator, Page, Request, Route, expect

OpenPage = Callable[..., Page]
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
needs_chromium = pytest.mark.skipif(
    not Path(CHROMIUM).exists(),
    reason=f"{CHROMIUM} is missing: `make debian-data` installs Debian's chromium",
)
ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",  # which may be used where a test grants it
]
DEVICES: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}
MODEL_CALLS = ("models", "tags", "caption", "story", "search", "sound")
PICTURE_SECTIONS = ("say", "tag", "tell")
SECTION_OF = {"known": "tag", "plus": "find", "minus": "find"}
TELL_OF_POLICY = """addEventListener("securitypolicyviolation", (event) =>
    console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`))"""
PUT = """(element, [kind, name, type, data]) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type }));
    const options = { bubbles: true, cancelable: true };
    element.dispatchEvent(kind === "drop"
        ? new DragEvent("drop", { ...options, dataTransfer: transfer })
        : new ClipboardEvent("paste", { ...options, clipboardData: transfer }));
}"""
NOTE_DRAFTS = """() => {
    window.drafts = [];
    const note = (news) => news.forEach(({ addedNodes }) =>
        drafts.push(...[...addedNodes].map((node) => node.textContent)));
    new MutationObserver(note).observe(document.getElementById("drafts"), { childList: true });
}"""
NOTE_SHOWN_WORDS = """() => {
    window.shown = [];
    const words = [...document.querySelectorAll("#caption-words button")];
    const note = (news) => news.forEach(({ target }) =>
        target.className === "shown" && shown.push(words.indexOf(target)));
    const what = { attributeFilter: ["class"] };
    words.forEach((word) => new MutationObserver(note).observe(word, what));
}"""
INKED = """() => {
    const canvas = document.querySelector("#wave canvas"), { width, height } = canvas;
    const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
    const rows = new Set();
    data.forEach((value, i) => value && i % 4 === 3 && rows.add(Math.floor(i / 4 / width)));
    return rows.size / height;
}"""
LIGHTEST = """(canvas) => {
    const { width, height } = canvas;
    const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
    const lights = Array.from({ length: width * height },
        (_, i) => data[4 * i] + data[4 * i + 1] + data[4 * i + 2]);
    const best = lights.reduce((best, light, i) => (light > lights[best] ? i : best), 0);
    return [(best % width) / width, Math.floor(best / width) / height];
}"""


def watch(page: Page, home: str, failures: bool) -> list[str]:
    """A list that fills with what must never happen: errors, and requests to other hosts.

    With `failures` the browser may tell of calls that failed.
    """
    faults: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        provoked = failures and message.text.startswith("Failed to load resource")
        if message.type in ("error", "warning") and not provoked:
            faults.append(f"{message.type}: {message.text}")

    def see(request: Request) -> None:
        inside = urlsplit(request.url).scheme in ("data", "blob")
        if not inside and not request.url.startswith(home):
            faults.append(f"a request to {request.url}")

    page.on("console", hear)
    page.on("pageerror", lambda error: faults.append(f"page error: {error}"))
    page.on("request", see)
    page.add_init_script(TELL_OF_POLICY)
    return faults


def ready(page: Page) -> None:
    """Wait until the page knows what is served and what there is to try."""
    settled(page, "models")
    for choices in ("#gallery-list", "#sum-examples", "#sound-examples"):
        expect(page.locator(f"{choices} button").first).to_be_visible()


def settled(page: Page, *sections: str) -> None:
    """Wait until these sections show their answers; the newest picture's if none is named."""
    if not sections:
        expect(page.locator(".stage")).not_to_have_attribute("aria-busy", "true")
    for section in sections or PICTURE_SECTIONS:
        output = page.locator(f"#{section} > .output")
        expect(output).to_have_attribute("aria-busy", "false")


def alert(page: Page, section: str) -> Locator:
    """What is said of the failure of a section."""
    return page.locator(f"#{section} > [role=alert]")


def texts(page: Page, selector: str) -> list[str]:
    return page.locator(selector).all_inner_texts()


def ask(service: httpx.Client, path: str, data: bytes | None, **options: Any) -> Any:
    """What the JSON API answers."""
    files = {"file": ("mine.bin", data)} if data is not None else None
    return service.post(path, params=options, files=files).raise_for_status().json()


def names_of(answer: dict[str, Any]) -> list[str]:
    return [tag["name"] for tag in answer["tags"]]


# Pictures


def file(name: str, mime: str, data: bytes) -> Any:
    return {"name": name, "mimeType": mime, "buffer": data}


def pick_example(page: Page, index: int) -> None:
    page.locator("#gallery-list button").nth(index).click()
    settled(page)


def choose_picture(page: Page, data: bytes, name: str = "mine.png") -> None:
    page.set_input_files("#picture-file", file(name, "image/png", data))
    settled(page)


def put(page: Page, kind: str, selector: str, mime: str, data: bytes) -> None:
    """Drop or paste a file onto an element."""
    name = "put." + mime.split("/")[1]
    page.eval_on_selector(selector, PUT, [kind, name, mime, base64.b64encode(data).decode()])


def say_right(page: Page, index: int) -> str:
    """Say that a tag is right; give its name."""
    bar = page.locator("#tags .bar").nth(index)
    name = bar.locator("span").inner_text()
    bar.click()
    settled(page, "tag")
    return name


def tell(page: Page, style: str, strength: float) -> None:
    page.locator("#styles label", has_text=style).click()
    page.locator("#strength").fill(f"{strength:g}")
    settled(page, "tell")


def place(grid: Sequence[Sequence[float]]) -> str:
    """Where most of a square grid is, in words."""
    size = len(grid)
    cells = [cell for row in grid for cell in row]
    best = cells.index(max(cells))
    row = ("top", "", "bottom")[best // size * 3 // size]
    column = ("left", "", "right")[best % size * 3 // size]
    return f"{row} {column}".strip() or "centre"


# Search


def add_tag(page: Page, field: str, letter: str) -> str:
    """Type the first letter of a tag and take the first that is suggested; give its name."""
    page.locator(f"#{field}").click()
    return take_suggestion(page, field, letter)


def take_suggestion(page: Page, field: str, letter: str) -> str:
    """As `add_tag`, with the focus in the field already."""
    page.keyboard.type(letter)
    options = page.locator(f"#{field}-list [role=option]")
    # Until they come, those for the empty field may be there.
    expect(options.filter(has_not_text=re.compile(f"^{letter}"))).to_have_count(0)
    expect(options.first).to_be_visible()
    page.keyboard.press("ArrowDown")
    tag = page.locator(f"#{field}-list [aria-selected=true]").inner_text()
    page.keyboard.press("Enter")
    settled(page, SECTION_OF[field])
    return tag


def open_result(page: Page, index: int) -> Locator:
    """Open the row of a picture that was found."""
    page.locator("#found > li:not(.tray) > button").nth(index).click()
    return page.locator("#found .tray")


# Sounds


def choose_sound(page: Page, data: bytes, name: str = "mine.wav") -> None:
    page.set_input_files("#sound-file", file(name, "audio/wav", data))
    settled(page, "listen")


def listen_to_example(page: Page, index: int) -> None:
    page.locator("#sound-examples button").nth(index).click()
    settled(page, "listen")


def seek(page: Page, share: float) -> float:
    """Click into the waveform; give the time that is shown then."""
    wave = page.locator("#wave")
    box = wave.bounding_box()
    assert box is not None
    wave.click(position={"x": box["width"] * share, "y": box["height"] / 2})
    return shown_s(page)


def shown_s(page: Page) -> float:
    return float(page.locator("#sound-time").inner_text().split()[0])


def record(page: Page) -> None:
    """Record for a second or more from a microphone that may be used."""
    page.context.grant_permissions(["microphone"])
    button = page.locator("#record")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#record-time")).to_have_text(re.compile("^[1-9][0-9]* of 30 s$"))
    button.click()
    expect(button).to_have_attribute("aria-pressed", "false")
    expect(page.locator("#sound-name")).to_contain_text("recording")
    settled(page, "listen")


# The service as it seldom is


def calls_to(*names: str) -> Callable[[str], bool]:
    """Whether an address is one of these routes."""
    return lambda address: urlsplit(address).path[1:] in names


def refuse(route: Route, status: int, detail: str, **headers: str) -> None:
    """Answer a call with a problem (RFC 9457)."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    route.fulfill(
        status=status,
        headers={"content-type": "application/problem+json", **headers},
        body=json.dumps({**body, "detail": detail}),
    )


def alter(page: Page, name: str, change: Callable[[Any], None]) -> None:
    """Let the answers of a route be changed before the page gets them."""

    def answer(route: Route) -> None:
        response = route.fetch()
        body = response.json()
        change(body)
        route.fulfill(response=response, json=body)

    page.route(calls_to(name), answer)


# The keyboard


def tab_to(page: Page, selector: str, most: int = 100) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate("(s) => document.activeElement.matches(s)", selector):
            return
    raise AssertionError(f"Tab never came to {selector}")
