"""The service's web page in a browser: every flow, at the width of a desktop and of a phone."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.serving import page_flows as flows
from tests.serving.models import picture, wav
from tests.serving.page_flows import OpenPage, ask, names_of, settled, texts

pytest_plugins = ["tests.serving.page_fixtures"]
pytestmark = [pytest.mark.browser, pytest.mark.cluster, flows.needs_chromium]


# Pictures


def test_an_example_gets_tags_captions_and_a_story(page: Page, service: httpx.Client) -> None:
    flows.pick_example(page, 1)
    example = service.get("/examples").json()["pictures"][1]
    assert page.locator("#picture-image").get_attribute("alt") == example["title"]
    expect(page.locator("#gallery-list [aria-pressed=true]")).to_have_count(1)
    data = service.get(f"/examples/{example['name']}").content
    assert texts(page, "#tags .bar span") == names_of(ask(service, "/tags", data, k=12))
    expect(page.locator("#caption-words button").first).to_be_visible()
    expect(page.locator("#story p")).to_have_count(1)


def test_a_picture_from_disk_gets_what_the_api_says(page: Page, service: httpx.Client) -> None:
    flows.choose_picture(page, picture(seed=1))
    assert texts(page, "#tags .bar span") == names_of(ask(service, "/tags", picture(seed=1), k=12))
    captions = ask(service, "/caption", picture(seed=1), beam=5, n=3)["captions"]
    assert texts(page, "#caption-words button") == captions[0]["words"]
    assert texts(page, "#caption-others button") == [c["caption"] for c in captions[1:]]
    story = ask(service, "/story", picture(seed=1), style="memo")
    assert texts(page, "#story p") == [s["story"] for s in story["stories"]]
    for caption in story["captions"]:
        expect(page.locator("#story-about")).to_contain_text(caption)
    assert page.locator("#picture-image").get_attribute("alt") == "The chosen picture: mine.png"


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_picture_can_be_put_anywhere(page: Page, service: httpx.Client, kind: str) -> None:
    flows.put(page, kind, "#find" if kind == "drop" else "body", "image/png", picture(seed=2))
    settled(page)
    assert texts(page, "#tags .bar span") == names_of(ask(service, "/tags", picture(seed=2), k=12))
    expect(page.locator("#picture-image")).to_be_in_viewport()


def test_the_last_of_several_pictures_is_told_about(page: Page, service: httpx.Client) -> None:
    for index in (0, 3, 5):
        page.locator("#gallery-list button").nth(index).click()
    settled(page)
    example = service.get("/examples").json()["pictures"][5]
    data = service.get(f"/examples/{example['name']}").content
    (caption,) = ask(service, "/caption", data, beam=5)["captions"]
    assert texts(page, "#caption-words button") == caption["words"]
    assert page.locator("#picture-image").get_attribute("alt") == example["title"]


def test_tags_that_are_right_are_given(page: Page, service: httpx.Client) -> None:
    flows.choose_picture(page, picture())
    first = flows.say_right(page, 0)
    second = flows.add_tag(page, "known", "n")  # pictures do not tell this one
    assert texts(page, "#given li > span") == [first, second]
    answer = ask(service, "/tags", picture(), k=12, given=[first, second])
    open_tags = [name for name in names_of(answer) if name not in (first, second)]
    assert texts(page, "#tags .bar span") == open_tags
    for name in (first, second):
        page.get_by_role("button", name=f"Remove {name}").click()
    settled(page, "tag")
    expect(page.locator("#given li")).to_have_count(0)
    assert texts(page, "#tags .bar span") == names_of(ask(service, "/tags", picture(), k=12))


def test_words_show_where_the_model_looked(open_page: OpenPage, service: httpx.Client) -> None:
    page = open_page("desktop")
    flows.choose_picture(page, picture())
    answer = ask(service, "/caption", picture(), beam=5, attention=True)
    words, overlay = page.locator("#caption-words button"), page.locator("#attention")
    expect(overlay).to_be_hidden()
    (caption,) = answer["captions"]
    for i, (word, grid) in enumerate(zip(caption["words"], caption["attention"], strict=True)):
        words.nth(i).hover()
        expect(overlay).to_be_visible()
        told = f"For “{word}” it looked mostly at the {flows.place(grid)}."
        expect(page.locator("#attention-text")).to_have_text(told)
    assert overlay.bounding_box() == page.locator("#picture-image").bounding_box()
    page.locator("#say-title").hover()
    expect(overlay).to_be_hidden()


def test_a_word_that_is_chosen_stays_shown(page: Page, device: str) -> None:
    flows.choose_picture(page, picture())
    word, overlay = page.locator("#caption-words button").first, page.locator("#attention")
    press = word.tap if device == "phone" else word.click
    press()
    page.locator("#say-title").hover()
    expect(overlay).to_be_visible()
    expect(word).to_have_class("shown")
    press()
    page.locator("#say-title").hover()
    expect(overlay).to_be_hidden()


def test_the_words_play_one_after_the_other(open_page: OpenPage) -> None:
    page = open_page("desktop")
    flows.choose_picture(page, picture())
    words, play = page.locator("#caption-words button"), page.locator("#play-words")
    page.evaluate(flows.NOTE_SHOWN_WORDS)
    play.click()
    expect(page.locator("#attention")).to_be_visible()
    expect(play).to_have_text("Play the words")
    assert page.evaluate("shown") == list(range(words.count()))
    expect(page.locator("#attention")).to_be_hidden()


def test_playing_the_words_can_be_stopped(page: Page) -> None:
    flows.choose_picture(page, picture())
    play = page.locator("#play-words")
    play.click()
    expect(play).to_have_text("Stop")
    play.click()
    expect(play).to_have_text("Play the words")
    expect(page.locator("#attention")).to_be_hidden()


def test_another_caption_takes_the_place_of_the_first(page: Page) -> None:
    flows.choose_picture(page, picture())
    first, others = (
        page.locator("#caption-text").inner_text(),
        texts(page, "#caption-others button"),
    )
    page.get_by_role("button", name=others[1], exact=True).click()
    assert " ".join(texts(page, "#caption-words button")) == others[1]
    assert texts(page, "#caption-others button") == [first, others[0]]


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_the_overlay_is_lightest_where_the_model_looked(open_page: OpenPage, fit: str) -> None:
    page = open_page("desktop")
    size = 6

    def look_right(body: dict[str, Any]) -> None:
        grid = [[float((row, column) == (3, 4)) for column in range(size)] for row in range(size)]
        first = body["captions"][0]
        body["fit"], first["attention"] = fit, [grid] * len(first["words"])

    flows.alter(page, "caption", look_right)
    flows.choose_picture(page, picture(size=(160, 80)))
    page.locator("#caption-words button").first.hover()
    expect(page.locator("#attention-text")).to_contain_text("at the right")
    x, y = page.locator("#attention").evaluate(flows.LIGHTEST)
    # The picture is twice as wide as high: padded, the square is as wide; cropped, as high.
    wanted = (4.5 / 6, 0.5 + (3.5 / 6 - 0.5) * 2) if fit == "pad" else (0.25 + 4.5 / 12, 3.5 / 6)
    assert (x, y) == pytest.approx(wanted, abs=0.05)


def test_a_story_is_told_while_it_is_written(page: Page, service: httpx.Client) -> None:
    flows.choose_picture(page, picture())
    page.evaluate(flows.NOTE_DRAFTS)
    flows.tell(page, "old", 0.25)
    wanted = ask(service, "/story", picture(), style="old", strength=0.25)
    assert texts(page, "#story p") == [s["story"] for s in wanted["stories"]]
    assert page.evaluate("drafts.length") > 1
    expect(page.locator("#drafts p")).to_have_count(0)


def test_another_story_has_another_seed(page: Page) -> None:
    flows.choose_picture(page, picture())
    told = flows.calls_to("story")
    with page.expect_request(lambda request: told(request.url)) as asked:
        page.locator("#another-story").click()
    settled(page, "tell")
    seed = httpx.URL(asked.value.url).params["seed"]
    assert seed != "0"
    expect(page.locator("#story p")).to_have_count(1)


# Search


def test_pictures_are_found_by_sums_of_tags(page: Page, service: httpx.Client) -> None:
    plus, minus = flows.add_tag(page, "plus", "d"), flows.add_tag(page, "minus", "b")
    assert texts(page, "#sum li > span") == [f"+ {plus}", f"− {minus}"]
    wanted = ask(service, "/search", None, plus=[plus], minus=[minus], k=24)["pictures"]
    expect(page.locator("#found-text")).to_have_text(f"The nearest {len(wanted)} pictures")
    similarities = [f"{each['similarity']:.2f}".replace("-", "−") for each in wanted]
    assert texts(page, "#found .similarity") == similarities
    widths = page.locator("#found img").evaluate_all("(all) => all.map((i) => i.naturalWidth)")
    assert len(widths) == len(wanted)
    assert min(widths) > 0
    page.get_by_role("button", name=f"Remove + {plus}").click()
    expect(page.locator("#found-text")).to_contain_text("to take something away from")
    expect(page.locator("#found li")).to_have_count(0)


def test_search_starts_from_the_picture(page: Page, service: httpx.Client) -> None:
    expect(page.locator("#use-picture")).to_be_hidden()
    flows.choose_picture(page, picture())
    page.locator("#use-picture").click()
    settled(page, "find")
    expect(page.locator("#use-picture")).to_be_hidden()
    flows.add_tag(page, "minus", "r")
    wanted = ask(service, "/search", picture(), minus=["red"], k=24)["pictures"]
    tray = flows.open_result(page, 0)
    expect(tray).to_contain_text(wanted[0]["id"])
    flows.choose_picture(page, picture(seed=3))  # the search goes along
    settled(page, "find")
    wanted = ask(service, "/search", picture(seed=3), minus=["red"], k=24)["pictures"]
    expect(flows.open_result(page, 0)).to_contain_text(wanted[0]["id"])


def test_examples_of_searches_are_searched(page: Page) -> None:
    for example in texts(page, "#sum-examples button"):
        page.locator("#sum-examples").get_by_role("button", name=example, exact=True).click()
        settled(page, "find")
        assert " ".join(texts(page, "#sum li > span")) == example
        expect(page.locator("#found img")).to_have_count(24)


def test_a_picture_that_was_found_offers_its_tags(page: Page) -> None:
    def tag_first(body: dict[str, Any]) -> None:
        body["pictures"][0]["tags"] = ["red", "plage"]

    flows.alter(page, "search", tag_first)
    flows.add_tag(page, "plus", "d")
    tray = flows.open_result(page, 0)
    tray.get_by_role("button", name="+ red", exact=True).click()
    settled(page, "find")
    flows.open_result(page, 0).get_by_role("button", name="Take plage away").click()
    settled(page, "find")
    assert texts(page, "#sum li > span") == ["+ dog", "+ red", "− plage"]
    flows.open_result(page, 1)
    expect(tray).to_contain_text("without tags")
    page.locator("#found [aria-expanded=true]").click()
    expect(tray).to_have_count(0)


# Sounds


def test_an_example_is_heard(page: Page, service: httpx.Client) -> None:
    flows.listen_to_example(page, 2)
    example = service.get("/examples").json()["sounds"][2]
    expect(page.locator("#sound-name")).to_have_text(example["title"])
    expect(page.locator("#tracks .runs")).to_have_count(2)
    expect(page.locator("#overall .bar")).to_have_count(6)


def test_a_sound_from_disk_is_heard_as_the_api_says(page: Page, service: httpx.Client) -> None:
    flows.choose_sound(page, wav(6))
    answer = ask(service, "/sound", wav(6), k=5)
    kinds = [answer["objects"], answer["scenes"]]
    names = [each["name"] for kind in kinds for each in kind["overall"]]
    assert texts(page, "#overall .bar span") == names
    best = {top[0]["name"] for kind in kinds for top in kind["over_time"]}
    assert set(texts(page, "#tracks .runs span")) == best
    expect(page.locator("#sound-time")).to_have_text("0.0 / 6.0 s")


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_sound_can_be_put_anywhere(page: Page, kind: str) -> None:
    flows.put(page, kind, "body", "audio/wav", wav())
    settled(page, "listen")
    expect(page.locator("#sound-name")).to_have_text("put.wav")
    expect(page.locator("#overall .bar").first).to_be_visible()


def test_the_waveform_and_the_segments_lead_into_the_sound(page: Page) -> None:
    flows.choose_sound(page, wav(8))
    expect(page.locator("#sound-time")).to_have_text("0.0 / 8.0 s")
    assert flows.seek(page, 0.5) == pytest.approx(4, abs=0.1)
    assert flows.seek(page, 0.25) == pytest.approx(2, abs=0.1)
    play = page.locator("#play")
    play.click()
    expect(play).to_have_attribute("aria-label", "Pause")
    expect(page.locator("#sound-time")).to_have_text(re.compile(r"^(2\.[5-9]|[3-7]\.)"))
    play.click()
    expect(play).to_have_attribute("aria-label", "Play")
    segment = page.locator("#tracks .runs button").last
    start = re.search(r", ([\d.]+) to ", segment.get_attribute("title") or "")
    assert start is not None
    segment.click()
    assert flows.shown_s(page) == pytest.approx(float(start[1]), abs=0.1)


def test_the_waveform_is_drawn(page: Page) -> None:
    flows.choose_sound(page, wav())
    page.wait_for_function(f"({flows.INKED})() > 0.9")


def test_a_recording_is_heard(page: Page) -> None:
    flows.record(page)
    expect(page.locator("#overall .bar").first).to_be_visible()
    expect(page.locator("#record-time")).to_have_text("up to 30 s")
    expect(page.locator("#sound-note")).to_have_text("")
    assert flows.seek(page, 0.5) > 0.3


# Models and documentation


def test_only_what_is_served_is_shown(open_page: OpenPage, device: str) -> None:
    page = open_page(device, load=False)

    def sounds_only(body: dict[str, Any]) -> None:
        body["models"] = [model for model in body["models"] if model["name"] == "sound"]

    flows.alter(page, "models", sounds_only)
    page.goto("/")
    settled(page, "models")
    expect(page.locator("#listen")).to_be_visible()
    for section in ("look", "find"):
        expect(page.locator(f"#{section}")).to_be_hidden()
    assert texts(page, ".senses li:visible") == ["sounds"]


def test_sections_come_when_their_models_have_started(open_page: OpenPage) -> None:
    page = open_page("desktop", load=False)

    def starting(body: dict[str, Any]) -> None:
        for model in body["models"]:
            model.update(state="updating", details={})

    flows.alter(page, "models", starting)
    page.goto("/")
    settled(page, "models")
    expect(page.locator("#model-rows .state").first).to_have_text("updating")
    page.set_input_files("#picture-file", flows.file("mine.png", "image/png", picture()))
    settled(page, "say")
    for section in ("tell", "find"):
        expect(page.locator(f"#{section}")).to_be_hidden()
    page.unroute_all()
    expect(page.locator("#story p")).to_have_count(1)  # without another word
    expect(page.locator("#find")).to_be_visible()


def test_the_table_tells_what_is_served(page: Page, service: httpx.Client) -> None:
    flows.choose_sound(page, wav())
    page.locator("#refresh-models").click()
    settled(page, "models")
    known = service.get("/models").json()["models"]
    rows = page.locator("#model-rows tr")
    expect(rows).to_have_count(len(known))
    for i, model in enumerate(known):
        for text in (model["source"], model["kind"], model["version"], model["device"]):
            expect(rows.nth(i)).to_contain_text(text)
        expect(rows.nth(i).locator(".state")).to_have_text(model["state"])
        requests = rows.nth(i).locator("td[data-label=Requests]")
        expect(requests).to_have_text(str(model["requests"]))


def test_what_a_model_has_learned_is_a_click_away(page: Page) -> None:
    links = page.locator("#model-rows a")
    expect(links).to_have_count(1)
    with page.context.expect_page() as opened:
        links.click()
    expect(opened.value).to_have_title("2")  # its script ran, as that of a real page has to


def test_the_documentation_of_the_api_is_a_click_away(page: Page, service: httpx.Client) -> None:
    page.get_by_role("navigation").get_by_role("link", name="API").click()
    page.wait_for_url("**/docs")
    paths = service.get("/openapi.json").json()["paths"]
    expect(page.locator(".opblock")).to_have_count(sum(map(len, paths.values())))
    page.locator(".opblock", has_text="/caption").first.locator("button").first.click()
    expect(page.locator(".opblock.is-open .opblock-body")).to_contain_text("beam")


# The whole page


def test_the_keyboard_is_enough(open_page: OpenPage) -> None:
    page = open_page("desktop")
    press, tab_to = page.keyboard.press, flows.tab_to
    tab_to(page, ".skip")
    press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    look_with_keys(page)
    tab_to(page, "#use-picture")
    press("Enter")
    settled(page, "find")
    tab_to(page, "#minus")
    flows.take_suggestion(page, "minus", "b")
    expect(page.locator("#sum li")).to_have_count(2)
    tab_to(page, "#found button")
    press("Enter")
    expect(page.locator("#found .tray")).to_be_visible()
    listen_with_keys(page)
    tab_to(page, "#refresh-models")
    press("Enter")
    settled(page, "models")


def look_with_keys(page: Page) -> None:
    press, tab_to = page.keyboard.press, flows.tab_to
    tab_to(page, "#picture-file")
    tab_to(page, "#gallery-list button")
    press("Enter")
    settled(page)
    tab_to(page, "#caption-words button")
    expect(page.locator("#attention")).to_be_visible()
    press("ArrowRight")
    expect(page.locator("#caption-words button").nth(1)).to_have_class("shown")
    tab_to(page, "#known")
    name = flows.take_suggestion(page, "known", "n")
    tab_to(page, "#given button")
    press("Enter")
    settled(page, "tag")
    assert name not in texts(page, "#given span")
    tab_to(page, "#tags button")
    press("Enter")
    settled(page, "tag")
    expect(page.locator("#given li")).to_have_count(1)
    assert page.evaluate("document.activeElement.matches('#tags button')")
    tab_to(page, "[name=style]")
    press("ArrowRight")
    expect(page.locator("[name=style]").nth(1)).to_be_checked()
    tab_to(page, "#strength")
    press("ArrowLeft")
    settled(page, "tell")
    expect(page.locator("#story p")).to_have_count(1)


def listen_with_keys(page: Page) -> None:
    press, tab_to = page.keyboard.press, flows.tab_to
    tab_to(page, "#sound-examples button")
    press("Enter")
    settled(page, "listen")
    tab_to(page, "#play")
    press("Space")
    expect(page.locator("#play")).to_have_attribute("aria-label", "Pause")
    press("Space")
    expect(page.locator("#play")).to_have_attribute("aria-label", "Play")
    tab_to(page, "#wave")
    press("Home")
    for _ in range(2):
        press("ArrowRight")
    assert page.locator("#wave").get_attribute("aria-valuetext") == "2.0 of 6.0 seconds"
    tab_to(page, "#tracks .runs button")
    press("Enter")
    assert flows.shown_s(page) == 0


@pytest.mark.parametrize(("device", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_screenshots(open_page: OpenPage, device: str, scheme: str, tmp_path: Path) -> None:
    folder = os.environ.get("MMRAY_SCREENSHOTS") or str(tmp_path)
    page = open_page(device, color_scheme=scheme)

    def shoot(name: str, **options: Any) -> None:
        page.screenshot(path=Path(folder) / f"{device}-{scheme}-{name}.png", **options)

    shoot("start")
    flows.pick_example(page, 1)
    page.locator("#caption-words button").nth(1).click()
    flows.listen_to_example(page, 0)
    flows.seek(page, 0.4)
    page.locator("#use-picture").click()
    settled(page, "find")
    flows.add_tag(page, "minus", "b")
    flows.open_result(page, 2)
    for section in ("look", "tag", "find", "listen", "models"):
        page.locator(f"#{section}").evaluate("(element) => element.scrollIntoView()")
        shoot(section)
    page.evaluate("scrollTo(0, 0)")
    shoot("whole", full_page=True)
