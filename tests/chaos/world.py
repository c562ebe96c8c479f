"""What the jobs of the harness work on: a toy world, nets with random weights, files that kill.

All of it is small, and the same whenever it is made, so it can be kept between runs.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

CLIP_S, FRAME_S = 1.0, 0.25
POISON = "poison"
NUM_POISON = 10


@dataclass(frozen=True)
class World:
    """Folders of what is worked on.

    Args:
        videos: some are broken.
        poisoned: the same, and files that kill whoever decodes them when `poison.py` is about.
        teachers: by the name of their column.
        net: a SoundNet.
    """

    videos: Path
    poisoned: Path
    teachers: dict[str, Path]
    net: Path


def make(folder: Path, videos: int) -> World:
    """Make what is not there yet."""
    from mmray.toyworld.build import make_world

    root = make_world(
        folder / "world", num_videos=videos, num_images=0, broken=0.1, seed=5, workers=2
    )
    teachers = {head: folder / head for head in ("objects", "scenes")}
    net, poisoned = folder / "net", folder / "poisoned"
    if not (done := folder / "made").exists():
        _write_teachers(teachers)
        _write_net(net)
        _write_poisoned(root / "videos", poisoned)
        done.touch()
    return World(root / "videos", poisoned, teachers, net)


def _write_teachers(teachers: dict[str, Path]) -> None:
    import torch

    from mmray.teachers import nets, train

    for seed, (head, folder) in enumerate(teachers.items()):
        torch.manual_seed(seed)
        net = nets.new_net("random", [f"{head}-{i}" for i in range(5)], 64, train._CHANNELS)
        options = {"options": {"source": "nothing"}, "what": head, "num_train": 0, "num_test": 0}
        train.save(net.eval(), str(folder), options | {"accuracy": 0.3, "nll": 1.1, "ece": 0.0})


def _write_net(folder: Path) -> None:
    import torch

    from mmray.soundnet.config import SoundNetConfig
    from mmray.soundnet.model import SoundNetModel, save_model

    torch.manual_seed(0)
    config = SoundNetConfig("soundnet5", ["dog", "cat", "car"], ["beach", "zoo"], frame_s=FRAME_S)
    save_model(folder, SoundNetModel(config))


def _write_poisoned(videos: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for video in videos.iterdir():
        os.link(video, folder / video.name)
    whole = sorted(videos.iterdir(), key=lambda p: p.stat().st_size)[-NUM_POISON:]
    for number, video in enumerate(whole):
        # Half of them kill when they are opened, half only when they are decoded.
        when = ("open", "decode")[number % 2]
        _cut(video, folder / f"{POISON}-{when}-{number}.mp4", seconds=1.6)


def _cut(video: Path, to: Path, seconds: float) -> None:
    """The first seconds of a video, without decoding it."""
    import av

    with av.open(str(video)) as source, av.open(str(to), "w") as sink:
        streams = {s: sink.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None and packet.pts * packet.time_base < seconds:
                packet.stream = streams[packet.stream]
                sink.mux(packet)
