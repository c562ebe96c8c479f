"""Sounds as pages show them: an MP3 file to play, and a spectrogram to see."""

from __future__ import annotations

import io

import av
import numpy as np
from av.audio.frame import AudioFrame
from PIL import Image

from mmray.soundnet.predict import resample

BIT_RATE = 32_000
RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
"""That MP3 has, in Hz."""
LOW_HZ = 50.0
RANGE_DB = 70.0
_BANDS = 48
_STOPS = np.array(  # of viridis, from quiet to loud
    [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], np.float32
)


def mp3(wave: np.ndarray, sample_rate: int) -> bytes:
    """float [n] in [-1, 1] as a mono MP3 file, which every browser plays.

    Quiet sounds are brought up to a common loudness of their peaks.
    """
    if not len(wave):
        wave = np.zeros(1)
    if sample_rate not in RATES:
        wanted = next((rate for rate in RATES if rate >= sample_rate), RATES[-1])
        wave, sample_rate = resample(wave.astype(np.float32), sample_rate, wanted), wanted
    peak = float(np.abs(wave).max(initial=0.0))
    loud = wave * (0.8 / peak) if peak > 1e-4 else wave
    samples = np.clip(np.rint(loud * 32767), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp3") as output:
        # Level 7 takes half the time of the default, and nobody hears it at this rate.
        options = {"compression_level": "7"}
        stream = output.add_stream("libmp3lame", sample_rate, options=options, layout="mono")
        stream.bit_rate = BIT_RATE
        frame = AudioFrame.from_ndarray(samples[None], format="s16p", layout="mono")
        frame.sample_rate, frame.pts = sample_rate, 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def spectrogram(wave: np.ndarray, sample_rate: int, width: int = 160) -> bytes:
    """A small picture (WebP) of a sound: time to the right, `_BANDS` mel bands upwards.

    Colours go from the loudest band of the picture down by `RANGE_DB` decibels.
    """
    import torch
    from torchaudio.functional import melscale_fbanks

    size = 1024
    padded = np.pad(wave.astype(np.float32), size // 2)
    hop = max(1, len(wave) // width)
    starts = (np.arange(width) * hop).clip(0, max(0, len(padded) - size))
    frames = np.stack([np.resize(padded[s : s + size], size) for s in starts])
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2
    with torch.inference_mode():
        bands = melscale_fbanks(size // 2 + 1, LOW_HZ, sample_rate / 2, _BANDS, sample_rate).numpy()
    decibels = 10 * np.log10(power @ bands + 1e-10)
    level = np.clip((decibels - decibels.max()) / RANGE_DB + 1, 0, 1).T[::-1]
    place = level * (len(_STOPS) - 1)
    low = np.minimum(place.astype(int), len(_STOPS) - 2)
    part = (place - low)[..., None]
    pixels = _STOPS[low] * (1 - part) + _STOPS[low + 1] * part
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "WEBP", quality=70)
    return buffer.getvalue()
