import logging
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mmray.errors import UserError
from mmray.media.clip import decode_clip
from mmray.media.probe import probe
from mmray.sources import ImageItem, images, sounds, videos
from mmray.sources.stamps import STAMPS


def write_wav(path, seconds, rate=22050):
    samples = (8000 * np.sin(np.arange(int(seconds * rate)) * 0.2)).astype("<i2")
    with wave.open(str(path), "wb") as output:
        output.setparams((1, 2, rate, 0, "NONE", ""))
        output.writeframes(samples.tobytes())


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MMRAY_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "stamps"
    (root / "animals").mkdir(parents=True)
    picture = Image.new("RGBA", (61, 45), (0, 0, 0, 0))
    picture.paste((0, 200, 0, 255), (0, 0, 30, 45))
    for name in ("cat", "dog", "mute"):
        picture.save(root / "animals" / f"{name}.png")
    write_wav(root / "animals" / "cat.wav", 2.5)
    write_wav(root / "animals" / "dog.wav", 0.3)
    write_wav(root / "animals" / "mute_desc.wav", 1.0)
    (root / "animals" / "cat.txt").write_text("A cat.\nfr.utf8=Un chat.\n")
    return root


def test_stamps_with_a_sound_become_videos(root):
    cat, dog = videos(f"stamps:{root}")
    assert (cat.key, cat.labels) == ("animals/cat.png", ["caption:A cat."])
    assert (dog.key, dog.labels) == ("animals/dog.png", [])
    info = probe(cat.uri)
    assert (info.has_video, info.has_sound, info.is_still) == (True, True, False)
    assert (info.width, info.height) == (62, 46)
    assert info.duration_s == pytest.approx(2.5, abs=0.1)
    with av.open(cat.uri) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.audio[0].codec_context.name == "aac"


def test_picture_and_sound_are_the_stamps(root):
    cat, _ = videos(f"stamps:{root}")
    clip = decode_clip(cat.uri, 0.0, 2.5, 4, 40)
    assert clip.audio.std() == pytest.approx(8000 / np.sqrt(2), rel=0.05)
    np.testing.assert_allclose(clip.frames[2][20, 4], [0, 200, 0], atol=12)
    np.testing.assert_allclose(clip.frames[2][20, 35], [255, 255, 255], atol=6)


def test_a_short_sound_is_followed_by_silence_to_one_second(root):
    _, dog = videos(f"stamps:{root}")
    clip = decode_clip(dog.uri, 0.0, 1.0, 2, 40)
    assert clip.duration_s == pytest.approx(1.0, abs=0.01)
    loud = np.abs(clip.audio.astype(int)) > 1000
    assert np.flatnonzero(loud).max() / 22050 == pytest.approx(0.3, abs=0.05)


def test_each_video_is_made_once(root, monkeypatch):
    first = list(videos(f"stamps:{root}"))
    monkeypatch.setattr("mmray.sources.stamps._write", lambda *_: pytest.fail("made again"))
    assert list(videos(f"stamps:{root}")) == first
    assert len(list((root.parent / "cache" / "stamps-videos").iterdir())) == 2


def test_a_changed_sound_makes_another_video(root):
    before, _ = videos(f"stamps:{root}")
    write_wav(root / "animals" / "cat.wav", 1.5)
    after, _ = videos(f"stamps:{root}")
    assert before.uri != after.uri
    assert probe(after.uri).duration_s == pytest.approx(1.5, abs=0.1)


def test_a_broken_stamp_is_left_out_with_a_line(root, caplog):
    (root / "animals" / "cat.wav").write_bytes(b"nonsense")
    with caplog.at_level(logging.WARNING):
        assert [i.key for i in videos(f"stamps:{root}")] == ["animals/dog.png"]
    assert "animals/cat.png: left out" in caplog.messages[0]


def test_captions_are_no_classes(root):
    assert [item.label for item in sounds(f"stamps:{root}")] == [None, None]


def test_a_missing_folder_says_what_to_install():
    with pytest.raises(UserError, match="tuxpaint-stamps-default"):
        videos("stamps:/no/such/place")


@pytest.mark.real
def test_stamps_as_debian_has_them(tmp_path, monkeypatch):
    if not Path(STAMPS).is_dir():
        pytest.skip("Debian's tuxpaint-stamps-default is not installed")
    monkeypatch.setenv("MMRAY_CACHE", str(tmp_path))
    items = list(videos("stamps"))
    assert len(items) == len({item.uri for item in items}) == 131
    for item in items:
        info = probe(item.uri)
        clip = decode_clip(item.uri, 0.0, info.duration_s, 4, 64)
        assert clip.duration_s >= 0.99
        assert item.labels[0].startswith("caption:")


def test_stamps_are_pictures_with_captions(root):
    (root / "animals" / "birds" / "cartoon").mkdir(parents=True)
    picture = (root / "animals" / "cat.png").read_bytes()
    for name in ("birds/cartoon/duck", "cat_mirror", "dog_flip", "back_flip"):
        (root / "animals" / f"{name}.png").write_bytes(picture)
    (root / "top.png").write_bytes(picture)
    (root / "animals" / "drawn.svg").write_text("<svg/>")
    (root / "animals" / "dog.txt").write_bytes(b"\xef\xbb\xbfA dog.\r\nfr.utf8=Un chien.\r\n")
    (root / "animals" / "mute.txt").write_bytes(b"")
    place = f"{root}/animals"
    assert list(images(f"stamps:{root}")) == [
        ImageItem(f"{place}/back_flip.png", "animals/back_flip.png", ["animals"], [], ["animals"]),
        ImageItem(
            f"{place}/birds/cartoon/duck.png",
            "animals/birds/cartoon/duck.png",
            ["animals", "birds", "cartoon"],
            [],
            ["animals"],
        ),
        ImageItem(f"{place}/cat.png", "animals/cat.png", ["animals"], ["A cat."], ["animals"]),
        ImageItem(f"{place}/dog.png", "animals/dog.png", ["animals"], ["A dog."], ["animals"]),
        ImageItem(f"{place}/mute.png", "animals/mute.png", ["animals"], [], ["animals"]),
        ImageItem(f"{root}/top.png", "top.png"),
    ]


def test_pictures_of_a_missing_or_empty_folder(tmp_path):
    with pytest.raises(UserError, match="tuxpaint-stamps-default"):
        images("stamps:/no/such/place")
    with pytest.raises(UserError, match="holds no pictures; expected stamps"):
        images(f"stamps:{tmp_path}")


def test_captions_in_another_language(root, caplog):
    text = b"A dog.\nfr.utf8=Un chien.\r\nde.utf8=Ein Hund.\nde.utf8=Noch einer.\npt_BR.utf8=\n"
    (root / "animals" / "dog.txt").write_bytes(text)
    (root / "animals" / "mute.txt").write_bytes(b"Mute.\nde.utf8=\xe9\nnonsense\n")

    def of(language):
        return [i.captions for i in images(f"stamps:{root}", language)]

    assert of(None) == of("en") == [["A cat."], ["A dog."], ["Mute."]]
    assert of("fr") == [["Un chat."], ["Un chien."], []]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert of("de") == [[], ["Ein Hund."], ["\ufffd"]]
    missing, broken = caplog.messages
    assert "1 of 3 stamps have no caption in de" in missing
    assert "1 captions in de are not UTF-8" in broken


@pytest.mark.parametrize("language", ["tlh", "pt_BR", ""])
def test_an_unknown_language_lists_those_that_exist(root, language):
    with pytest.raises(UserError, match=r"expected one of those \(.*\): en 1, fr 1$") as error:
        images(f"stamps:{root}", language)
    assert f"--language {language}:" in str(error.value)


def test_only_stamps_have_captions_in_several_languages(tmp_path):
    with pytest.raises(UserError, match=r"--language de: folder:.* expected it with stamps"):
        images(f"folder:{tmp_path}", "de")
