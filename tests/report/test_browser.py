"""The pages in a real browser, opened from disk: charts are drawn, sounds play."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from jobs import report
from mmray.serving import web
from tests.report.joint_world import World
from tests.serving.page_flows import ARGS, CHROMIUM, DEVICES
from tests.soundnet.clips import write_clips, write_net

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not Path(CHROMIUM).exists(), reason=f"{CHROMIUM} is missing: `make debian-data` brings it"
    ),
]
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def soundnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    data, model = write_clips(folder / "data"), write_net(folder / "model")
    return report.main(
        [
            *("soundnet", "--local", "--model", model, "--data", data.uri),
            *("--out", str(folder), "--items", "4", "--windows", "3"),
        ]
    )


@pytest.fixture(scope="module")
def joint(world: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("joint"))
    argv = ["--model", world.model, "--data", world.data, "--metrics", world.metrics]
    return report.main(["joint", "--local", *argv, "--out", out, "--items", "6"])


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens a page from disk; in the end nothing may be wrong with it."""
    opened: list[tuple[Page, list[str]]] = []

    def open_on(path: str, device: str = "desktop", scheme: str = "light") -> Page:
        page = browser.new_context(**DEVICES[device], color_scheme=scheme).new_page()  # type: ignore[arg-type]
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.on("requestfailed", lambda request: faults.append(f"failed: {request.url[:80]}"))
        page.on(
            "request",
            lambda r: None if r.url.startswith(("file:", "data:")) else faults.append(r.url),
        )
        opened.append((page, faults))
        page.goto(Path(path).absolute().as_uri())
        page.wait_for_selector("html.ready", timeout=60_000)
        return page

    yield open_on
    for page, faults in opened:
        width = page.evaluate("innerWidth")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.context.close()
        assert faults == []


def drawn(page: Page, pictures: bool = True) -> None:
    """Every chart has marks and a name, every picture is loaded."""
    charts = page.locator("figure.chart")
    assert charts.count() > 0
    for i in range(charts.count()):
        chart = charts.nth(i)
        assert chart.locator("svg path, svg image, svg text").count() > 3
        assert len(chart.locator(".vega").get_attribute("aria-label") or "") > 20
    empty = "[...document.querySelectorAll('img[data-media]')].filter(i => !i.naturalWidth).length"
    page.wait_for_function("[...document.images].every(i => i.complete)")
    assert not pictures or page.evaluate(empty) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", list(DEVICES))
@pytest.mark.parametrize("kind", ["soundnet", "joint"])
def test_everything_is_drawn(
    request: pytest.FixtureRequest, open_page: Open, kind: str, device: str, scheme: str
) -> None:
    page = open_page(request.getfixturevalue(kind), device, scheme)
    drawn(page, pictures=kind != "joint")  # whose world has no real thumbnails


def test_a_sound_plays_until_it_ends_or_is_stopped(soundnet: str, open_page: Open) -> None:
    page = open_page(soundnet)
    page.evaluate(
        "() => { window.played = []; const play = Audio.prototype.play; Audio.prototype.play = "
        "function () { window.played.push(this); return play.call(this); } }"
    )
    first, second = page.locator("button.play").nth(0), page.locator("button.play").nth(1)
    first.click()
    expect(first).to_have_attribute("aria-pressed", "true")
    page.wait_for_function("window.played[0].currentTime > 0.1")
    second.click()
    expect(first).to_have_attribute("aria-pressed", "false")
    expect(second).to_have_attribute("aria-pressed", "true")
    assert page.evaluate("window.played[0].paused")
    second.click()
    expect(second).to_have_attribute("aria-pressed", "false")
    first.focus()
    page.keyboard.press("Enter")
    expect(first).to_have_attribute("aria-pressed", "true")
    page.evaluate("window.played.at(-1).currentTime = 1000")
    expect(first).to_have_attribute("aria-pressed", "false")


def test_the_table_of_units_is_sorted_and_searched(soundnet: str, open_page: Open) -> None:
    page = open_page(soundnet)
    table = page.locator("figure.table", has_text="All units of conv7")
    head = table.locator("thead button").first
    head.click()
    assert table.locator("tbody tr").first.locator("th").inner_text() == "1,023"
    head.click()
    assert table.locator("tbody tr").first.locator("th").inner_text() == "0"
    table.locator("input").fill("1,02")
    shown = table.locator("tbody tr:not([hidden])")
    assert shown.count() < 1024
    assert [text.split()[0] for text in shown.all_inner_texts()][:4] == [
        "1,020",
        "1,021",
        "1,022",
        "1,023",
    ]


def test_a_map_plays_and_zooms(soundnet: str, open_page: Open) -> None:
    page = open_page(soundnet)
    page.evaluate(
        "() => { window.played = []; Audio.prototype.play = function () "
        "{ played.push(this.src); return Promise.resolve() } }"
    )
    chart = page.locator("figure.chart", has_text="Sounds as conv7 hears them")
    first, second = (chart.locator("svg image").nth(i) for i in range(2))
    chart.scroll_into_view_if_needed()
    first.click()
    page.wait_for_function("window.played.length === 1")
    near = apart(first, second)
    first.hover()
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(500)
    assert apart(first, second) > 1.2 * near


def apart(first: Locator, second: Locator) -> float:
    a, b = first.bounding_box(), second.bounding_box()
    assert a is not None
    assert b is not None
    return ((a["x"] - b["x"]) ** 2 + (a["y"] - b["y"]) ** 2) ** 0.5


def test_quick_clicks_are_no_errors(soundnet: str, open_page: Open) -> None:
    page = open_page(soundnet)
    page.evaluate(
        "() => { for (const b of document.querySelectorAll('button.play')) { b.click(); b.click(); "
        "b.click(); } }"
    )
    page.wait_for_timeout(300)


def test_it_works_as_the_service_shows_it(soundnet: str, browser: Browser) -> None:
    page, faults = browser.new_page(), []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text))
    headers = {**web.headers_of("/reports/soundnet"), "Content-Type": "text/html; charset=utf-8"}
    body = Path(soundnet).read_text()
    page.route("**/*", lambda route: route.fulfill(status=200, body=body, headers=headers))
    page.goto("http://127.0.0.1:9/reports/soundnet")
    page.wait_for_selector("html.ready", timeout=60_000)
    drawn(page)
    page.locator("button.play").first.click()
    expect(page.locator("button.play").first).to_have_attribute("aria-pressed", "true")
    assert faults == []
    page.close()


def test_it_prints_on_white(soundnet: str, open_page: Open, tmp_path: Path) -> None:
    page = open_page(soundnet, scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.pdf(path=tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").stat().st_size > 50_000
