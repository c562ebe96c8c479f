"""The stamps of Tux Paint: pictures, and videos made of those that have a sound."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from mmray import storage
from mmray.errors import MediaError, UserError
from mmray.sources.folder import local_uri, readable
from mmray.sources.items import ImageItem, VideoItem

STAMPS = "/usr/share/tuxpaint/stamps"
"""Where Debian's package tuxpaint-stamps-default puts them."""
ENGLISH = "en"
MIN_DURATION_S = 1.0
"""A shorter sound is followed by silence."""
VERSION = 1
"""To be raised when the same stamp gives another video."""

_FPS = 10
_RATE = 44100
_SOUNDS = (".ogg", ".wav")
_VARIANTS = ("_mirror", "_flip")

_log = logging.getLogger(__name__)


def videos(where: str) -> Iterator[VideoItem]:
    """One video for each picture X.png that has a sound X.ogg or X.wav (X_desc.ogg is speech).

    Videos are made on the way and kept in the cache folder. The label is the English caption.

    Args:
        where: the folder of stamps; empty is where Debian puts them.

    Raises:
        UserError: there is no such folder.
    """
    return _videos(_root(where))


def images(where: str, language: str = ENGLISH) -> Iterator[ImageItem]:
    """The stamps X.png; those that are drawings (X.svg) only are left out.

    The caption is the one in this language, tags are the names of the folders on the way, the
    label is the first of them.

    Args:
        where: as in `videos`.
        language: of the caption, such as `de` or `pt_BR`; a stamp without has no caption.

    Raises:
        UserError: there is no such folder, or no caption in this language.
    """
    root = _root(where)
    pictures = (path for path in sorted(root.rglob("*.png")) if not _is_variant(path))
    if language == ENGLISH:
        return (_image(root, path, _caption(path.with_suffix(".txt"))) for path in pictures)
    return _translated(root, list(pictures), language)


def _translated(root: Path, pictures: list[Path], language: str) -> Iterator[ImageItem]:
    counts: Counter[str] = Counter()
    captions: list[str] = []
    broken = 0
    for path in pictures:
        said = _captions(path.with_suffix(".txt"))
        counts.update(said.keys())
        captions.append(said.get(language, ""))
        broken += "\ufffd" in captions[-1]
    if language not in counts:
        there = ", ".join(f"{code} {count}" for code, count in sorted(counts.items()))
        raise UserError(
            f"--language {language}: no stamp in {root} has such a caption; expected one of those "
            f"(with their counts): {there or 'none'}"
        )
    if counts[language] < len(pictures):
        _log.warning(
            "%s: %d of %d stamps have no caption in %s",
            root, len(pictures) - counts[language], len(pictures), language,
        )  # fmt: skip
    if broken:
        _log.warning("%s: %d captions in %s are not UTF-8", root, broken, language)
    return (_image(root, *pair) for pair in zip(pictures, captions, strict=True))


def _root(where: str) -> Path:
    root = storage.local_path(where or STAMPS).expanduser()
    if not root.is_dir():
        raise UserError(
            f"{root}: there is no such folder; install Debian's tuxpaint-stamps-default, or give "
            "stamps:DIR"
        )
    return root


def _is_variant(picture: Path) -> bool:
    """Whether it is what Tux Paint shows when it mirrors another stamp that has writing on it."""
    for suffix in _VARIANTS:
        stem = picture.stem.removesuffix(suffix)
        if stem != picture.stem and picture.with_name(f"{stem}.png").is_file():
            return True
    return False


def _image(root: Path, picture: Path, caption: str) -> ImageItem:
    path = picture.relative_to(root)
    folders = [readable(name) for name in path.parts[:-1]]
    return ImageItem(
        local_uri(str(picture.absolute())),
        readable(path.as_posix()),
        tags=folders,
        captions=[caption] if caption else [],
        labels=folders[:1],
    )


def _videos(root: Path) -> Iterator[VideoItem]:
    for picture in sorted(root.rglob("*.png")):
        sounds = [picture.with_suffix(suffix) for suffix in _SOUNDS]
        sound = next((path for path in sounds if path.is_file()), None)
        if sound is None:
            continue
        key = picture.relative_to(root).as_posix()
        try:
            video = _video(picture, sound)
        except (MediaError, OSError) as e:
            _log.warning("%s: left out (%s)", key, e)
            continue
        caption = _caption(picture.with_suffix(".txt"))
        yield VideoItem(str(video.absolute()), key, [f"caption:{caption}"] if caption else [])


def _caption(path: Path) -> str:
    """The first line is the English caption; translations follow."""
    if not path.is_file():
        return ""
    return path.read_bytes().split(b"\n")[0].decode("utf-8-sig", errors="replace").strip()


def _captions(path: Path) -> dict[str, str]:
    """The captions by their languages."""
    said = {ENGLISH: english} if (english := _caption(path)) else {}
    lines = path.read_bytes().split(b"\n")[1:] if path.is_file() else []
    for line in lines:
        code, _, text = line.decode("utf-8", errors="replace").partition(".utf8=")
        if text.strip():
            said.setdefault(code.strip(), text.strip())
    return said


def _video(picture: Path, sound: Path) -> Path:
    """The video of a stamp in the cache, made when it is not there yet."""
    digest = hashlib.sha256(str(VERSION).encode())
    for path in (picture, sound):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    target = storage.cache_dir() / "stamps-videos" / f"{digest.hexdigest()[:32]}.mp4"
    if not target.exists():
        with storage.atomic_path(target) as temporary:
            _write(picture, sound, temporary)
    return target


def _write(picture: Path, sound: Path, target: Path) -> None:
    import av
    from av.audio.frame import AudioFrame
    from av.video.frame import VideoFrame

    from mmray.media.image import decode_image
    from mmray.media.sound import read_sound

    image = decode_image(picture.read_bytes())
    # H.264 with subsampled colours needs an even width and height.
    height, width = image.shape[:2]
    edges = ((0, height % 2), (0, width % 2), (0, 0))
    image = np.pad(image, edges, constant_values=255)
    wave = read_sound(sound, sample_rate=_RATE)
    num_frames = max(round(MIN_DURATION_S * _FPS), -(-len(wave) * _FPS // _RATE))
    wave = np.pad(wave, (0, max(0, num_frames * _RATE // _FPS - len(wave))))
    with av.open(str(target), "w", format="mp4") as output:
        video = output.add_stream("libx264", rate=_FPS, options={"preset": "veryfast"})
        video.height, video.width, video.pix_fmt = *image.shape[:2], "yuv420p"
        audio = output.add_stream("aac", rate=_RATE, layout="mono")
        for i in range(num_frames):
            frame = VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, _FPS)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        for start in range(0, len(wave), _RATE):
            block = AudioFrame.from_ndarray(wave[None, start : start + _RATE], "fltp", "mono")
            block.sample_rate, block.pts, block.time_base = _RATE, start, Fraction(1, _RATE)
            output.mux(audio.encode(block))
        output.mux(audio.encode(None))
