"""Thumbnails and tags of the pictures that are searched."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mmray import UserError
from mmray.pipeline.dataset import PART, Dataset
from mmray.serving.gallery import Gallery
from tests.joint.worlds import write_rows


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMRAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pictures(tmp_path: Path, tiny_teacher: str) -> str:
    rows = [{"id": "one", "tags": ["dog", "red"]}, {"id": "two", "tags": []}, {"tags": None}]
    return write_rows(tmp_path / "pictures", rows, tiny_teacher)


def stamps(cache: Path) -> dict[str, tuple[int, int]]:
    files = (path for path in (cache / "galleries").rglob("*") if path.is_file())
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def change_manifest(pictures: str, **values: str) -> None:
    path = Path(pictures) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_tags_and_thumbnails_by_id(cache: Path, pictures: str) -> None:
    gallery = Gallery.open(pictures)
    assert len(gallery) == 3
    assert gallery.show(["two", "one"]) == {
        "two": ([], b"\xff\xd8"),
        "one": (["dog", "red"], b"\xff\xd8"),
    }
    assert gallery.show(["pic002"]) == {"pic002": ([], b"\xff\xd8")}, "nobody tagged it"


def test_ids_that_are_not_here_are_left_out(cache: Path, pictures: str) -> None:
    gallery = Gallery.open(pictures)
    assert gallery.show([]) == {}
    assert gallery.show(["three", "one", ""]).keys() == {"one"}


def test_the_copy_is_made_once(cache: Path, pictures: str) -> None:
    first = Gallery.open(pictures)
    before = stamps(cache)
    assert list(before) == [f"{Dataset(pictures, 'images').sha256}.arrow"]
    (Path(pictures) / PART.format(0)).unlink()  # from now on only the copy can tell
    second = Gallery.open(pictures)
    assert stamps(cache) == before
    assert first.show(["one"]) == second.show(["one"]) != {}


def test_another_dataset_has_a_copy_of_its_own(cache: Path, pictures: str) -> None:
    Gallery.open(pictures)
    change_manifest(pictures, source="another")
    Gallery.open(pictures)
    assert len(stamps(cache)) == 2


def test_a_dataset_without_thumbnails_is_refused(cache: Path, pictures: str) -> None:
    shard = Path(pictures) / PART.format(0)
    pq.write_table(pq.read_table(shard).drop_columns(["thumbnail"]), shard)
    with pytest.raises(UserError, match=r"has no column thumbnail .*jobs/prepare_images\.py"):
        Gallery.open(pictures)
    assert stamps(cache) == {}, "nothing half done stays"


def test_what_is_no_image_dataset_is_refused(cache: Path, pictures: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a finished dataset"):
        Gallery.open(str(tmp_path / "nothing"))
    change_manifest(pictures, kind="clips")
    with pytest.raises(UserError, match="expected a dataset of images"):
        Gallery.open(pictures)


def test_many_pictures_in_many_pieces(cache: Path, tmp_path: Path, tiny_teacher: str) -> None:
    rows = [{"tags": [f"tag{i}"], "features": np.zeros(48)} for i in range(100)]
    gallery = Gallery.open(write_rows(tmp_path / "many", rows, tiny_teacher, row_group=7))
    assert len(gallery) == 100
    found = gallery.show([f"pic{i:03d}" for i in range(100)])
    assert [tags for tags, _ in found.values()] == [[f"tag{i}"] for i in range(100)]
