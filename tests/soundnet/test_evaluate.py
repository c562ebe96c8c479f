"""Agreement with the teachers, and accuracy against the truth, on datasets with known answers."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from mmray import storage
from mmray.errors import UserError
from mmray.media.sound import to_flac, to_pcm16
from mmray.pipeline.dataset import Dataset, tensor_column, write_table
from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.evaluate import agreement_table, evaluate
from mmray.soundnet.model import SoundNetModel
from mmray.soundnet.predict import SoundNet

RATE = 22050
OBJECTS, SCENES = ["bell", "dog", "train"], ["beach", "office"]
FRAMES = 2


def tone(hz: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    return (0.4 * np.sin(2 * np.pi * hz * t) + 0.01 * rng.normal(size=len(t))).astype(np.float32)


def make_dataset(
    folder: Path,
    clips: int = 40,
    audio: str = "pcm16",
    truth: bool = True,
    seconds: float = 4.0,
    objects: list[str] = OBJECTS,
) -> Dataset:
    """Clips whose frames hold a tone that tells the object; the teacher is right in most."""
    rng = np.random.default_rng(0)
    rows: dict[str, list] = {name: [] for name in ("audio", "objects", "scenes", "frame_labels")}
    for _ in range(clips):
        true = rng.integers(len(objects), size=FRAMES)
        wave = np.concatenate([tone(300.0 * 2**k, seconds / FRAMES, rng) for k in true])
        rows["audio"].append(to_flac(wave, RATE) if audio == "flac" else to_pcm16(wave))
        seen = np.where(rng.random(FRAMES) < 0.8, true, (true + 1) % len(objects))
        posterior = np.full((FRAMES, len(objects)), 0.1)
        posterior[np.arange(FRAMES), seen] = 1
        rows["objects"].append(posterior / posterior.sum(-1, keepdims=True))
        rows["scenes"].append(np.tile([0.75, 0.25], (FRAMES, 1)))
        labels = [[f"object:{objects[k]}", "place:office"] for k in true]
        rows["frame_labels"].append(labels if truth else [[] for _ in true])
    times = [(np.arange(FRAMES) + 0.5) * seconds / FRAMES] * clips
    table = pa.table(
        {
            "id": [f"clip-{i}" for i in range(clips)],
            "split": ["train" if i % 4 else "test" for i in range(clips)],
            "duration_s": pa.array([seconds] * clips, pa.float64()),
            "sample_rate": pa.array([RATE] * clips, pa.int32()),
            "audio": pa.array(rows["audio"], pa.large_binary()),
            "frame_times": tensor_column(times, [FRAMES], "float32"),
            "objects": tensor_column(rows["objects"], [FRAMES, len(objects)], "float16"),
            "scenes": tensor_column(rows["scenes"], [FRAMES, 2], "float16"),
            "frame_labels": pa.array(rows["frame_labels"], pa.list_(pa.list_(pa.string()))),
        }
    )
    write_table(f"{folder}/part-00000.parquet", table)
    manifest = {
        "kind": "clips",
        "schema_version": 1,
        "options": {"audio": audio},
        "teachers": {"objects": {"classes": objects}, "scenes": {"classes": SCENES}},
        "counts": {"rows": clips, "errors": 0},
    }
    storage.write_json(f"{folder}/manifest.json", manifest)
    return Dataset(str(folder))


class Oracle(SoundNet):
    """Knows the posteriors that a dataset's teachers gave to its test clips, frame by frame."""

    def __init__(self, data: Dataset, classes: dict[str, list[str]], mix: float = 0.0) -> None:
        super().__init__(SoundNetModel(SoundNetConfig("soundnet5", **classes)), "cpu")
        table = data.read(["objects", "scenes"], "test")
        self.seen = {
            head: np.stack([np.array(x) for x in table[head].to_numpy()]).reshape(
                table.num_rows, FRAMES, -1
            )
            for head in classes
        }
        self.mix, self.done = mix, 0

    def log_probabilities(self, waveforms, sample_rate, frame_times, window_s):
        rows = slice(self.done, self.done + len(waveforms))
        self.done += len(waveforms)
        result = {}
        for head, p in self.seen.items():
            p = p[rows].astype(np.float64)
            p /= p.sum(-1, keepdims=True)
            result[head] = np.log((1 - self.mix) * p + self.mix / p.shape[-1])
        return result


def test_a_student_that_says_the_same_agrees_fully(tmp_path):
    data = make_dataset(tmp_path)
    metrics = evaluate(Oracle(data, {"objects": OBJECTS, "scenes": SCENES}), data, batch_size=3)
    assert metrics["clips"] == 10
    assert metrics["frames"] == 20
    for head in ("objects", "scenes"):
        assert metrics[f"{head}.top1"] == metrics[f"{head}.top5"] == 1
        assert metrics[f"{head}.kl"] == pytest.approx(0, abs=1e-9)
        assert metrics[f"{head}.top1_ci95"] == 0
    assert metrics["labels.objects"] == metrics["labels.teacher_objects"]


def test_kl_and_prior_are_those_of_the_definition(tmp_path):
    data = make_dataset(tmp_path)
    metrics = evaluate(Oracle(data, {"objects": OBJECTS}, mix=0.5), data)
    p = np.array([1.0, 0.1, 0.1]) / 1.2
    q = 0.5 * p + 0.5 / 3
    assert metrics["objects.kl"] == pytest.approx(float((p * np.log(p / q)).sum()), rel=1e-3)
    train = np.stack(data.read(["objects"], "train")["objects"].to_numpy()).reshape(-1, 3)
    test = np.stack(data.read(["objects"], "test")["objects"].to_numpy()).reshape(-1, 3)
    prior = train.mean(0, dtype=np.float64)
    expected = (test * np.log(test.astype(np.float64) / prior)).sum(-1).mean()
    assert metrics["objects.kl_prior"] == pytest.approx(expected, rel=1e-2)
    expected = (test.argmax(-1) == prior.argmax()).mean()
    assert metrics["objects.top1_prior"] == pytest.approx(expected)
    assert metrics["objects.top5_prior"] == 1
    assert "scenes.kl" not in metrics


@pytest.mark.parametrize("audio", ["pcm16", "flac"])
def test_truth_and_the_supervised_baseline(tmp_path, audio):
    data = make_dataset(tmp_path, audio=audio)
    metrics = evaluate(Oracle(data, {"objects": OBJECTS, "scenes": SCENES}), data)
    assert metrics["labels.frames_objects"] == 20
    assert 0.5 < metrics["labels.teacher_objects"] < 1
    # Tones of different pitch are easy for MFCCs; the baseline hears each frame's own part.
    assert metrics["labels.mfcc_objects"] == 1
    assert metrics["labels.prior_objects"] < 0.8
    # All frames are in the office, but the teacher says beach.
    assert metrics["labels.scenes"] == 0
    assert metrics["labels.prior_scenes"] == 1
    assert "labels.mfcc_scenes" not in metrics


def test_a_real_student_and_its_table(tmp_path):
    data = make_dataset(tmp_path)
    torch.manual_seed(0)
    model = SoundNetModel(SoundNetConfig(objects=OBJECTS, scenes=SCENES))
    metrics = evaluate(SoundNet(model, "cpu"), data, limit=4)
    assert metrics["clips"] == 4
    assert metrics["objects.kl"] > 0
    table = agreement_table(metrics)
    assert table.row_count == 8
    assert len(table.columns) == 5


def test_classes_in_another_order_are_matched_by_name(tmp_path):
    data = make_dataset(tmp_path)
    student = Oracle(data, {"objects": OBJECTS})
    student.model.config.objects = [OBJECTS[i] for i in (2, 0, 1)]
    student.seen["objects"] = student.seen["objects"][..., [2, 0, 1]]
    assert evaluate(student, data)["objects.top1"] == 1


def test_no_truth_leaves_the_labels_out(tmp_path):
    data = make_dataset(tmp_path, truth=False)
    metrics = evaluate(Oracle(data, {"objects": OBJECTS}), data)
    assert not [name for name in metrics if name.startswith("labels.")]


def test_a_model_of_other_classes_is_refused(tmp_path):
    data = make_dataset(tmp_path)
    model = SoundNetModel(SoundNetConfig("soundnet5", objects=["x", "y"]))
    with pytest.raises(UserError, match="no teacher and no true label has the model's classes"):
        evaluate(SoundNet(model, "cpu"), data)


def test_an_empty_split_is_refused(tmp_path):
    data = make_dataset(tmp_path)
    with pytest.raises(UserError, match="no clips in the split 'val'"):
        evaluate(Oracle(data, {"objects": OBJECTS}), data, split="val")
