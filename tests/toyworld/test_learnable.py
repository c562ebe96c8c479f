"""What can be seen must be audible, neither trivially nor impossibly so."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torchaudio.functional import resample
from torchaudio.transforms import MFCC

from mmray.toyworld.video import plan_soundtrack, plan_video

RATE = 22_050


@pytest.fixture(scope="module")
def windows():
    """MFCC statistics of four windows of each of 240 videos, with the scenes in their middle."""
    mfcc = MFCC(RATE, 20, melkwargs={"n_fft": 1024, "hop_length": 512, "n_mels": 64})
    features, scenes, videos = [], [], []
    for index in range(240):
        plan = plan_video(0, index)
        wave = torch.from_numpy(plan_soundtrack(plan).wave.mean(axis=0))
        wave = resample(wave, plan.sample_rate, RATE)
        for middle in (np.arange(4) + 0.5) * plan.duration_s / 4:
            shot = next(s for s in plan.shots if s.start_s <= middle < s.end_s)
            start = max(0, int((middle - 2.5) * RATE))
            cells = mfcc(wave[start : int((middle + 2.5) * RATE)])
            features.append(torch.cat([cells.mean(1), cells.std(1)]).numpy())
            scenes.append(shot.scene)
            videos.append(index)
    return np.stack(features), scenes, np.array(videos)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["object", "place"])
def test_simple_features_hear_much_but_not_all(windows, what):
    features, scenes, videos = windows
    labels = np.array([getattr(scene, what) for scene in scenes])
    held_out = videos % 10 < 3
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=2000))
    model.fit(features[~held_out], labels[~held_out])
    assert 0.6 < model.score(features[held_out], labels[held_out]) < 0.9
