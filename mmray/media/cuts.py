"""The packets that decoding a few frames takes, and nothing else.

decord reads a whole file to index it and then seeks by counting packets, which goes wrong with
edit lists, open groups of pictures, MPEG-TS, MPEG-PS and AVI files with B-frames. So the packets
of the frames wanted, from the key frame before them on, are copied into a small file in memory,
which decord decodes from its first frame to its last, without an index and without seeking.
"""

from __future__ import annotations

import io
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain

import av
from av.packet import Packet
from av.stream import Discard
from av.video.stream import VideoStream

from mmray.errors import MediaError
from mmray.media.container import MediaFile

# The last frame counts as shown a little longer than it is: sound often outlasts the picture by a
# moment, and a picture may begin a moment after the sound.
_HOLD_S = 1.0
# Wanted frames farther apart than this are reached by seeking, nearer ones by reading on.
_SEEK_GAP_S = 10.0
# Formats without an index may seek to a place behind the one asked for: then from farther back.
_SEEK_BACK_S = (0.0, 1.0, 5.0, 25.0)


@dataclass(frozen=True)
class _Coded:
    """A packet with the time in seconds at which its frame is presented."""

    time: float
    packet: Packet

    @property
    def is_hidden(self) -> bool:
        """Whether it is decoded but never shown, as the alternate reference frames of VP8 are."""
        is_vp8 = self.packet.stream.codec_context.name == "vp8"
        return is_vp8 and not memoryview(self.packet)[0] & 0x10


@dataclass
class Cut:
    """Frames in decoding order, the first of which is a key frame, some of them wanted.

    Attributes:
        coded: all frames that decoding the wanted ones takes.
        times: times in seconds of the wanted frames, ascending.
    """

    coded: list[_Coded]
    times: list[float] = field(default_factory=list)

    def places(self) -> list[int]:
        """Positions of the wanted frames among those that a decoder puts out, ascending."""
        shown = sorted(coded.time for coded in self.coded if not coded.is_hidden)
        return [bisect_left(shown, time) for time in self.times]

    def data(self, containers: Sequence[str]) -> bytes:
        """A video file of these frames, in the first of these formats that takes the codec."""
        stream = self.coded[0].packet.stream
        for name in containers:
            try:
                return _file_of([coded.packet for coded in self.coded], stream, name)
            except (ValueError, av.FFmpegError):
                continue
        raise MediaError("frames", f"pictures coded as {stream.codec_context.name} are not read")


def _file_of(packets: list[Packet], stream: Stream, format_name: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format_name) as output:
        copy = output.add_stream_from_template(stream)
        for i, packet in enumerate(packets):
            # Frames are found by their place, so the time stamps have nothing to do but be valid.
            packet.stream, packet.time_base = copy, Fraction(1, 25)
            packet.pts = packet.dts = i
            packet.duration = 1
            output.mux(packet)
    return buffer.getvalue()


def exact_cuts(file: MediaFile, times_s: Sequence[float]) -> Iterator[Cut]:
    """The frames shown at `times_s` (ascending), one cut for those after the same key frame.

    The times of a cut are those at which its frames begin, one for each of `times_s`.

    Raises:
        MediaError: stage `frames`; there is no frame at one of the times.
    """
    pending = deque(times_s)
    cut: Cut | None = None
    coded: list[_Coded] = []

    def resolve() -> Iterator[Cut]:
        nonlocal cut, coded
        wanted = pending.popleft()
        coded = _from_key(coded, wanted)
        last = _shown_at(coded, wanted)
        if cut is not None and cut.coded[0].time != coded[0].time:
            yield cut
            cut = None
        if cut is None:
            cut = Cut([])
        if last >= len(cut.coded):
            # Pictures before the key frame would need the ones before it.
            cut.coded = [c for c in coded[: last + 1] if c.time >= coded[0].time]
        cut.times.append(coded[last].time)

    while pending:
        for decode_time, frame in _coded_from(file, pending[0]):
            if frame.packet.is_keyframe and frame.time <= pending[0]:
                coded = []
            coded.append(frame)
            while pending and decode_time > pending[0]:
                yield from resolve()
            if not pending or pending[0] > decode_time + _SEEK_GAP_S:
                break
        else:
            _check_end(coded, pending)
            while pending:
                yield from resolve()
    if cut is not None:
        yield cut
