"""Small media files of every container, damaged in every known way; the same for the same seed.

for file in damaged_files("videos", 200, seed=0):
    (folder / file.name).write_bytes(file.data)
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from tests.media.conftest import draw_number, make_clicks, make_sound, make_video
from tests.media.lies import claim, lie

Kind = Literal["videos", "sounds", "pictures"]
SECONDS = 1.6


@dataclass(frozen=True)
class DamagedFile:
    """A file of a fuzzed folder.

    Args:
        name: its name, which may be odd and need not be UTF-8.
        container: what it was.
        damage: what was done to it; `none` for some, which must come out whole.
        data: its bytes.
    """

    name: str
    container: str
    damage: str
    data: bytes


_H264 = {"codec": "libx264", "sound_codec": "aac", "rate": 22050}
_VIDEOS: dict[str, dict[str, Any]] = {
    "mp4": _H264 | {"container_options": {"movflags": "+faststart"}},
    "fragmented": _H264 | {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "mov": {"codec": "mpeg4", "sound_codec": "pcm_s16le", "rate": 8000},
    "mkv": _H264 | {"sound_codec": "flac"},
    "webm": {"codec": "libvpx", "sound_codec": "libopus", "rate": 48000},
    "avi": {"codec": "mpeg4", "sound_codec": "libmp3lame", "rate": 22050},
    "ts": _H264,
    "mpg": {"codec": "mpeg2video", "sound_codec": "mp2", "rate": 32000},
    "flv": _H264,
    "wmv": {"codec": "wmv2", "sound_codec": "libmp3lame", "rate": 22050},
}
_SOUNDS: dict[str, tuple[str, int]] = {
    "wav": ("pcm_s16le", 8000),
    "mp3": ("libmp3lame", 22050),
    "ogg": ("vorbis", 22050),
    "opus": ("libopus", 48000),
    "flac": ("flac", 16000),
    "m4a": ("aac", 22050),
    "aac": ("aac", 22050),
}
_PICTURES = ("png", "jpg", "gif", "webp", "bmp", "tiff")
CONTAINERS: dict[Kind, tuple[str, ...]] = {
    "videos": tuple(_VIDEOS),
    "sounds": tuple(_SOUNDS),
    "pictures": _PICTURES,
}
_SUFFIXES = {"fragmented": "mp4"}


@cache
def original(container: str) -> bytes:
    """A file that is whole: 1.6 s of numbered frames and a click, or one such frame."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{_SUFFIXES.get(container, container)}"
        if container in _PICTURES:
            rough = np.random.default_rng(0).integers(0, 60, (40, 60, 3), np.uint8)
            Image.fromarray(draw_number(341, 60, 40) ^ rough).save(path)
            return path.read_bytes()
        if container in _SOUNDS:
            codec, rate = _SOUNDS[container]
            sound = np.stack([make_clicks(SECONDS, [0.8], rate)] * 2)  # FFmpeg's Vorbis is stereo
            make_sound(path, sound, codec, rate, exact=True, options={"strict": "experimental"})
            return path.read_bytes()
        options = dict(_VIDEOS[container])
        sound = make_clicks(SECONDS, [0.8], options["rate"])
        exact = options.pop("container_options", {}) | {"fflags": "+bitexact"}
        count = round(SECONDS * 25)
        make_video(
            *(path, count), size=(64, 48), sound=sound, group=20, container_options=exact, **options
        )
        return path.read_bytes()


def _none(container: str, data: bytes, rng: np.random.Generator) -> bytes:
    return data


def _few_flips(container: str, data: bytes, rng: np.random.Generator) -> bytes:
    return _flipped(data, int(rng.integers(1, 9)), rng)


def _many_flips(container: str, data: bytes, rng: np.random.Generator) -> bytes:
    return _flipped(data, len(data) // 50 + 10, rng)


def _header_flips(container: str, data: bytes, rng: np.random.Generator) -> bytes:
    start = min(len(data), 512)
    return _flipped(data[:start], int(rng.integers(1, 30)), rng) + data[start:]


def _flipped(data: bytes, count: int, rng: np.random.Generator) -> bytes:
    result = np.frombuffer(data, np.uint8).copy()
    places = rng.integers(0, len(data), count)
    np.bitwise_xor.at(result, places, (1 << rng.integers(0, 8, count)).astype(np.uint8))
    return result.tobytes()


def _cut_off(container: str, data: bytes, rng: np.random.Generator) -> bytes:
    lengths = [0, int(rng.integers(1, 64)), *rng.integers(0, len(data), 6).tolist()]
    return data[: int(rng.choice(lengths))]


def _hole(container: str, data: bytes, rng: np.random.Generator) -> bytes:
    start, end = np.sort(rng.integers(0, len(data), 2)).tolist()
    filling = bytes(end - start) if rng.random() < 0.7 else b""
    return data[:start] + filling + data[end:]


def _big_claim(container: str, data: bytes, rng: np.random.Generator) -> bytes:
    """A long duration, or a huge picture, of which every header says the same."""
    if container in _PICTURES:
        side = int(rng.choice([9_999, 30_000, 60_000, 65_535, 2**31 - 1]))
    elif rng.random() < 0.6:
        return claim(container, data, "duration", -float(rng.choice([10, 1e3, 1e5, 1e9])))
    else:
        side = int(rng.choice([4096, 7_900, 16_384, 65_535]))
    return claim(container, claim(container, data, "width", side), "height", side)


def _joined(container: str, data: bytes, rng: np.random.Generator) -> bytes:
    return data + (data if rng.random() < 0.5 else original(_any_container(rng)))


def _other(container: str, data: bytes, rng: np.random.Generator) -> bytes:
    """Another file under this name: what it is its bytes say."""
    return original(_any_container(rng))


def _wrong_magic(container: str, data: bytes, rng: np.random.Generator) -> bytes:
    length = int(rng.choice([4, 8, 16, 64]))
    return original(_any_container(rng))[:length] + data[length:]


def _noise(container: str, data: bytes, rng: np.random.Generator) -> bytes:
    head = data[: int(rng.choice([0, 8, 32, 256]))]
    return head + rng.bytes(int(rng.integers(1, 20_000)))


def _text(container: str, data: bytes, rng: np.random.Generator) -> bytes:
    return str(rng.choice(_TEXTS)).encode()


_TEXTS = (
    "<!DOCTYPE html><title>404</title>",
    '{"error": "quota"}\n' * 50,
    "version https://git-lfs.github.com/spec/v1\nsize 12345\n",
    "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "ffconcat version 1.0\nfile /etc/passwd\n",
    "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
    "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n{ } loop\n",
    "<svg xmlns='http://www.w3.org/2000/svg' width='99999' height='99999'/>",
    "\n",
)

DAMAGES = {
    "none": _none,
    "few flips": _few_flips,
    "many flips": _many_flips,
    "header flips": _header_flips,
    "cut off": _cut_off,
    "hole": _hole,
    "header lies": lie,
    "big claim": _big_claim,
    "joined": _joined,
    "other file": _other,
    "wrong magic": _wrong_magic,
    "noise": _noise,
    "text": _text,
}
_SHARES = {"header lies": 5, "few flips": 2, "cut off": 2, "big claim": 2}
"""Where most can go wrong there are more files; of the others 1 each."""
_TURNS = [damage for damage in DAMAGES for _ in range(_SHARES.get(damage, 1))]


def damaged_files(kind: Kind, count: int, seed: int = 0) -> Iterator[DamagedFile]:
    """So many files of a kind: all containers in turn, each with all damages in turn."""
    containers = CONTAINERS[kind]
    for i in range(count):
        rng = np.random.default_rng([seed, list(CONTAINERS).index(kind), i])
        container = containers[i % len(containers)]
        damage = _TURNS[i // len(containers) % len(_TURNS)]
        data = DAMAGES[damage](container, original(container), rng)
        yield DamagedFile(_name(i, container, rng), container, damage, data)


def write_damaged(folder: Path, kind: Kind, count: int, seed: int = 0) -> dict[Path, DamagedFile]:
    """Write such files into a folder; each by its path."""
    folder.mkdir(parents=True)
    files = {folder / file.name: file for file in damaged_files(kind, count, seed)}
    for path, file in files.items():
        path.write_bytes(file.data)
    return files


def _any_container(rng: np.random.Generator) -> str:
    everything = [container for names in CONTAINERS.values() for container in names]
    return str(rng.choice(everything))


def _name(number: int, container: str, rng: np.random.Generator) -> str:
    """A name that keeps files in order; many of them odd."""
    suffix = _SUFFIXES.get(container, container)
    suffix = suffix.upper() if rng.random() < 0.1 else suffix
    odd = _ODD[int(rng.integers(len(_ODD)))] if rng.random() < 0.5 else ""
    return f"{number:05d}{odd}.{suffix}"


_ODD = (
    *(" a b", "'\"`$(id)", "%20%", "#?&=", "\n", "\\", "*[a]{b}", ":pipe:0", "é", "e\u0301", "名"),
    *("\u202egpj", "\U0001f600", ";|<>", "-" * 150, ".tar", ",", "@1.0", "~", "\t", "=x"),
    os.fsdecode(b"\xff\xfe"),
)
