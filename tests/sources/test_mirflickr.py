import logging

import pytest

from mmray.errors import UserError
from mmray.sources import ImageItem, images


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


PICTURES = {f"im{i}.jpg": b"x" for i in (1, 2, 3, 10, 11)}
TAGS = {
    "meta/tags/tags1.txt": "blue\nsky\n",
    "meta/tags_raw/tags1.txt": "Blue Sky\n",
    "meta/tags/tags2.txt": "",
    "meta/tags_raw/tags2.txt": "Nikon D80\n",
    "meta/tags_raw/tags3.txt": b"\xef\xbb\xbfNew York\r\n\xc3\xa9t\xc3\xa9\r\n",
    "meta/tags/tags10.txt": b"caf\xe9\n",
}
CLASSES = {
    "README.txt": "1\n2\n",
    "animals.txt": "1\n3\n",
    "baby_r1.txt": "3\r\n3\r\n",
}


def placed(folder, files):
    return {f"{folder}/{name}": content for name, content in files.items()}


@pytest.mark.parametrize("inner", [".", "mirflickr"])
@pytest.mark.parametrize(
    "annotations",
    [
        *("annotations", "../annotations", "mirflickr25k_annotations_v080"),
        "../mirflickr25k_annotations_v080",
    ],
)
def test_25k(tmp_path, inner, annotations, caplog):
    root = tmp_path / "set"
    write(root, {**placed(inner, {**PICTURES, **TAGS}), **placed(annotations, CLASSES)})
    place = root if inner == "." else root / inner
    with caplog.at_level(logging.WARNING):
        assert list(images(f"mirflickr:{root}")) == [
            ImageItem(f"{place}/im1.jpg", "im1.jpg", ["blue", "sky"], labels=["animals"]),
            ImageItem(f"{place}/im2.jpg", "im2.jpg"),
            ImageItem(
                f"{place}/im3.jpg", "im3.jpg", ["New York", "été"], labels=["animals", "baby_r1"]
            ),
            ImageItem(f"{place}/im10.jpg", "im10.jpg", ["café"]),
            ImageItem(f"{place}/im11.jpg", "im11.jpg"),
        ]
    assert not caplog.messages


def test_annotations_with_numbers_of_no_picture(tmp_path, caplog):
    write(tmp_path, PICTURES)
    write(tmp_path / "annotations", {"sky.txt": "1\n26000\nthree\n-2\n\n3\n"})
    with caplog.at_level(logging.WARNING):
        labelled = [item.key for item in images(f"mirflickr:{tmp_path}") if item.labels]
    assert labelled == ["im1.jpg", "im3.jpg"]
    (line,) = caplog.messages
    assert "sky.txt: left out 3 lines" in line
    assert "'26000'" in line


def test_without_annotations_a_line_says_where_they_were_looked_for(tmp_path, caplog):
    write(tmp_path, PICTURES)
    with caplog.at_level(logging.WARNING):
        assert all(not item.labels and not item.tags for item in images(f"mirflickr:{tmp_path}"))
    (line,) = caplog.messages
    assert f"{tmp_path}/annotations" in line


def test_odd_tag_files(tmp_path, caplog):
    many = "\n".join(f"tag{i}" for i in range(10_000))
    write(tmp_path, {**PICTURES, "annotations/sky.txt": "1"})
    write(tmp_path, {"meta/tags/tags1.txt": b"\0\0", "meta/tags/tags2.txt": many})
    with caplog.at_level(logging.WARNING):
        first, second, *_ = images(f"mirflickr:{tmp_path}")
    assert (first.tags, len(second.tags)) == ([], 10_000)
    (line,) = caplog.messages
    assert "tags1.txt: left out" in line


def test_1m(tmp_path):
    names = ("images/0/0.jpg", "images/0/17.jpg", "images/0/9.jpg", "images/10/100000.jpg")
    write(tmp_path, dict.fromkeys((*names, "images/2/20000.jpg"), b"x"))
    write(tmp_path, {"tags/0/17.txt": "sea\nsand\n", "tags_raw/10/100000.txt": "Big Ben"})
    assert [(i.key, i.tags) for i in images(f"mirflickr:{tmp_path}")] == [
        ("images/0/0.jpg", []),
        ("images/0/9.jpg", []),
        ("images/0/17.jpg", ["sea", "sand"]),
        ("images/2/20000.jpg", []),
        ("images/10/100000.jpg", ["Big Ben"]),
    ]


def test_1m_is_listed_folder_by_folder(tmp_path):
    write(tmp_path, dict.fromkeys(("images/0/0.jpg", "images/1/10000.jpg"), b"x"))
    items = images(f"mirflickr:{tmp_path}")
    next(items)
    write(tmp_path, {"images/1/10001.jpg": b"x"})
    assert [item.key for item in items] == ["images/1/10000.jpg", "images/1/10001.jpg"]


def test_another_layout(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    for where in (tmp_path, tmp_path / "none", ""):
        with pytest.raises(UserError, match=r"has no im1\.jpg, mirflickr/im1\.jpg or images/0"):
            images(f"mirflickr:{where}")
