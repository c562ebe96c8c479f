from collections import Counter
from pathlib import Path

import pytest

from mmray.errors import UserError
from mmray.sources import SoundItem, sounds
from mmray.sources.sound_sets import SONICPI


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_folders_are_classes(tmp_path):
    touch(tmp_path, "dog/a.wav", "dog/deep/b.mp3", "cat/c.mp4", "d.flac", "dog/e.txt")
    assert [(i.key, i.label) for i in sounds(f"folder:{tmp_path}")] == [
        ("cat/c.mp4", "cat"),
        ("d.flac", None),
        ("dog/a.wav", "dog"),
        ("dog/deep/b.mp3", "dog"),
    ]


def test_sonicpi_classes_are_the_first_part_of_the_name(tmp_path):
    touch(tmp_path, "ambi_choir.flac", "bd_808.flac", "README.md")
    assert [(i.key, i.label) for i in sounds(f"sonicpi:{tmp_path}")] == [
        ("ambi_choir.flac", "ambi"),
        ("bd_808.flac", "bd"),
    ]
    with pytest.raises(UserError, match="sonic-pi-samples"):
        sounds("sonicpi:/no/such/place")


@pytest.mark.real
def test_sonicpi_as_debian_has_it():
    if not Path(SONICPI).is_dir():
        pytest.skip("Debian's sonic-pi-samples is not installed")
    counts = Counter(item.label for item in sounds("sonicpi"))
    large = {label: count for label, count in counts.items() if count >= 5}
    assert (sum(counts.values()), len(large), sum(large.values())) == (165, 10, 150)


def test_esc50(tmp_path):
    touch(tmp_path, "meta/x")
    (tmp_path / "meta" / "esc50.csv").write_text(
        "filename,fold,target,category,esc10,src_file,take\n"
        "1-100032-A-0.wav,1,0,dog,True,100032,A\n"
        "5-1-B-3.wav,5,3,cow,False,1,B\n"
    )
    assert sounds(f"esc50:{tmp_path}") == [
        SoundItem(f"{tmp_path}/audio/1-100032-A-0.wav", "audio/1-100032-A-0.wav", "dog", 1),
        SoundItem(f"{tmp_path}/audio/5-1-B-3.wav", "audio/5-1-B-3.wav", "cow", 5),
    ]


def test_esc50_that_is_none_says_what_is_expected(tmp_path):
    with pytest.raises(UserError, match=r"has no meta/esc50\.csv"):
        sounds(f"esc50:{tmp_path}")
    touch(tmp_path, "meta/x")
    (tmp_path / "meta" / "esc50.csv").write_text("name,class\na.wav,dog\n")
    with pytest.raises(UserError, match="expected the columns filename, fold and category"):
        sounds(f"esc50:{tmp_path}")
