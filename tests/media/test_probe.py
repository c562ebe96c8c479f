import struct
import wave

import av
import numpy as np
import pytest
from PIL import Image

from mmray.errors import MediaError
from mmray.media.probe import MediaInfo, probe


def reason(path) -> str:
    with pytest.raises(MediaError) as error:
        probe(path)
    assert error.value.stage == "probe"
    return error.value.reason


def test_video_with_sound(clip_file):
    info = probe(clip_file)
    assert info == MediaInfo(
        duration_s=pytest.approx(6.0, abs=0.05),
        has_video=True,
        has_sound=True,
        width=120,
        height=120,
        fps=25.0,
        sample_rate=44100,
        channels=1,
        is_still=False,
    )


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg", "a.m4a", "a.aac", "a.mkv"])
def test_sound_alone(tmp_path, make, name):
    codecs = {"wav": "pcm_s16le", "flac": "flac", "mp3": "libmp3lame", "ogg": "libopus"}
    codec = codecs.get(name[2:], "aac")
    make.sound(tmp_path / name, np.zeros((2, 96000)), codec, 48000)
    info = probe(tmp_path / name)
    assert (info.has_video, info.has_sound, info.channels) == (False, True, 2)
    assert info.sample_rate == 48000
    assert info.duration_s == pytest.approx(2.0, abs=0.2)


def test_a_header_without_duration_is_measured(tmp_path, make):
    # A stream that is written to a pipe has no duration in its header.
    path = make.video(tmp_path / "a.mkv", 50, container_options={"live": "1"})
    assert probe(path).duration_s == pytest.approx(2.0, abs=0.1)


def test_cover_art_is_no_picture(tmp_path, make):
    path = tmp_path / "a.mp3"
    cover = tmp_path / "cover.png"
    Image.fromarray(make.number(5, 64, 64)).save(cover)
    with av.open(str(path), "w") as output, av.open(str(cover)) as source:
        sound = output.add_stream("libmp3lame", rate=44100, layout="mono")
        picture = output.add_stream_from_template(source.streams.video[0])
        picture.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 44100), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 44100
        packets = [*sound.encode(frame), *sound.encode(None)]
        for packet in source.demux():
            if packet.size:
                packet.stream = picture
                output.mux(packet)
        output.mux(packets)
    info = probe(path)
    assert not info.has_video
    assert info.has_sound


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "mp4"])
def test_pictures_are_stills_whatever_their_name(tmp_path, make, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(make.number(5, 64, 48)).save(path, "PNG" if suffix == "mp4" else None)
    info = probe(path)
    assert (info.has_video, info.has_sound, info.is_still) == (True, False, True)
    assert (info.width, info.height, info.duration_s) == (64, 48, 0.0)


def test_a_video_of_one_frame_is_a_still(tmp_path, make):
    assert probe(make.video(tmp_path / "a.mp4", 1)).is_still
    assert not probe(make.video(tmp_path / "b.mp4", 2)).is_still


def test_sound_without_samples(tmp_path):
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as output:
        output.setparams((1, 2, 22050, 0, "NONE", ""))
    assert "impossible duration: 0 s" in reason(path)


@pytest.mark.parametrize("milliseconds", [1e12, 31 * 24 * 3600e3, -1000.0])
def test_absurd_durations_are_refused(tmp_path, make, milliseconds):
    path = make.video(tmp_path / "a.mkv", 5)
    data = bytearray(path.read_bytes())
    start = data.find(b"\x44\x89\x88") + 3  # Matroska's Duration, 8 bytes long
    assert struct.unpack_from(">d", data, start)[0] == pytest.approx(200)
    struct.pack_into(">d", data, start, milliseconds)
    path.write_bytes(data)
    assert "impossible duration" in reason(path)


@pytest.mark.parametrize("milliseconds", [0.0, float("nan")])
def test_a_duration_that_is_none_is_measured(tmp_path, make, milliseconds):
    path = make.video(tmp_path / "a.mkv", 50)
    data = bytearray(path.read_bytes())
    struct.pack_into(">d", data, data.find(b"\x44\x89\x88") + 3, milliseconds)
    path.write_bytes(data)
    # FFmpeg takes it for unknown, and the packets are asked.
    assert probe(path).duration_s == pytest.approx(2.0, abs=0.1)


def test_a_claim_that_is_long_for_the_file_is_measured(tmp_path, make):
    path = make.video(tmp_path / "a.mkv", 50)
    data = bytearray(path.read_bytes())
    assert len(data) < 60_000
    struct.pack_into(">d", data, data.find(b"\x44\x89\x88") + 3, 60_000.0)  # milliseconds
    path.write_bytes(data)
    assert probe(path).duration_s == pytest.approx(2.0, abs=0.1)


def test_neither_picture_nor_sound(tmp_path, make):
    cover = tmp_path / "cover.png"
    Image.fromarray(make.number(5, 64, 64)).save(cover)
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as output, av.open(str(cover)) as source:
        stream = output.add_stream_from_template(source.streams.video[0])
        stream.disposition = av.stream.Disposition.attached_pic
        packet = next(source.demux())
        packet.stream = stream
        output.mux(packet)
    assert "neither a picture nor a sound" in reason(path)


def test_a_length_that_its_bytes_cannot_hold(clip_file, monkeypatch):
    monkeypatch.setattr("mmray.media.probe.MIN_BYTES_PER_S", 1e6)  # as if it claimed to be long
    assert "has an impossible duration" in reason(clip_file)
