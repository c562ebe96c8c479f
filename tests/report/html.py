"""Reading pages in tests."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any


class Page(HTMLParser):
    """What is on a page: its text, addresses, charts, and the media that it names."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.addresses: list[str] = []
        self.media_used: set[str] = set()
        self.charts: list[dict[str, Any]] = []
        self.labels: list[str] = []
        self.media: dict[str, str] = {}
        self._script: dict[str, str | None] | None = None
        self.feed(html)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag in ("script", "style"):
            self._script = found
        self.addresses += [str(found[k]) for k in ("src", "href", "srcset") if found.get(k)]
        self.media_used |= {str(found[k]) for k in ("data-media", "data-sound") if found.get(k)}
        if found.get("aria-label"):
            self.labels.append(str(found["aria-label"]))
        assert tag != "img" or found.get("alt"), "each picture has a text in its place"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.text += data + " "
        elif self._script.get("type") == "application/json":
            value = json.loads(data)
            if self._script.get("id") == "media":
                self.media = value
            else:
                self.charts.append(value)

    def check(self) -> None:
        """Nothing is asked of other hosts, and what is named is there."""
        assert all(a.startswith(("#", "data:")) for a in self.addresses), self.addresses
        assert self.media_used <= self.media.keys()
        assert all(value.startswith("data:") for value in self.media.values())
