import pytest

from mmray import storage
from mmray.errors import UserError
from mmray.sources import Segment, VideoItem, sounds, videos


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
