"""The stages that hear files, on real files and broken ones."""

import pickle
import wave
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mmray.media.sound import read_sound
from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.model import SoundNetModel, save_model
from mmray.soundnet.predict import SoundNet
from mmray.soundnet.stages import SOUND_SCHEMA, HearSounds, ReadSounds, SplitSounds

RATE = 22050
OBJECTS, SCENES = ["a", "b", "c"], ["x", "y"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    torch.manual_seed(0)
    config = SoundNetConfig("soundnet5", objects=OBJECTS, scenes=SCENES, frame_s=1.0)
    folder = str(tmp_path_factory.mktemp("model"))
    save_model(folder, SoundNetModel(config))
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> pa.Table:
    """Two good sounds, a file that is none, and one that is missing."""
    folder: Path = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for name, seconds in (("long", 7.0), ("short", 2.0)):
        with wave.open(str(folder / f"{name}.wav"), "wb") as f:
            f.setparams((1, 2, 44100, 0, "NONE", ""))
            f.writeframes(rng.integers(-9000, 9000, int(44100 * seconds)).astype("<i2").tobytes())
    (folder / "text.wav").write_text("no sound at all")
    files = ["long.wav", "text.wav", "short.wav", "missing.wav"]
    table = [{"id": f.split(".")[0], "uri": str(folder / f)} for f in files]
    return pa.Table.from_pylist(table, schema=SOUND_SCHEMA)


def through(stage, rows: pa.Table) -> pa.Table:
    """As in a worker: pickled, set up, called."""
    stage = pickle.loads(pickle.dumps(stage))  # noqa: S301
    stage.setup()
    return stage(rows)


@pytest.fixture(scope="module")
def parts(rows) -> pa.Table:
    return through(SplitSounds(part_s=3.0), rows)


@pytest.fixture(scope="module")
def read(parts) -> pa.Table:
    return through(ReadSounds(RATE), parts)


def test_long_files_become_equal_parts(parts):
    good = parts.filter(parts["error_stage"].is_null()).to_pylist()
    starts = [r["start_s"] for r in good]
    assert starts == pytest.approx([0, 7 / 3, 14 / 3, 0])
    assert [r["duration_s"] for r in good] == pytest.approx([7 / 3, 7 / 3, 7 / 3, 2.0])
    assert [r["id"] for r in good][:2] == ["long-00000000", "long-00002333"]


def test_files_that_cannot_be_opened_keep_their_place_with_a_reason(parts):
    bad = parts.filter(parts["error_stage"].is_valid()).to_pylist()
    assert [r["id"] for r in bad] == ["text", "missing"]
    assert all(r["error_stage"] in ("open", "probe") and r["error_message"] for r in bad)


def test_parts_hold_the_sound_of_their_place(read, rows):
    whole = read_sound(rows["uri"][0].as_py(), sample_rate=RATE)
    first = [np.frombuffer(read["audio"][i].as_py(), "<f4") for i in range(3)]
    assert np.concatenate(first) == pytest.approx(whole, abs=1e-4)
    assert read["audio"].is_null().to_pylist() == [False, False, False, True, False, True]


def test_answers_are_those_of_the_predictor(read, model, tmp_path):
    answers = through(HearSounds(model, layer="conv3", top=2), read)
    assert "audio" not in answers.column_names
    net = SoundNet.load(model, "cpu")
    wave = np.frombuffer(read["audio"][1].as_py(), "<f4")
    expected = net.predict([wave], RATE)[0]
    row = answers.slice(1, 1).to_pylist()[0]
    assert row["times_s"] == pytest.approx(expected.times_s.tolist())
    assert np.array(row["objects"]) == pytest.approx(expected.objects, abs=1e-3)
    assert [t["name"] for t in row["top_scenes"]] == [n for n, _ in expected.top("scenes", 2)]
    features = net.features([wave], RATE, "conv3")[0]
    assert np.array(row["features"]) == pytest.approx(features.T, abs=1e-4)
    assert len(row["feature_times_s"]) == features.shape[1]
    bad = answers.slice(3, 1).to_pylist()[0]
    assert bad["objects"] is None
    assert bad["features"] is None
    assert bad["top_objects"] is None


def test_answers_are_plain_parquet(read, model, tmp_path):
    answers = through(HearSounds(model), read)
    assert "features" not in answers.column_names
    pq.write_table(answers, tmp_path / "answers.parquet")
    again = pq.read_table(tmp_path / "answers.parquet")
    assert again["objects"].type == pa.list_(pa.list_(pa.float16(), 3))
    assert again.num_rows == 6
    assert again["objects"].to_pylist() == answers["objects"].to_pylist()


def test_shards_of_failed_rows_alone_have_the_same_columns(read, model):
    bad = read.filter(read["error_stage"].is_valid())
    all_bad = through(HearSounds(model, layer="conv3"), bad)
    some = through(HearSounds(model, layer="conv3"), read)
    assert all_bad.schema == some.schema
    empty = through(HearSounds(model, layer="conv3"), read.slice(0, 0))
    assert empty.schema == some.schema
