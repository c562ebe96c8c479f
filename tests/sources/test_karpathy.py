import json
import logging

import pytest

from mmray.errors import UserError
from mmray.sources import karpathy

GOOD = {"filename": "a.jpg", "split": "train", "sentences": [{"raw": "A cat."}]}


def write(tmp_path, value):
    path = tmp_path / "dataset_flickr8k.json"
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return str(path)


@pytest.mark.parametrize(
    "bad",
    [
        7,
        {},
        {**GOOD, "filename": None},
        {**GOOD, "filename": "b\0.jpg"},
        {**GOOD, "filename": "\ud800.jpg"},
        {**GOOD, "filepath": 3},
        {**GOOD, "split": "tset"},
        {**GOOD, "split": []},
        {**GOOD, "sentences": None},
    ],
)
def test_elements_that_are_no_pictures_are_counted(tmp_path, caplog, bad):
    file = write(tmp_path, {"images": [GOOD, bad, bad], "info": [1]})
    with caplog.at_level(logging.WARNING):
        (picture,) = karpathy.pictures(file)
    assert picture == karpathy.Picture("", "a.jpg", None, ["A cat."], "train")
    assert "left out 2 elements that are no picture with captions (first: element 2)" in caplog.text
    with pytest.raises(UserError, match=r"dataset_flickr8k\.json: expected .* found "):
        list(karpathy.pictures(write(tmp_path, {"images": [bad]})))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([GOOD], "is not a JSON file with lists"),
        (b'{"images": [{"filename": "\xe9', "is not a JSON file with lists"),
        ({"annotations": [GOOD]}, "found no `images`"),
    ],
)
def test_a_file_of_another_form(tmp_path, value, message):
    with pytest.raises(UserError, match=message):
        list(karpathy.pictures(write(tmp_path, value)))


def test_sentences_without_words_and_pictures_that_come_twice(tmp_path, caplog):
    sentences = [{"raw": ""}, {"tokens": []}, 3, {"raw": None, "tokens": ["a", 1]}, {}]
    with caplog.at_level(logging.WARNING):
        (picture,) = karpathy.pictures(
            write(tmp_path, {"images": [{**GOOD, "sentences": sentences}, GOOD]})
        )
    assert picture.captions == []
    assert "left out 5 empty captions (first: element 1)" in caplog.text
    assert "left out 1 pictures that come twice (first: a.jpg)" in caplog.text
