"""Pictures with words as Debian's packages bring them."""

from collections import Counter
from pathlib import Path

import pytest

from mmray.media.image import decode_image
from mmray.sources import images
from mmray.sources.openclipart import OPENCLIPART
from mmray.sources.stamps import STAMPS

pytestmark = pytest.mark.real


def need(folder, packages):
    if not Path(folder).is_dir():
        pytest.skip(f"{folder} is missing: install Debian's {packages}")


def check(items):
    assert len({item.key for item in items}) == len(items)
    for item in items[::100]:
        assert decode_image(Path(item.uri).read_bytes()).ndim == 3


def test_openclipart():
    need(f"{OPENCLIPART}/png", "openclipart-png and openclipart-svg")
    need(f"{OPENCLIPART}/svg", "openclipart-png and openclipart-svg")
    items = list(images("openclipart"))
    assert len(items) == 8118
    assert sum(bool(item.tags) for item in items) == 8000
    assert len({tag for item in items for tag in item.tags}) == 2076
    assert Counter(item.labels[0] for item in items)["animals"] == 316
    check(items)
    # Some are there under several names, as links.
    assert len({Path(item.uri).resolve() for item in items}) == 6900


def test_stamps():
    need(STAMPS, "tuxpaint-stamps-default")
    items = list(images("stamps"))
    assert len(items) == 785
    assert all(item.captions and item.tags and item.labels for item in items)
    assert len({item.labels[0] for item in items}) == 16
    check(items)
