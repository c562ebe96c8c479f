"""One page: charts, tables, pictures and sounds, all in a single HTML file.

The file asks no other host for anything and opens from disk. Vega-Lite draws the charts in the
reader's browser, as SVG in the page's own colours, so they follow dark and light and print well.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mmray import storage
from mmray.errors import UserError

FOLDER = Path(__file__).parent / "templates"
MAX_BYTES = 15_000_000
"""Of a whole page: it should open at once, and go into a mail."""
MEDIA_BYTES = 9_000_000
"""Of the pictures and sounds in it, before they are written as text (which takes a third more)."""


@dataclass(frozen=True)
class Chart:
    """A chart for readers with eyes and without.

    Args:
        title: what it shows.
        alt: what is to be seen on it, in words and numbers.
        spec: for Vega-Lite.
        wide: as wide as the page; else two fit beside each other.
    """

    title: str
    alt: str
    spec: dict[str, Any]
    wide: bool = False


@dataclass(frozen=True)
class Grid:
    """A table; columns of numbers can be sorted.

    Args:
        title: what it shows.
        columns: their names.
        rows: a cell for each column; None is shown as a dash.
        search: offer a field that filters the rows.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    search: bool = False


@dataclass
class Media:
    """The pictures and sounds of a page; what is on it twice is in the file once.

    Args:
        budget: bytes; what comes later is left out.
    """

    budget: int = MEDIA_BYTES
    used: int = 0
    items: dict[str, str] = field(default_factory=dict)

    def add(self, data: bytes | None, kind: str) -> str | None:
        """Keep a file of the media type `kind`.

        Returns:
            Its name on the page; None when there is no data, or no room.
        """
        if not data:
            return None
        name = hashlib.sha256(data).hexdigest()[:12]
        if name not in self.items:
            if self.used + len(data) > self.budget:
                return None
            self.used += len(data)
            self.items[name] = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        return name

    def picture(self, data: bytes | None) -> str | None:
        """As `add`, for a JPEG, PNG or WebP file."""
        kinds = {b"\x89PNG": "image/png", b"RIFF": "image/webp"}
        return self.add(data, kinds.get((data or b"")[:4], "image/jpeg"))

    def sound(self, data: bytes | None) -> str | None:
        """As `add`, for an MP3 file."""
        return self.add(data, "audio/mpeg")

    def has_room(self, size: int) -> bool:
        """Whether about so many bytes fit."""
        return self.used + size <= self.budget


def render(template: str, media: Media, **values: Any) -> str:
    """A template of this package as one HTML page."""
    return _environment().get_template(template).render(media=media, **values)


def write(html: str, path: str) -> None:
    """Write a page.

    Raises:
        UserError: it would be larger than `MAX_BYTES`.
    """
    data = html.encode()
    if len(data) > MAX_BYTES:
        raise UserError(
            f"{path}: the page would have {len(data) / 1e6:.1f} MB, at most {MAX_BYTES / 1e6:.0f} "
            "are wanted; show fewer items, with --limit or --items"
        )
    storage.write_bytes(path, data)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.globals["script"] = _script
    environment.globals["style"] = lambda: Markup((FOLDER / "style.css").read_text())
    return environment


@functools.cache
def _script() -> Markup:
    """Vega, and what makes the page move."""
    import vl_convert

    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    own = (FOLDER / "page.js").read_text()
    text = f"{bundle}\n{own}"
    assert "</script" not in text
    return Markup(text)


def page_name(where: str) -> str:
    """What to call a model: the folder of its job, the name in the registry, or of its file."""
    parts = [part for part in where.replace("\\", "/").split("/") if part]
    return parts[-2] if len(parts) > 1 and parts[-1] == "model" else parts[-1]


def number(value: Any) -> str:
    """A cell as people read it: three digits after the point, none of whole numbers."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if value == int(value) and abs(value) >= 10 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def metric_grid(
    title: str, columns: Mapping[str, Mapping[str, float]], names: Mapping[str, str]
) -> Grid:
    """Numbers of several models side by side.

    Args:
        title: of the table.
        columns: metrics by flat name, of each model.
        names: of the metrics that are shown, with what to call them; unknown ones are left out.
    """
    rows = [
        [text, *(metrics.get(name) for metrics in columns.values())]
        for name, text in names.items()
        if any(name in metrics for metrics in columns.values())
    ]
    return Grid(title, ["", *columns], rows)
