"""Files as the user asks about them: a folder in, Parquet out, rubbish quarantined."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import mmray
from jobs import predict
from mmray.cli import JobFailed
from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset
from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.model import SoundNetModel, save_model
from tests.captioner.captioners import write_captioner
from tests.joint.taggers import write_pictures, write_tagger

CLASSES = {"objects": ["cat", "dog", "bell"], "scenes": ["beach", "street"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "net"
    save_model(str(folder), SoundNetModel(SoundNetConfig(**CLASSES)).eval(), {})
    return folder


@pytest.fixture(scope="module")
def tagger_folder(random_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tagger(tmp_path_factory.mktemp("tagger") / "model", random_teacher)


@pytest.fixture(scope="module")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def run(model: Path, world: Path, out: Path, *more: str) -> Dataset:
    predict.main(
        [
            *("sounds", "--model", str(model), "--input", f"toy:{world}", "--out", str(out)),
            *("--max-error-ratio", "0.6", *more),
        ]
    )
    return Dataset(str(out), "sounds")


def test_every_file_is_heard_or_has_a_reason(
    model: Path, small_world: Path, tmp_path: Path, local_mode: None
) -> None:
    data = run(model, small_world, tmp_path / "heard", "--local", "--layer", "pool5")
    counts = data.manifest["counts"]
    assert counts["files"] == 16
    assert data.num_rows + counts["errors"] == 16
    assert data.num_rows >= 11
    columns = ["id", "duration_s", "times_s", "objects", "scenes", "top_objects", "features"]
    for row in data.read(columns).to_pylist():
        objects = np.array(row["objects"], dtype=float)
        assert objects.shape == (len(row["times_s"]), 3)
        np.testing.assert_allclose(objects.sum(1), 1, atol=5e-3)
        assert len(row["scenes"][0]) == 2
        assert row["top_objects"][0]["probability"] >= row["top_objects"][1]["probability"]
        assert len(row["features"][0]) == 256


def test_long_files_are_heard_in_parts(
    model: Path, small_world: Path, tmp_path: Path, local_mode: None
) -> None:
    data = run(model, small_world, tmp_path / "heard", "--local", "--part-s", "6")
    table = data.read(["id", "uri", "duration_s"]).to_pylist()
    assert len({row["id"] for row in table}) == len(table)
    assert len(table) > len({row["uri"] for row in table})
    assert max(row["duration_s"] for row in table) <= 6.001


@pytest.mark.cluster
def test_a_cluster_hears_the_same(
    model: Path, small_world: Path, tmp_path: Path, ray_cluster: None
) -> None:
    here = run(model, small_world, tmp_path / "here", "--local").read(["id", "top_objects"])
    there = run(model, small_world, tmp_path / "there").read(["id", "top_objects"])
    names = [
        {row["id"]: [top["name"] for top in row["top_objects"]] for row in table.to_pylist()}
        for table in (here, there)
    ]
    assert names[0] == names[1]


def test_a_folder_of_rubbish_fails_with_the_reasons(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rubbish"
    folder.mkdir()
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.mp3").write_text("not a sound")
    with pytest.raises(JobFailed, match=r"2 of 2 items are bad.*is empty"):
        predict.main(
            [
                *("sounds", "--model", str(model), "--input", f"folder:{folder}"),
                *("--local", "--out", str(tmp_path / "heard")),
            ]
        )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "/no/such/model"], "/no/such/model: no such model"),
        (["--layer", "conv99"], "--layer conv99: the model has conv1"),
        (["--input", "folder:/no/such"], "no such folder"),
        (["--top", "0"], "--top 0"),
        (["--part-s", "0"], "--part-s 0"),
    ],
)
def test_bad_flags_are_named(
    model: Path, small_world: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    usual = ["sounds", "--model", str(model), "--input", f"toy:{small_world}", "--local"]
    with pytest.raises(UserError, match=message):
        predict.main([*usual, "--out", str(tmp_path / "heard"), *flags])


def test_pictures_are_tagged_indexed_and_searched(
    tagger_folder: Path, picture_folder: Path, tmp_path: Path, local_mode: None
) -> None:
    argv = ["tags", "--model", str(tagger_folder), "--input", str(picture_folder), "--local"]
    argv += ["--out", str(tmp_path / "tags"), "--top", "3"]
    assert predict.main(argv).rows == 10
    data = Dataset(str(tmp_path / "tags"), "tags")
    assert {len(tags) for tags in data.read(["tags"])["tags"].to_pylist()} == {3}
    done = predict.main([*argv, "--index"])
    assert (done.rows, done.errors) == (10, 1)
    tagger = mmray.load(str(tagger_folder), "cpu", index=str(tmp_path / "tags" / "index"))
    found = tagger.search(plus=["dog"], minus=["beach"], k=4)
    assert len(found) == 4
    assert set(found) <= set(data.read(["id"])["id"].to_pylist())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "/no/such/model"], "/no/such/model: no such model"),
        (["--input", "/no/such"], "is no source and no folder"),
        (["--top", "0"], "--top 0"),
        (["--timeout-s", "0"], "--timeout-s 0"),
        (["--nets", "0"], "--nets 0"),
        (["--max-error-ratio", "2"], "--max-error-ratio 2"),
    ],
)
def test_bad_flags_of_tags_are_named(
    tagger_folder: Path, picture_folder: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    usual = ["tags", "--model", str(tagger_folder), "--input", str(picture_folder), "--local"]
    with pytest.raises(UserError, match=message):
        predict.main([*usual, "--out", str(tmp_path / "tags"), *flags])


@pytest.fixture(scope="module")
def captioner_folder(picture_world: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_captioner(tmp_path_factory.mktemp("captioner") / "model", picture_world)


def test_pictures_are_captioned(
    captioner_folder: str, picture_folder: Path, tmp_path: Path, local_mode: None
) -> None:
    argv = ["captions", "--model", captioner_folder, "--input", str(picture_folder), "--local"]
    argv += ["--out", str(tmp_path / "captions"), "--beam", "3", "--n", "2"]
    done = predict.main([*argv, "--json", str(tmp_path / "results.json")])
    assert (done.rows, done.errors) == (10, 1)
    rows = Dataset(done.path, "captions").read(["id", "caption", "captions"]).to_pylist()
    assert {len(row["captions"]) for row in rows} == {2}
    results = json.loads((tmp_path / "results.json").read_text())
    assert [r["caption"] for r in results] == [row["caption"] for row in rows]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "/no/such/model"], "/no/such/model: no such model"),
        (["--input", "/no/such"], "is no source and no folder"),
        (["--beam", "0"], "--beam 0"),
        (["--n", "0"], "--n 0"),
        (["--n", "6"], "--n 6: expected 1 to --beam 5"),
        (["--length-penalty", "nan"], "--length-penalty nan"),
        (["--limit", "0"], "--limit 0"),
        (["--timeout-s", "0"], "--timeout-s 0"),
        (["--decoders", "0"], "--decoders 0"),
        (["--max-error-ratio", "2"], "--max-error-ratio 2"),
    ],
)
def test_bad_flags_of_captions_are_named(
    captioner_folder: str, picture_folder: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    usual = ["captions", "--model", captioner_folder, "--input", str(picture_folder), "--local"]
    with pytest.raises(UserError, match=message):
        predict.main([*usual, "--out", str(tmp_path / "captions"), *flags])


def test_sounds_are_not_asked_of_a_model_of_tags(tagger_folder: Path, tmp_path: Path) -> None:
    argv = ["sounds", "--model", str(tagger_folder), "--local", "--out", str(tmp_path / "heard")]
    with pytest.raises(UserError, match="is no model of sounds"):
        predict.main(argv)
