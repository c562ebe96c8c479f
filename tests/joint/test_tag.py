"""Tagging files and stored features: rows, quarantine, resuming, and the index of the answers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mmray
from mmray import runtime, storage
from mmray.cli import JobFailed
from mmray.errors import UserError
from mmray.joint import finish
from mmray.joint import index as index_module
from mmray.joint.tag import (
    NUM_QUERIES,
    TagOptions,
    index_answers,
    likely_queries,
    tag_pictures,
)
from mmray.joint.tag_stages import TagPictures
from mmray.pipeline import images, shards
from mmray.pipeline.asking import stored_pictures
from mmray.pipeline.dataset import Dataset, tensor, tensor_column
from mmray.pipeline.images import ImageOptions, prepare_images
from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.model import SoundNetModel, save_model
from tests.joint.taggers import write_pictures, write_tagger

Tag = Callable[..., Dataset]


@pytest.fixture(scope="module")
def tagger_folder(random_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tagger(tmp_path_factory.mktemp("tagger") / "model", random_teacher)


@pytest.fixture(scope="module")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def tag(tagger_folder: Path, picture_folder: Path, tmp_path: Path, local_mode: None) -> Tag:
    """Tags the folder of pictures (or other input) in this process; gives the answers."""

    def run(out: str = "tags", *, index: bool = False, overwrite: bool = False, **more: Any):
        options = {"model": str(tagger_folder), "input": f"folder:{picture_folder}", **more}
        folder = str(tmp_path / out)
        tag_pictures(TagOptions(**options), folder, index=index, overwrite=overwrite)
        return Dataset(folder, "tags")

    return run


@pytest.fixture(scope="module")
def stored(
    random_teacher: Path, picture_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The same pictures as an image dataset of several row groups and shards."""

    runtime.set_local_mode(True)
    net = f"mmray:{random_teacher}"
    options = ImageOptions(source=f"folder:{picture_folder}", backbone=(net,), objects=net)
    out = str(tmp_path_factory.mktemp("stored") / "images")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "MAX_ROWS", 4)
        patch.setattr(images, "ROW_GROUP", 3)
        return prepare_images(options, out).path


def uris(data: Dataset) -> list[str]:
    return sorted(Path(uri).name for uri in data.read(["uri"])["uri"].to_pylist())


def vectors(data: Dataset) -> dict[str, np.ndarray]:
    table = data.read(["id", "vector"])
    found = tensor(table["vector"]).astype(np.float32)
    return dict(zip(table["id"].to_pylist(), found, strict=True))


def test_every_picture_has_tags_and_a_vector_or_a_reason(tag: Tag, tagger_folder: Path) -> None:
    data = tag()
    assert uris(data) == [f"{i}.png" for i in range(10)]
    assert data.manifest["counts"] == {"pictures": 11, "rows": 10, "shards": 1, "errors": 1}
    (bad,) = data.errors().to_pylist()
    assert bad["uri"].endswith("broken.png")
    assert bad["stage"] == "image"
    schema = pq.read_schema(data.shards[0])
    assert schema.names == ["id", "uri", "tags", "vector"]
    fields = [("tag", pa.string()), ("probability", pa.float32())]
    assert schema.field("tags").type == pa.list_(pa.struct(fields))
    assert schema.field("vector").type == pa.fixed_shape_tensor(pa.float16(), [8])
    tagger = mmray.load(str(tagger_folder), device="cpu")
    table = data.read(["uri", "tags", "vector"])
    found = tensor(table["vector"]).astype(np.float32)
    expected = tagger.scorer.picture_vectors(tagger.features(table["uri"].to_pylist()))
    np.testing.assert_allclose(found, expected, atol=2e-3)
    for row, answer in zip(table.to_pylist(), tagger.tags(table["uri"].to_pylist()), strict=True):
        assert [t["tag"] for t in row["tags"]] == [name for name, _ in answer]
        assert "nikon" not in dict(answer)
        probabilities = [t["probability"] for t in row["tags"]]
        np.testing.assert_allclose(probabilities, [p for _, p in answer], atol=1e-5)


def test_top_useless_and_limit(tag: Tag) -> None:
    data = tag(top=5, useless=True, limit=3)
    rows = data.read(["tags"])["tags"].to_pylist()
    assert [len(tags) for tags in rows] == [5, 5, 5]
    assert "nikon" in {t["tag"] for t in rows[0]}
    assert [len(t) for t in tag("two", top=2).read(["tags"])["tags"].to_pylist()] == [2] * 10


def test_goes_on_where_it_stopped(tag: Tag, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shards, "MAX_ROWS", 3)
    whole = tag("whole")
    assert len(whole.shards) == 4
    asked: list[int] = []
    ask = TagPictures.__call__

    def stumble(self: TagPictures, rows: pa.Table) -> pa.Table:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(rows.num_rows)
        return ask(self, rows)

    monkeypatch.setattr(TagPictures, "__call__", stumble)
    with pytest.raises(KeyboardInterrupt):
        tag("parts")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "parts").glob("part-*")}
    assert len(before) == 2
    monkeypatch.setattr(TagPictures, "__call__", ask)
    found = tag("parts")
    assert {p: p.stat().st_mtime_ns for p in before} == before
    columns = ["id", "uri", "tags"]
    assert found.read(columns).to_pylist() == whole.read(columns).to_pylist()
    assert len(found.errors()) == 1
    with pytest.raises(UserError, match=r"made with other options \(--top was 10, is 2\)"):
        tag("parts", top=2)


def test_an_index_is_searched(tag: Tag, tagger_folder: Path) -> None:
    data = tag(index=True)
    tagger = mmray.load(str(tagger_folder), device="cpu", index=f"{data.uri}/index")
    by_id = vectors(data)
    dog = tagger.scorer.tag_directions[0]
    expected = sorted(by_id, key=lambda name: -float(by_id[name] @ dog))
    assert tagger.search(plus=["dog"], k=10) == expected
    picture = data.read(["id", "uri"]).to_pylist()[3]
    scores = dict(tagger.search_scored(images=[picture["uri"]], plus=["beach"], minus=["red"]))
    assert set(scores) == set(by_id)


def test_an_index_that_fits_is_kept(tag: Tag, tagger_folder: Path) -> None:
    data = tag()
    written = Path(data.uri, "index", "index.json")
    assert not written.exists()
    tag(index=True)  # the answers are complete: it only indexes them
    before = written.stat().st_mtime_ns
    tag(index=True)
    tag()
    assert written.stat().st_mtime_ns == before
    for spoilt in ("index.json", "index.faiss"):
        Path(data.uri, "index", spoilt).write_bytes(b"{}")
        tag(index=True)
        tagger = mmray.load(str(tagger_folder), device="cpu", index=f"{data.uri}/index")
        assert len(tagger.index) == 10
    tag(limit=4, overwrite=True)
    assert not written.parent.exists()
    tag(limit=4, index=True)
    info = storage.read_json(written)
    assert (info["count"], info["kind"]) == (4, "flat")


def test_an_index_knows_its_model(tag: Tag, tagger_folder: Path, tmp_path: Path) -> None:
    scorer = finish.load(str(tagger_folder))
    scorer.model.head.weight.data += 1
    other = tmp_path / "other"
    finish.save(scorer, str(other), {})
    data = tag(index=True)
    with pytest.raises(UserError, match=r"made by another model than .*predict\.py tags --index"):
        mmray.load(str(other), device="cpu", index=f"{data.uri}/index")
    with pytest.raises(UserError, match="weights of model was"):
        tag(model=str(other))
    tag(model=str(other), index=True, overwrite=True)
    assert len(mmray.load(str(other), device="cpu", index=f"{data.uri}/index").index) == 10


def test_a_large_index_is_tried_with_what_people_ask(
    tagger_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((400, 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    columns = {"id": [f"p{i}" for i in range(400)], "vector": tensor_column(rows, [8], "float16")}
    pq.write_table(pa.table(columns), tmp_path / "part-00000.parquet", row_group_size=90)
    manifest = {"kind": "tags", "schema_version": 1, "counts": {"rows": 400, "shards": 1}}
    storage.write_json(tmp_path / "manifest.json", manifest)
    tagger = mmray.load(str(tagger_folder), device="cpu")
    asked = likely_queries(tagger, Dataset(str(tmp_path), "tags"))
    assert 5 + NUM_QUERIES < len(asked) <= 5 + 2 * NUM_QUERIES
    np.testing.assert_allclose(np.linalg.norm(asked, axis=1), 1, atol=1e-4)
    assert any(np.allclose(query, tagger.query(plus=["plage"])) for query in asked)
    monkeypatch.setattr(index_module, "EXACT_BELOW", 100)
    index_answers(tagger, str(tmp_path))
    info = storage.read_json(tmp_path / "index" / "index.json")
    assert (info["kind"], info["count"], info["num_queries"]) == ("ivf_sq8", 400, len(asked))
    assert info["recall"] >= 0.9


def test_stored_features_give_the_same(tag: Tag, stored: str, monkeypatch) -> None:
    monkeypatch.setattr(shards, "MAX_ROWS", 5)
    from_files, found = tag("files"), tag("found", input=stored, index=True)
    assert found.manifest["counts"] == {"pictures": 10, "rows": 10, "shards": 2, "errors": 0}
    first, second = vectors(from_files), vectors(found)
    assert first.keys() == second.keys()
    for name, vector in first.items():
        np.testing.assert_allclose(vector, second[name], atol=5e-3)
    assert found.read(["id"]).to_pylist() == Dataset(stored, "images").read(["id"]).to_pylist()
    assert tag("some", input=stored, limit=7).num_rows == 7
    assert len(storage.read_json(f"{found.uri}/index/index.json")["model"]) == 64


def test_features_that_are_no_numbers_are_quarantined(
    tag: Tag, stored: str, tmp_path: Path
) -> None:
    spoilt = tmp_path / "spoilt"
    shutil.copytree(stored, spoilt)
    part = spoilt / "part-00000.parquet"
    table = pq.read_table(part)
    features = tensor(table["features"]).copy()
    features[1] = np.nan
    column = tensor_column(features, features.shape[1:], "float16")
    table = table.set_column(table.column_names.index("features"), "features", column)
    pq.write_table(table, part)
    data = tag(input=str(spoilt), index=True)
    (bad,) = data.errors().to_pylist()
    assert (bad["id"], bad["stage"]) == (table["id"][1].as_py(), "teacher")
    assert data.num_rows == 9


def test_features_of_another_backbone_are_refused(
    tag: Tag, stored: str, random_teacher: Path, picture_folder: Path, tmp_path: Path
) -> None:
    net = f"mmray:{random_teacher}"
    options = ImageOptions(
        source=f"folder:{picture_folder}", backbone=(net,), objects=net, fit="crop"
    )
    cropped = prepare_images(options, str(tmp_path / "cropped")).path
    with pytest.raises(UserError, match=r", crop; the model's are of mmray:.*, pad; prepare"):
        tag(input=cropped)
    assert not (tmp_path / "tags").exists()
    manifest = Path(shutil.copytree(stored, tmp_path / "copy"), "manifest.json")
    manifest.write_text(manifest.read_text().replace('"weights_sha256": "', '"weights_sha256": "0'))
    with pytest.raises(UserError, match="prepare the pictures with the model's --backbone"):
        tag(input=str(manifest.parent))


def test_what_is_an_image_dataset(stored: str, picture_folder: Path, tmp_path: Path) -> None:
    dataset = stored_pictures(stored)
    assert dataset is not None
    assert dataset.num_rows == 10
    sources = ["toy", f"folder:{stored}", "folder:s3://bucket/x", str(picture_folder), "/no/such"]
    assert [stored_pictures(source) for source in sources] == [None] * len(sources)
    (tmp_path / "manifest.json").write_text('{"name": "a web site"}')
    assert stored_pictures(str(tmp_path)) is None
    (tmp_path / "manifest.json").write_text('{"schema_version": 1, "kind": "clips"}')
    with pytest.raises(UserError, match="holds 'clips', expected a dataset of images"):
        stored_pictures(str(tmp_path))


def test_a_folder_of_rubbish_fails_and_is_not_indexed(
    tagger_folder: Path, tmp_path: Path, local_mode: None
) -> None:
    (tmp_path / "rubbish").mkdir()
    (tmp_path / "rubbish" / "a.png").write_bytes(b"rubbish")
    options = TagOptions(model=str(tagger_folder), input=str(tmp_path / "rubbish"))
    out = str(tmp_path / "out")
    with pytest.raises(JobFailed, match="1 of 1 items are bad"):
        tag_pictures(options, out, index=True)
    assert not (tmp_path / "out" / "index").exists()
    with pytest.raises(UserError, match="has no rows to index"):
        tag_pictures(options, out, index=True, max_error_ratio=1.0)


def test_only_joint_models_tag(picture_folder: Path, tmp_path: Path, local_mode: None) -> None:
    sound = str(tmp_path / "sound")
    save_model(sound, SoundNetModel(SoundNetConfig("soundnet5", objects=["a", "b"])).eval(), {})
    with pytest.raises(UserError, match="is no model of tags"):
        tag_pictures(TagOptions(model=sound, input=str(picture_folder)), str(tmp_path / "out"))


@pytest.mark.cluster
def test_a_cluster_gives_the_same(
    tag: Tag, stored: str, tagger_folder: Path, picture_folder: Path, ray_cluster: None, tmp_path
) -> None:
    here = tag("here")
    runtime.set_local_mode(False)
    for source in (f"folder:{picture_folder}", stored):
        options = TagOptions(model=str(tagger_folder), input=source)
        out = str(tmp_path / "there" / str(source == stored))
        tag_pictures(options, out, index=True)
        there = Dataset(out, "tags")
        names = [
            {
                row["uri"]: [t["tag"] for t in row["tags"]]
                for row in data.read(["uri", "tags"]).to_pylist()
            }
            for data in (here, there)
        ]
        assert names[0] == names[1]
        tagger = mmray.load(str(tagger_folder), device="cpu", index=f"{out}/index")
        assert len(tagger.search(plus=["dog"], k=3)) == 3
