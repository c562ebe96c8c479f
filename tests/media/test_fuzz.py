"""Damaged files give arrays or a `MediaError`, never anything else."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmray.errors import MediaError
from mmray.media.clip import decode_clip
from mmray.media.image import decode_image, read_picture
from mmray.media.probe import probe
from mmray.media.sandbox import Sandbox
from mmray.media.sound import from_flac, read_sound, to_flac
from tests.media.fuzzing import DAMAGES, damaged_files

NAMES = ["a.mp4", "a.mkv", "a.ts", "a.avi", "a.wav", "a.mp3", "a.ogg", "a.flac", "a.png", "a.jpg"]


@pytest.fixture(scope="module")
def originals(tmp_path_factory, make) -> dict[str, bytes]:
    from PIL import Image

    folder = tmp_path_factory.mktemp("fuzz")
    tone = make.clicks(2, [1.0])
    for name in NAMES[:4]:
        codec = "mpeg4" if name == "a.avi" else "libx264"
        sound_codec = "pcm_s16le" if name == "a.avi" else "aac"
        if sound_codec == "aac":
            make.video(folder / name, 50, codec, sound=tone)
        else:
            make.video(folder / name, 50, codec)
    codecs = {"a.wav": "pcm_s16le", "a.mp3": "libmp3lame", "a.ogg": "libopus", "a.flac": "flac"}
    for name, codec in codecs.items():
        make.sound(folder / name, tone, codec, 48000)
    for name in NAMES[8:]:
        Image.fromarray(make.number(5, 60, 40)).save(folder / name)
    return {name: (folder / name).read_bytes() for name in NAMES}


@pytest.fixture(scope="module")
def sandbox():
    # Old FFmpeg may crash on damaged frames, which ends as a MediaError too.
    with Sandbox(timeout_s=20) as sandbox:
        yield sandbox


@st.composite
def damages(draw):
    """A way to damage a file: (share to keep, [(place as a share, new bytes)])."""
    share = st.floats(0, 1, allow_nan=False)
    keep = draw(st.one_of(st.just(1.0), share))
    patch = st.tuples(share, st.binary(min_size=1, max_size=8))
    return keep, draw(st.lists(patch, max_size=8))


def damaged(data: bytes, damage) -> bytes:
    keep, patches = damage
    result = bytearray(data[: int(len(data) * keep)])
    for place, patch in patches:
        start = int(place * len(result))
        result[start : start + len(patch)] = patch
    return bytes(result)


fuzz = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def outcome(function, *args):
    """What a call gives, a `MediaError` included; anything else is raised."""
    try:
        return function(*args)
    except MediaError as e:
        return e


@pytest.mark.parametrize("name", NAMES)
@fuzz
@given(damage=damages())
def test_damaged_videos_and_sounds(originals, sandbox, tmp_path, name, damage):
    path = tmp_path / name
    path.write_bytes(damaged(originals[name], damage))
    info = outcome(sandbox.call, probe, str(path))
    assert isinstance(info, MediaError) or 0 <= info.duration_s <= 30 * 24 * 3600
    wave = outcome(sandbox.call, read_sound, str(path), 0.5, 1.0)
    if not isinstance(wave, MediaError):
        assert wave.dtype == np.float32
        assert 0 < len(wave) <= 22050
        assert np.isfinite(wave).all()
    clip = outcome(sandbox.call, decode_clip, str(path), 0.0, 2.0, 2, 32)
    if not isinstance(clip, MediaError):
        assert clip.frames.shape == (2, 32, 32, 3)
        assert np.isfinite(clip.frame_times).all()


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@fuzz
@given(damage=damages())
def test_damaged_pictures(originals, name, damage):
    picture = outcome(decode_image, damaged(originals[name], damage))
    if isinstance(picture, MediaError):
        assert picture.stage == "image"
    else:
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3


@fuzz
@given(damage=damages())
def test_damaged_flac(damage):
    data = to_flac(np.sin(np.arange(5000) / 10), 22050)
    wave = outcome(from_flac, damaged(data, damage))
    assert wave.stage == "sound" if isinstance(wave, MediaError) else wave.dtype == np.float32


@pytest.mark.parametrize("kind", ["videos", "sounds", "pictures"])
def test_lying_headers_and_other_damage(sandbox, tmp_path, kind):
    whole = 0
    for file in damaged_files(kind, 110, seed=2):
        path = str(tmp_path / file.name)
        (tmp_path / file.name).write_bytes(file.data)
        if kind == "pictures":
            result = outcome(sandbox.call, read_picture, path, 16)
        elif kind == "sounds":
            result = outcome(sandbox.call, read_sound, path, 0.0, 1.0)
        else:
            result = outcome(sandbox.call, decode_clip, path, 0.0, 1.0, 2, 16)
        whole += file.damage == "none"
        assert file.damage != "none" or not isinstance(result, MediaError)
    assert whole


def test_damaged_files_are_the_same_for_the_same_seed():
    files = list(damaged_files("sounds", 150))
    assert files == list(damaged_files("sounds", 150))
    assert files[:10] != list(damaged_files("sounds", 10, seed=1))
    assert {file.damage for file in files} == set(DAMAGES)
    assert len({file.name for file in files}) == 150
