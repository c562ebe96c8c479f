import json
import logging

import pytest

from mmray.errors import UserError
from mmray.sources import ImageItem, images, split_of

PICTURES = [{"id": 9, "file_name": "0009.jpg"}, {"id": 7, "file_name": "0007.jpg"}]
CAPTIONS = {
    "info": {"year": 2017},
    "images": PICTURES,
    "annotations": [
        {"id": 1, "image_id": 9, "caption": "A dog. "},
        {"id": 2, "image_id": 7, "caption": "A cat."},
        {"id": 3, "image_id": 9, "caption": "A brown dog\n"},
    ],
}
INSTANCES = {
    "images": PICTURES,
    "annotations": [
        {"id": 1, "image_id": 9, "category_id": 18, "bbox": [0, 0, 1, 1]},
        {"id": 2, "image_id": 9, "category_id": 1},
        {"id": 3, "image_id": 9, "category_id": 18},
    ],
    "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
}


def write(root, name, value):
    path = root / "annotations" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


@pytest.fixture
def root(tmp_path):
    for part in ("train2017", "val2017"):
        (tmp_path / part).mkdir()
        write(tmp_path, f"captions_{part}.json", CAPTIONS)
        write(tmp_path, f"instances_{part}.json", INSTANCES)
    return tmp_path


def test_captions_and_objects(root):
    items = list(images(f"coco:{root}"))
    assert [i.key for i in items] == [
        *("train2017/0007.jpg", "train2017/0009.jpg", "val2017/0007.jpg", "val2017/0009.jpg"),
    ]
    assert items[1] == ImageItem(
        f"{root}/train2017/0009.jpg",
        "train2017/0009.jpg",
        ["person", "dog"],
        ["A dog.", "A brown dog"],
        ["person", "dog"],
        "train",
    )
    assert (items[0].tags, items[0].labels, items[0].captions) == ([], [], ["A cat."])
    assert [i.split for i in items[2:]] == ["test", "test"]


def test_one_in_ten_of_train_is_val(root):
    pictures = [{"id": i, "file_name": f"{i:06d}.jpg"} for i in range(500)]
    write(root, "captions_train2017.json", {"images": pictures, "annotations": []})
    items = [i for i in images(f"coco:{root}") if i.key.startswith("train")]
    assert {i.split for i in items} == {"train", "val"}
    for item in items:
        assert (item.split == "val") == (split_of(item.key) == "val")


@pytest.mark.parametrize("kind", ["captions", "instances"])
def test_one_kind_of_annotations_is_enough(root, kind):
    for path in (root / "annotations").glob(f"{kind}_*"):
        path.unlink()
    items = list(images(f"coco:{root}"))
    assert len(items) == 4
    assert any(i.captions for i in items) == (kind == "instances")
    assert any(i.labels for i in items) == (kind == "captions")


def test_2014_with_pictures_in_a_folder_of_their_own(tmp_path, caplog):
    (tmp_path / "images" / "val2014").mkdir(parents=True)
    write(tmp_path, "captions_train2014.json", CAPTIONS)
    write(tmp_path, "captions_val2014.json", CAPTIONS)
    with caplog.at_level(logging.WARNING):
        items = list(images(f"coco:{tmp_path}"))
    assert [(i.key, i.split) for i in items] == [
        ("val2014/0007.jpg", "test"),
        ("val2014/0009.jpg", "test"),
    ]
    assert items[0].uri == f"{tmp_path}/images/val2014/0007.jpg"
    (line,) = caplog.messages
    assert "no folder train2014" in line


def test_the_same_pictures_do_not_come_twice(root):
    (root / "train2014").mkdir()
    write(root, "captions_train2014.json", CAPTIONS)
    assert len(list(images(f"coco:{root}"))) == 4


def test_words_of_pictures_that_are_not_listed(root, caplog):
    lost = {"id": 4, "image_id": 99, "caption": "A ghost."}
    write(
        root,
        "captions_val2017.json",
        {"images": PICTURES, "annotations": [*CAPTIONS["annotations"], lost]},
    )
    (root / "annotations" / "instances_val2017.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert len(list(images(f"coco:{root}"))) == 4
    (line,) = caplog.messages
    assert "left out words of 1 pictures" in line


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('{"images": [', "is not a JSON file with lists"),
        ("[]", "is not a JSON file with lists"),
        ({"images": [7]}, "an element of `images` is 7; expected one with id and file_name"),
        ({"images": [{"id": "7", "file_name": "a"}]}, "an element of `images` is"),
        ({"annotations": [{"image_id": 7}]}, "expected one with image_id and caption"),
    ],
)
def test_broken_annotations(root, value, message):
    write(root, "captions_train2017.json", value)
    with pytest.raises(UserError, match=message) as error:
        list(images(f"coco:{root}"))
    assert "captions_train2017.json" in str(error.value)


def test_a_category_that_is_not_listed(root):
    write(root, "instances_train2017.json", {**INSTANCES, "categories": []})
    with pytest.raises(UserError, match="has no category 18"):
        list(images(f"coco:{root}"))


def test_another_layout(tmp_path):
    for where in ("", tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=r"has none of annotations/captions_train2017\.json"):
            images(f"coco:{where}")
    write(tmp_path, "captions_val2017.json", CAPTIONS)
    with pytest.raises(UserError, match="has annotations but no pictures"):
        images(f"coco:{tmp_path}")
