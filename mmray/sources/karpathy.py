"""The splits that captioners are compared on (Karpathy and Fei-Fei 2015), with their captions."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mmray import storage
from mmray.errors import UserError
from mmray.sources.captions import NO_ELEMENT, SPLITS, Flaws, is_name, spoken
from mmray.sources.json_lists import elements

_REPEATED = "left out {} pictures that come twice"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """A picture of COCO, Flickr8k or Flickr30k.

    Attributes:
        folder: such as val2014; empty for Flickr, which has one folder.
        name: the file in it.
        number: COCO's number of it, where there is one.
        captions: as people wrote them; of a sentence without that its tokens.
        split: `train` (with COCO's restval), `val` or `test`.
    """

    folder: str
    name: str
    number: int | None
    captions: list[str]
    split: str

    @property
    def key(self) -> str:
        """The same wherever the picture lies."""
        return f"{self.folder}/{self.name}" if self.folder else self.name


def find(root: str, data_set: str) -> str | None:
    """Such as dataset_coco.json in a folder or its folder annotations; None where it is not."""
    name = f"dataset_{data_set}.json"
    places = (storage.join(root, name), storage.join(root, "annotations", name))
    return next((place for place in places if storage.exists(place)), None)


def pictures(file: str) -> Iterator[Picture]:
    """The pictures of a file in its order.

    Raises:
        UserError: the file is no such JSON, or has no picture in the form of these files.
    """
    flaws = Flaws(file)
    seen: set[str] = set()
    splits: Counter[str] = Counter()
    strange: Any = None
    number = 0
    for name, element in elements(file):
        if name != "images":
            continue
        number += 1
        picture = _picture(element, f"element {number}", flaws)
        if picture is None:
            strange = element if strange is None else strange
            flaws.add(NO_ELEMENT, f"element {number}")
        elif picture.key in seen:
            flaws.add(_REPEATED, picture.key)
        else:
            seen.add(picture.key)
            splits[element["split"]] += 1
            yield picture
    flaws.report()
    if splits["restval"]:
        _log.warning("%s: %d pictures of restval count as train", file, splits["restval"])
    if not seen:
        found = f"{strange!r:.80}" if number else "no `images`"
        raise UserError(
            f'{file}: expected {{"images": [{{"filename": "a.jpg", "split": "train", "sentences": '
            f'[{{"raw": "A cat."}}]}}, ...]}} as Karpathy has it; found {found}'
        )


def _picture(element: Any, place: str, flaws: Flaws) -> Picture | None:
    if not isinstance(element, dict):
        return None
    name, folder = element.get("filename"), element.get("filepath") or ""
    split, sentences = element.get("split"), element.get("sentences")
    if not is_name(name) or not (is_name(folder) or folder == ""):
        return None
    if not isinstance(split, str) or split not in SPLITS or not isinstance(sentences, list):
        return None
    number = element.get("cocoid")
    captions = spoken([_sentence(sentence) for sentence in sentences], place, flaws)
    return Picture(folder, name, number if type(number) is int else None, captions, SPLITS[split])


def _sentence(sentence: Any) -> str | None:
    if not isinstance(sentence, dict):
        return None
    raw, tokens = sentence.get("raw"), sentence.get("tokens")
    if isinstance(raw, str) and raw.strip():
        return raw
    if isinstance(tokens, list) and all(isinstance(token, str) for token in tokens):
        return " ".join(tokens)
    return None
