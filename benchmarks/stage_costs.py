"""What each stage costs for a clip and for a picture: CPU time and bytes, on one core.

    python benchmarks/stage_costs.py [--videos 8] [--pictures 256]

Videos of 60 s, 720p, H.264 with a key frame every 10 s, sound in AAC, cut into clips of 20 s with 4
frames; pictures of 500 x 375 pixels, JPEG. The stages are the job's own, warm, one worker of each;
the nets are EfficientNet-lite0 in ONNX Runtime. `docs/scale.md` computes clusters from the figures.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
from PIL import Image
from rich.table import Table

from mmray.cli import console
from mmray.pipeline import shards
from mmray.pipeline.estimate import Meter, Spent, estimate
from mmray.pipeline.images import ImageOptions, image_job, picture_rows
from mmray.pipeline.pictures import DecodePictures, DescribePictures
from mmray.pipeline.videos import VideoOptions

NET = "efficientnet_lite0"
WIDTH, HEIGHT, FPS, SECONDS, RATE = 1280, 720, 25, 60, 44100


def write_video(path: Path, seed: int) -> None:
    """A minute of a texture that drifts under noise, with a sound."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (24, 48, 3), np.uint8)
    scene = Image.fromarray(coarse).resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.BICUBIC)
    texture = np.asarray(scene)
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", FPS, options={"g": str(10 * FPS), "preset": "veryfast"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = file.add_stream("aac", RATE, layout="mono")
        for i in range(FPS * SECONDS):
            x, y = (i * 3) % WIDTH, (i * 2) % HEIGHT
            picture = texture[y : y + HEIGHT, x : x + WIDTH].copy()
            picture[::7, ::5] ^= np.uint8(i % 32)
            file.mux(video.encode(av.VideoFrame.from_ndarray(picture)))
        file.mux(video.encode())
        wave = rng.normal(0, 0.1, RATE * SECONDS).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        file.mux(sound.encode(frame))
        file.mux(sound.encode())


def clip_costs(folder: Path, videos: int) -> Table:
    """CPU time of each stage for a clip, with exact frames and with key frames."""
    for i in range(videos):
        write_video(folder / f"{i}.mp4", i)
    table = Table("stage", "exact frames, CPU ms a clip", "key frames, CPU ms a clip")
    found = []
    for frames in ("exact", "keyframe"):
        options = VideoOptions(source=f"folder:{folder}", objects=NET, scenes=None, frames=frames)
        found.append(estimate(options, sample=videos).sample)
    for stage in ("probe", "decode", "teach", "write"):
        costs = [
            1000 * sum(v.cpu_s(stage) for v in sample.videos) / sum(v.clips for v in sample.videos)
            for sample in found
        ]
        table.add_row(stage, *(f"{cost:.1f}" for cost in costs))
    rows = sum(v.rows for v in found[0].videos)
    read = sum(v.read for v in found[0].videos) / rows
    table.add_row("bytes read a clip", f"{read / 1e3:.0f} kB", "")
    written = sum(v.written for v in found[0].videos) / rows
    table.add_row("bytes written a clip", f"{written / 1e3:.0f} kB", "")
    return table


def picture_costs(folder: Path, pictures: int) -> Table:
    """CPU time of each stage for a picture."""
    rng = np.random.default_rng(0)
    for i in range(pictures):
        coarse = Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=85)
    options = ImageOptions(source=f"folder:{folder}", backbone=(NET,), objects=NET)
    job = image_job(options, str(folder / "out"))
    columns = ("id", "uri", "width", "height", "features", "objects", "thumbnail")
    write = shards.WriteShard(job.out, columns, job.errors)
    meter, spent = Meter(), dict[str, Spent]()
    decode = DecodePictures(224, "pad", 30.0)
    describe = DescribePictures((NET,), NET, 224)
    decode.setup()
    describe.setup()
    rows = pa.concat_tables(picture_rows(options.source))
    describe(decode(rows.slice(0, 16)))  # warm
    for start in range(0, rows.num_rows, 64):
        some = rows.slice(start, 64)
        some = some.append_column("shard", pa.array([start] * some.num_rows, pa.int64()))
        with meter(spent, "decode"):
            some = decode(some)
        with meter(spent, "describe"):
            some = describe(some)
        with meter(spent, "write"):
            write(some)
    table = Table("stage", "CPU ms a picture")
    for stage, cost in spent.items():
        table.add_row(stage, f"{1000 * cost.cpu_s / rows.num_rows:.2f}")
    size = sum(path.stat().st_size for path in Path(job.out).glob("part-*"))
    table.add_row("bytes written a picture", f"{size / rows.num_rows / 1e3:.1f} kB")
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--pictures", type=int, default=256)
    args = parser.parse_args()
    for costs, number in ((clip_costs, args.videos), (picture_costs, args.pictures)):
        with tempfile.TemporaryDirectory() as folder:
            console.print(costs(Path(folder), number))


if __name__ == "__main__":
    main()
