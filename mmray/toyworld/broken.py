"""Files that are broken on purpose, each in a way that collections of real videos know."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from mmray.toyworld.draw import draw
from mmray.toyworld.video import VideoPlan, render_video

# Kinds whose pictures and sound, where there are any, still play from beginning to end.
PLAYABLE = frozenset({"damaged", "no_picture", "no_sound"})


def write_broken(kind: str, plan: VideoPlan, path: Path) -> None:
    """Write the broken form of a planned video; `kind` is one of `BROKEN_KINDS`."""
    _WRITERS[kind](plan, path, np.random.default_rng([plan.seed[0], 5, plan.seed[1]]))


def _empty(plan: VideoPlan, path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(b"")


def _garbage(plan: VideoPlan, path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(rng.bytes(int(rng.integers(10_000, 60_000))))


def _text_file(plan: VideoPlan, path: Path, rng: np.random.Generator) -> None:
    path.write_text("<!DOCTYPE html>\n<title>404</title>\n<p>This video is private.</p>\n")


def _png_image(plan: VideoPlan, path: Path, rng: np.random.Generator) -> None:
    buffer = io.BytesIO()
    Image.fromarray(draw(plan.shots[0].scene, (plan.height, plan.width))).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())


def _truncated(plan: VideoPlan, path: Path, rng: np.random.Generator) -> None:
    """A download that stopped; the index is at the end of the file, so there is none."""
    render_video(replace(plan, fast_start=False), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * rng.uniform(0.3, 0.8))])


def _cut_short(plan: VideoPlan, path: Path, rng: np.random.Generator) -> None:
    """A download that stopped; the index is at the beginning and promises the whole video."""
    render_video(replace(plan, fast_start=True), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * rng.uniform(0.3, 0.6))])


def _damaged(plan: VideoPlan, path: Path, rng: np.random.Generator) -> None:
    """Wrong bytes here and there within the pictures and the sound."""
    render_video(replace(plan, fast_start=False), path)
    data = bytearray(path.read_bytes())
    for start in rng.integers(len(data) // 4, len(data) * 3 // 4, 12).tolist():
        data[start : start + 40] = rng.bytes(40)
    path.write_bytes(data)


def _no_sound(plan: VideoPlan, path: Path, rng: np.random.Generator) -> None:
    render_video(plan, path, with_sound=False)


def _no_picture(plan: VideoPlan, path: Path, rng: np.random.Generator) -> None:
    render_video(plan, path, with_picture=False)


def _one_frame(plan: VideoPlan, path: Path, rng: np.random.Generator) -> None:
    render_video(plan, path, max_frames=1)


def _zero_length(plan: VideoPlan, path: Path, rng: np.random.Generator) -> None:
    """Streams are declared, and there is nothing in them."""
    render_video(plan, path, max_frames=0)


_WRITERS: dict[str, Callable[[VideoPlan, Path, np.random.Generator], None]] = {
    "empty": _empty,
    "truncated": _truncated,
    "garbage": _garbage,
    "no_sound": _no_sound,
    "text_file": _text_file,
    "no_picture": _no_picture,
    "one_frame": _one_frame,
    "cut_short": _cut_short,
    "png_image": _png_image,
    "zero_length": _zero_length,
    "damaged": _damaged,
}
BROKEN_KINDS: list[str] = list(_WRITERS)
