from collections import Counter

import pytest

from mmray.sources import split_of


@pytest.mark.parametrize(
    ("key", "split"),
    [
        # The MD5 sums end, in decimal, in 0, 7, 3 and 4 (by md5sum and bc).
        ("animals/cat", "test"),
        ("a", "train"),
        ("b", "train"),
        ("animals/x.png", "train"),
    ],
)
def test_splits_are_by_md5_of_the_key(key, split):
    assert split_of(key) == split


def test_splits_have_their_shares():
    counts = Counter(split_of(f"videos/{i:06d}.mp4") for i in range(5000))
    assert set(counts) == {"train", "val", "test"}
    assert counts["test"] / 5000 == pytest.approx(0.2, abs=0.03)
    assert counts["val"] / 5000 == pytest.approx(0.1, abs=0.02)
