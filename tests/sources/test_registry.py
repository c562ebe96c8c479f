import subprocess
import sys

import pytest

from mmray.errors import UserError
from mmray.sources import SoundItem, images, sounds, videos


@pytest.mark.parametrize(
    "source", ["nonsense", "zip:/tmp/a", "s3://bucket/a", "", "/no/such/place"]
)
def test_an_unknown_source_lists_the_known_ones(source):
    with pytest.raises(UserError) as error:
        videos(source)
    text = str(error.value)
    for known in ("toy", "folder:DIR", "manifest:FILE", "stamps:DIR"):
        assert known in text
    assert "esc50" not in text
    with pytest.raises(UserError, match="esc50:DIR"):
        sounds(source)


def test_a_path_alone_is_a_folder_or_a_manifest(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "m.csv").write_text("uri,labels\na.mp4,dog\n")
    assert [i.key for i in videos(str(tmp_path))] == ["a.mp4"]
    assert [i.key for i in videos(str(tmp_path / "m.csv"))] == ["a.mp4"]
    assert [i.key for i in videos(str(tmp_path / "a.mp4"))] == ["a.mp4"]


def test_sources_of_videos_are_sources_of_sounds(tmp_path):
    (tmp_path / "m.csv").write_text("uri,labels\na.mp4,dog\nb.mp4,dog;cat\nc.mp4,\n")
    assert sounds(f"manifest:{tmp_path}/m.csv") == [
        SoundItem(f"{tmp_path}/a.mp4", "a.mp4", "dog"),
        SoundItem(f"{tmp_path}/b.mp4", "b.mp4"),
        SoundItem(f"{tmp_path}/c.mp4", "c.mp4"),
    ]


def test_parts_of_videos_are_no_sounds(tmp_path):
    (tmp_path / "m.csv").write_text("uri,start_s\na.mp4,3\n")
    with pytest.raises(UserError, match="a sound is a whole file"):
        sounds(f"manifest:{tmp_path}/m.csv")


def test_no_sounds_at_all_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no files with sound"):
        sounds(f"folder:{tmp_path}")


def test_importing_sources_loads_nothing_heavy():
    code = (
        "import mmray.sources, sys; "
        "print(sorted({'torch', 'ray', 'av', 'decord', 'mmray.toyworld'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("source", ["nonsense", "esc50:/tmp", "", "/no/such/place"])
def test_an_unknown_source_of_pictures_lists_the_known_ones(source):
    with pytest.raises(UserError) as error:
        images(source)
    for known in (
        *("toy:DIR", "folder:DIR", "manifest:FILE", "mirflickr:DIR", "coco:DIR", "flickr8k:DIR"),
        *("flickr30k:DIR", "openclipart:DIR", "stamps:DIR"),
    ):
        assert known in str(error.value)


def test_a_path_alone_is_a_folder_or_a_manifest_of_pictures(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "m.csv").write_text("uri,tags\na.jpg,sea\n")
    assert [i.tags for i in images(str(tmp_path / "m.csv"))] == [["sea"]]
    assert [i.key for i in images(str(tmp_path))] == ["a.jpg"]
