import json
import logging
import unicodedata

import pytest
from PIL import Image

from mmray.errors import UserError
from mmray.sources import images

NAMES = ("a.png", "sub/b.png", "sub/c.png")


@pytest.fixture
def root(tmp_path):
    for name in NAMES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (1, 1)).save(path)
    return tmp_path


def said(root):
    return {i.key: (i.captions, i.split) for i in images(f"folder:{root}")}


def write(root, name, value):
    data = value if isinstance(value, bytes | str) else json.dumps(value)
    (root / name).write_bytes(data.encode() if isinstance(data, str) else data)


EXPECTED = {
    "a.png": (["A cat.", 'A "big" cat.'], "test"),
    "sub/b.png": (["A dog, a hen."], "train"),
    "sub/c.png": ([], None),
}
ROWS = [
    {"file_path": "a.png", "captions": ["A cat. ", 'A "big" cat.'], "split": "test"},
    {"file_path": "./sub/b.png", "captions": ["A dog, a hen."], "split": "restval"},
]
CSV = (
    "image,caption,split\r\na.png,A cat.,test\r\n"
    'sub/b.png,"A dog, a hen.",train\r\n\r\na.png,"A ""big"" cat.",test\r\n'
)
TSV = (
    "image\tcaption\tsplit\na.png\tA cat.\ttest\n"
    'sub/b.png\tA dog, a hen.\ttrain\na.png\tA "big" cat.\ttest\n'
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("captions.json", ROWS),
        (
            "captions.json",
            {
                "a.png": ROWS[0],
                "sub/b.png": {"captions": ROWS[1]["captions"], "split": "train"},
            },
        ),
        ("captions.jsonl", "\n\n".join(map(json.dumps, ROWS))),
        ("captions.csv", b"\xef\xbb\xbf" + CSV.encode()),
        ("captions.tsv", TSV),
    ],
)
def test_captions_in_one_file(root, caplog, name, value):
    write(root, name, value)
    with caplog.at_level(logging.WARNING):
        assert said(root) == EXPECTED
    (line,) = caplog.messages
    assert line == f"{root}/{name}: names 2 of the 3 pictures in the folder"


def test_captions_without_splits_or_a_line_of_names(root):
    write(root, "captions.json", {"a.png": ["A cat."], "sub/b.png": "A dog.", "sub/c.png": []})
    expected = {"a.png": (["A cat."], None), "sub/b.png": (["A dog."], None)}
    assert said(root) == {**expected, "sub/c.png": ([], None)}
    write(root, "captions.csv", "a.png,A cat.\nsub/b.png,A dog.\n")
    assert said(root) == {**expected, "sub/c.png": ([], None)}


def test_pictures_are_known_by_their_names_where_these_are_unique(root, caplog):
    (root / "more").mkdir()
    (root / "more" / "c.png").write_bytes(b"x")
    accented = "caf\u00e9.png"
    (root / unicodedata.normalize("NFD", accented)).write_bytes(b"x")
    names = ("/data/b.png", "c.png", f"{root}/a.png", "z.png", accented)
    write(root, "captions.json", {name: [name] for name in names})
    with caplog.at_level(logging.WARNING):
        found = {key: words for key, (words, _) in said(root).items() if words}
    assert found == {
        "a.png": [f"{root}/a.png"],
        "sub/b.png": ["/data/b.png"],
        unicodedata.normalize("NFD", accented): [accented],
    }
    assert "left out captions of 2 pictures that are not in the folder" in caplog.messages[0]
    assert "such as 'c.png'" in caplog.messages[0]


def test_a_missing_picture_is_not_taken_for_another_of_its_name(root, caplog):
    names = ("sub/b.png", "test/b.png", "x/c.png", "y/c.png", "./a.png", "a.png")
    write(root, "captions.json", {name: [name] for name in names})
    with caplog.at_level(logging.WARNING):
        found = {key: words for key, (words, _) in said(root).items()}
    assert found == {"a.png": ["./a.png", "a.png"], "sub/b.png": ["sub/b.png"], "sub/c.png": []}
    assert "left out captions of 3 pictures" in caplog.messages[0]


def test_words_beside_a_picture_count_too(root):
    (root / "a.json").write_text('{"tags": ["cat"], "captions": ["A cat."]}')
    write(root, "captions.json", {"a.png": ["A cat.", "It sleeps."]})
    item = next(images(str(root)))
    assert (item.tags, item.captions) == (["cat"], ["A cat.", "It sleeps."])


def test_of_several_files_one_counts(root, caplog):
    write(root, "captions.csv", CSV)
    write(root, "captions.jsonl", json.dumps(ROWS[0]))
    with caplog.at_level(logging.WARNING):
        assert said(root) == EXPECTED
    assert f"{root}/captions.jsonl: left out, since {root}/captions.csv counts" in caplog.text


def test_the_words_of_a_picture_named_captions(root):
    (root / "captions.png").write_bytes(b"x")
    write(root, "captions.json", {"tags": ["sea"], "captions": ["The sea."]})
    assert said(root)["captions.png"] == (["The sea."], None)


def test_a_thousand_words_stay(root):
    text = "word " * 999 + "end"
    write(root, "captions.tsv", f"image\tcaption\na.png\t{text}\n")
    assert said(root)["a.png"] == ([text], None)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        (
            "captions.json",
            [ROWS[0], 7, {"file_path": "a.png"}, {**ROWS[1], "split": "tset"}],
            "left out 2 elements that are no picture with captions (first: element 2); left out 1 "
            "pictures whose split is none of train, val, test (first: element 4)",
        ),
        (
            "captions.json",
            {"a.png": ["A cat.", "", None], "sub/b.png": [3]},
            "left out 2 empty captions (first: element 1); left out 1 elements",
        ),
        (
            "captions.jsonl",
            json.dumps(ROWS[0]).encode() + b"\n{\n[]\n" + b"[" * 100_000,
            "left out 3 lines that are no caption of a picture (first: line 2)",
        ),
        (
            "captions.jsonl",
            json.dumps(ROWS[0]).encode() + b'\n{"image": "sub/b.png", "caption": "Caf\xe9"}\n',
            "read 1 lines that are not UTF-8 with \ufffd in them (first: line 2)",
        ),
        (
            "captions.csv",
            "image,caption\na.png,A cat.\na.png\na.png,A cat, a dog.\nsub/b.png, \n,A cow.\n",
            "left out 3 lines that are no caption of a picture (first: line 3); "
            "left out 1 empty captions (first: line 5)",
        ),
        (
            "captions.csv",
            'image,caption\na.png,A cat.\nsub/b.png,"A dog.\nsub/c.png,A hen.\n',
            "left out 2 lines that are no caption of a picture (first: line 3)",
        ),
        (
            "captions.csv",
            "image,caption,split\na.png,A cat.,test\na.png,A tom.,train\n",
            "kept the first split of pictures that 1 lines put into another (first: line 3)",
        ),
    ],
)
def test_what_is_wrong_is_counted_with_its_first_place(root, caplog, name, value, told):
    write(root, name, value)
    with caplog.at_level(logging.WARNING):
        assert said(root)["a.png"][0][0] == "A cat."
    assert caplog.messages[0].startswith(f"{root}/{name}: ")
    assert told in caplog.messages[0]


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("captions.json", b"", "no JSON"),
        ("captions.json", b'{"a.png": ["Caf\xe9"]}', "no JSON"),
        ("captions.json", b"[" * 100_000, "no JSON"),
        ("captions.json", "7", "7"),
        ("captions.json", [], "no picture with captions"),
        ("captions.json", {"images": [{"id": 1}], "annotations": [{"id": 1}]}, '{"images": '),
        ("captions.json", {"images": [{"id": 1}], "annotations": []}, "no picture with captions"),
        ("captions.jsonl", b"\xff\xfe\0\0", ""),
        ("captions.jsonl", "", "no picture with captions"),
        ("captions.csv", "", "no line"),
        ("captions.csv", "name;text\na.png;A cat.\n", "name;text"),
        ("captions.csv", "image,caption\n", "no picture with captions"),
        ("captions.tsv", "image,caption\na.png,A cat.\n", "image,caption"),
        ("captions.tsv", CSV.encode("utf-16"), ""),
    ],
)
def test_a_file_of_another_form(root, name, value, found):
    write(root, name, value)
    with pytest.raises(UserError) as error:
        images(f"folder:{root}")
    text = str(error.value)
    assert text.startswith(f"{root}/{name}: expected ")
    assert f"; found {found}" in text


def test_a_remote_folder():
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("x.jpg", "a/y.jpg"):
        memory.pipe(f"/captioned/{name}", b"x")
    memory.pipe(
        "/captioned/captions.jsonl", b'{"image": "memory://captioned/x.jpg", "caption": "X"}'
    )
    try:
        assert said("memory://captioned") == {"a/y.jpg": ([], None), "x.jpg": (["X"], None)}
    finally:
        memory.rm("/captioned", recursive=True)
