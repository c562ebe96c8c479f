from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmray.errors import UserError
from mmray.teachers.labelled import labelled_pictures, read_pictures
from mmray.toyworld.build import make_world
from mmray.toyworld.world import OBJECTS, PLACES


def test_a_folder_a_class(shapes_folder: Callable[[int], Path]) -> None:
    root = shapes_folder(4)
    (root / "disc" / "notes.txt").write_text("no picture")
    (root / "disc" / ".hidden.png").write_bytes(b"x")
    (root / "loose.png").write_bytes(b"x")
    pictures = labelled_pictures(f"folder:{root}", "objects")
    assert Counter(p.label for p in pictures) == {"disc": 4, "square": 4, "stripes": 4}
    assert {p.key for p in pictures if p.label == "disc"} == {f"disc/00{i}.png" for i in range(4)}
    assert all(Path(p.uri).is_file() for p in pictures)


def test_a_limit_takes_from_all_classes(shapes_folder: Callable[[int], Path]) -> None:
    source = f"folder:{shapes_folder(10)}"
    some = labelled_pictures(source, "objects", limit=12)
    assert len(some) == 12
    assert {p.label for p in some} == {"disc", "square", "stripes"}
    assert some == labelled_pictures(source, "objects")[:12]


def test_toy_world(tmp_path: Path) -> None:
    make_world(tmp_path / "toy", num_videos=0, num_images=12, workers=1)
    for what, classes in (("objects", OBJECTS), ("scenes", PLACES)):
        pictures = labelled_pictures(f"toy:{tmp_path}/toy", what)
        assert len(pictures) == 12
        assert {p.label for p in pictures} <= set(classes)
        images, kept = read_pictures(pictures, 32)
        assert images.shape == (12, 32, 32, 3)
        assert kept == pictures


@pytest.mark.parametrize("source", ["coco:x", "folder:", "pictures/"])
def test_unknown_source(source: str) -> None:
    with pytest.raises(UserError, match=r"expected toy, toy:DIR or folder:DIR"):
        labelled_pictures(source, "objects")


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(UserError, match="holds no pictures in folders"):
        labelled_pictures(f"folder:{tmp_path}", "objects")
    with pytest.raises(UserError, match="holds no pictures in folders"):
        labelled_pictures(f"folder:{tmp_path}/none", "objects")


def test_unreadable_pictures_are_left_out(
    shapes_folder: Callable[[int], Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = shapes_folder(4)
    (root / "disc" / "001.png").write_bytes(b"no picture at all")
    pictures = labelled_pictures(f"folder:{root}", "objects")
    with caplog.at_level(logging.WARNING):
        images, kept = read_pictures(pictures, 32)
    assert images.shape == (11, 32, 32, 3)
    assert "disc/001.png" not in {p.key for p in kept}
    assert "1 pictures cannot be read" in caplog.text
    assert "001.png" in caplog.text
    # Each picture still stands beside its own label: decoding it alone gives the same.
    again, _ = read_pictures(kept[5:6], 32)
    np.testing.assert_array_equal(images[5], again[0])


def test_mostly_unreadable_is_an_error(shapes_folder: Callable[[int], Path]) -> None:
    root = shapes_folder(2)
    for path in (root / "disc").iterdir():
        path.write_bytes(b"no picture at all")
    with pytest.raises(UserError, match=r"2 pictures cannot be read, the first: .*disc"):
        read_pictures(labelled_pictures(f"folder:{root}", "objects"), 32)
