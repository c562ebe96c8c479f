"""Planning and rendering of the toy world's videos: real mp4 files, H.264 pictures, AAC sound.

What a video shows is settled by its plan, and the plan by (seed, index), so workers may render
in any order, and the truth of a video is known without opening it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from mmray.toyworld.draw import draw
from mmray.toyworld.sound import Disturbance, Soundtrack, soundtrack
from mmray.toyworld.world import OBJECTS, Scene, sample_scene

FRAME_SIZES = [(160, 120), (176, 144), (160, 90), (128, 128), (192, 108)]  # width, height
_FRAME_RATES = [Fraction(8), Fraction(10), Fraction(25, 2), Fraction(15), Fraction(24000, 1001),
                Fraction(30)]  # fmt: skip
_FRAME_RATE_WEIGHTS = [0.2, 0.3, 0.2, 0.15, 0.1, 0.05]  # few fast ones: they cost the most
_SAMPLE_RATES = [16_000, 22_050, 32_000, 44_100, 48_000]
_SAME_SCENE_SHARE = 0.5  # of the cuts
_QUIET_SHARE, _NOISY_SHARE, _OFFSCREEN_SHARE, _STEREO_SHARE = 0.15, 0.25, 0.25, 0.5
_B_FRAME_SHARE, _FAST_START_SHARE = 0.25, 0.5
_MARGIN = 1.15  # a shot is drawn this much larger than the frame, and the frame wanders in it
_LIFT = 0.12
# Words for file names that say nothing about the content.
_ODD_NAMES = ["été 2009", "holiday clip", "видео", "家族", "my video (1)", "ñandú & co"]


@dataclass(frozen=True)
class Shot:
    """Part of a video between two cuts; times in seconds."""

    scene: Scene
    start_s: float
    end_s: float


@dataclass(frozen=True)
class VideoPlan:
    """Everything about one video. `key` is its path below the world's folder, with slashes."""

    key: str
    width: int
    height: int
    fps: Fraction
    sample_rate: int
    channels: int
    num_frames: int
    shots: tuple[Shot, ...]
    disturbance: Disturbance
    keyframe_every: int
    b_frames: int
    fast_start: bool
    seed: tuple[int, int]

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return float(self.num_frames / self.fps)


def plan_video(seed: int, index: int) -> VideoPlan:
    """The plan of video number `index` of the world of a seed."""
    rng = np.random.default_rng([seed, 2, index])
    width, height = FRAME_SIZES[rng.integers(len(FRAME_SIZES))]
    fps = _FRAME_RATES[rng.choice(len(_FRAME_RATES), p=_FRAME_RATE_WEIGHTS)]
    lengths = rng.uniform(4, 8, rng.integers(2, 5))
    while not 10 <= lengths.sum() <= 20:
        lengths = rng.uniform(4, 8, rng.integers(2, 5))
    cuts = [0, *(round(float(t) * fps) for t in np.cumsum(lengths))]
    scenes = [sample_scene(rng)]
    for _ in lengths[1:]:
        if rng.random() < _SAME_SCENE_SHARE:
            scenes.append(scenes[-1].from_another_angle(int(rng.integers(2**31))))
        else:
            scenes.append(sample_scene(rng))
    shots = tuple(
        Shot(scene, float(start / fps), float(end / fps))
        for scene, start, end in zip(scenes, cuts[:-1], cuts[1:], strict=True)
    )
    absent = sorted(set(OBJECTS) - {n for s in scenes for n in (s.object, *s.others)})
    name = f"{index:06d}"
    if index % 20 == 7:
        name += " " + _ODD_NAMES[index // 20 % len(_ODD_NAMES)]
    return VideoPlan(
        key=f"videos/{name}.mp4",
        width=width,
        height=height,
        fps=fps,
        sample_rate=_SAMPLE_RATES[rng.integers(len(_SAMPLE_RATES))],
        channels=2 if rng.random() < _STEREO_SHARE else 1,
        num_frames=cuts[-1],
        shots=shots,
        disturbance=Disturbance(
            quiet=bool(rng.random() < _QUIET_SHARE),
            noisy=bool(rng.random() < _NOISY_SHARE),
            offscreen=str(rng.choice(absent)) if rng.random() < _OFFSCREEN_SHARE else None,
        ),
        keyframe_every=max(1, round(float(fps) * float(rng.choice([1, 2, 5])))),
        b_frames=2 if rng.random() < _B_FRAME_SHARE else 0,
        fast_start=bool(rng.random() < _FAST_START_SHARE),
        seed=(seed, index),
    )


def plan_soundtrack(plan: VideoPlan) -> Soundtrack:
    """The sound of a plan: `wave` float32[channels, n] at the plan's sample rate."""
    parts: list[tuple[Scene, float]] = []
    for shot in plan.shots:
        if parts and _same_scene(parts[-1][0], shot.scene):
            parts.pop()
        parts.append((shot.scene, shot.end_s))
    rng = np.random.default_rng([plan.seed[0], 3, plan.seed[1]])
    return soundtrack(parts, plan.sample_rate, plan.channels, plan.disturbance, rng)


def _same_scene(a: Scene, b: Scene) -> bool:
    return a == b.from_another_angle(a.seed)


def plan_frames(plan: VideoPlan, events: list[tuple[float, float]]) -> Iterator[np.ndarray]:
    """The pictures of a plan, uint8[H, W, 3] each; objects hop while they sound."""
    rng = np.random.default_rng([plan.seed[0], 4, plan.seed[1]])
    canvas = (round(plan.height * _MARGIN), round(plan.width * _MARGIN))
    frame = 0
    for shot in plan.shots:
        still, lifted = draw(shot.scene, canvas), draw(shot.scene, canvas, lift=_LIFT)
        count = round(shot.end_s * plan.fps) - frame
        windows = _camera_path(rng, count, canvas, (plan.height, plan.width))
        for top, left, height, width in windows:
            t = float(frame / plan.fps)
            up = any(on <= t < off and int((t - on) / 0.15) % 2 == 0 for on, off in events)
            view = (lifted if up else still)[top : top + height, left : left + width]
            if (height, width) != (plan.height, plan.width):
                view = np.asarray(Image.fromarray(view).resize(
                    (plan.width, plan.height), Image.Resampling.BILINEAR))  # fmt: skip
            yield view
            frame += 1


def _camera_path(
    rng: np.random.Generator, count: int, canvas: tuple[int, int], frame: tuple[int, int]
) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) of the window for each frame: a pan, often with a slow zoom and
    a shaking hand."""
    zooms = rng.random() < 0.4
    ends = rng.uniform(1.0, _MARGIN, 2) if zooms else np.array([1.0, 1.0])
    scale = np.linspace(ends[0], ends[1], count)
    if zooms and rng.random() < 0.5:
        scale[:] = ends[0]
    shake = rng.normal(0, rng.choice([0.0, 0.03]), (2, count))
    window = []
    for axis in (0, 1):
        length = np.minimum((frame[axis] * scale).astype(int), canvas[axis])
        where = np.linspace(rng.uniform(), rng.uniform(), count) + shake[axis]
        window.append((where.clip(0, 1) * (canvas[axis] - length)).astype(int))
        window.append(length)
    top, height, left, width = (a.tolist() for a in window)
    return list(zip(top, left, height, width, strict=True))


def render_video(
    plan: VideoPlan,
    path: Path,
    *,
    with_picture: bool = True,
    with_sound: bool = True,
    max_frames: int | None = None,
) -> None:
    """Render a plan to an mp4 file.

    Args:
        plan: the video.
        path: the file to write, whatever its suffix.
        with_picture: whether there is a video stream.
        with_sound: whether there is an audio stream.
        max_frames: stop after so many frames; 0 makes a file with streams and nothing in them.
    """
    num_frames = plan.num_frames if max_frames is None else max_frames
    sound = plan_soundtrack(plan)
    flags = {"movflags": "+faststart"} if plan.fast_start else {}
    with av.open(str(path), "w", format="mp4", options=flags) as container:
        video = _add_video_stream(container, plan) if with_picture else None
        audio = _add_audio_stream(container, plan) if with_sound else None
        container.start_encoding()  # else a video of no frames would be no file at all
        frames = plan_frames(plan, sound.events) if video else iter(())
        written = 0
        # A second of each in turn, as players expect.
        for first in range(0, num_frames, max(1, round(plan.fps))):
            last = min(first + max(1, round(plan.fps)), num_frames)
            for index in range(first, last):
                if video:
                    picture = av.VideoFrame.from_ndarray(next(frames), format="rgb24")
                    picture.pts = index
                    picture.time_base = 1 / plan.fps
                    container.mux(video.encode(picture))
            if audio:
                until = round(last / plan.fps * plan.sample_rate)
                container.mux(audio.encode(_audio_frame(plan, sound.wave, written, until)))
                written = until
        for stream in (video, audio):
            if stream:
                container.mux(stream.encode(None))


def _add_video_stream(container: av.container.OutputContainer, plan: VideoPlan) -> av.VideoStream:
    stream = container.add_stream("libx264", rate=plan.fps, options={
        "preset": "ultrafast", "crf": "24", "bf": str(plan.b_frames),
    })  # fmt: skip
    stream.width, stream.height, stream.pix_fmt = plan.width, plan.height, "yuv420p"
    stream.codec_context.gop_size = plan.keyframe_every
    stream.codec_context.time_base = 1 / plan.fps
    stream.codec_context.thread_count = 1  # files are rendered side by side
    return stream


def _add_audio_stream(container: av.container.OutputContainer, plan: VideoPlan) -> av.AudioStream:
    layout = "mono" if plan.channels == 1 else "stereo"
    # The default search for the best quantisers takes most of the time of the whole rendering.
    stream = container.add_stream("aac", rate=plan.sample_rate, layout=layout,
                                  options={"aac_coder": "fast"})  # fmt: skip
    stream.bit_rate = 48_000 * plan.channels
    return stream


def _audio_frame(plan: VideoPlan, wave: np.ndarray, start: int, end: int) -> av.AudioFrame:
    layout = "mono" if plan.channels == 1 else "stereo"
    samples = np.ascontiguousarray(wave[:, start:end])
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
    frame.sample_rate = plan.sample_rate
    frame.pts = start
    frame.time_base = Fraction(1, plan.sample_rate)
    return frame
