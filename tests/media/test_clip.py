import io

import numpy as np
import psutil
import pytest
from PIL import Image

from mmray.errors import MediaError
from mmray.media import clip as clip_module
from mmray.media.clip import decode_clip
from mmray.media.sandbox import Sandbox


def test_sound_frames_and_thumbnail_belong_together(clip_file, make):
    clip = decode_clip(clip_file, 1.0, 4.0, 4, 60)
    assert (clip.audio.dtype, len(clip.audio)) == (np.int16, 4 * 22050)
    assert clip.duration_s == 4.0
    assert int(np.argmax(np.abs(clip.audio) > 10_000)) / 22050 == pytest.approx(2.0, abs=1e-3)
    assert (clip.frames.shape, clip.frames.dtype) == ((4, 60, 60, 3), np.uint8)
    # Wanted at 0.5, 1.5, 2.5 and 3.5 s of the clip; frames begin every 0.04 s.
    assert clip.frame_times.dtype == np.float32
    np.testing.assert_allclose(clip.frame_times, [0.48, 1.48, 2.48, 3.48], atol=1e-3)
    assert [make.read_number(f) for f in clip.frames] == [37, 62, 87, 112]
    picture = np.array(Image.open(io.BytesIO(clip.thumbnail)))
    assert make.read_number(picture) == 87
    assert clip.waveform.dtype == np.float32
    np.testing.assert_array_equal(clip.waveform * 32768, clip.audio)


def test_key_frames_stay_inside_the_clip(clip_file):
    clip = decode_clip(clip_file, 1.0, 4.0, 4, 60, "keyframe")
    np.testing.assert_allclose(clip.frame_times, [1.0, 1.0, 3.0, 3.0], atol=1e-3)
    clip = decode_clip(clip_file, 2.2, 1.6, 2, 60, "keyframe")  # no key frame inside
    np.testing.assert_allclose(clip.frame_times, [0.4, 1.2], atol=0.041)


def test_a_clip_over_the_end_is_as_long_as_its_sound(clip_file):
    clip = decode_clip(clip_file, 2.0, 6.0, 4, 60)
    assert clip.duration_s == pytest.approx(4.0, abs=0.05)
    np.testing.assert_allclose(clip.frame_times, [0.5, 1.5, 2.5, 3.5], atol=0.08)


def test_a_clip_mostly_without_sound_is_refused(clip_file):
    with pytest.raises(MediaError, match=r"are 2\.0\d s of sound in this clip of 20\.00 s"):
        decode_clip(clip_file, 4.0, 20.0, 4, 60)


def test_next_to_no_sound_is_refused(tmp_path, make):
    path = make.video(tmp_path / "a.mp4", 2, sound=np.zeros(2000, np.float32))
    with pytest.raises(MediaError, match=r"there are 0\.\d\d s of sound"):
        decode_clip(path, 0.0, 0.08, 4, 60)


def test_a_still_is_no_clip(tmp_path, make):
    path = make.video(tmp_path / "a.mp4", 1, sound=np.zeros(44100, np.float32))
    with pytest.raises(MediaError, match="the picture is a single frame"):
        decode_clip(path, 0.0, 1.0, 4, 60)


def test_sound_is_decoded_before_frames(tmp_path, make, monkeypatch):
    path = make.video(tmp_path / "a.mp4", 50)
    monkeypatch.setattr(clip_module, "frames_at", lambda *_: pytest.fail("decoded frames"))
    with pytest.raises(MediaError, match="has no sound"):
        decode_clip(path, 0.0, 2.0, 4, 60)


def test_sound_alone_where_frames_are_not_wanted(tmp_path, make):
    path = make.sound(tmp_path / "a.wav", np.zeros(44100))
    clip = decode_clip(path, 0.0, 1.0, 4, 60, want_frames=False)
    assert clip.frames.shape == (0, 60, 60, 3)
    assert (len(clip.audio), len(clip.frame_times), clip.thumbnail) == (22050, 0, b"")


def test_a_slide_shown_before_the_clip_began(tmp_path, make):
    # One frame every 4 s: what is seen at 5 s began at 4 s, before the clip from 4.5 s on.
    path = make.video(
        tmp_path / "a.mp4", 5, times=lambda i: 100 * i, sound=np.zeros(44100 * 16, np.float32)
    )
    clip = decode_clip(path, 4.5, 8.0, 4, 60)
    assert [make.read_number(f) for f in clip.frames] == [1, 1, 2, 2]
    np.testing.assert_allclose(clip.frame_times, [0.0, 0.0, 3.5, 3.5], atol=1e-3)


def resident(*processes: psutil.Process) -> float:
    return sum(p.memory_info().rss for p in processes) / 2**20


@pytest.mark.slow
def test_memory_stays_flat_over_3000_clips(tmp_path, make):
    path = make.video(tmp_path / "a.mp4", 100, size=(160, 120), sound=make.clicks(4, [1.0]))
    me = psutil.Process()
    # One child for all: even without a fresh one now and then nothing adds up.
    with Sandbox(max_calls=10_000) as sandbox:
        sizes = {}
        for i in range(1, 3001):
            sandbox.call(decode_clip, str(path), 0.0, 4.0, 4, 224)
            if i in (500, 1000, 2000, 3000):
                sizes[i] = resident(me, *me.children(recursive=True))
    print(sizes)
    assert sizes[3000] - sizes[500] < 50
