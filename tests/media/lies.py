"""Fields of media containers that can be made to lie: where they are, and false values for them."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Field:
    """A number in a header.

    Args:
        name: what it says; `width`, `height`, `duration` and `size` are known to `lie`.
        tag: bytes that come before it; empty for the start of the file.
        offset: bytes from the end of the tag to the field.
        size: its bytes.
        order: of its bytes.
        is_float: whether it is a floating-point number.
    """

    name: str
    tag: bytes
    offset: int
    size: int
    order: Literal["big", "little"] = "big"
    is_float: bool = False

    def places(self, data: bytes) -> list[int]:
        """Where it is in a file."""
        if not self.tag:
            return [self.offset] if 0 <= self.offset <= len(data) - self.size else []
        found = []
        start = data.find(self.tag)
        while start >= 0:
            place = start + len(self.tag) + self.offset
            if 0 <= place <= len(data) - self.size:
                found.append(place)
            start = data.find(self.tag, start + 1)
        return found

    def write(self, data: bytearray, place: int, value: float) -> None:
        """Write a value, cut to what the field holds."""
        if self.is_float:
            packed = struct.pack({4: ">f", 8: ">d"}[self.size], value)
        else:
            packed = (int(value) % (1 << 8 * self.size)).to_bytes(self.size, self.order)
        data[place : place + self.size] = packed

    def read(self, data: bytes, place: int) -> float:
        """The value that is there."""
        packed = bytes(data[place : place + self.size])
        if self.is_float:
            return float(struct.unpack({4: ">f", 8: ">d"}[self.size], packed)[0])
        return int.from_bytes(packed, self.order)

    def false_value(self, true: float, rng: np.random.Generator) -> float:
        """Something else than the truth: at the edges, near the truth, or anything."""
        if self.is_float:
            wild = [0.0, -1.0, true * 1000, 1e300 if self.size == 8 else 1e30]
            return float(rng.choice([*wild, float("nan"), float("inf")]))
        most = (1 << 8 * self.size) - 1
        near = [true + 1, true - 1, true * 2, true * 1000]
        anything = int.from_bytes(rng.bytes(self.size), "big")
        values = [0, 1, most, most // 2, most // 2 + 1, anything, *near]
        return values[int(rng.integers(len(values)))]


def _isobmff() -> list[Field]:
    """ISO base media and QuickTime: boxes of size, name and content."""
    fields = [Field("size", name, -8, 4) for name in _BOXES]
    for box in (b"mvhd", b"mdhd"):
        fields += [Field("time scale", box, 12, 4), Field("duration", box, 16, 4)]
    fields += [Field("duration", b"tkhd", 20, 4), Field("duration", b"elst", 8, 4)]
    fields += [Field("edit", b"elst", 12, 4), Field("matrix", b"tkhd", 40, 4)]
    fields += [Field("width", b"avc1", 24, 2), Field("height", b"avc1", 26, 2)]
    fields += [Field("width", b"tkhd", 76, 4), Field("height", b"tkhd", 80, 4)]
    for entry in (b"mp4a", b"sowt"):
        fields += [Field("channels", entry, 16, 2), Field("bits", entry, 18, 2)]
        fields.append(Field("rate", entry, 24, 2))
    for table in (b"stts", b"stsc", b"stsz", b"stco", b"ctts", b"stss", b"trun"):
        fields += [Field("count", table, 4, 4), Field("entry", table, 8, 4)]
        fields.append(Field("entry", table, 12, 4))
    fields.append(Field("duration", b"stts", 12, 4))
    return [*fields, Field("time", b"tfdt", 4, 8), Field("profile", b"avcC", 1, 3)]


_BOXES = (b"ftyp", b"moov", b"trak", b"mdia", b"stbl", b"stsd", b"mdat", b"esds", b"moof", b"stco")


def _matroska() -> list[Field]:
    """EBML: an identifier, a size with a marker bit, the content."""
    fields = [Field("duration", b"\x44\x89\x88", 0, 8, is_float=True)]
    fields += [Field("time scale", b"\x2a\xd7\xb1\x83", 0, 3)]
    fields += [Field("width", b"\xb0\x81", 0, 1), Field("height", b"\xba\x81", 0, 1)]
    # Into the size and beyond, so that also large values find room.
    fields += [Field("width", b"\xb0", 0, 2), Field("channels", b"\x9f\x81", 0, 1)]
    fields += [Field("rate", b"\xb5\x88", 0, 8, is_float=True)]
    sized = (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75", b"\x16\x54\xae\x6b")
    fields += [Field("size", name, 0, 4) for name in (*sized, b"\x1c\x53\xbb\x6b", b"\x63\xa2")]
    fields += [Field("size", name, 0, 1) for name in (b"\xae", b"\xe1", b"\xe0", b"\xa3")]
    return [*fields, Field("time", b"\xe7\x81", 0, 1), Field("number", b"\xd7\x81", 0, 1)]


def _wave_format(tag: bytes, offset: int) -> list[Field]:
    """WAVEFORMATEX, as WAV, AVI and ASF have it."""
    names = [("codec", 2), ("channels", 2), ("rate", 4), ("byte rate", 4), ("block", 2)]
    fields = []
    for name, size in [*names, ("bits", 2), ("extra", 2)]:
        fields.append(Field(name, tag, offset, size, "little"))
        offset += size
    return fields


def _riff(*chunks: bytes) -> list[Field]:
    return [Field("size", name, 0, 4, "little") for name in (b"RIFF", *chunks)]


def _avi() -> list[Field]:
    header = [("duration", 0), ("bytes", 4), ("flags", 12), ("count", 16), ("streams", 24)]
    fields = [Field(name, b"avih", 4 + at, 4, "little") for name, at in header]
    stream = [("time scale", 20), ("duration", 24), ("start", 28), ("duration", 32), ("block", 44)]
    fields += [Field(name, b"strh", 4 + at, 4, "little") for name, at in stream]
    picture = [("size", 0), ("width", 4), ("height", 8), ("codec", 16)]
    fields += [Field(name, b"strf", 4 + at, 4, "little") for name, at in picture]
    fields += _wave_format(b"strf", 4)
    return fields + _riff(b"LIST", b"idx1", b"movi", b"00dc", b"01wb", b"strh", b"strf")


def _asf() -> list[Field]:
    properties = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
    fields = [Field("size", properties, 0, 8, "little")]
    for name, at in (("count", 40), ("duration", 48), ("duration", 56), ("preroll", 64)):
        fields.append(Field(name, properties, at, 8, "little"))
    fields += [Field("packet", properties, at, 4, "little") for at in (76, 80)]
    sound = bytes.fromhex("409e69f84d5bcf11a8fd00805f5c442b")  # audio media
    return [*fields, *_wave_format(sound, 38), Field("size", b"", 16, 8, "little")]


def _mpeg() -> list[Field]:
    """Program and transport streams: start codes."""
    fields = [Field("time", start, 5, 5) for start in (b"\0\0\x01\xe0", b"\0\0\x01\xc0")]
    fields += [Field("size", start, 0, 2) for start in (b"\0\0\x01\xe0", b"\0\0\x01\xc0")]
    fields += [Field("size", start, 4, 1) for start in (b"\0\0\x01\xe0", b"\0\0\x01\xc0")]
    fields += [Field("time", b"\0\0\x01\xba", 0, 6), Field("width", b"\0\0\x01\xb3", 0, 3)]
    return [*fields, Field("rate", b"\0\0\x01\xb3", 3, 1), Field("rate", b"\0\0\x01\xb3", 4, 4)]


def _transport() -> list[Field]:
    tables = [Field("tables", b"", 188 * k + at, 2) for k in range(3) for at in (1, 6, 13, 15)]
    return tables + _mpeg()


def _flv() -> list[Field]:
    names = ("duration", "width", "height", "framerate", "audiosamplerate", "filesize")
    fields = [Field(name, name.encode() + b"\0", 0, 8, is_float=True) for name in names]
    tag = [Field("size", b"", 14, 3), Field("time", b"", 17, 4), Field("size", b"", 5, 4)]
    return [*fields, *tag]


def _ogg() -> list[Field]:
    page = [Field("duration", b"OggS", 2, 8, "little"), Field("serial", b"OggS", 10, 4)]
    page += [Field("number", b"OggS", 14, 4, "little"), Field("count", b"OggS", 22, 1)]
    vorbis = [Field("channels", b"\x01vorbis", 4, 1), Field("rate", b"\x01vorbis", 5, 4, "little")]
    vorbis += [Field("block", b"\x01vorbis", 21, 1)]
    opus = [Field("channels", b"OpusHead", 1, 1), Field("rate", b"OpusHead", 4, 4, "little")]
    opus += [Field("start", b"OpusHead", 2, 2, "little"), Field("mapping", b"OpusHead", 10, 1)]
    return page + vorbis + opus


def _mp3() -> list[Field]:
    fields = [Field("codec", b"\xff\xfb", 0, 1), Field("size", b"ID3", 3, 4)]
    for tag in (b"Xing", b"Info"):
        fields += [Field("flags", tag, 0, 4), Field("duration", tag, 4, 4)]
        fields += [Field("size", tag, 8, 4), Field("start", tag, 12, 1)]
    return fields


def _flac() -> list[Field]:
    fields = [Field("block", b"fLaC", 4, 2), Field("block", b"fLaC", 6, 2)]
    fields += [Field("rate", b"fLaC", 14, 3), Field("channels", b"fLaC", 16, 1)]
    return [*fields, Field("duration", b"fLaC", 18, 4), Field("size", b"fLaC", 1, 3)]


def _png() -> list[Field]:
    fields = [Field("width", b"IHDR", 0, 4), Field("height", b"IHDR", 4, 4)]
    fields += [Field("bits", b"IHDR", 8, 1), Field("colour", b"IHDR", 9, 1)]
    fields += [Field("interlace", b"IHDR", 12, 1)]
    return fields + [Field("size", name, -8, 4) for name in (b"IHDR", b"IDAT", b"IEND")]


def _jpeg() -> list[Field]:
    fields = [Field("height", b"\xff\xc0", 3, 2), Field("width", b"\xff\xc0", 5, 2)]
    fields += [Field("channels", b"\xff\xc0", 7, 1), Field("sampling", b"\xff\xc0", 9, 1)]
    markers = (b"\xff\xc0", b"\xff\xc4", b"\xff\xdb", b"\xff\xda", b"\xff\xe0")
    return fields + [Field("size", marker, 0, 2) for marker in markers]


def _gif() -> list[Field]:
    fields = [Field("width", b"GIF8", 2, 2, "little"), Field("height", b"GIF8", 4, 2, "little")]
    fields += [Field("flags", b"GIF8", 6, 1), Field("size", b"!\xf9", 0, 1)]
    frame = b"\x2c\0\0\0\0"
    return [*fields, Field("width", frame, 0, 2, "little"), Field("height", frame, 2, 2, "little")]


def _webp() -> list[Field]:
    start = b"\x9d\x01\x2a"
    fields = [Field("width", start, 0, 2, "little"), Field("height", start, 2, 2, "little")]
    return fields + _riff(b"VP8 ") + [Field("size", start, -3, 3, "little")]


def _bmp() -> list[Field]:
    header = [("size", 2, 4), ("start", 10, 4), ("size", 14, 4), ("width", 18, 4)]
    header += [("height", 22, 4), ("planes", 26, 2), ("bits", 28, 2), ("codec", 30, 4)]
    return [
        Field(name, b"", at, size, "little") for name, at, size in [*header, ("colours", 46, 4)]
    ]


def _tiff() -> list[Field]:
    """Entries of tag, type, count and value, by their tags in a directory of Pillow's."""
    tags = {"width": 256, "height": 257, "bits": 258, "codec": 259, "colour": 262, "start": 273}
    tags |= {"channels": 277, "rows": 278, "size": 279}
    fields = []
    for name, tag in tags.items():
        for kind in (3, 4):
            head = struct.pack("<HH", tag, kind)
            fields += [Field(name, head, 4, 4, "little"), Field("count", head, 0, 4, "little")]
    return [*fields, Field("start", b"", 4, 4, "little")]


_ADTS = [Field("codec", b"\xff\xf1", 0, 1), Field("size", b"\xff\xf1", 1, 3)]

FIELDS: dict[str, list[Field]] = {
    **dict.fromkeys(("mp4", "fragmented", "mov", "m4a"), _isobmff()),
    **dict.fromkeys(("mkv", "webm"), _matroska()),
    "avi": _avi(),
    "wmv": _asf(),
    "ts": _transport(),
    "mpg": _mpeg(),
    "flv": _flv(),
    "wav": [*_wave_format(b"fmt ", 4), *_riff(b"fmt ", b"data")],
    **dict.fromkeys(("ogg", "opus"), _ogg()),
    "mp3": _mp3(),
    "flac": _flac(),
    "aac": _ADTS,
    "png": _png(),
    "jpg": _jpeg(),
    "gif": _gif(),
    "webp": _webp(),
    "bmp": _bmp(),
    "tiff": _tiff(),
}
"""The fields that are known, by container."""


def lie(container: str, data: bytes, rng: np.random.Generator) -> bytes:
    """One to three fields with false values, in one place or in all."""
    result = bytearray(data)
    fields = [field for field in FIELDS[container] if field.places(data)]
    for _ in range(int(rng.integers(1, 4))):
        field = fields[int(rng.integers(len(fields)))]
        places = field.places(data)
        value = field.false_value(field.read(data, places[0]), rng)
        if rng.random() < 0.5:
            places = [places[int(rng.integers(len(places)))]]
        for place in places:
            field.write(result, place, value)
    return checked(container, bytes(result))


def claim(container: str, data: bytes, name: str, value: float) -> bytes:
    """All fields of a name with the same value; integers lie by that factor where it is below 0."""
    result = bytearray(data)
    for field in FIELDS[container]:
        for place in field.places(data) if field.name == name else []:
            true = field.read(data, place)
            field.write(result, place, value if value >= 0 else -value * max(true, 1))
    return checked(container, bytes(result))


def checked(container: str, data: bytes) -> bytes:
    """The file with check sums that are right again, so that readers believe the rest."""
    if container in ("ogg", "opus"):
        return _with_page_sums(data)
    if container == "png":
        header = data.find(b"IHDR")
        if 0 <= header <= len(data) - 21:
            total = zlib.crc32(data[header : header + 17])
            return data[: header + 17] + struct.pack(">I", total) + data[header + 21 :]
    return data


def _with_page_sums(data: bytes) -> bytes:
    starts = [place - 6 for place in Field("page", b"OggS", 2, 1).places(data)]
    result = bytearray(data)
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        if end - start < 27:
            continue
        result[start + 22 : start + 26] = bytes(4)
        struct.pack_into("<I", result, start + 22, _page_sum(result[start:end]))
    return bytes(result)


def _page_sum(page: bytes) -> int:
    """Ogg's check sum: polynomial 0x04c11db7, not reflected."""
    total = 0
    for byte in page:
        total ^= byte << 24
        for _ in range(8):
            total = (total << 1 ^ (0x04C11DB7 if total & 0x80000000 else 0)) & 0xFFFFFFFF
    return total
