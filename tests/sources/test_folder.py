import logging
import os
import tracemalloc
from pathlib import Path

import pytest

from mmray import storage
from mmray.errors import UserError
from mmray.sources import videos
from mmray.sources.folder import VIDEO_SUFFIXES, files


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_videos_are_found_at_any_depth_in_order(tmp_path):
    touch(tmp_path, "b.mp4", "a/z.MKV", "a/b/c.webm", "a.mp4", "A/x.avi")
    items = list(videos(f"folder:{tmp_path}"))
    assert [i.key for i in items] == ["A/x.avi", "a/b/c.webm", "a/z.MKV", "a.mp4", "b.mp4"]
    assert [i.uri for i in items] == [str(tmp_path / i.key) for i in items]
    assert all(i.start_s is None and not i.labels and not i.segments for i in items)


def test_keys_do_not_depend_on_where_the_root_is(tmp_path, monkeypatch):
    touch(tmp_path, "one/a/b.mp4")
    monkeypatch.chdir(tmp_path / "one")
    for source in (
        f"folder:{tmp_path}/one",
        f"folder:{tmp_path}/one/",
        "folder:.",
        "folder:../one",
    ):
        (item,) = videos(source)
        assert item.key == "a/b.mp4"
        assert Path(item.uri).is_absolute()
        assert storage.exists(item.uri)


def test_other_files_are_counted_in_one_line(tmp_path, caplog):
    touch(tmp_path, "a.mp4", "a.txt", "b.txt", "c", ".hidden.mp4", ".cache/d.mp4")
    with caplog.at_level(logging.WARNING):
        assert [i.key for i in videos(f"folder:{tmp_path}")] == ["a.mp4"]
    (line,) = caplog.messages
    assert line == f"{tmp_path}: left out 3 files of other kinds: 2 .txt, 1 no ending"


def test_nothing_is_said_where_all_files_are_media(tmp_path, caplog):
    touch(tmp_path, "a.mp4")
    assert len(list(videos(f"folder:{tmp_path}"))) == 1
    assert not caplog.messages


def test_names_that_are_not_utf8_stay_openable(tmp_path):
    name = b"caf\xe9 100%.mp4"
    folder = tmp_path / os.fsdecode(b"d\xff")
    folder.mkdir()
    (folder / os.fsdecode(name)).write_bytes(b"content")
    (item,) = videos(f"folder:{tmp_path}")
    assert item.key == "d%FF/caf%E9 100%25.mp4"
    item.uri.encode()
    with storage.localized(item.uri) as path:
        assert path.read_bytes() == b"content"
        assert os.fsencode(path.name) == name


def test_names_with_odd_but_valid_characters_stay_as_they_are(tmp_path):
    names = ["été 2009.mp4", "100%25.mp4", "a:b.mp4", "#1?.mp4", "new\nline.mp4"]
    touch(tmp_path, *names)
    items = list(videos(f"folder:{tmp_path}"))
    assert {i.key for i in items} == set(names)
    for item in items:
        with storage.localized(item.uri) as path:
            assert path.read_bytes() == b"x"


def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path, "data/a.mp4", "other/b.mp4")
    (tmp_path / "data" / "more").symlink_to(tmp_path / "other")
    (tmp_path / "data" / "back").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "broken.mp4").symlink_to(tmp_path / "nothing")
    keys = [i.key for i in videos(f"folder:{tmp_path}/data")]
    # A link to nothing is kept: it ends as a row that says so.
    assert keys == ["a.mp4", "broken.mp4", "more/b.mp4"]


def test_a_folder_that_cannot_be_read_is_left_out_with_a_line(tmp_path, monkeypatch, caplog):
    touch(tmp_path, "a.mp4", "secret/b.mp4", "z.mp4")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert [i.key for i in videos(f"folder:{tmp_path}")] == ["a.mp4", "z.mp4"]
    assert caplog.messages == [f"{tmp_path}/secret: left out (Permission denied)"]


def test_listing_is_streamed(tmp_path):
    for folder in range(20):
        touch(tmp_path, *(f"{folder:02d}/{i:03d}.mp4" for i in range(50)))
    tracemalloc.start()
    count = sum(1 for _ in videos(f"folder:{tmp_path}"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 1000
    assert peak < 100_000  # all items together take several times that


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "names no folder; expected folder:DIR"),
        ("/no/such/place", "there is no such folder"),
        ("memory://none/there", "there is no such folder"),
    ],
)
def test_a_missing_folder_is_an_error_at_once(where, message):
    with pytest.raises(UserError, match=message):
        videos(f"folder:{where}")


def test_a_file_that_is_no_media_is_no_folder(tmp_path):
    touch(tmp_path, "a.txt", "a.mp4")
    with pytest.raises(UserError, match="is not a folder; expected a media file"):
        videos(f"folder:{tmp_path}/a.txt")
    (item,) = videos(f"folder:{tmp_path}/a.mp4")
    assert (item.key, item.uri) == ("a.mp4", f"{tmp_path}/a.mp4")


def test_remote_folders():
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("a/x.mp4", "b.mkv", "c.txt", ".d.mp4"):
        memory.pipe(f"/bucket/{name}", b"content")
    try:
        found = list(files("memory://bucket", VIDEO_SUFFIXES))
        assert found == [
            ("memory://bucket/a/x.mp4", "a/x.mp4"),
            ("memory://bucket/b.mkv", "b.mkv"),
        ]
        with storage.localized(found[0][0]) as path:
            assert path.read_bytes() == b"content"
    finally:
        memory.rm("/bucket", recursive=True)
