"""Captioning files and stored grids: rows, quarantine, resuming, and COCO's format of results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mmray
from mmray import runtime
from mmray.captioner.caption import CaptionPictures, WriteOptions, caption_pictures
from mmray.cli import JobFailed
from mmray.errors import UserError
from mmray.pipeline import shards
from mmray.pipeline.dataset import Dataset, tensor, tensor_column
from tests.captioner.captioners import write_captioner
from tests.joint.taggers import write_tagger

Ask = Callable[..., Dataset]
COLUMNS = ["id", "uri", "caption", "log_probability", "captions"]


@pytest.fixture(scope="module")
def models(stored: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Captioners of each kind of dataset, by its name."""
    folder = tmp_path_factory.mktemp("captioner")
    return {name: write_captioner(folder / name, data) for name, data in stored.items()}


@pytest.fixture
def ask(models: dict[str, str], picture_folder: Path, tmp_path: Path, local_mode: None) -> Ask:
    """Captions the folder of pictures (or other input) in this process; gives the captions."""

    def run(out: str = "captions", json_file: str | None = None, overwrite=False, **more: Any):
        usual = {"model": models["grid"], "input": f"folder:{picture_folder}", **more}
        folder = str(tmp_path / out)
        caption_pictures(WriteOptions(**usual), folder, json_file=json_file, overwrite=overwrite)
        return Dataset(folder, "captions")

    return run


def by_id(data: Dataset) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in data.read(COLUMNS).to_pylist()}


def same(found: Dataset, expected: Dataset, atol: float) -> None:
    """Both say the same of the same pictures."""
    first, second = by_id(found), by_id(expected)
    assert first.keys() == second.keys()
    for name, row in first.items():
        assert row["caption"] == second[name]["caption"]
        assert row["log_probability"] == pytest.approx(second[name]["log_probability"], abs=atol)


@pytest.mark.parametrize("kind", ["grid", "pooled"])
def test_every_picture_has_captions_or_a_reason(
    ask: Ask, models: dict[str, str], kind: str
) -> None:
    data = ask(model=models[kind], beam=4, n=3, length_penalty=0.5)
    assert data.manifest["counts"] == {"pictures": 11, "rows": 10, "shards": 1, "errors": 1}
    (bad,) = data.errors().to_pylist()
    assert bad["uri"].endswith("broken.png")
    assert bad["stage"] == "image"
    schema = pq.read_schema(data.shards[0])
    assert schema.names == COLUMNS
    assert schema.field("log_probability").type == pa.float32()
    fields = [("caption", pa.string()), ("log_probability", pa.float32())]
    assert schema.field("captions").type == pa.list_(pa.struct(fields))
    rows = data.read(COLUMNS).to_pylist()
    captioner = mmray.load(models[kind], device="cpu")
    uris = [row["uri"] for row in rows]
    expected = captioner.captions(uris, beam=4, n=3, length_penalty=0.5)
    for row, told in zip(rows, expected, strict=True):
        assert [c["caption"] for c in row["captions"]] == [c.caption for c in told]
        found = [c["log_probability"] for c in row["captions"]]
        np.testing.assert_allclose(found, [c.log_probability for c in told], atol=1e-3)
        assert len(told) == 3
        assert {"caption": row["caption"], "log_probability": row["log_probability"]} == (
            row["captions"][0]
        )
    assert len({row["caption"] for row in rows}) > 5


def test_goes_on_where_it_stopped(ask: Ask, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shards, "MAX_ROWS", 3)
    whole = ask("whole")
    assert len(whole.shards) == 4
    asked: list[int] = []
    call = CaptionPictures.__call__

    def stumble(self: CaptionPictures, rows: pa.Table) -> pa.Table:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(rows.num_rows)
        return call(self, rows)

    monkeypatch.setattr(CaptionPictures, "__call__", stumble)
    with pytest.raises(KeyboardInterrupt):
        ask("parts")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "parts").glob("part-*")}
    assert len(before) == 2
    monkeypatch.setattr(CaptionPictures, "__call__", call)
    found = ask("parts")
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert found.read(COLUMNS).to_pylist() == whole.read(COLUMNS).to_pylist()
    assert len(found.errors()) == 1
    with pytest.raises(UserError, match=r"made with other options \(--beam was 5, is 2\)"):
        ask("parts", beam=2)


def test_another_model_is_noticed(
    ask: Ask, stored: dict[str, str], models: dict[str, str], tmp_path: Path
) -> None:
    ask(limit=2)
    moved = shutil.copytree(models["grid"], tmp_path / "moved")
    ask(limit=2, model=str(moved))
    other = write_captioner(tmp_path / "lstm", stored["grid"], "lstm")
    with pytest.raises(UserError, match="weights of model was"):
        ask(limit=2, model=other)
    assert ask(limit=2, model=other, overwrite=True).num_rows == 2


@pytest.mark.parametrize("kind", ["grid", "pooled"])
def test_what_is_stored_gives_the_same(
    ask: Ask, stored: dict[str, str], models: dict[str, str], kind: str, monkeypatch
) -> None:
    monkeypatch.setattr(shards, "MAX_ROWS", 5)
    model = models[kind]
    found = ask("stored", model=model, input=stored[kind])
    assert found.manifest["counts"] == {"pictures": 10, "rows": 10, "shards": 2, "errors": 0}
    assert (
        found.read(["id"]).to_pylist() == Dataset(stored[kind], "images").read(["id"]).to_pylist()
    )
    same(found, ask("files", model=model), 0.05)
    assert ask("some", model=model, input=stored[kind], limit=7).num_rows == 7


def test_what_is_no_numbers_is_quarantined(
    ask: Ask, stored: dict[str, str], tmp_path: Path
) -> None:
    spoilt = tmp_path / "spoilt"
    shutil.copytree(stored["grid"], spoilt)
    part = spoilt / "part-00000.parquet"
    table = pq.read_table(part)
    grids = tensor(table["grid"]).copy()
    grids[1, 0, 0, 0], grids[2, 0, 0, 1] = np.nan, np.inf
    column = tensor_column(grids, grids.shape[1:], "float16")
    pq.write_table(table.set_column(table.column_names.index("grid"), "grid", column), part)
    with pytest.raises(JobFailed, match=r"2 of 7 items are bad.*make no numbers"):
        ask("fewer", input=str(spoilt), limit=7)
    data = ask(input=str(spoilt))
    bad = data.errors().to_pylist()
    assert [row["id"] for row in bad] == table["id"].to_pylist()[1:3]
    assert {row["stage"] for row in bad} == {"teacher"}
    assert data.num_rows == 8
    assert None not in data.read(["caption"])["caption"].to_pylist()


def test_datasets_that_do_not_fit_are_refused(
    ask: Ask, stored: dict[str, str], models: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"--model: looks at places, and .* --grid"):
        ask(input=stored["pooled"])
    manifest = Path(shutil.copytree(stored["grid"], tmp_path / "copy"), "manifest.json")
    manifest.write_text(manifest.read_text().replace('"weights_sha256": "', '"weights_sha256": "0'))
    with pytest.raises(UserError, match="prepare the pictures with the model's --backbone"):
        ask(input=str(manifest.parent))
    assert not (tmp_path / "captions").exists()
    assert ask(model=models["pooled"], input=stored["grid"], limit=2).num_rows == 2


def test_results_as_coco_has_them(ask: Ask, picture_folder: Path, tmp_path: Path) -> None:
    pictures, results = tmp_path / "pictures", tmp_path / "results" / "of.json"
    pictures.mkdir()
    names = ["COCO_val2014_000000000042.jpg", "000000391895.jpg", "holiday_000000000001.jpg"]
    for i, name in enumerate(names):
        shutil.copy(picture_folder / f"{i}.png", pictures / name)
    data = ask(input=f"folder:{pictures}", json_file=str(results))
    rows = {Path(row["uri"]).name: row for row in data.read(COLUMNS).to_pylist()}
    numbers = dict(zip(names, [42, 391895, rows[names[2]]["id"]], strict=True))
    found = {row["image_id"]: row["caption"] for row in json.loads(results.read_text())}
    assert found == {numbers[name]: row["caption"] for name, row in rows.items()}
    results.unlink()
    ask(input=f"folder:{pictures}", json_file=str(results))  # of captions that are complete
    assert len(json.loads(results.read_text())) == 3


def test_a_folder_of_rubbish_fails(
    ask: Ask, models: dict[str, str], tmp_path: Path, local_mode: None
) -> None:
    (tmp_path / "rubbish").mkdir()
    (tmp_path / "rubbish" / "a.png").write_bytes(b"rubbish")
    for kind, model in models.items():
        with pytest.raises(JobFailed, match="1 of 1 items are bad"):
            ask(kind, model=model, input=str(tmp_path / "rubbish"))
    options = WriteOptions(model=models["grid"], input=str(tmp_path / "rubbish"))
    results = tmp_path / "results.json"
    caption_pictures(options, str(tmp_path / "grid"), json_file=str(results), max_error_ratio=1.0)
    assert json.loads(results.read_text()) == []


def test_only_captioners_caption(ask: Ask, random_teacher: Path, tmp_path: Path) -> None:
    tagger = write_tagger(tmp_path / "tagger", random_teacher)
    with pytest.raises(UserError, match=r"is no model of captions; expected one .*captioner\.py"):
        ask(model=str(tagger))


@pytest.mark.cluster
def test_a_cluster_gives_the_same(
    ask: Ask,
    stored: dict[str, str],
    models: dict[str, str],
    picture_folder: Path,
    ray_cluster: None,
    tmp_path: Path,
) -> None:
    here = ask("here")
    runtime.set_local_mode(False)
    for source in (f"folder:{picture_folder}", stored["grid"]):
        out = str(tmp_path / "there" / str(source == stored["grid"]))
        caption_pictures(WriteOptions(model=models["grid"], input=source), out)
        same(Dataset(out, "captions"), here, 0.05)
