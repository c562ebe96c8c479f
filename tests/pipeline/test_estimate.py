"""What a job will take, against what it takes."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmray.cli import JobFailed, console
from mmray.errors import UserError
from mmray.media.sandbox import Sandbox
from mmray.pipeline import estimate as measuring
from mmray.pipeline.budget import Nodes
from mmray.pipeline.dataset import Dataset
from mmray.pipeline.estimate import Estimate, Meter, Sample, Spent, Video, choose, compute, estimate
from mmray.pipeline.estimate_tables import notes, show, size
from mmray.pipeline.videos import VideoOptions, prepare_videos


@pytest.fixture(scope="module")
def options(small_world: Path, random_teacher: Path) -> VideoOptions:
    made = VideoOptions(source=f"toy:{small_world}", objects=f"mmray:{random_teacher}", scenes=None)
    return replace(made, clip_s=4.0, frame_s=2.0)


@pytest.fixture(scope="module")
def found(options: VideoOptions) -> Estimate:
    """An estimate from all 16 videos of the small world."""
    return estimate(options, sample=16)


def healthy_videos(world: Path) -> list[Path]:
    rows = pq.read_table(world / "truth" / "videos.parquet").to_pylist()
    return [world / row["key"] for row in rows if row["broken"] is None]


def test_with_all_videos_in_the_sample_the_totals_are_those_of_the_job(
    found: Estimate, options: VideoOptions, tmp_path: Path, local_mode: None
) -> None:
    made = prepare_videos(options, str(tmp_path / "clips"), max_error_ratio=0.9)
    assert found.totals["rows"].value == pytest.approx(made.rows)
    written = sum(path.stat().st_size for path in (tmp_path / "clips").glob("part-*"))
    assert found.totals["bytes_written"].value == pytest.approx(written, rel=0.1)
    bad = {Path(e["uri"]) for e in Dataset(made.path).errors().to_pylist()}
    assert found.totals["bad_videos"].value == len(bad)
    assert found.sample.listed == found.items == 16


def test_more_items_take_in_proportion_more(options: VideoOptions, found: Estimate) -> None:
    many = compute(found.sample, 16_000_000, Nodes(decode_vcpus=1))
    for name, number in many.totals.items():
        assert number.value == pytest.approx(1e6 * found.totals[name].value), name
        assert number.low <= number.value <= number.high
    assert many.plan.decode_nodes[0] > 1


def test_every_number_is_in_the_metrics_and_is_json(found: Estimate) -> None:
    again = json.loads(json.dumps(found.metrics, allow_nan=False))
    assert again["computed.rows.low"] <= again["computed.rows"] <= again["computed.rows.high"]
    for stage in ("probe", "decode", "teach", "write"):
        assert 0 < again[f"measured.{stage}.cpu_s"] <= again[f"measured.{stage}.busy_s"]
    assert again["cluster.decode.min_workers"] == 1
    assert again["cluster.gpu.max_workers"] == 0
    assert again["assumed.decode_price"] == Nodes().decode_price
    assert "computed.gpu_h" not in again, "no GPU was measured"
    assert 20e6 < again["sample.child_bytes"] < 1e9


def test_tables_tell_what_is_measured_computed_and_assumed(found: Estimate) -> None:
    with console.capture() as capture:
        show(found, max_error_ratio=0.01)
    text = capture.get()
    for words in ("measured: 16 of 16", "computed: 16 videos", "assumed: check", "min_workers: 1"):
        assert words in text
    assert "GPU hours: not measured" in text
    assert "the job would stop" in text
    assert not any("would stop" in line for line in notes(found, max_error_ratio=0.9))


def test_the_sample_is_spread_over_the_source_and_the_same_for_a_seed(tmp_path: Path) -> None:
    file = tmp_path / "videos.parquet"
    pq.write_table(pa.table({"uri": [f"{i}.mp4" for i in range(5000)]}), file)
    manifest = VideoOptions(source=f"manifest:{file}", objects="any", scenes=None)

    def numbers(seed: int, number: int = 200) -> list[int]:
        listed, rows = choose(manifest, number, seed)
        assert listed == 5000
        return [int(Path(uri).stem) for uri in rows["uri"].to_pylist()]

    first = numbers(0)
    assert first == numbers(0) == sorted(set(first))
    assert first != numbers(1)
    counts = np.histogram(first, bins=5, range=(0, 5000))[0]
    assert (counts > 20).all(), counts
    assert choose(replace(manifest, limit=7), 200, 0)[0] == 7


def test_clips_that_are_not_decoded_are_counted_by_those_that_are(
    options: VideoOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = replace(options, clip_s=0.25, frame_s=0.25, min_clip_s=0.0, frames="keyframe")
    whole = estimate(fine, sample=16)
    monkeypatch.setattr(measuring, "CLIPS", 4)
    part = estimate(fine, sample=16)
    assert part.totals["rows"].value == pytest.approx(whole.totals["rows"].value, rel=0.1)
    assert part.totals["bytes_written"].value == pytest.approx(
        whole.totals["bytes_written"].value, rel=0.3
    )


def test_remote_files_are_read_for_each_shard_and_to_look_into_them(
    options: VideoOptions, small_world: Path, tmp_path: Path
) -> None:
    memory = fsspec.filesystem("memory")
    sources = healthy_videos(small_world)[:2]
    for path in sources:
        memory.pipe_file(f"/estimate/{path.name}", path.read_bytes())
    uris = [f"memory://estimate/{path.name}" for path in sources]
    pq.write_table(pa.table({"uri": [*uris, "memory://estimate/no.mp4"]}), tmp_path / "m.parquet")
    found = estimate(replace(options, source=f"manifest:{tmp_path / 'm.parquet'}"), sample=3)
    *good, missing = found.sample.videos
    for video, path in zip(good, sources, strict=True):
        assert video.read == path.stat().st_size
        assert 2 <= video.fetches < 2.2
        assert video.reason == ""
        assert video.spent["fetch"].cpu_s > 0
    assert missing.reason.startswith("open: ")
    assert (missing.read, missing.rows) == (0, 0)


def test_what_cannot_be_estimated_is_said(options: VideoOptions, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "broken" / name).write_bytes(b"no video" * 100)
    with pytest.raises(UserError, match="empty"):
        estimate(replace(options, source=f"folder:{tmp_path / 'empty'}"))
    with pytest.raises(JobFailed, match=r"none of the 2 videos.*2 x open: "):
        estimate(replace(options, source=f"folder:{tmp_path / 'broken'}"))
    for wrong, flag in (({"items": 0}, "--items 0"), ({"sample": 1}, "--sample 1")):
        with pytest.raises(UserError, match=f"{flag}: expected"):
            estimate(options, **wrong)
    with pytest.raises(UserError, match="--within-hours"):
        estimate(options, nodes=Nodes(within_hours=-1.0))
    with pytest.raises(UserError, match="--timeout-s"):
        estimate(options, timeout_s=0)


def test_a_broken_video_before_the_first_good_one_is_no_failure(
    options: VideoOptions, small_world: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    shutil.copy(healthy_videos(small_world)[0], tmp_path / "b.mp4")
    found = estimate(replace(options, source=f"folder:{tmp_path}"))
    assert [bool(video.reason) for video in found.sample.videos] == [True, False]
    assert found.sample.bad == 1


def made_up(gpu: str) -> Sample:
    """Of 10 videos: 1 s of decoding, 0.1 s of a teacher, 0.02 s of writing, 5 clips each."""
    spent = {"decode": Spent(1.0, 1.0), "teach": Spent(0.05, 0.1), "write": Spent(0.02, 0.02)}
    videos = [Video(5, 5, spent, read=1e6, written=2e6) for _ in range(10)]
    return Sample(10, videos, num_frames=4, gpu=gpu, worker_bytes=1, child_bytes=1)


def test_gpu_hours_are_measured_or_given_or_unknown() -> None:
    hour = 3600
    measured = compute(made_up("NVIDIA A10G"), hour, Nodes())
    assert measured.totals["gpu_h"].value == pytest.approx(0.12)
    assert measured.totals["cpu_h"].value == pytest.approx(1.07)
    assert measured.plan.gpu_nodes == (1, 1)
    assert measured.plan.vcpus_a_gpu == pytest.approx(1 / 0.12 / 0.6)
    given = compute(made_up(""), hour, Nodes(gpu_rate=100.0))
    assert given.totals["gpu_h"].value == pytest.approx(20 / 100 + 0.02)
    assert given.totals["cpu_h"].value == pytest.approx(1.02), "teachers take no CPU then"
    assert any("by --gpu-rate" in line for line in notes(given, 0.2))
    unknown = compute(made_up(""), hour, Nodes(decode_vcpus=1, vcpu_speed=1.0))
    assert "gpu_h" not in unknown.totals
    assert unknown.plan.hours.value == pytest.approx(1.12), "the decode nodes do all"


def burn(seconds: float) -> None:
    """Keep a CPU busy."""
    start = time.process_time()
    while time.process_time() - start < seconds:
        pass


def test_the_meter_counts_the_child_and_tells_work_from_waiting() -> None:
    meter, stages = Meter(), {}
    with Sandbox() as sandbox:
        sandbox.call(burn, 0.0)
        with meter(stages, "both"):
            burn(0.2)
            sandbox.call(burn, 0.3)
        with meter(stages, "wait"):
            time.sleep(0.3)
        for _ in range(2):
            with meter(stages, "twice"):
                burn(0.1)
    assert stages["both"].cpu_s == pytest.approx(0.5, abs=0.1)
    assert stages["both"].busy_s == pytest.approx(0.5, abs=0.25)
    assert stages["wait"].cpu_s < 0.1
    assert stages["wait"].busy_s == pytest.approx(0.3, abs=0.1)
    assert stages["twice"].cpu_s == pytest.approx(0.2, abs=0.05)
    with Sandbox() as sandbox, meter(stages, "killed"):
        sandbox.call(burn, 0.2)
        sandbox.close()
    assert stages["killed"].cpu_s > 0.2, "the time of a child that ended stays"


def test_sizes_are_readable() -> None:
    sizes = {999.0: "0.999 kB", 1.5e6: "1.5 MB", 123.4e9: "123 GB", 2e12: "2 TB", 12e18: "12000 PB"}
    assert [size(number) for number in sizes] == [*sizes.values()]
