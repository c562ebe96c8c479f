"""What a job over videos will take: measured on a sample, computed for all.

The sample goes through the stages of the job, warm, in this process, one worker of each kind.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc

from mmray import storage
from mmray.cli import JobFailed, console
from mmray.errors import MediaError, UserError
from mmray.pipeline import dataset, shards
from mmray.pipeline.budget import HOUR_S, Nodes, Plan, Total, plan, resample, share, total
from mmray.pipeline.clips import VIDEO_SCHEMA, DecodeClips, ProbeVideos, TeachClips, local_file
from mmray.pipeline.progress import ProgressLine
from mmray.pipeline.stages import ERROR_COLUMNS, failed
from mmray.pipeline.videos import VideoOptions, Workers, clip_job, video_rows

STAGES = ("fetch", "probe", "decode", "teach", "write")
CLIPS = 16
"""Most clips of a video that are decoded; they stand for the others of it."""


@dataclass(frozen=True)
class Spent:
    """Seconds of CPUs (child processes' too), and for how long a worker was taken.

    A worker computes or waits, for a file or a GPU. That it waited for a CPU because this machine
    is busy does not count.
    """

    cpu_s: float = 0.0
    busy_s: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.cpu_s + other.cpu_s, self.busy_s + other.busy_s)

    def __mul__(self, factor: float) -> Spent:
        return Spent(self.cpu_s * factor, self.busy_s * factor)


class Meter:
    """Measures what this process and the children that it starts from now on spend.

    Attributes:
        child_bytes: most memory of one of those children.
    """

    def __init__(self) -> None:
        self.child_bytes = 0
        self._process = psutil.Process()
        self._others = {child.pid for child in self._process.children(recursive=True)}

    @contextlib.contextmanager
    def __call__(self, stages: dict[str, Spent], stage: str) -> Iterator[None]:
        """Add to `stages[stage]` what the block spends."""
        # The children first and last: the look at them is not counted.
        children, queued = self._children_s()
        start, own = time.perf_counter(), time.process_time()
        queued += _queued_s("thread-self")
        try:
            yield
        finally:
            still_queued = _queued_s("thread-self")
            wall, cpu = time.perf_counter() - start, time.process_time() - own
            after, of_children = self._children_s()
            cpu += after - children
            wall -= max(0.0, still_queued + of_children - queued)
            stages[stage] = stages.get(stage, Spent()) + Spent(cpu, max(cpu, wall))

    def _children_s(self) -> tuple[float, float]:
        """Seconds of CPUs for the children, also those that ended; seconds of waiting for CPUs."""
        ended = os.times()
        seconds, queued = ended.children_user + ended.children_system, 0.0
        for child in self._process.children(recursive=True):
            if child.pid in self._others:
                continue
            with contextlib.suppress(psutil.NoSuchProcess):  # it ends just now
                seconds += sum(child.cpu_times()[:4])  # user, system, its own ended children's
            queued += _queued_s(child.pid)
            self.child_bytes = max(self.child_bytes, peak_bytes(child.pid))
        return seconds, queued


@dataclass
class Video:
    """What one video of the sample costs.

    Attributes:
        clips: it is cut into.
        rows: clips that are good, all in all, as far as those that were decoded tell.
        spent: of each stage, for all its clips.
        read: bytes of the file.
        fetches: how often a job reads the file.
        written: bytes of its rows in Parquet.
        reason: why it, or a clip of it, cannot be used; empty when all is well.
    """

    clips: float = 0.0
    rows: float = 0.0
    spent: dict[str, Spent] = field(default_factory=dict)
    read: float = 0.0
    fetches: float = 1.0
    written: float = 0.0
    reason: str = ""

    def cpu_s(self, *stages: str) -> float:
        """CPU seconds of some stages."""
        return sum(self.spent.get(stage, Spent()).cpu_s for stage in stages)

    def busy_s(self, *stages: str) -> float:
        """Seconds of workers of some stages."""
        return sum(self.spent.get(stage, Spent()).busy_s for stage in stages)


@dataclass
class Sample:
    """The videos that were measured, and on what.

    Attributes:
        listed: videos of the source.
        videos: those that were measured, in the source's order.
        num_frames: that the teachers see of a clip.
        gpu: name of the GPU that the teachers ran on; empty for the CPU.
        worker_bytes: most memory of this process, which holds the teachers and a shard.
        child_bytes: most memory of the child process that decodes.
    """

    listed: int
    videos: list[Video]
    num_frames: int
    gpu: str
    worker_bytes: int
    child_bytes: int

    @property
    def bad(self) -> int:
        """Videos that cannot be used, all or in part."""
        return sum(bool(video.reason) for video in self.videos)

    def cpu_s(self, *stages: str) -> float:
        """CPU seconds of some stages for all its videos."""
        return sum(video.cpu_s(*stages) for video in self.videos)

    def busy_s(self, *stages: str) -> float:
        """Seconds of workers of some stages for all its videos."""
        return sum(video.busy_s(*stages) for video in self.videos)


@dataclass(frozen=True)
class Estimate:
    """What N videos will take.

    Attributes:
        items: N.
        sample: what was measured.
        totals: by name: `rows`, `cpu_h`, `gpu_h` (where it is known), `bytes_read`,
            `bytes_written`, `bad_videos`, and `hours_here` on the CPUs (and GPU) of this machine.
        plan: the cluster to ask for.
        nodes: what was assumed of it.
    """

    items: int
    sample: Sample
    totals: dict[str, Total]
    plan: Plan
    nodes: Nodes

    @property
    def metrics(self) -> dict[str, float]:
        """All numbers by flat names, as `--json` writes them; unknown ones are left out."""
        number = len(self.sample.videos)
        found: dict[str, float] = {"items": self.items, "sample.videos": number}
        for name in ("listed", "bad", "worker_bytes", "child_bytes"):
            found[f"sample.{name}"] = getattr(self.sample, name)
        for stage in STAGES:
            found[f"measured.{stage}.cpu_s"] = self.sample.cpu_s(stage) / number
            found[f"measured.{stage}.busy_s"] = self.sample.busy_s(stage) / number
        both = {"hours": self.plan.hours, "cost": self.plan.cost}
        for name, of_all in (self.totals | both).items():
            found[f"computed.{name}"] = of_all.value
            found[f"computed.{name}.low"] = of_all.low
            found[f"computed.{name}.high"] = of_all.high
        for group in ("decode", "gpu"):
            least, most = getattr(self.plan, f"{group}_nodes")
            found[f"cluster.{group}.min_workers"] = least
            found[f"cluster.{group}.max_workers"] = most
            found[f"cluster.{group}.busy"] = getattr(self.plan, f"{group}_busy")
        found["cluster.vcpus_a_gpu"] = self.plan.vcpus_a_gpu
        found |= {f"assumed.{name}": value for name, value in asdict(self.nodes).items()}
        return {k: v for k, v in found.items() if v is not None and np.isfinite(v)}


def estimate(
    options: VideoOptions,
    *,
    items: int | None = None,
    sample: int = 32,
    nodes: Nodes | None = None,
    timeout_s: float = 60.0,
    seed: int = 0,
) -> Estimate:
    """Measure a sample of a source's videos, and compute what all of them will take.

    Args:
        options: as for the job.
        items: N; None for all of the source.
        sample: number of videos to measure.
        nodes: the cluster to compute with.
        timeout_s: time limit for one clip, as for the job.
        seed: of the choice of videos, and of the intervals.

    Raises:
        UserError: bad options, or the source holds no videos.
        JobFailed: no video of the sample can be used.
    """
    nodes = nodes or Nodes()
    for flag, number, least in (("--items", items, 1), ("--sample", sample, 2)):
        if number is not None and number < least:
            raise UserError(f"{flag} {number}: expected {least} or more")
    options = options.absolute()
    options.check()
    nodes.check()
    Workers(timeout_s=timeout_s).check()
    listed, rows = choose(options, sample, seed)
    if not listed:
        raise UserError(f"{options.source}: holds no videos")
    console.print(f"{options.source}: {listed} videos; measuring {rows.num_rows} of them")
    with tempfile.TemporaryDirectory(prefix="mmray-") as folder:
        measured = _Measuring(options, timeout_s, seed, folder).run(rows, listed)
    return compute(measured, items or listed, nodes, seed)


def choose(options: VideoOptions, number: int, seed: int) -> tuple[int, pa.Table]:
    """A random sample of a source, each video as likely as any other; the source is streamed.

    Returns:
        The number of all videos, and at most `number` rows of `VIDEO_SCHEMA` in their order.
    """
    rng = np.random.default_rng(seed)
    places = np.arange(0)
    kept = VIDEO_SCHEMA.empty_table()
    listed = 0
    for table in video_rows(options):
        # Each row gets a random key; the rows with the smallest are the sample.
        keys = rng.random(table.num_rows)
        both = pa.concat_tables([kept, table])
        places = np.concatenate([places, keys])
        best = np.sort(np.argsort(places, kind="stable")[:number])
        kept, places = both.take(best), places[best]
        listed += table.num_rows
    return listed, kept


class _Measuring:
    """The stages of the job, with a meter at each."""

    def __init__(self, options: VideoOptions, timeout_s: float, seed: int, folder: str) -> None:
        job = clip_job(options, folder)
        size = max(net["size"] for net in job.nets.values())
        # Clips that are taught, written, and (of one remote video) fetched together.
        self._shard = shards.rows_within(job.part_bytes)
        self._probe = ProbeVideos(options.clip_s, options.min_clip_s, options.max_clips, timeout_s)
        self._decode = DecodeClips(
            options.num_frames, size, options.frames, options.audio, timeout_s
        )
        self._teach = TeachClips(options.teachers, options.num_frames, size)
        self._num_frames, self._path = options.num_frames, Path(folder) / "part.parquet"
        self._rng = np.random.default_rng(seed)
        self._meter = Meter()
        self._waiting: list[tuple[Video, float, pa.Table]] = []

    def run(self, rows: pa.Table, listed: int) -> Sample:
        """Measure the videos in `rows`, `listed` being the number of all."""
        self._warm(rows)
        videos = []
        with ProgressLine(console, "videos", rows.num_rows, 0, 0) as progress:
            for i in range(rows.num_rows):
                videos.append(self._video(rows.slice(i, 1)))
                progress.add(1, int(bool(videos[-1].reason)))
        self._end_shard()
        worker, child = peak_bytes(os.getpid()), self._meter.child_bytes
        return Sample(listed, videos, self._num_frames, _gpu(), worker, child)

    def _warm(self, rows: pa.Table) -> None:
        """Set up, and go once through all stages."""
        for stage in (self._probe, self._decode, self._teach):
            stage.setup()
        reasons: Counter[str] = Counter()
        for i in range(rows.num_rows):
            video = self._video(rows.slice(i, 1))
            if video.rows:
                self._end_shard()
                return
            reasons[video.reason] += 1
        why = "; ".join(f"{count} x {text}" for text, count in reasons.most_common(3))
        raise JobFailed(f"none of the {rows.num_rows} videos of the sample can be used: {why}")

    def _video(self, row: pa.Table) -> Video:
        """Probe and decode one video; its clips then wait until they are a shard."""
        video = Video()
        uri = row["uri"][0].as_py()
        try:
            with contextlib.ExitStack() as stack:
                with self._meter(video.spent, "fetch"):
                    path = stack.enter_context(local_file(uri))
                if storage.is_remote(uri):  # from now on the copy, which is not fetched again
                    place = row.column_names.index("uri")
                    row = row.set_column(place, "uri", pa.array([path]))
                self._clips(video, row)
                with contextlib.suppress(OSError):
                    video.read = float(Path(path).stat().st_size)
        except MediaError as e:
            video.reason = f"{e.stage}: {e.reason}"
        if storage.is_remote(uri):
            # Once to look into it, unless its length is known; once for each shard it is in.
            looks = int(row["duration_s"][0].as_py() is None)
            video.fetches = looks + (1 + (video.clips - 1) / self._shard if video.clips else 0)
            video.spent["fetch"] *= video.fetches
        if sum(table.num_rows for _, _, table in self._waiting) >= self._shard:
            self._end_shard()
        return video

    def _clips(self, video: Video, row: pa.Table) -> None:
        with self._meter(video.spent, "probe"):
            clips = self._probe(row)
        if any(failed(clips)):
            video.reason = _reason(clips)
            return
        video.clips = clips.num_rows
        number = min(CLIPS, clips.num_rows)
        spread = (np.arange(number) + self._rng.random()) * clips.num_rows / number
        clips = clips.select(VIDEO_SCHEMA.names).take(spread.astype(np.int64))
        stands_for = video.clips / number
        with self._meter(video.spent, "decode"):
            decoded = self._decode(clips)
        video.spent["decode"] *= stands_for
        bad = pa.array(failed(decoded))
        good = decoded.filter(pc.invert(bad))
        video.rows = good.num_rows * stands_for
        if good.num_rows < number:
            video.reason = _reason(decoded.filter(bad))
        if good.num_rows:
            self._waiting.append((video, stands_for, good))

    def _end_shard(self) -> None:
        """Teach and write the clips that wait; each video gets its share of the costs."""
        if not self._waiting:
            return
        tables = [table for _, _, table in self._waiting]
        spent: dict[str, Spent] = {}
        with self._meter(spent, "teach"):
            rows = self._teach(pa.concat_tables(tables))
        with self._meter(spent, "write"):
            rows = rows.drop_columns(list(ERROR_COLUMNS))
            dataset.write_table(str(self._path), rows, row_group_size=16)
        sounds = [pc.sum(pc.binary_length(table["audio"])).as_py() for table in tables]
        for (video, stands_for, table), sound in zip(self._waiting, sounds, strict=True):
            of_clips = stands_for * table.num_rows / rows.num_rows
            of_bytes = stands_for * sound / sum(sounds)
            video.spent["teach"] = spent["teach"] * of_clips
            video.spent["write"] = spent["write"] * of_bytes
            video.written = self._path.stat().st_size * of_bytes
        self._waiting = []


def compute(sample: Sample, items: int, nodes: Nodes, seed: int = 0) -> Estimate:
    """What `items` videos like those of the sample will take."""
    videos = sample.videos
    # What CPUs do not do where GPUs are said to do it.
    cpu_stages = [s for s in STAGES if s != "teach" or sample.gpu or not nodes.gpu_rate]
    costs = {
        "rows": [v.rows for v in videos],
        "bytes_read": [v.read * v.fetches for v in videos],
        "bytes_written": [v.written for v in videos],
        "cpu_s": [v.cpu_s(*cpu_stages) for v in videos],
        "decode_s": [v.busy_s("fetch", "probe", "decode") for v in videos],
        "teach_s": [v.busy_s("teach") for v in videos],
        "write_s": [v.busy_s("write") for v in videos],
    }
    of = dict(zip(costs, resample(np.array([*costs.values()]).T, seed) * items, strict=True))
    decode_s, gpu_s, net_s = of["decode_s"], None, of["teach_s"] + of["write_s"]
    if nodes.gpu_rate:
        gpu_s = of["rows"] * sample.num_frames / nodes.gpu_rate + of["write_s"]
    elif sample.gpu:
        gpu_s = net_s
    cpus = os.cpu_count() or 1
    here_s = np.maximum(decode_s / cpus, net_s) if sample.gpu else (decode_s + net_s) / cpus
    hours = {"cpu_h": of["cpu_s"], "hours_here": here_s}
    if gpu_s is not None:
        hours["gpu_h"] = gpu_s
    totals = {name: total(of[name]) for name in ("rows", "bytes_read", "bytes_written")}
    totals |= {name: total(seconds / HOUR_S) for name, seconds in hours.items()}
    totals["bad_videos"] = share(sample.bad, len(videos), items)
    work_s = decode_s + net_s if gpu_s is None else decode_s
    return Estimate(items, sample, totals, plan(work_s, gpu_s, nodes), nodes)


def _queued_s(process: int | str) -> float:
    """Seconds that a thread (of a process the main one) waited for a CPU; 0 where unknown."""
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9
    except OSError:  # it ended just now, or this is no Linux
        return 0.0


def peak_bytes(pid: int) -> int:
    """Most memory that a process held so far; where the system does not keep it, holds now."""
    # Not getrusage: of a child it counts what the parent held when it was started.
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).memory_info().rss
    return 0


def _reason(rows: pa.Table) -> str:
    return f"{rows['error_stage'][0]}: {rows['error_message'][0]}"


def _gpu() -> str:
    """The GPU that the teachers run on: they have imported torch by now where there is one."""
    torch: Any = sys.modules.get("torch")
    on_gpu = torch is not None and torch.cuda.is_available()
    return torch.cuda.get_device_name(0) if on_gpu else ""
