import json
import logging
import os
import tracemalloc

import pytest
from PIL import Image

from mmray.errors import UserError
from mmray.media.image import decode_image
from mmray.sources import ImageItem, images


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), "red").save(path, "PNG")


def test_words_lie_beside_the_pictures(tmp_path, caplog):
    for name in ("a.png", "sub/b.png", "sub/c.PNG", "sub/d.e.png"):
        picture(tmp_path / name)
    (tmp_path / "a.txt").write_text("sea\nblue sky\n")
    (tmp_path / "sub/b.json").write_text('{"tags": ["dog"], "captions": ["A dog."], "id": 7}')
    (tmp_path / "sub/d.e.txt").write_text("cat, dog")
    (tmp_path / "sub/d.e.json").write_text('{"tags": ["dog", "sofa"], "captions": null}')
    with caplog.at_level(logging.WARNING):
        items = list(images(f"folder:{tmp_path}"))
    assert items == [
        ImageItem(f"{tmp_path}/a.png", "a.png", ["sea", "blue sky"]),
        ImageItem(f"{tmp_path}/sub/b.png", "sub/b.png", ["dog"], ["A dog."]),
        ImageItem(f"{tmp_path}/sub/c.PNG", "sub/c.PNG"),
        ImageItem(f"{tmp_path}/sub/d.e.png", "sub/d.e.png", ["cat", "dog", "sofa"]),
    ]
    assert not caplog.messages
    with open(items[0].uri, "rb") as file:
        assert decode_image(file.read()).shape == (3, 4, 3)


def test_only_files_that_are_neither_are_of_other_kinds(tmp_path, caplog):
    for name in ("a.png", "a.txt", "a.json", "a.TXT", "b.mp4"):
        (tmp_path / name).write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        (item,) = [i for i in images(str(tmp_path)) if i.key == "a.png"]
    assert item.tags == []
    assert "left out 2 files of other kinds: 1 .txt, 1 .mp4" in caplog.messages[-1]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b"\0\1\2"),
        ("a.json", b"\0\1\2"),
        ("a.json", b'{"tags": ["dog"'),
        ("a.json", b'["dog"]'),
        ("a.json", b'{"tags": "dog"}'),
        ("a.json", b'{"captions": [1]}'),
        ("a.json", b"[" * 100_000),
    ],
)
def test_words_that_cannot_be_read_are_named_and_the_picture_stays(tmp_path, caplog, name, content):
    picture(tmp_path / "a.png")
    (tmp_path / name).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert list(images(str(tmp_path))) == [ImageItem(f"{tmp_path}/a.png", "a.png")]
    (line,) = caplog.messages
    assert line.startswith(f"{tmp_path / name}: left out")


def test_many_tags_and_odd_names(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / name).write_bytes(b"x")
    (tmp_path / name).with_suffix(".txt").write_text("\n".join(f"t{i}" for i in range(10_000)))
    (item,) = images(str(tmp_path))
    assert item.key == "caf%E9.png"
    assert len(item.tags) == 10_000


def test_a_single_picture(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("sea")
    (item,) = images(f"folder:{tmp_path}/a.png")
    assert (item.key, item.tags) == ("a.png", ["sea"])


def test_remote_folders():
    import fsspec

    memory = fsspec.filesystem("memory")
    words = json.dumps({"captions": ["A cat."]}).encode()
    files = {"a/x.jpg": b"x", "a/x.txt": b"sea", "a/x.json": words, "b.webp": b"x"}
    for name, content in files.items():
        memory.pipe(f"/pictures/{name}", content)
    try:
        assert list(images("folder:memory://pictures")) == [
            ImageItem("memory://pictures/a/x.jpg", "a/x.jpg", ["sea"], ["A cat."]),
            ImageItem("memory://pictures/b.webp", "b.webp"),
        ]
    finally:
        memory.rm("/pictures", recursive=True)


def test_pictures_are_streamed(tmp_path):
    for folder in range(10):
        (tmp_path / str(folder)).mkdir()
        for i in range(50):
            (tmp_path / str(folder) / f"{i}.jpg").write_bytes(b"")
            (tmp_path / str(folder) / f"{i}.txt").write_text("long tag " * 200)
    tracemalloc.start()
    count = sum(1 for _ in images(str(tmp_path)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 500
    assert peak < 300_000  # the tags together are three times that


def test_no_pictures_at_all(tmp_path):
    (tmp_path / "a.txt").write_text("sea")
    with pytest.raises(UserError, match="holds no pictures; expected folder:DIR"):
        images(f"folder:{tmp_path}")
    with pytest.raises(UserError, match="there is no such folder"):
        images(f"folder:{tmp_path}/none")
