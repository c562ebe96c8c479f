import subprocess
import sys
import wave
from fractions import Fraction

import av
import numpy as np
import pytest

from mmray.errors import MediaError
from mmray.media import sound
from mmray.media.sound import SAMPLE_RATE, read_sound

SECONDS = 8
CLICKS = [0.5, 3.0, 6.25]

# name, codec, rate, channels, options
FILES = {
    "a.wav": ("pcm_s16le", 44100, 2, {}),
    "float.wav": ("pcm_f32le", 48000, 1, {}),
    "u8.wav": ("pcm_u8", 22050, 1, {}),
    "s24.wav": ("pcm_s24le", 48000, 6, {}),
    "a.flac": ("flac", 44100, 2, {}),
    "a.mp3": ("libmp3lame", 44100, 2, {}),
    "a.ogg": ("libopus", 48000, 2, {}),
    # Noise substitution draws random numbers, which differ with where decoding starts.
    "a.m4a": ("aac", 44100, 2, {"aac_pns": "0"}),
    "48.m4a": ("aac", 48000, 1, {"aac_pns": "0"}),
    "a.mov": ("pcm_s16le", 32000, 1, {}),
    "a.avi": ("pcm_s16le", 44100, 1, {}),
    "a.ts": ("aac", 44100, 2, {"aac_pns": "0"}),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory, make):
    folder = tmp_path_factory.mktemp("sound")
    for name, (codec, rate, channels, options) in FILES.items():
        mono = make.clicks(SECONDS, CLICKS, rate)
        make.sound(folder / name, np.tile(mono, (channels, 1)), codec, rate, options=options)
    return folder


def click_near(wave: np.ndarray, time: float, rate: int = SAMPLE_RATE) -> float:
    """When the click near `time` begins: the first loud sample."""
    first = round((time - 0.1) * rate)
    part = np.abs(wave[first : first + rate // 5])
    return (first + int(np.argmax(part > 0.5 * part.max()))) / rate


# An MPEG transport stream does not say that AAC begins with 23 ms of nothing.
@pytest.mark.parametrize("name", sorted(set(FILES) - {"a.ts"}))
def test_clicks_are_where_they_are(files, name):
    wave = read_sound(files / name)
    assert wave.dtype == np.float32
    assert np.abs(wave).max() <= 1.0
    assert len(wave) == pytest.approx(SECONDS * SAMPLE_RATE, abs=0.06 * SAMPLE_RATE)
    for time in CLICKS:
        assert click_near(wave, time) == pytest.approx(time, abs=1e-3)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("start", [2.9, 4.0, 6.2])
def test_a_window_is_that_part_of_the_whole(files, name, start):
    whole = read_sound(files / name)
    part = read_sound(files / name, start, 1.5)
    first = round(start * SAMPLE_RATE)
    assert len(part) == round((start + 1.5) * SAMPLE_RATE) - first
    np.testing.assert_allclose(part, whole[first : first + len(part)], atol=2e-6)


def test_neighbouring_windows_join_without_a_seam(files):
    whole = read_sound(files / "a.m4a")
    parts = [read_sound(files / "a.m4a", start, 0.7) for start in np.arange(0, 7.5, 0.7)]
    joined = np.concatenate(parts)
    np.testing.assert_allclose(joined, whole[: len(joined)], atol=2e-6)


def test_matroska_is_right_to_its_own_clock_of_a_millisecond(tmp_path, make):
    mono = make.clicks(SECONDS, CLICKS)
    path = make.video(tmp_path / "a.mkv", SECONDS * 25, sound=mono)
    for start in (0.0, 2.5, 5.9):
        wave = read_sound(path, start, 2)
        time = next(time for time in CLICKS if time > start)
        assert start + click_near(wave, time - start) == pytest.approx(time, abs=1e-3)


def test_the_start_of_the_file_is_time_zero_in_all_streams(tmp_path, make):
    # The sound begins 2 s after the picture; its samples must not move to the start.
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as output:
        video = output.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        audio = output.add_stream("pcm_s16le", rate=44100, layout="mono")
        for i in range(100):
            frame = av.VideoFrame.from_ndarray(make.number(i, 64, 64), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        block = np.ascontiguousarray(make.clicks(2, [1.0])[None])
        frame = av.AudioFrame.from_ndarray((block * 32767).astype(np.int16), "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 44100, 88200, Fraction(1, 44100)
        output.mux(audio.encode(frame))
        output.mux(audio.encode(None))
    wave = read_sound(path)
    assert len(wave) == 4 * SAMPLE_RATE
    assert not wave[: 2 * SAMPLE_RATE - 100].any()
    assert click_near(wave, 3.0) == pytest.approx(3.0, abs=1e-3)
    assert click_near(read_sound(path, 2.5, 1), 0.5) == pytest.approx(0.5, abs=1e-3)


def test_all_channels_are_averaged(tmp_path, make):
    # Down-mixing by layout would drop the bass channel and weigh the centre.
    levels = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    path = make.sound(tmp_path / "a.wav", np.tile(levels[:, None], (1, 22050)), rate=22050)
    np.testing.assert_allclose(read_sound(path), levels.mean(), atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3, 8, 12])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_any_number_of_channels_without_layout(tmp_path, channels, width):
    path = tmp_path / "a.wav"
    levels = np.linspace(0.05, 0.6, channels)
    unit = 2 ** (8 * width - 1)
    values = np.rint(levels * unit).astype(np.int64) + (128 if width == 1 else 0)
    frame = b"".join(int(v).to_bytes(width, "little") for v in values)
    with wave.open(str(path), "wb") as output:
        output.setparams((channels, width, 22050, 0, "NONE", ""))
        output.writeframes(frame * 22050)
    result = read_sound(path)
    assert len(result) == 22050
    np.testing.assert_allclose(result, levels.mean(), atol=1 / 64 if width == 1 else 1e-3)


def test_eight_planar_channels(tmp_path):
    path = tmp_path / "a.m4a"
    t = np.arange(44100) / 44100
    levels = np.linspace(0.05, 0.4, 8)
    packed = (levels[None] * np.sin(2 * np.pi * 200 * t)[:, None]).astype(np.float32)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=44100, layout="7.1")
        frame = av.AudioFrame.from_ndarray(packed.reshape(1, -1), format="flt", layout="7.1")
        frame.sample_rate, frame.pts, frame.time_base = 44100, 0, Fraction(1, 44100)
        resampler = av.AudioResampler(format="fltp", layout="7.1", frame_size=1024)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    result = read_sound(path, 0.2, 0.5)
    # The eighth channel is for bass and coded with a lower bandwidth, but 200 Hz passes.
    assert np.abs(result).max() == pytest.approx(levels.mean(), rel=0.1)


def test_resampling_keeps_the_tone_and_removes_what_would_alias(tmp_path, make):
    t = np.arange(44100 * 2) / 44100
    tones = 0.4 * np.sin(2 * np.pi * 1000 * t) + 0.4 * np.sin(2 * np.pi * 17000 * t)
    spectrum = np.abs(np.fft.rfft(read_sound(make.sound(tmp_path / "a.wav", tones))[:22050]))
    assert spectrum[1000] / 11025 == pytest.approx(0.4, rel=0.02)
    assert spectrum[22050 - 17000] / 11025 < 0.002


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_the_rate_wanted_is_the_rate_given(files, rate):
    wave = read_sound(files / "a.flac", 1.0, 3.0, rate)
    assert len(wave) == 3 * rate
    assert click_near(wave, 2.0, rate) == pytest.approx(2.0, abs=1e-3)


def test_a_window_over_the_end_is_shorter_and_not_padded(files):
    assert len(read_sound(files / "a.wav", 7.0, 20.0)) == SAMPLE_RATE


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.m4a", "a.ogg"])
@pytest.mark.parametrize("start", [8.2, 60.0, 1e6])
def test_a_window_behind_the_end_is_an_error_that_says_where_it_is(files, name, start):
    with pytest.raises(MediaError, match=r"the sound ends at [78]\.\d\d s, before this window"):
        read_sound(files / name, start, 5.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path, make, bad):
    samples = np.zeros(44100, np.float32)
    samples[30000] = bad
    path = make.sound(tmp_path / "a.wav", samples, "pcm_f32le")
    with pytest.raises(MediaError, match="not finite") as error:
        read_sound(path)
    assert error.value.stage == "sound"
    assert len(read_sound(path, 0.0, 0.5)) == 11025


@pytest.mark.parametrize("rate", [1, 1_275_116_416])
def test_impossible_rates_are_refused(tmp_path, rate):
    # At 1 Hz a small file would become gigabytes at the rate wanted.
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as output:
        output.setparams((1, 2, rate, 0, "NONE", ""))
        output.writeframes(bytes(100_000))
    with pytest.raises(MediaError, match=f"impossible sample rate of {rate} Hz"):
        read_sound(path)


def test_sound_full_of_damaged_packets_is_refused(tmp_path, files):
    data = bytearray((files / "a.flac").read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(5000, len(data), 400):
        data[place] ^= 0xFF
    path = tmp_path / "a.flac"
    path.write_bytes(data)
    with pytest.raises(MediaError, match="more than 5% of the sound's packets are damaged"):
        read_sound(path)


def test_too_loud_samples_are_clipped(tmp_path, make):
    path = make.sound(tmp_path / "a.wav", np.full(44100, 3.0), "pcm_f32le")
    assert read_sound(path).max() == 1.0


def test_no_sound(tmp_path, make):
    with pytest.raises(MediaError, match="has no sound") as error:
        read_sound(make.video(tmp_path / "a.mp4", 5))
    assert (error.value.stage, error.value.uri) == ("sound", str(tmp_path / "a.mp4"))


@pytest.mark.parametrize("name", ["a.flac", "fast.m4a"])
def test_a_file_cut_off_is_an_error_from_there_on(tmp_path, make, files, name):
    path = tmp_path / name
    if name == "fast.m4a":  # the index comes first and promises the whole
        tone = make.clicks(SECONDS, CLICKS)
        options = {"movflags": "faststart"}
        with av.open(str(path), "w", options=options) as output:
            make.add_sound(output, tone[None], "aac", 44100)
    else:
        path.write_bytes((files / name).read_bytes())
    whole = read_sound(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    np.testing.assert_allclose(read_sound(path, 0.0, 2.0), whole[: 2 * SAMPLE_RATE], atol=1e-6)
    for window in ((0.0, None), (2.0, 4.0), (7.0, 1.0)):
        with pytest.raises(MediaError, match=r"(is cut off|the sound ends at|damaged)"):
            read_sound(path, *window)


def test_too_long_for_one_reading(monkeypatch, files):
    monkeypatch.setattr(sound, "MAX_SOUND_S", 5)
    with pytest.raises(MediaError, match="read it in windows"):
        read_sound(files / "a.wav")
    assert len(read_sound(files / "a.wav", 1.0, 4.5)) == 4.5 * SAMPLE_RATE


def test_windows_that_make_no_sense_are_the_callers_mistake(files):
    for start, duration in ((-1.0, 1.0), (0.0, 0.0), (0.0, -1.0)):
        with pytest.raises(ValueError, match="no such window"):
            read_sound(files / "a.wav", start, duration)


def test_pcm16_round_trip_is_exact():
    values = np.arange(-32768, 32768, dtype="<i2")
    assert sound.to_pcm16(sound.from_pcm16(values.tobytes())) == values.tobytes()
    assert np.frombuffer(sound.to_pcm16(np.array([2.0, -2.0])), "<i2").tolist() == [32767, -32768]
    assert sound.from_pcm16(b"").shape == (0,)


@pytest.mark.parametrize("rate", [22050, 44100])
@pytest.mark.parametrize("num_samples", [1, 1000, 50000])
def test_flac_round_trip_is_lossless(num_samples, rate):
    wave = np.random.default_rng(0).uniform(-1, 1, num_samples).astype(np.float32)
    data = sound.to_flac(wave, rate)
    np.testing.assert_array_equal(sound.from_flac(data), sound.from_pcm16(sound.to_pcm16(wave)))


def test_what_is_no_flac_is_refused():
    for data in (b"", b"nonsense" * 100):
        with pytest.raises(MediaError, match="is not a FLAC file"):
            sound.from_flac(data)


LEAK = """
import sys, psutil
from mmray.media.sound import read_sound
process = psutil.Process()
for i in range(600):
    read_sound(sys.argv[1], 2.0, 5.0)
    if i == 200:
        before = process.memory_info().rss
print((process.memory_info().rss - before) / 2**20)
"""


def test_nothing_leaks(files):
    # decord's AudioReader would lose 400 times half a MiB here.
    command = [sys.executable, "-c", LEAK, str(files / "a.m4a")]
    growth = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert float(growth) < 10
