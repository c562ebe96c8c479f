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
    text = value if isinstance(value, str) else json.dumps(value)
    path.write_bytes(text.encode("latin-1"))


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
        ({"images": [{"id": 7, "file_name": "\ud800.jpg"}]}, "an element of `images` is"),
        ('{"images": [{"id": 7, "file_name": "\xe9.jpg"}]}', "is not a JSON file .*'utf-8' codec"),
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


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_empty_captions_are_counted(root, caplog):
    said = [{"image_id": 7, "caption": text} for text in ("", "A half \ud800", " \n")]
    write(root, "captions_train2017.json", {"images": PICTURES, "annotations": said})
    with caplog.at_level(logging.WARNING):
        item = next(images(f"coco:{root}"))
    assert item.captions == ["A half ?"]
    assert "left out 2 empty captions (first: that of picture 7)" in caplog.text


@pytest.mark.parametrize("folder", ["train2017", "images/train2017"])
def test_annotations_of_one_year_and_pictures_of_the_other(tmp_path, caplog, folder):
    names = {7: "COCO_train2014_000000000007.jpg", 8: "COCO_train2014_000000000008.jpg"}
    pictures = [{"id": number, "file_name": name} for number, name in names.items()]
    write(tmp_path, "captions_train2014.json", {**CAPTIONS, "images": pictures})
    touch(tmp_path / folder / "000000000007.jpg")
    with caplog.at_level(logging.WARNING):
        (item,) = images(f"coco:{tmp_path}")
    assert item.uri == f"{tmp_path}/{folder}/000000000007.jpg"
    assert (item.key, item.captions) == (f"train2014/{names[7]}", ["A cat."])
    assert (
        "left out 1 pictures that are in no folder here; their own would be train2014"
        in (caplog.messages[-1])
    )


def test_a_missing_picture_is_not_taken_for_another_with_its_number(tmp_path):
    """Where a set in COCO's form counts its pictures anew."""
    pictures = [{"id": 7, "file_name": "000000000012.jpg"}, {"id": 8, "file_name": "x_0009.jpg"}]
    write(tmp_path, "captions_train2017.json", {"images": pictures, "annotations": []})
    folder = tmp_path / "train2017"
    touch(*(folder / name for name in ("000000000007.jpg", "000000000008.jpg", "x_0008.jpg")))
    # They are not on disk; reading them says so.
    assert [i.uri for i in images(f"coco:{tmp_path}")] == [
        *(f"{folder}/000000000012.jpg", f"{folder}/x_0009.jpg"),
    ]


def karpathy(number, split, folder="val2014", **more):
    name = f"COCO_{folder}_{number:012d}.jpg"
    sentences = [{"raw": f"Picture {number}.", "tokens": ["picture"]}]
    picture = {"filepath": folder, "filename": name, "cocoid": number, "split": split}
    return {**picture, "sentences": sentences, **more}


@pytest.mark.parametrize("place", ["dataset_coco.json", "annotations/dataset_coco.json"])
def test_karpathy_decides_captions_and_splits(root, caplog, place):
    pictures = [
        karpathy(9, "restval"),
        karpathy(5, "test", sentences=[{"tokens": ["a", "hen"]}, {"raw": "\n"}, {"raw": "Two. "}]),
        karpathy(7, "train", "train2014"),
        karpathy(8, "val"),
    ]
    write(root, f"../{place}", {"images": pictures, "dataset": "coco"})
    files = ("val2014/COCO_val2014_000000000009.jpg", "train2017/000000000005.jpg")
    touch(*(root / name for name in (*files, "val2017/000000000007.jpg")))
    with caplog.at_level(logging.WARNING):
        items = list(images(f"coco:{root}"))
    assert items == [
        ImageItem(
            f"{root}/{files[0]}",
            files[0],
            ["person", "dog"],
            ["Picture 9."],
            ["person", "dog"],
            "train",
        ),
        ImageItem(
            f"{root}/{files[1]}",
            "val2014/COCO_val2014_000000000005.jpg",
            captions=["a hen", "Two."],
            split="test",
        ),
        ImageItem(
            f"{root}/val2017/000000000007.jpg",
            "train2014/COCO_train2014_000000000007.jpg",
            captions=["Picture 7."],
            split="train",
        ),
        # Its folder is there, it is not: reading it says so.
        ImageItem(
            f"{root}/val2014/COCO_val2014_000000000008.jpg",
            "val2014/COCO_val2014_000000000008.jpg",
            captions=["Picture 8."],
            split="val",
        ),
    ]
    assert "left out 1 empty captions (first: element 2)" in caplog.text
    assert "1 pictures of restval count as train" in caplog.text


def test_pictures_of_karpathy_whose_folder_is_missing(tmp_path, caplog):
    write(tmp_path, "dataset_coco.json", {"images": [karpathy(9, "train", "train2014")]})
    with pytest.raises(UserError, match="has annotations but no pictures"):
        images(f"coco:{tmp_path}")
    pictures = [karpathy(9, "train", "train2014"), karpathy(5, "test")]
    write(tmp_path, "dataset_coco.json", {"images": pictures})
    touch(tmp_path / "val2014" / pictures[1]["filename"])
    with caplog.at_level(logging.WARNING):
        (item,) = images(f"coco:{tmp_path}")
    assert item.split == "test"
    assert "left out 1 pictures that are in no folder here; their own would be train2014" in (
        caplog.text
    )
