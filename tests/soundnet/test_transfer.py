"""A linear SVM on each layer, on sets whose answer is known."""

import csv
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from mmray.errors import UserError
from mmray.soundnet.baselines import mfcc_statistics
from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.model import SoundNetModel
from mmray.soundnet.predict import SoundNet
from mmray.soundnet.transfer import pooled, transfer, transfer_table
from mmray.sources import SoundItem, sounds

RATE = 22050


def write_wav(path: Path, samples: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as f:
        f.setparams((1, 2, RATE, 0, "NONE", ""))
        f.writeframes((samples * 32767).astype("<i2").tobytes())


def sound(kind: str, seed: int) -> np.ndarray:
    """Half a second of a tone, of noise, or of clicks; as loud as the others."""
    rng = np.random.default_rng(seed)
    t = np.arange(RATE // 2) / RATE
    if kind == "tone":
        x = np.sin(2 * np.pi * rng.uniform(300, 900) * t)
    elif kind == "noise":
        x = rng.normal(size=len(t))
    else:
        x = (rng.random(len(t)) < 0.002).astype(float)
    return 0.3 * x / np.abs(x).max()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three classes of 6 sounds, and one of 3 that is too small for five folds."""
    root = tmp_path_factory.mktemp("sounds")
    for label, count in {"tone": 6, "noise": 6, "clicks": 6, "rare": 3}.items():
        for i in range(count):
            write_wav(root / label / f"{i}.wav", sound(label, i))
    return root


@pytest.fixture(scope="module")
def net() -> SoundNet:
    torch.manual_seed(0)
    return SoundNet(SoundNetModel(SoundNetConfig("soundnet5", objects=["a", "b"])), "cpu")


def test_sounds_that_differ_are_told_apart(folder, net):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    metrics = transfer(net, sounds(f"folder:{folder}"), ["conv2", "conv4"])
    assert metrics["transfer.sounds"] == 18
    assert metrics["transfer.classes"] == 3
    assert metrics["transfer.folds"] == 5
    assert metrics["transfer.skipped"] == 0
    assert metrics["transfer.mfcc"] > 0.9
    assert metrics["transfer.conv2"] > 0.8
    assert metrics["transfer.untrained_conv4"] > 0.5
    assert metrics["transfer.commonest"] == pytest.approx(1 / 3)
    assert transfer_table(metrics).row_count == 4
    # The untrained net left the caller's random numbers alone.
    assert torch.equal(torch.rand(3), expected)


def test_labels_that_mean_nothing_stay_at_chance(folder, net):
    items = sounds(f"folder:{folder}")
    rng = np.random.default_rng(0)
    labels = rng.permutation(["x", "y"] * 12)
    shuffled = [
        SoundItem(i.uri, i.key, str(label)) for i, label in zip(items, labels, strict=False)
    ]
    assert transfer(net, shuffled, ["conv3"])["transfer.mfcc"] < 0.8


def test_esc50_folds_are_used(folder, net, tmp_path):
    """A class that is only in fold 1 cannot be learned when fold 1 is the test."""
    rows = []
    for i, label in enumerate(["tone", "noise"] * 4):
        write_wav(tmp_path / "audio" / f"{i}.wav", sound(label, i))
        rows.append({"filename": f"{i}.wav", "fold": 1 if label == "tone" else 2})
        rows[-1] |= {"target": 0, "category": label, "esc10": "False"}
    rows[-1]["fold"] = 1
    (tmp_path / "meta").mkdir()
    with (tmp_path / "meta" / "esc50.csv").open("w", newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        for row in [*rows, {**rows[0], "filename": "0.wav", "fold": 2}]:
            writer.writerow(row)
    metrics = transfer(net, sounds(f"esc50:{tmp_path}"), ["conv3"])
    assert metrics["transfer.folds"] == 2
    assert metrics["transfer.sounds"] == 9


def test_unreadable_sounds_are_left_out_and_counted(folder, net, tmp_path):
    items = list(sounds(f"folder:{folder}"))
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF nothing")
    items.append(SoundItem(str(broken), "tone/broken.wav", "tone"))
    assert transfer(net, items, ["conv2"])["transfer.skipped"] == 1
    items = [SoundItem(str(broken), f"broken{i}.wav", "ab"[i % 2]) for i in range(10)]
    with pytest.raises(UserError, match="10 of 10 sounds cannot be read"):
        transfer(net, items, ["conv2"])


def test_sets_without_enough_classes_are_refused(folder, net):
    items = [i for i in sounds(f"folder:{folder}") if i.label in ("tone", "rare")]
    with pytest.raises(UserError, match="holds 1 usable classes; expected at least 2"):
        transfer(net, items, ["conv3"])
    with pytest.raises(UserError, match="all sounds are in one fold"):
        transfer(net, [SoundItem(i.uri, i.key, i.label, 1) for i in items], ["conv3"])
    with pytest.raises(UserError, match="has the layers"):
        transfer(net, items, ["conv9"])


def test_pooled_is_mean_then_maximum():
    assert pooled(np.array([[1.0, 3.0], [0.0, 8.0]])).tolist() == [2, 4, 3, 8]


def test_mfcc_statistics():
    quiet, loud = (mfcc_statistics(np.float32(a) * sound("noise", 0), RATE) for a in (0.1, 0.9))
    assert quiet.shape == (40,)
    # Loudness is in the first coefficient alone.
    assert abs(loud[0] - quiet[0]) > 10 * np.abs(loud[1:20] - quiet[1:20]).max()
    assert np.isfinite(mfcc_statistics(np.zeros(3, np.float32), RATE)).all()


@pytest.mark.real
def test_layers_of_the_official_net_rank_as_published_on_sonic_pi(official_weights):
    try:
        items = sounds("sonicpi:")
    except UserError as e:
        pytest.skip(f"needs Debian's sonic-pi-samples ({e})")
    net = SoundNet.load(f"official:{official_weights}", "cpu")
    metrics = transfer(net, items, ["conv3", "conv4", "pool5", "conv6"])
    assert metrics["transfer.sounds"] == 150
    assert metrics["transfer.classes"] == 10
    conv3, conv4, pool5 = (metrics[f"transfer.{x}"] for x in ("conv3", "conv4", "pool5"))
    assert conv3 < conv4 < pool5
    assert pool5 >= 0.64 - 1e-9
    assert metrics["transfer.mfcc"] == pytest.approx(0.40, abs=0.03)
    assert metrics["transfer.conv6"] < pool5
    assert metrics["transfer.untrained_pool5"] < pool5 - 0.1
