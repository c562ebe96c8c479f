"""Files that are broken on purpose."""

from dataclasses import replace

import av
import pytest

from mmray.toyworld.broken import BROKEN_KINDS, write_broken
from mmray.toyworld.video import plan_video


@pytest.fixture(scope="module")
def plan():
    plan = plan_video(0, 0)
    shot = replace(plan.shots[0], start_s=0.0, end_s=float(20 / plan.fps))
    return replace(plan, num_frames=20, shots=(shot,))


def streams(path):
    with av.open(str(path)) as container:
        return sorted(s.type for s in container.streams)


def count(path, kind):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(**{kind: 0}))


def pictures(path):
    """The pictures that can be decoded before the first error, as bytes."""
    seen = []
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                seen.append(frame.to_ndarray(format="rgb24").tobytes())
    except av.FFmpegError:
        pass
    return seen


@pytest.fixture(scope="module")
def files(plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    for kind in BROKEN_KINDS:
        write_broken(kind, plan, folder / f"{kind}.mp4")
    return {kind: folder / f"{kind}.mp4" for kind in BROKEN_KINDS}


def test_writing_again_gives_the_same_bytes(plan, files, tmp_path):
    for kind in ("garbage", "png_image", "truncated"):
        write_broken(kind, plan, tmp_path / "again.mp4")
        assert (tmp_path / "again.mp4").read_bytes() == files[kind].read_bytes()


@pytest.mark.parametrize("kind", ["empty", "garbage", "text_file", "truncated"])
def test_cannot_be_opened(files, kind):
    with pytest.raises(av.FFmpegError):
        streams(files[kind])


def test_empty(files):
    assert files["empty"].stat().st_size == 0


def test_png_image(files):
    assert files["png_image"].read_bytes().startswith(b"\x89PNG")


def test_streams_that_are_missing(files):
    assert streams(files["no_sound"]) == ["video"]
    assert streams(files["no_picture"]) == ["audio"]
    assert count(files["no_sound"], "video") == 20


def test_one_frame(files):
    assert streams(files["one_frame"]) == ["audio", "video"]
    assert count(files["one_frame"], "video") == 1


def test_zero_length(files):
    with av.open(str(files["zero_length"])) as container:
        assert not container.duration
        assert sum(1 for packet in container.demux() if packet.size) == 0


def test_cut_short_promises_more_than_it_holds(plan, files):
    with av.open(str(files["cut_short"])) as container:
        assert container.duration / 1e6 == pytest.approx(plan.duration_s, abs=0.1)
    assert 0 < len(pictures(files["cut_short"])) < 20


def test_damaged_opens_but_does_not_decode_as_rendered(plan, files, tmp_path):
    assert streams(files["damaged"]) == ["audio", "video"]
    write_broken("no_sound", plan, tmp_path / "whole.mp4")

    assert pictures(files["damaged"]) != pictures(tmp_path / "whole.mp4")
