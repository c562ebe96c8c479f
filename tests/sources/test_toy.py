import pytest

from mmray import storage
from mmray.errors import UserError
from mmray.sources import Segment, VideoItem, images, sounds, videos


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    from mmray.toyworld.build import make_world

    return make_world(
        tmp_path_factory.mktemp("toy"), num_videos=2, num_images=0, broken=0.5, workers=1
    )


def test_videos_come_with_what_they_show(world):
    import pyarrow.parquet as pq

    truth = {r["key"]: r for r in pq.read_table(world / "truth" / "videos.parquet").to_pylist()}
    items = list(videos(f"toy:{world}"))
    assert [item.key for item in items] == sorted(truth)
    for item in items:
        row = truth[item.key]
        assert isinstance(item, VideoItem)
        assert storage.exists(item.uri)
        assert item.segments == [
            Segment(s["start_s"], s["end_s"], [f"object:{s['object']}", f"place:{s['place']}"])
            for s in row["segments"]
        ]
    assert any(item.segments for item in items)
    assert [item.uri for item in sounds(f"toy:{world}")] == [item.uri for item in items]


def test_the_default_world_is_made_on_demand(world, monkeypatch):
    monkeypatch.setattr("mmray.toyworld.build.default_world", lambda: world)
    assert list(videos("toy")) == list(videos(f"toy:{world}"))


def test_a_folder_that_is_no_toy_world(tmp_path):
    with pytest.raises(UserError, match="is not a complete toy world"):
        videos(f"toy:{tmp_path}")
    storage.write_json(tmp_path / "world.json", {"kind": "other"})
    with pytest.raises(UserError, match="is not a complete toy world"):
        videos(f"toy:{tmp_path}")


def test_pictures_come_with_words_and_what_they_show(tmp_path):
    import pyarrow.parquet as pq

    from mmray.toyworld.build import make_world

    root = make_world(tmp_path / "toy", num_videos=0, num_images=40, workers=1)
    shown = pq.read_table(root / "images.parquet").to_pylist()
    truth = pq.read_table(root / "truth" / "images.parquet").to_pylist()
    items = list(images(f"toy:{root}"))
    assert [i.key for i in items] == sorted(row["key"] for row in shown)
    for item, row, known in zip(items, shown, truth, strict=True):
        assert storage.exists(item.uri)
        assert (item.tags, item.captions) == (row["tags"], row["captions"])
        assert item.labels == [
            *(f"{name}:{known[name]}" for name in ("object", "place", "colour", "weather")),
            *(f"other:{name}" for name in known["others"]),
        ]
    assert any(label.startswith("other:") for item in items for label in item.labels)

    pq.write_table(pq.read_table(root / "images.parquet").slice(0, 30), root / "images.parquet")
    with pytest.raises(UserError, match="tell of different pictures"):
        list(images(f"toy:{root}"))


def test_a_world_without_pictures(world, tmp_path):
    with pytest.raises(UserError, match="holds no pictures"):
        images(f"toy:{world}")
    with pytest.raises(UserError, match="is not a complete toy world"):
        images(f"toy:{tmp_path}")
