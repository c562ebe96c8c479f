"""Sets of sounds with classes."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from mmray import storage
from mmray.errors import UserError
from mmray.sources.folder import SOUND_SUFFIXES, VIDEO_SUFFIXES, files
from mmray.sources.items import SoundItem

SONICPI = "/usr/share/sonic-pi/samples"
"""Where Debian's package sonic-pi-samples puts them."""


def folder_sounds(where: str) -> Iterator[SoundItem]:
    """All files with sound below a folder; the first folder on the way is the class."""
    for uri, key in files(where, SOUND_SUFFIXES | VIDEO_SUFFIXES):
        first, slash, _ = key.partition("/")
        yield SoundItem(uri, key, first if slash else None)


def sonicpi(where: str) -> Iterator[SoundItem]:
    """The samples of Sonic Pi; the class is the name up to the first underscore."""
    where = where or SONICPI
    if not storage.exists(where):
        raise UserError(
            f"{where}: there is no such folder; install Debian's sonic-pi-samples, or give "
            "sonicpi:DIR"
        )
    for uri, key in files(where, SOUND_SUFFIXES):
        name = key.rpartition("/")[2]
        yield SoundItem(uri, key, name.partition("_")[0])


def esc50(where: str) -> Iterator[SoundItem]:
    """ESC-50 (Piczak 2015): 2,000 sounds of 50 classes in five folds.

    Raises:
        UserError: the folder lacks meta/esc50.csv, or that lacks a column.
    """
    table = storage.join(where, "meta", "esc50.csv")
    if not where or not storage.exists(table):
        raise UserError(f"esc50:{where}: has no meta/esc50.csv; expected the folder of ESC-50")
    with storage.open_file(table) as source:
        text = source.read().decode("utf-8", errors="replace")
    root = storage.absolute(where)
    for row in csv.DictReader(text.splitlines()):
        try:
            name, fold, label = row["filename"], int(row["fold"]), row["category"]
        except (KeyError, TypeError, ValueError) as e:
            raise UserError(
                f"{table}: expected the columns filename, fold and category, found {dict(row)}"
            ) from e
        yield SoundItem(storage.join(root, "audio", name), f"audio/{name}", label, fold)
