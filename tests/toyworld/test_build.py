"""A world on disk: layout, truth, resuming, errors."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmray import storage
from mmray.errors import UserError
from mmray.toyworld import build
from mmray.toyworld.broken import BROKEN_KINDS
from mmray.toyworld.build import (
    Arguments,
    broken_videos,
    default_world,
    labelled_images,
    make_world,
)
from mmray.toyworld.draw import draw
from mmray.toyworld.world import OBJECTS, PLACES

ARGUMENTS = {"num_videos": 4, "num_images": 30, "broken": 0.25, "seed": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("toy") / "world", **ARGUMENTS, workers=1)


def rows(root, name):
    return pq.read_table(root / name).to_pylist()


def test_layout(root):
    world = storage.read_json(root / "world.json")
    assert world["counts"] == {"videos": 4, "images": 30, "broken": 1}
    assert world["arguments"] == ARGUMENTS
    assert world["classes"] == {"objects": OBJECTS, "places": PLACES}
    for name, folder in (("truth/videos.parquet", "videos"), ("truth/images.parquet", "images")):
        assert {r["key"] for r in rows(root, name)} == {
            f"{folder}/{p.name}" for p in (root / folder).iterdir()
        }
    assert not (root / "world.partial.json").exists()


def test_user_visible_table_tells_no_truth(root):
    table = pq.read_table(root / "images.parquet")
    assert table.column_names == ["key", "tags", "captions"]
    assert all(len(r["captions"]) == 5 for r in table.to_pylist())


def test_pictures_are_the_drawn_ones(root):
    plan = build.plan_image(1, 9)
    assert plan.key == "images/000009.png"
    np.testing.assert_array_equal(np.asarray(Image.open(root / plan.key)),
                                  draw(plan.scene, plan.size))  # fmt: skip
    formats = {Image.open(root / r["key"]).format for r in rows(root, "images.parquet")}
    assert formats == {"JPEG", "PNG"}


def test_truth_of_images(root):
    shown = {r["key"]: r for r in rows(root, "images.parquet")}
    for row in rows(root, "truth/images.parquet"):
        assert row["object"] in OBJECTS
        assert row["place"] in PLACES
        assert row["object"] not in row["others"]
        assert {row["object"], row["place"], row["colour"]} <= set(row["useful_tags"])
        assert shown[row["key"]]["captions"]


def test_truth_of_videos(root):
    table = rows(root, "truth/videos.parquet")
    faults = broken_videos(Arguments(**ARGUMENTS))
    assert {i: r["broken"] for i, r in enumerate(table) if r["broken"]} == faults
    for row in table:
        if row["broken"]:
            continue
        segments = row["segments"]
        edges = [segments[0]["start_s"], *(s["end_s"] for s in segments)]
        assert edges[0] == 0
        assert edges[-1] == pytest.approx(row["duration_s"])
        assert all(s["start_s"] == e for s, e in zip(segments, edges, strict=False))
        assert all(s["object"] in OBJECTS and s["place"] in PLACES for s in segments)
        assert row["fps"] > 0
        assert row["sample_rate"] > 0
        assert row["channels"] in (1, 2)


def test_nothing_is_claimed_of_unreadable_files(root):
    row = next(r for r in rows(root, "truth/videos.parquet") if r["broken"])
    assert row["broken"] == "empty"
    assert row["segments"] == []
    assert row["fps"] is row["sample_rate"] is row["duration_s"] is None


def test_every_kind_of_breakage_occurs():
    faults = broken_videos(Arguments(num_videos=240, num_images=0, broken=0.05, seed=0))
    assert len(faults) == 12
    assert set(faults.values()) == set(BROKEN_KINDS)
    assert broken_videos(Arguments(10, 0, 0.0, 0)) == {}


def test_made_again_nothing_happens(root):
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    calls = []
    assert make_world(root, **ARGUMENTS, progress=lambda *a: calls.append(a)) == root
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before
    assert calls == []


def test_interrupted_world_is_finished(root, tmp_path, monkeypatch):
    """Stop after the first pictures; the next call keeps them and ends at the same world."""
    monkeypatch.setattr(build, "_IMAGES_PER_TASK", 20)
    arguments = {"num_videos": 0, "num_images": 50, "seed": 1}

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_world(tmp_path / "w", **arguments, workers=1, progress=stop)
    assert not (tmp_path / "w" / "world.json").exists()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "w/images").iterdir()}
    assert len(kept) == 20
    seen = []
    make_world(tmp_path / "w", **arguments, workers=1, progress=lambda d, t: seen.append((d, t)))
    assert seen[-1] == (50, 50)
    assert all(p.stat().st_mtime_ns == t for p, t in kept.items())
    assert len(list((tmp_path / "w/images").iterdir())) == 50
    first = root / "images" / "000000.jpg"
    assert first.read_bytes() == (tmp_path / "w/images/000000.jpg").read_bytes()


def test_two_processes_make_the_same_world(root, tmp_path):
    other = make_world(tmp_path / "w", **ARGUMENTS, workers=2)
    for name in ("images.parquet", "truth/images.parquet", "truth/videos.parquet"):
        assert rows(other, name) == rows(root, name)
    for path in (root / "images").iterdir():
        assert path.read_bytes() == (other / "images" / path.name).read_bytes()


def test_folder_with_something_else_is_refused(root, tmp_path):
    with pytest.raises(UserError, match="another toy world"):
        make_world(root, **{**ARGUMENTS, "seed": 2})
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="not an empty folder"):
        make_world(tmp_path, **ARGUMENTS)
    assert (tmp_path / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize(("changes", "message"), [
    ({"num_videos": -1}, "num_videos"), ({"num_images": -5}, "num_images"), ({"seed": -1}, "seed"),
    ({"broken": 1.5}, "broken"), ({"workers": 0}, "workers"),
])  # fmt: skip
def test_bad_arguments(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        make_world(tmp_path / "w", **{**ARGUMENTS, **changes})
    assert not (tmp_path / "w").exists()


def test_remote_folder_is_refused():
    with pytest.raises(UserError, match="local"):
        make_world("s3://bucket/world", **ARGUMENTS)


def test_default_world_lives_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMRAY_CACHE", str(tmp_path))
    first = default_world(num_videos=0, num_images=3)
    assert first == default_world(num_videos=0, num_images=3)
    assert first.is_relative_to(tmp_path / "toyworld")
    assert first != default_world(num_videos=0, num_images=3, seed=1)


def test_labelled_images(root):
    for what, classes in (("objects", OBJECTS), ("scenes", PLACES)):
        paths, labels = labelled_images(root, what)
        assert len(paths) == len(labels) == 30
        assert all(p.is_file() for p in paths)
        assert set(labels) <= set(classes)
    with pytest.raises(UserError, match="objects, scenes"):
        labelled_images(root, "sounds")


def test_labelled_images_of_no_world(tmp_path):
    with pytest.raises(UserError, match=r"world\.json"):
        labelled_images(tmp_path)
