"""`prepare_videos --estimate` against the job: CPU seconds of all of a source's videos.

    python benchmarks/estimate.py [--source folder:videos/] [--sample 8] [--rounds 3]

Both run in this process. Of the job the same with its first two videos is taken off, which is what
starting it costs. Prints estimate / job for samples with different seeds, how many of their 95%
intervals hold the job's figure, and the ratio with all videos in the sample: what the measuring
itself is off by.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import mmray
from mmray.cli import console
from mmray.pipeline.budget import HOUR_S
from mmray.pipeline.estimate import Meter, Spent, choose, estimate
from mmray.pipeline.videos import VideoOptions, prepare_videos

FIRST = 2


def job_s(options: VideoOptions) -> float:
    """CPU seconds of the job."""
    spent: dict[str, Spent] = {}
    with tempfile.TemporaryDirectory() as out, Meter()(spent, "job"):
        prepare_videos(options, f"{out}/clips", max_error_ratio=1.0)
    return spent["job"].cpu_s


def options_of(source: str, limit: int | None = None) -> VideoOptions:
    """The job's options."""
    return VideoOptions(source=source, objects="efficientnet_lite0", scenes=None, limit=limit)


def main() -> None:
    """Measure, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source")
    parser.add_argument("--sample", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    source = args.source
    if source is None:
        from mmray.toyworld.build import make_world

        root = Path(tempfile.gettempdir()) / "mmray-bench-64"
        make_world(root, num_videos=64, num_images=0, broken=0.1)
        source = f"folder:{root / 'videos'}"
    mmray.init(local_mode=True)
    job_s(options_of(source, FIRST))  # warm
    listed, _ = choose(options_of(source), 1, seed=0)
    for i in range(args.rounds):
        job = job_s(options_of(source)) - job_s(options_of(source, FIRST))
        samples = [
            estimate(options_of(source), sample=args.sample, seed=8 * i + seed).totals["cpu_h"]
            for seed in range(8)
        ]
        whole = estimate(options_of(source), sample=listed).totals["cpu_h"].value
        unit = HOUR_S * (1 - FIRST / listed) / job
        ratios = np.array([found.value for found in samples]) * unit
        held = sum(found.low * unit <= 1 <= found.high * unit for found in samples)
        console.print(
            f"round {i + 1}: the job took {job:.2f} CPU s; samples of {args.sample}: "
            f"{', '.join(f'{ratio:.2f}' for ratio in ratios)}, mean {ratios.mean():.2f}, "
            f"{held} of {len(samples)} intervals hold it; all {listed} videos: {whole * unit:.2f}"
        )


if __name__ == "__main__":
    main()
