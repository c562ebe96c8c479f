import gzip
import io
import itertools
import logging
import time

import pytest

from mmray.errors import UserError
from mmray.sources import ImageItem, images
from mmray.sources.openclipart import svg_tags

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"


def svg(*tags, head="", tail="</svg>"):
    items = "".join(f"<rdf:li>{tag}</rdf:li>" for tag in tags)
    return (
        f'<?xml version="1.0"?>{head}<svg xmlns="http://www.w3.org/2000/svg" xmlns:rdf="{RDF}" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata><rdf:RDF>'
        f"<dc:title>Title</dc:title><dc:subject><rdf:Bag>{items}</rdf:Bag></dc:subject>"
        "<dc:creator><rdf:Bag><rdf:li>nobody</rdf:li></rdf:Bag></dc:creator>"
        f"</rdf:RDF></metadata><path/>{tail}"
    ).encode()


def tags_of(data):
    return svg_tags(io.BytesIO(data))


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_pictures_with_the_tags_of_their_drawings(tmp_path, caplog):
    pictures = ("animals/cat.png", "animals/birds/owl.png", "top.png", "unsorted/duplicates/x.png")
    write(tmp_path, {f"png/{name}": b"x" for name in (*pictures, "duplicates/y.png")})
    write(
        tmp_path,
        {
            "svg/animals/cat.svg": svg("cat", " Black  Cat ", "", "Tom &amp; Jerry"),
            "svg/animals/birds/owl.svgz": gzip.compress(svg("owl")),
        },
    )
    with caplog.at_level(logging.WARNING):
        items = list(images(f"openclipart:{tmp_path}"))
    assert items == [
        ImageItem(
            f"{tmp_path}/png/animals/birds/owl.png", "animals/birds/owl", ["owl"], [], ["animals"]
        ),
        ImageItem(
            f"{tmp_path}/png/animals/cat.png",
            "animals/cat",
            ["cat", "Black  Cat", "Tom & Jerry"],
            [],
            ["animals"],
        ),
        ImageItem(f"{tmp_path}/png/top.png", "top"),
    ]
    (line,) = caplog.messages
    assert "1 pictures have no readable SVG, so no tags, such as top" in line


@pytest.mark.parametrize(
    ("data", "tags"),
    [
        (svg(), []),
        (svg("dog", "été"), ["dog", "été"]),
        (svg("dog", tail="<unclosed"), ["dog"]),
        (svg("dog").replace(b"<dc:title>", b"<dc:title"), ["dog"]),
        (svg("R&D", "b&amp;w"), ["R&D", "b&w"]),
        (svg("dog").replace(b' xmlns:rdf="', b' xmlns:other="'), ["dog"]),
        (svg("dog", head='<!DOCTYPE svg [<!ENTITY ns "http://x">]>'), ["dog"]),
        (svg("dog").replace(b'1.0"?>', b'1.0" encoding="nonsense"?>'), ["dog"]),
        (svg("dog").replace(b'1.0"?>', b'1.0" encoding="utf-7"?>'), ["dog"]),
        (svg("dog").decode().encode("utf-16"), ["dog"]),
        (svg("caf\xe9").decode().encode("latin-1"), ["caf\ufffd"]),
        (gzip.compress(svg("dog")), ["dog"]),
        (b"", None),
        (b"\x89PNG\0\1", None),
        (b"<svg><metadata/></svg>", []),
        (b"<svg><subject><li>a</li>", ["a"]),
    ],
)
def test_drawings_of_all_kinds(data, tags):
    if data.startswith(b"\xff\xfe"):
        data = data.decode("utf-16").replace('1.0"', '1.0" encoding="utf-16"').encode("utf-16")
    assert tags_of(data) == tags


def test_many_tags():
    assert len(tags_of(svg(*(f"tag{i}" for i in range(10_000))))) == 10_000


def test_entities_are_not_expanded():
    names = "abcdefghij"
    laughs = "".join(
        f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in itertools.pairwise(names)
    )
    bomb = svg("&j;", "dog", head=f'<!DOCTYPE svg [<!ENTITY a "ha">{laughs}]>')
    assert tags_of(bomb) == ["&j;", "dog"]


def test_files_outside_are_not_read(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    head = f'<!DOCTYPE svg [<!ENTITY x SYSTEM "file://{secret}">]>'
    assert tags_of(svg("&x;", head=head)) == ["&x;"]


def test_compressed_bombs_and_endless_tags_end_soon(monkeypatch):
    monkeypatch.setattr("mmray.sources.openclipart.MAX_BYTES", 1 << 20)
    start = time.monotonic()
    assert tags_of(gzip.compress(b"<svg>" + b" " * (1 << 26))) == []
    for endless in (b"<dc:subject", b"<dc:subject>", b"<svg><subject><li", b"<rdf:li>"):
        tags_of(b"<<" + endless * (1 << 17))
    assert time.monotonic() - start < 10


def test_a_broken_archive_is_a_picture_without_tags(tmp_path, caplog):
    write(tmp_path, {"png/a/b.png": b"x", "svg/a/b.svgz": gzip.compress(svg("dog"))[:40]})
    with caplog.at_level(logging.WARNING):
        (item,) = images(f"openclipart:{tmp_path}")
    assert item.tags == []
    assert "1 pictures" in caplog.text


def test_another_layout(tmp_path):
    with pytest.raises(UserError, match="has no folder png; install Debian's openclipart-png"):
        images(f"openclipart:{tmp_path}")
    (tmp_path / "png").mkdir()
    with pytest.raises(UserError, match="holds no pictures; expected openclipart"):
        images(f"openclipart:{tmp_path}")
