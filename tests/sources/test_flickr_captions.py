import json
import logging

import pytest

from mmray.errors import UserError
from mmray.sources import ImageItem, images

TOKENS = "a.jpg#0\tA dog .\na.jpg#1\tA brown dog .\nb.jpg#0\tTwo cats .\n"


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("folder", ["Flicker8k_Dataset", "Flickr8k_Dataset", "images", "Images"])
def test_flickr8k_as_published(tmp_path, folder):
    write(tmp_path, {f"{folder}/a.jpg": "x", "Flickr8k.token.txt": TOKENS})
    # b.jpg is not on disk; reading it says so.
    assert list(images(f"flickr8k:{tmp_path}")) == [
        ImageItem(f"{tmp_path}/{folder}/a.jpg", "a.jpg", captions=["A dog .", "A brown dog ."]),
        ImageItem(f"{tmp_path}/{folder}/b.jpg", "b.jpg", captions=["Two cats ."]),
    ]


@pytest.mark.parametrize("text_folder", [".", "Flickr8k_text"])
def test_flickr8k_has_splits_of_its_own(tmp_path, text_folder):
    tokens = "".join(f"{name}.jpg#0\tWords\n" for name in "abcd")
    texts = {
        "Flickr8k.token.txt": tokens,
        "Flickr_8k.trainImages.txt": "b.jpg\r\n",
        "Flickr_8k.devImages.txt": "c.jpg\n",
        "Flickr_8k.testImages.txt": "a.jpg\n",
    }
    write(tmp_path, {f"{text_folder}/{name}": text for name, text in texts.items()})
    (tmp_path / "Images").mkdir()
    splits = {item.key: item.split for item in images(f"flickr8k:{tmp_path}")}
    assert splits == {"a.jpg": "test", "b.jpg": "train", "c.jpg": "val", "d.jpg": "train"}


def test_flickr8k_as_on_kaggle(tmp_path):
    text = 'image,caption\na.jpg,A dog .\na.jpg,"A ""brown"" dog , running ."\nb.jpg,Cats .\n'
    write(tmp_path, {"captions.txt": b"\xef\xbb\xbf" + text.encode(), "Images/a.jpg": "x"})
    assert [(i.key, i.captions, i.split) for i in images(f"flickr8k:{tmp_path}")] == [
        ("a.jpg", ["A dog .", 'A "brown" dog , running .'], None),
        ("b.jpg", ["Cats ."], None),
    ]


def test_flickr30k_as_published(tmp_path):
    write(tmp_path, {"results_20130124.token": TOKENS, "flickr30k-images/a.jpg": "x"})
    assert [i.split for i in images(f"flickr30k:{tmp_path}")] == [None, None]
    write(tmp_path, {"train.txt": "b\n", "test.txt": "a\n"})
    items = list(images(f"flickr30k:{tmp_path}"))
    assert [(i.key, i.split) for i in items] == [("a.jpg", "test"), ("b.jpg", "train")]
    assert items[0].uri == f"{tmp_path}/flickr30k-images/a.jpg"


def test_flickr30k_as_on_kaggle(tmp_path):
    text = (
        "image_name| comment_number| comment\n"
        "a.jpg| 0| A dog | cat .\n"
        "a.jpg| 4   A dog runs across the grass .\n"  # as it is in the published file
        "b.jpg| 1| 2 cats .\n"
    )
    write(tmp_path, {"results.csv": text, "flickr30k_images/flickr30k_images/a.jpg": "x"})
    items = list(images(f"flickr30k:{tmp_path}"))
    assert [(i.key, i.captions) for i in items] == [
        ("a.jpg", ["A dog | cat .", "A dog runs across the grass ."]),
        ("b.jpg", ["2 cats ."]),
    ]
    assert items[0].uri == f"{tmp_path}/flickr30k_images/flickr30k_images/a.jpg"


def test_lines_without_a_caption_are_counted(tmp_path, caplog):
    write(tmp_path, {"Flickr8k.token.txt": b"a.jpg#0\tCaf\xe9\r\nnonsense\n\nb.jpg#0\t \n"})
    (tmp_path / "images").mkdir()
    with caplog.at_level(logging.WARNING):
        (item,) = images(f"flickr8k:{tmp_path}")
    assert item.captions == ["Caf\ufffd"]
    (line,) = caplog.messages
    assert "left out 1 lines that are no caption of a picture (first: line 2)" in line
    assert "left out 1 empty captions (first: line 4)" in line
    assert "read 1 lines that are not UTF-8 with \ufffd in them (first: line 1)" in line


def test_another_layout(tmp_path):
    for where in ("", tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=r"expected a folder with Flickr8k\.token\.txt or"):
            images(f"flickr8k:{where}")
    with pytest.raises(UserError, match=r"results_20130124\.token or results\.csv"):
        images(f"flickr30k:{tmp_path}")
    write(tmp_path, {"Flickr8k.token.txt": TOKENS})
    with pytest.raises(UserError, match="no folder of pictures; expected one of Flicker8k_Dataset"):
        images(f"flickr8k:{tmp_path}")
    write(tmp_path, {"Flickr8k.token.txt": "nonsense\n", "images/a.jpg": "x"})
    with pytest.raises(UserError, match="holds no captions"):
        images(f"flickr8k:{tmp_path}")


def test_a_table_that_is_none(tmp_path):
    write(tmp_path, {"captions.txt": 'image,caption\na.jpg,"' + "x" * 200_000, "images/a.jpg": "x"})
    with pytest.raises(UserError, match=r"captions\.txt: holds no captions .* expected a line"):
        images(f"flickr8k:{tmp_path}")


def test_a_quotation_mark_that_nothing_closes(tmp_path, caplog):
    text = 'image,caption\na.jpg,"A dog\nb.jpg,A cat\nc.jpg,"A cow"\nd.jpg,A hen\n'
    write(tmp_path, {"captions.txt": text, "images/a.jpg": "x"})
    with caplog.at_level(logging.WARNING):
        assert [i.key for i in images(f"flickr8k:{tmp_path}")] == ["d.jpg"]
    assert "left out 3 lines that are no caption of a picture (first: line 2)" in caplog.text


def test_flickr30k_where_kaggle_unpacks_it(tmp_path):
    text = "image_name| comment_number| comment\na.jpg| 0| A dog\n"
    folder = "flickr30k_images"
    write(tmp_path, {f"{folder}/results.csv": text, f"{folder}/{folder}/a.jpg": "x"})
    (item,) = images(f"flickr30k:{tmp_path}")
    assert (item.uri, item.captions) == (f"{tmp_path}/{folder}/{folder}/a.jpg", ["A dog"])


def test_splits_of_pictures_without_captions(tmp_path, caplog):
    texts = {"Flickr8k.token.txt": TOKENS, "Flickr_8k.testImages.txt": "z.jpg\na.jpg\n"}
    write(tmp_path, {**texts, "images/a.jpg": "x"})
    with caplog.at_level(logging.WARNING):
        assert [i.split for i in images(f"flickr8k:{tmp_path}")] == ["test", "train"]
    assert "list 1 pictures that have no captions, such as z.jpg" in caplog.text


@pytest.mark.parametrize("name", ["flickr8k", "flickr30k"])
@pytest.mark.parametrize("folder", [".", "annotations"])
@pytest.mark.parametrize("alone", [True, False])
def test_karpathy_decides_captions_and_splits(tmp_path, name, folder, alone):
    pictures = [
        {"filename": "b.jpg", "split": "val", "sentences": [{"raw": " Two cats. "}]},
        {"filename": "a.jpg", "split": "test", "sentences": [{"tokens": ["a", "dog"]}]},
    ]
    written = {f"{folder}/dataset_{name}.json": json.dumps({"images": pictures})}
    if not alone:
        written |= {"Flickr8k.token.txt": TOKENS, "results_20130124.token": TOKENS}
        written |= {"Flickr_8k.trainImages.txt": "a.jpg\n", "train.txt": "a\n"}
    write(tmp_path, {**written, "images/a.jpg": "x"})
    assert list(images(f"{name}:{tmp_path}")) == [
        ImageItem(f"{tmp_path}/images/b.jpg", "b.jpg", captions=["Two cats."], split="val"),
        ImageItem(f"{tmp_path}/images/a.jpg", "a.jpg", captions=["a dog"], split="test"),
    ]
