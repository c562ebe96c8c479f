"""What a learned ear has to beat: MFCC statistics under a linear classifier."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torchaudio.transforms import MFCC

COEFFICIENTS = 20
WINDOW_S, HOP_S = 0.025, 0.010
MEL_BANDS = 40


def mfcc_statistics(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """Mean and standard deviation over time of 20 MFCCs (25 ms windows every 10 ms, 40 mels).

    Args:
        wave: float32 [samples]; repeated when shorter than one window.
        sample_rate: in Hz.

    Returns:
        float32 [40].
    """
    import torch

    transform = _mfcc(sample_rate)
    if len(wave) < transform.MelSpectrogram.n_fft:
        wave = np.resize(wave, transform.MelSpectrogram.n_fft)
    with torch.inference_mode():
        x = transform(torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))).numpy()
    return np.concatenate([x.mean(axis=1), x.std(axis=1)])


@functools.cache
def _mfcc(sample_rate: int) -> MFCC:
    from torchaudio.transforms import MFCC

    window = round(WINDOW_S * sample_rate)
    hop = round(HOP_S * sample_rate)
    return MFCC(
        sample_rate,
        n_mfcc=COEFFICIENTS,
        melkwargs={"n_fft": window, "hop_length": hop, "n_mels": MEL_BANDS},
    )
