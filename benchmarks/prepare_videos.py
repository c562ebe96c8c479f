"""Clips a second of `prepare_videos`, against a plain loop of the same decode and teacher.

    python benchmarks/prepare_videos.py [--videos 240] [--processes 2]

The plain loop is what one would write without a framework: so many processes, each decoding
clip after clip in itself and asking the same teacher for each. Both start warm: the first shards
of the pipeline and the first clips of the loop are not timed. Prints the ratio
pipeline / plain loop; 1.0 or more means that the pipeline costs nothing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from mmray.cli import console

TEACHER = "efficientnet_lite0"
CLIP_S, NUM_FRAMES, SIZE = 20.0, 4, 224


def plain_worker(paths: list[str], ready: Any, go: Any, counts: Any) -> None:
    """Decode and teach clip after clip, as a plain script would."""
    from mmray.errors import MediaError
    from mmray.media.clip import decode_clip
    from mmray.media.sound import probe
    from mmray.teachers import load_teacher

    teacher = load_teacher(TEACHER)
    teacher(np.zeros((NUM_FRAMES, SIZE, SIZE, 3), np.uint8))
    ready.release()
    go.wait()
    done = 0
    for path in paths:
        try:
            duration = min(CLIP_S, probe(path).duration_s)
            clip = decode_clip(path, 0.0, duration, NUM_FRAMES, SIZE, "exact")
        except MediaError:
            continue
        teacher(clip.frames)
        done += 1
    counts.put(done)


def plain_loop(paths: list[str], processes: int) -> float:
    """Clips a second of the plain loop."""
    context = multiprocessing.get_context("spawn")
    ready, go, counts = context.Semaphore(0), context.Event(), context.Queue()
    workers = [
        context.Process(target=plain_worker, args=(paths[i::processes], ready, go, counts))
        for i in range(processes)
    ]
    for worker in workers:
        worker.start()
    for _ in workers:
        ready.acquire()
    start = time.perf_counter()
    go.set()
    done = sum(counts.get() for _ in workers)
    seconds = time.perf_counter() - start
    for worker in workers:
        worker.join()
    return done / seconds


def pipeline(source: str) -> float:
    """Clips a second of the pipeline's main pass, from the end of its first shards on."""
    from mmray.pipeline import run
    from mmray.pipeline.clips import VIDEO_SCHEMA, ProbeVideos
    from mmray.pipeline.videos import VideoOptions, Workers, clip_job, clip_pools, video_rows

    options = VideoOptions(source=source, objects=TEACHER, scenes=None, clip_s=CLIP_S)
    with tempfile.TemporaryDirectory() as out:
        job = clip_job(options, out)
        job.list_items(video_rows(options), VIDEO_SCHEMA, source)
        job.split(ProbeVideos(CLIP_S, options.min_clip_s, None, 60.0), VIDEO_SCHEMA)
        pools = clip_pools(job, options, Workers())
        sizes = [job.part_list.size(shard) for shard in range(job.part_list.num_shards)]
        warm = 2 * sum(pool.size for pool in pools)
        done, start = 0, 0.0
        for i, shard in enumerate(run.run(list(range(len(sizes))), pools)):
            if i == warm:
                start, done = time.perf_counter(), 0
            done += sizes[shard["shard"]]
        return (done - sizes[0]) / (time.perf_counter() - start)


def main() -> None:
    """Measure both in turn, three times, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=240)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    import mmray
    from mmray.toyworld.build import make_world

    root = Path(tempfile.gettempdir()) / f"mmray-bench-{args.videos}"
    make_world(root, num_videos=args.videos, num_images=0, broken=0.0)
    paths = sorted(str(p) for p in (root / "videos").glob("*.mp4"))
    mmray.init()
    ratios = []
    for i in range(args.rounds):
        plain = plain_loop(paths, args.processes)
        ours = pipeline(f"folder:{root / 'videos'}")
        ratios.append(ours / plain)
        console.print(
            f"round {i + 1}: pipeline {ours:.1f} clips/s, plain loop of {args.processes} "
            f"processes {plain:.1f} clips/s, ratio {ratios[-1]:.2f}"
        )
    console.print(f"median ratio {np.median(ratios):.2f}")


if __name__ == "__main__":
    main()
