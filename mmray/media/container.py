"""Opening audio and video files with PyAV, safely.

Only plain local files in known formats are opened: playlists and scripts, which could make
FFmpeg read other files or the network, are refused.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self, TypeVar

import av
from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.video.stream import VideoStream

from mmray.errors import MediaError

AnyStream = TypeVar("AnyStream", bound=Stream)

STILL_FORMATS = frozenset(
    f"{name}_pipe" for name in ("bmp", "gif", "jpeg", "pgm", "png", "ppm", "tiff", "webp")
)
# Names of FFmpeg's demuxers. Left out on purpose: concat, dash, hls, sdp and whatever else
# opens further files or addresses that the file itself names.
FORMATS = (
    *("aac", "ac3", "aiff", "amr", "ape", "apng", "asf", "au", "avi", "caf", "dts", "dtshd"),
    *("dv", "eac3", "flac", "flv", "gif", "h264", "hevc", "ivf", "m4v", "matroska", "mov"),
    *("mp3", "mpc", "mpc8", "mpeg", "mpegts", "mpegvideo", "mxf", "nut", "ogg", "rm", "swf"),
    *("tak", "truehd", "tta", "vc1", "voc", "w64", "wav", "webm", "wtv", "wv"),
    *sorted(STILL_FORMATS),
)

DECODER_ERRORS: tuple[type[BaseException], ...] = (
    av.FFmpegError,
    OSError,
    ValueError,
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
)
"""What PyAV, Pillow and NumPy raise on damaged files."""


@contextlib.contextmanager
def media_errors(
    stage: str, uri: str, what: str, errors: tuple[type[BaseException], ...] = DECODER_ERRORS
) -> Iterator[None]:
    """Turn what a decoder raises on a bad file into a `MediaError`.

    Args:
        stage: stage of the error.
        uri: the file; also added to a `MediaError` from inside that does not name it.
        what: the start of the reason, such as "the sound cannot be decoded".
        errors: the exceptions to turn.
    """
    try:
        yield
    except MediaError as e:
        if e.uri or not uri:
            raise
        raise MediaError(e.stage, e.reason, uri) from e
    except errors as e:
        raise MediaError(stage, f"{what} ({describe(e)})", uri) from e


def describe(error: BaseException) -> str:
    """One line on an exception, without the paths that FFmpeg and decord put into theirs."""
    text = getattr(error, "strerror", None) or str(error).strip().split("\n")[0]
    return re.sub(r"\[[\d:]+\] \S+:\d+: ", "", text) or type(error).__name__


def check_file(path: str) -> None:
    """Raise a `MediaError` of stage `open` unless `path` is a readable file with content."""
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise MediaError("open", "is not a regular file", path)
        with open(path, "rb"):
            pass
    except MediaError:
        raise
    except (OSError, ValueError) as e:
        raise MediaError("open", f"cannot be opened ({describe(e)})", path) from e
    if status.st_size == 0:
        raise MediaError("open", "is empty (0 bytes)", path)


class MediaFile:
    """An open audio or video file, to be used as a context manager.

    Attributes:
        path: the file.
        container: PyAV's view of it.
        start: time stamp in seconds of the file's time 0, which is where players start.

    Raises:
        MediaError: stage `open`; the file is missing, empty, unreadable or of no known format.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        check_file(self.path)
        self._open()

    def _open(self) -> None:
        options = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}
        with media_errors("open", self.path, "is not a video or sound that can be read"):
            with open(self.path, "rb") as file:
                if file.read(12)[8:] == b"WAVE":
                    # FFmpeg looks whether the samples are DTS in disguise: in 64 KB, not in 10 MB.
                    options["max_probe_packets"] = "16"
            self.container = av.open(
                # The prefix keeps a name like `pipe:0` or `a:b` from being taken for an address.
                f"file:{self.path}",
                metadata_errors="replace",
                container_options=options,
            )
        self.start = (self.container.start_time or 0) / av.time_base
        self._scales: dict[int, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.container.close()

    def restart(self) -> None:
        """Open the file anew: the one way back to the first packet that works in all formats."""
        self.container.close()
        self._open()

    @property
    def sound(self) -> AudioStream | None:
        """The default audio stream."""
        return _best(self.container.streams.audio)

    @property
    def picture(self) -> VideoStream | None:
        """The default video stream; cover art does not count."""
        return _best(
            [
                stream
                for stream in self.container.streams.video
                if not stream.disposition & Disposition.attached_pic
            ]
        )

    @property
    def is_still(self) -> bool:
        """Whether the picture is known to be a single frame."""
        picture = self.picture
        if picture is None:
            return False
        return self.container.format.name in STILL_FORMATS or picture.frames == 1

    def packets(
        self, stream: Stream, seek_s: float | None = None
    ) -> Iterator[tuple[float | None, Packet]]:
        """Packets of one stream, each with the time at which it is presented.

        Other streams are skipped, without reading them where the format allows it.

        Args:
            stream: the stream.
            seek_s: time in the file to seek to; None goes on from where the file stands. The
                first packet is wherever the format's seeking leads, normally a little before.

        Raises:
            av.FFmpegError: damaged file, or seeking is impossible.
        """
        for other in self.container.streams:
            if other is not stream:
                other.discard = Discard.all
        if stream.discard == Discard.all:
            stream.discard = Discard.default
        if seek_s is not None:
            offset = int((seek_s + self.start) / self.seconds(1, stream))
            self.container.seek(offset, stream=stream)
        for packet in self.container.demux(stream):
            if packet.size:
                yield self.time_of(packet.pts, stream), packet

    def seconds(self, ticks: int | None, stream: Stream) -> float:
        """A number of ticks of the stream's clock in seconds."""
        scale = self._scales.get(stream.index)
        if scale is None:
            scale = self._scales[stream.index] = float(stream.time_base or 0)
        return (ticks or 0) * scale

    def time_of(self, pts: int | None, stream: Stream) -> float | None:
        """Seconds from the file's time 0 to the time stamp `pts`."""
        return None if pts is None else self.seconds(pts, stream) - self.start


def _best(streams: Sequence[AnyStream]) -> AnyStream | None:
    """The stream that a player would choose, among those that can be decoded."""
    known = [stream for stream in streams if stream.codec_context is not None]
    default = [stream for stream in known if stream.disposition & Disposition.default]
    return next(iter(default or known), None)
