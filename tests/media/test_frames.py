from fractions import Fraction

import av
import numpy as np
import pytest

from mmray.errors import MediaError
from mmray.media import frames
from mmray.media.frames import read_frames

NUM = 300  # frames, 12 s
TIMES = [0.5, 3.21, 3.3, 7.0, 10.7]
FAST = {"deadline": "realtime", "cpu-used": "8"}
OPEN = {"x264-params": "open-gop=1:keyint=25:min-keyint=25:scenecut=0:bframes=3"}

# Each is one on which decord alone gives wrong frames, or a common case.
FILES = {
    "plain.mp4": ("libx264", {"group": 50}),
    "long_groups.mkv": ("libx264", {"group": 1000}),
    "open_groups.mp4": ("libx264", {"options": OPEN}),
    "open_groups.mkv": ("libx264", {"options": OPEN}),
    "hevc.mp4": ("libx265", {"options": {"x265-params": "log-level=none:open-gop=1:keyint=30"}}),
    "edit_list.mp4": ("libx264", {"group": 50, "times": lambda i: i - 30}),
    "late.mkv": ("libx264", {"group": 50, "times": lambda i: i + 50}),
    "uneven.mp4": (
        "libx264",
        {"times": lambda i: i * 40 + (i * 7919) % 35, "clock": Fraction(1, 1000), "group": 50},
    ),
    "fragments.mp4": ("libx264", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
    "a.ts": ("libx264", {"group": 50}),
    "a.mpg": ("mpeg1video", {"b_frames": 0}),
    "a.avi": ("mpeg4", {}),
    "b_frames.avi": ("mpeg4", {"b_frames": 2}),
    "vp8.webm": ("libvpx", {"options": FAST, "group": 50}),
    "vp9.webm": ("libvpx-vp9", {"options": FAST, "group": 50}),
    "a.flv": ("flv", {}),
    "all_keys.avi": ("mpeg4", {"group": 1}),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory, make):
    folder = tmp_path_factory.mktemp("frames")
    for name, (codec, options) in FILES.items():
        make.video(folder / name, NUM, codec, **options)
    return folder


def presented(path, make) -> list[tuple[float, int]]:
    """Time and number of all frames, by decoding the whole file with PyAV."""
    with av.open(str(path)) as container:
        start = (container.start_time or 0) / av.time_base
        return [
            (
                float(frame.pts * frame.time_base) - start,
                make.read_number(frame.to_ndarray(format="rgb24")),
            )
            for frame in container.decode(video=0)
        ]


@pytest.mark.parametrize("name", FILES)
def test_exact_frames_are_those_shown(files, name, make):
    all_frames = presented(files / name, make)
    pictures, times = read_frames(files / name, TIMES, 60)
    assert (pictures.shape, pictures.dtype) == ((5, 60, 60, 3), np.uint8)
    for wanted, picture, time in zip(TIMES, pictures, times, strict=True):
        shown = max(f for f in all_frames if f[0] <= wanted + 1e-6)
        assert make.read_number(picture) == shown[1]
        assert time == pytest.approx(shown[0], abs=1e-3)


@pytest.mark.parametrize("name", FILES)
def test_key_frames_are_near_and_say_when_they_are(files, name, make):
    all_frames = presented(files / name, make)
    pictures, times = read_frames(files / name, TIMES, 60, "keyframe")
    with av.open(str(files / name)) as container:
        start = (container.start_time or 0) / av.time_base
        keys = [
            float(p.pts * p.time_base) - start
            for p in container.demux(video=0)
            if p.is_keyframe and p.pts is not None
        ]
    for wanted, picture, time in zip(TIMES, pictures, times, strict=True):
        nearest = min(keys, key=lambda key: abs(key - wanted))
        assert abs(time - wanted) <= abs(nearest - wanted) + 0.05
        number = min(all_frames, key=lambda f: abs(f[0] - time))[1]
        assert make.read_number(picture) == number


def test_key_frames_outside_the_window_are_not_taken(files):
    path = files / "plain.mp4"  # a key frame every 2 s
    _, times = read_frames(path, [4.5, 6.5], 60, "keyframe", window_s=(4.2, 7.0))
    np.testing.assert_allclose(times, [6.0, 6.0], atol=1e-3)
    _, times = read_frames(path, [4.5], 60, "keyframe", window_s=(4.2, 5.8))
    np.testing.assert_allclose(times, [4.48], atol=1e-3)  # none inside, so exact


@pytest.mark.parametrize("name", ["open_groups.mp4", "open_groups.mkv", "hevc.mp4", "b_frames.avi"])
def test_all_frames_around_the_keys_of_open_groups(files, name, make):
    all_frames = presented(files / name, make)[15:60]
    pictures, times = read_frames(files / name, [time + 0.001 for time, _ in all_frames], 60)
    assert [make.read_number(p) for p in pictures] == [number for _, number in all_frames]
    np.testing.assert_allclose(times, [time for time, _ in all_frames], atol=1e-3)


def test_order_and_repetition_of_the_times_are_kept(files, make):
    wanted = [7.0, 0.5, 7.0, 3.0]
    pictures, times = read_frames(files / "plain.mp4", wanted, 60)
    assert [make.read_number(p) for p in pictures] == [175, 12, 175, 75]
    np.testing.assert_allclose(times, [7.0, 0.48, 7.0, 3.0], atol=1e-3)


def test_far_apart_frames_are_reached_by_seeking(files, make, monkeypatch):
    monkeypatch.setattr("mmray.media.cuts._SEEK_GAP_S", 1.0)
    wanted = [0.5, 5.0, 11.0]
    for name in ("plain.mp4", "a.ts", "long_groups.mkv"):
        pictures, _ = read_frames(files / name, wanted, 60)
        assert [make.read_number(p) for p in pictures] == [12, 125, 275]


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_turned_pictures_are_upright(tmp_path, make, rotation):
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    picture = colours.repeat(48, 0).repeat(96, 1)
    path = make.video(
        tmp_path / "a.mp4", 5, size=(192, 96), rotation=rotation, draw=lambda *_: picture
    )
    got = read_frames(path, [0.1], 64)[0][0]
    want = np.rot90(colours, rotation // 90)
    for y, x in np.ndindex(2, 2):
        corner = got[16 + 32 * y, 16 + 32 * x].astype(int)
        np.testing.assert_allclose(corner, want[y, x], atol=40)


def test_the_centre_of_the_picture_is_kept(tmp_path, make):
    picture = np.zeros((96, 192, 3), np.uint8)
    picture[:, 48:144] = 255
    path = make.video(tmp_path / "a.mp4", 5, size=(192, 96), draw=lambda *_: picture)
    assert read_frames(path, [0.1], 48)[0].min() > 200


def test_pixels_that_are_not_square(tmp_path, make):
    # Shown twice as wide: the centre square is the middle half of the width.
    picture = np.zeros((96, 96, 3), np.uint8)
    picture[:, 24:72] = 255
    path = make.video(
        tmp_path / "a.mp4", 5, size=(96, 96), pixel_aspect=Fraction(2), draw=lambda *_: picture
    )
    got = read_frames(path, [0.1], 96)[0][0]
    assert got[:, 4:-4].min() > 200


@pytest.mark.parametrize("size", [12, 16, 24, 48, 60, 72, 224])
def test_any_size(files, size, make):
    # For some small sizes decord takes the padding of its rows for further colours.
    pictures, _ = read_frames(files / "plain.mp4", [2.0], size)
    assert pictures.shape == (1, size, size, 3)
    assert make.read_number(pictures[0]) == 50


def test_the_last_frame_stays_for_a_moment(files, make):
    pictures, times = read_frames(files / "plain.mp4", [12.5], 60)
    assert make.read_number(pictures[0]) == NUM - 1
    assert times[0] == pytest.approx(11.96, abs=1e-3)


def test_no_frame_behind_the_end(files):
    with pytest.raises(MediaError, match=r"ends at 12\.00 s, before the frame wanted at 15\.00 s"):
        read_frames(files / "plain.mp4", [1.0, 15.0], 60)


def test_no_frame_before_the_beginning(tmp_path, make):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as output:
        audio = output.add_stream("pcm_s16le", rate=44100, layout="mono")
        video = output.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.int16), "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 44100, 0, Fraction(1, 44100)
        output.mux([*audio.encode(frame), *audio.encode(None)])
        for i in range(50):
            picture = av.VideoFrame.from_ndarray(make.number(i, 64, 64), format="rgb24")
            picture.pts, picture.time_base = i + 100, Fraction(1, 25)
            output.mux(video.encode(picture))
        output.mux(video.encode(None))
    assert make.read_number(read_frames(path, [3.5], 60)[0][0]) == 0
    with pytest.raises(MediaError, match=r"starts at 4\.00 s, after the frame wanted at 1\.00 s"):
        read_frames(path, [1.0, 5.0], 60)


def test_one_frame_is_no_video(tmp_path, make):
    path = make.video(tmp_path / "a.mp4", 1, sound=np.zeros(44100 * 10, np.float32))
    with pytest.raises(MediaError, match=r"the picture ends at 0\.04 s"):
        read_frames(path, [2.5], 60)


def test_no_picture(tmp_path, make):
    with pytest.raises(MediaError, match="has no picture"):
        read_frames(make.sound(tmp_path / "a.wav", np.zeros(4410)), [0.0], 60)


def test_a_codec_that_decord_lacks_is_named(tmp_path, make):
    path = make.video(tmp_path / "a.mp4", 30, "libsvtav1", options={"preset": "12"})
    with pytest.raises(MediaError, match="av1"):
        read_frames(path, [0.5], 60)


def test_huge_and_narrow_pictures_are_refused_before_decoding(files, tmp_path, make, monkeypatch):
    monkeypatch.setattr(frames, "MAX_PIXELS", 10_000)
    with pytest.raises(MediaError, match="size of 120x120 is not supported"):
        read_frames(files / "plain.mp4", [1.0], 60)
    path = make.video(tmp_path / "a.mp4", 5, size=(320, 16))
    with pytest.raises(MediaError, match="too narrow"):
        read_frames(path, [0.0], 60)
