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
from av.stream import Stream

from mmray.errors import MediaError
from mmray.media.container import MediaFile

# The last frame counts as shown a little longer than it is: sound often outlasts the picture by a
# moment, and a picture may begin a moment after the sound.
_HOLD_S = 1.0
# Wanted frames farther apart than this are reached by seeking, nearer ones by reading on.
_SEEK_GAP_S = 10.0
# Formats without an index may seek to a place behind the one asked for: then from farther back.
_SEEK_BACK_S = (0.0, 1.0, 5.0, 25.0)
# MP4 and QuickTime keep the display matrix by which decord turns pictures, and they alone let
# decord take further key frames for plain ones.
_CONTAINERS = ("mp4", "mov", "matroska", "avi")
_FRAME_RATE = Fraction(25)


@dataclass(frozen=True)
class CodedFrame:
    """A coded frame, presented at `time` for `duration` seconds.

    `stream` and `is_key` are what the packet said when it was read: packets are changed when they
    are written to a cut, and two cuts may share one.
    """

    time: float
    duration: float
    packet: Packet
    stream: Stream
    is_key: bool

    @property
    def is_hidden(self) -> bool:
        """Whether it is decoded but never shown, as the alternate reference frames of VP8 are."""
        is_vp8 = self.stream.codec_context.name == "vp8"
        return is_vp8 and not memoryview(self.packet)[0] & 0x10


@dataclass
class Cut:
    """Frames in decoding order, the first of which is a key frame, some of them wanted.

    Attributes:
        coded: all frames that decoding the wanted ones takes.
        times: times in seconds of the wanted frames, ascending.
    """

    coded: list[CodedFrame]
    times: list[float] = field(default_factory=list)

    @property
    def codec(self) -> str:
        """Name of the codec."""
        return self.coded[0].stream.codec_context.name

    def places(self) -> list[int]:
        """Positions of the wanted frames among those that a decoder puts out, ascending."""
        shown = sorted(coded.time for coded in self.coded if not coded.is_hidden)
        return [bisect_left(shown, time) for time in self.times]

    def data(self) -> bytes:
        """A video file of these frames, in the first format that takes the codec."""
        for name in _CONTAINERS:
            try:
                return self._file(name)
            except (ValueError, av.FFmpegError):
                continue
        raise MediaError("frames", f"frames coded as {self.codec} are not read")

    def _file(self, format_name: str) -> bytes:
        # Frames are found by their place, so time stamps have nothing to do but be valid: decoding
        # times count up, and no frame is presented before it is decoded.
        order = sorted(range(len(self.coded)), key=lambda i: self.coded[i].time)
        delay = max(i - place for place, i in enumerate(order))
        places = {i: place + delay for place, i in enumerate(order)}
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=format_name) as output:
            # decord multiplies the rate with the duration to see that there are frames at all.
            stream = output.add_stream_from_template(
                self.coded[0].stream, opaque=True, framerate=_FRAME_RATE
            )
            for i, coded in enumerate(self.coded):
                packet = coded.packet
                packet.stream, packet.time_base = stream, 1 / _FRAME_RATE
                packet.pts, packet.dts, packet.duration = places[i], i, 1
                # decord would jump to a further key frame and then count from a wrong place.
                packet.is_keyframe = i == 0
                output.mux(packet)
        return buffer.getvalue()


def exact_cuts(file: MediaFile, times_s: Sequence[float]) -> Iterator[Cut]:
    """The frames shown at `times_s` (ascending), one cut for those after the same key frame.

    The cuts together have one time for each of `times_s`, in order: where its frame begins. A cut
    is good until the next one is asked for.

    Raises:
        MediaError: stage `frames`; no frame is shown at one of the times.
    """
    pending = deque(times_s)
    while pending:
        cutter = _Cutter()
        for decode_time, frame in _frames_from(file, pending[0]):
            cutter.add(frame, pending[0])
            if decode_time > pending[0]:  # so all frames shown until then have come
                while pending and decode_time > pending[0]:
                    yield from cutter.resolve(pending.popleft())
                if not pending or pending[0] > decode_time + _SEEK_GAP_S:
                    break
        else:
            cutter.check_end(pending[-1])
            while pending:
                yield from cutter.resolve(pending.popleft())
        # Now, since reaching the next frame may open the file anew, which frees all packets.
        yield from cutter.finish()


def key_cuts(
    file: MediaFile, times_s: Sequence[float], window_s: tuple[float, float] | None
) -> list[Cut]:
    """The key frames nearest to `times_s` (ascending), one cut for each different one.

    Only key frames that begin within `window_s` are taken; with none there the list is empty.
    """
    keys = []
    for _, frame in _frames_from(file, times_s[0]):
        if window_s and frame.time >= window_s[1]:
            break
        if frame.is_key and (not window_s or frame.time >= window_s[0]):
            keys.append(frame)
            if frame.time >= times_s[-1]:
                break
    cuts: list[Cut] = []
    for time in times_s if keys else ():
        nearest = min(keys, key=lambda key: abs(key.time - time))
        if not cuts or cuts[-1].coded[0] is not nearest:
            cuts.append(Cut([nearest]))
        cuts[-1].times.append(nearest.time)
    return cuts


class _Cutter:
    """Collects frames from a key frame on and cuts what each wanted time needs."""

    def __init__(self) -> None:
        self._coded: list[CodedFrame] = []
        self._cut: Cut | None = None

    def add(self, frame: CodedFrame, wanted: float) -> None:
        """Take the next frame in decoding order; `wanted` is the next time to be resolved."""
        if frame.is_key and frame.time <= wanted:
            self._coded = []
        self._coded.append(frame)

    def resolve(self, wanted: float) -> Iterator[Cut]:
        """Add the frame shown at `wanted`; gives the former cut when that one is complete."""
        keys = [i for i, c in enumerate(self._coded) if c.is_key and c.time <= wanted]
        coded = self._coded = self._coded[keys[-1] if keys else 0 :]
        shown = [i for i, c in enumerate(coded) if not c.is_hidden]
        before = [i for i in shown if coded[i].time <= wanted]
        if not shown:
            raise MediaError("frames", "not one frame is shown")
        if before:
            last = max(before, key=lambda i: coded[i].time)
        else:
            last = min(shown, key=lambda i: coded[i].time)
            if coded[last].time > wanted + _HOLD_S:
                raise MediaError(
                    "frames",
                    f"the picture starts at {coded[last].time:.2f} s, after the frame wanted at "
                    f"{wanted:.2f} s",
                )
        if self._cut is None or self._cut.coded[0].time != coded[0].time:
            yield from self.finish()
            self._cut = Cut(coded[:1])
        if coded[last].time not in self._cut.times:
            # Frames shown before the key frame are left out: they need frames from before it.
            needed = [c for c in coded[: last + 1] if c.time >= coded[0].time]
            self._cut.coded = max(self._cut.coded, needed, key=len)
        self._cut.times.append(coded[last].time)

    def finish(self) -> Iterator[Cut]:
        """The cut in the making, if there is one."""
        if self._cut is not None:
            yield self._cut
            self._cut = None

    def check_end(self, wanted: float) -> None:
        """At the end of the file: raise a `MediaError` unless a frame is shown at `wanted`."""
        if not self._coded:
            raise MediaError("frames", "not one frame of the picture can be read")
        end = max(c.time + c.duration for c in self._coded)
        if wanted > end + _HOLD_S:
            raise MediaError(
                "frames",
                f"the picture ends at {end:.2f} s, before the frame wanted at {wanted:.2f} s",
            )


def _frames_from(file: MediaFile, time: float) -> Iterator[tuple[float, CodedFrame]]:
    """Frames in decoding order from the key frame at or before `time`; with decoding times."""
    for back in _SEEK_BACK_S:
        if time - back <= 0:
            break
        frames = _read_frames(file, time - back)
        try:
            first = next((f for f in frames if f[1].is_key), None)
        except av.FFmpegError:  # no seeking in this file
            break
        if first is not None and first[1].time <= time:
            return chain([first], frames)
    file.restart()
    return _read_frames(file, None)


def _read_frames(file: MediaFile, seek_s: float | None) -> Iterator[tuple[float, CodedFrame]]:
    stream = file.picture
    assert stream is not None
    for time, packet in file.packets(stream, seek_s):
        if packet.is_corrupt:
            continue
        decode_time = file.time_of(packet.dts, stream)
        if time is None:
            time = decode_time
        if time is None:
            raise MediaError("frames", "the frames have no time stamps")
        duration = file.seconds(packet.duration, stream)
        frame = CodedFrame(time, duration, packet, stream, packet.is_keyframe)
        yield time if decode_time is None else decode_time, frame
