import os
from pathlib import Path

import numpy as np
import pytest

from mmray.errors import MediaError
from mmray.media.container import MediaFile, describe
from mmray.media.sound import read_sound


def reason(path) -> str:
    with pytest.raises(MediaError) as error:
        MediaFile(path)
    assert error.value.stage == "open"
    assert error.value.uri == str(path)
    return error.value.reason


def test_missing_empty_and_special_files_say_so(tmp_path):
    (tmp_path / "empty.mp4").touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "No such file" in reason(tmp_path / "none.mp4")
    assert reason(tmp_path / "empty.mp4") == "is empty (0 bytes)"
    assert reason(tmp_path) == "is not a regular file"
    # Opening a pipe that nobody writes to would wait for ever.
    assert reason(tmp_path / "pipe.mp4") == "is not a regular file"
    assert "cannot be opened" in reason("a\0b.mp4")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_says_so(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"x")
    path.chmod(0)
    assert "Permission denied" in reason(path)


def test_unreadable_file_says_so_to_root_too(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"x")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert reason(path) == "cannot be opened (Permission denied)"


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><title>404</title>",
        bytes(np.random.default_rng(0).integers(0, 256, 20_000, np.uint8)),
        b"\x00" * 5000,
    ],
    ids=["html", "garbage", "zeros"],
)
def test_what_is_no_media_is_refused(tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert "is not a video or sound that can be read" in reason(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n"),
        ("a.ffconcat", "ffconcat version 1.0\nfile {target}\n"),
        ("a.mp4", "ffconcat version 1.0\nfile {target}\n"),
        ("a.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n"),
    ],
)
def test_files_that_name_other_files_are_refused(tmp_path, make, name, content):
    target = make.sound(tmp_path / "secret.wav", np.zeros(44100))
    path = tmp_path / name
    path.write_text(content.format(target=target))
    assert "is not a video or sound that can be read" in reason(path)


@pytest.mark.parametrize(
    "name", ["pipe:0", "a:b.wav", "-i.wav", "concat:a|b", "ü ' \".wav", "%d.wav"]
)
def test_names_are_never_taken_for_addresses(tmp_path, make, monkeypatch, name):
    make.sound(tmp_path / "a.wav", np.full(44100, 0.25)).rename(tmp_path / name)
    assert np.median(read_sound(tmp_path / name)) == pytest.approx(0.25, abs=1e-3)
    monkeypatch.chdir(tmp_path)
    assert np.median(read_sound(Path(name))) == pytest.approx(0.25, abs=1e-3)


def test_names_that_are_not_utf8_open(tmp_path, make):
    name = os.fsdecode(b"caf\xe9.wav")
    make.sound(tmp_path / "a.wav", np.full(44100, 0.25)).rename(tmp_path / name)
    assert len(read_sound(tmp_path / name)) == 22050


def test_descriptions_are_one_line_without_paths_of_the_build():
    text = "[03:10:35] /github/workspace/src/video/video_reader.cc:270: [x] Failed\nStack trace:"
    assert describe(RuntimeError(text)) == "[x] Failed"
    assert describe(KeyError()) == "KeyError"
    assert describe(FileNotFoundError(2, "No such file", "/somewhere")) == "No such file"
