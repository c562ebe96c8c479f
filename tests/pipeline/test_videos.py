"""From a source to a clip dataset: real files, real decoders, real teachers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmray.cli import JobFailed
from mmray.errors import UserError
from mmray.pipeline.clips import with_ids
from mmray.pipeline.dataset import Dataset, tensor, waveform
from mmray.pipeline.videos import VideoOptions, prepare_videos
from mmray.sources.items import VideoItem

COLUMNS = ("id", "uri", "split", "start_s", "duration_s", "sample_rate", "audio", "objects")


def options(world: Path, teacher: Path, **others: object) -> VideoOptions:
    made = VideoOptions(source=f"toy:{world}", objects=f"mmray:{teacher}", scenes=None)
    return replace(made, **others)


def truth(world: Path) -> dict[str, dict]:
    rows = pq.read_table(world / "truth" / "videos.parquet").to_pylist()
    return {row["key"]: row for row in rows}


@pytest.fixture(scope="module")
def prepared(
    small_world: Path, random_teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The small world, prepared in this process."""
    from mmray import runtime

    runtime.set_local_mode(True)
    out = tmp_path_factory.mktemp("clips") / "clips"
    chosen = options(small_world, random_teacher, clip_s=8.0, frame_s=4.0)
    prepare_videos(chosen, str(out), max_error_ratio=0.6)
    return out


def rows_of(out: Path) -> dict[str, tuple]:
    table = Dataset(str(out)).read(COLUMNS)
    rows = table.drop_columns(["objects"]).to_pylist()
    objects = tensor(table["objects"])
    return {r["id"]: (*r.values(), o.tobytes()) for r, o in zip(rows, objects, strict=True)}


def test_every_video_has_rows_or_a_reason(prepared: Path, small_world: Path) -> None:
    data = Dataset(str(prepared))
    good = {Path(uri).name for uri in data.read(["uri"])["uri"].to_pylist()}
    errors = data.errors().to_pylist()
    bad = {Path(e["uri"]).name for e in errors}
    assert good | bad == {Path(key).name for key in truth(small_world)}
    healthy = {Path(key).name for key, row in truth(small_world).items() if row["broken"] is None}
    assert healthy <= good
    assert bad
    assert all(e["id"] and e["stage"] and e["error_class"] and e["message"] for e in errors)
    assert data.manifest["counts"] == {
        "videos": 16,
        "rows": data.num_rows,
        "errors": len(errors),
        "shards": len(data.shards),
    }
    assert not (prepared / ".work").exists()


def test_rows_are_what_the_contract_says(prepared: Path) -> None:
    data = Dataset(str(prepared))
    table = data.read([*COLUMNS, "frame_times", "frame_labels", "labels", "thumbnail"])
    assert len(set(table["id"].to_pylist())) == table.num_rows
    assert table.schema.field("objects").type == pa.fixed_shape_tensor(pa.float16(), [2, 3])
    np.testing.assert_allclose(tensor(table["objects"]).astype(float).sum(-1), 1, atol=5e-3)
    for row in table.drop_columns(["objects", "frame_times"]).to_pylist():
        samples = waveform(row["audio"], "pcm16")
        assert row["sample_rate"] == 22050
        assert len(samples) == round(row["duration_s"] * 22050)
        assert 2.0 <= row["duration_s"] <= 8.001
        assert row["split"] in ("train", "val", "test")
        assert row["thumbnail"][:2] == b"\xff\xd8"
        assert len(row["frame_labels"]) == 2
        assert {label for frame in row["frame_labels"] for label in frame} <= set(row["labels"])
    times = tensor(table["frame_times"])
    lengths = np.array(table["duration_s"].to_pylist())
    assert ((times >= 0) & (times <= lengths[:, None])).all()


def test_frame_labels_are_the_truth_at_the_time_of_the_frame(
    prepared: Path, small_world: Path
) -> None:
    known = truth(small_world)
    table = Dataset(str(prepared)).read(["uri", "start_s", "frame_times", "frame_labels"])
    times = tensor(table["frame_times"])
    checked = 0
    for row, frames in zip(table.drop_columns(["frame_times"]).to_pylist(), times, strict=True):
        segments = known[f"videos/{Path(row['uri']).name}"]["segments"]
        for time, labels in zip(frames.tolist(), row["frame_labels"], strict=True):
            at = row["start_s"] + time
            now = [s for s in segments if s["start_s"] <= at < s["end_s"]]
            if now:
                assert f"object:{now[0]['object']}" in labels
                assert f"place:{now[0]['place']}" in labels
                checked += 1
    assert checked > 10


def test_the_same_command_again_does_nothing(
    prepared: Path, small_world: Path, random_teacher: Path, local_mode: None
) -> None:
    before = {p: p.stat().st_mtime_ns for p in prepared.rglob("*")}
    chosen = options(small_world, random_teacher, clip_s=8.0, frame_s=4.0)
    again = prepare_videos(chosen, str(prepared), max_error_ratio=0.6)
    assert again.rows == Dataset(str(prepared)).num_rows
    assert {p: p.stat().st_mtime_ns for p in prepared.rglob("*")} == before


def test_other_options_are_refused(
    prepared: Path, small_world: Path, random_teacher: Path, local_mode: None
) -> None:
    chosen = options(small_world, random_teacher, clip_s=4.0, frame_s=4.0)
    with pytest.raises(UserError, match=r"--clip-s was 8\.0, is 4\.0.*--overwrite"):
        prepare_videos(chosen, str(prepared))


def test_a_folder_with_other_things_is_refused(
    tmp_path: Path, small_world: Path, random_teacher: Path, local_mode: None
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is not empty and not a dataset"):
        prepare_videos(options(small_world, random_teacher), str(tmp_path))
    assert (tmp_path / "thesis.tex").exists()


def test_a_job_killed_before_it_named_its_options_goes_on(
    tmp_path: Path, small_world: Path, random_teacher: Path, local_mode: None
) -> None:
    (tmp_path / ".work").mkdir()
    (tmp_path / ".work" / ".options.json.0123abcd.tmp").write_text("{")
    chosen = options(small_world, random_teacher, limit=6)
    assert prepare_videos(chosen, str(tmp_path), max_error_ratio=1.0).rows
    assert not (tmp_path / ".work").exists()


def test_too_many_errors_fail_and_keep_what_is_done(
    tmp_path: Path, small_world: Path, random_teacher: Path, local_mode: None
) -> None:
    out = tmp_path / "clips"
    chosen = options(small_world, random_teacher)
    with pytest.raises(JobFailed, match=r"more than --max-error-ratio 0\.05 allows. Most common"):
        prepare_videos(chosen, str(out), max_error_ratio=0.05)
    assert list((out / "errors").glob("*.parquet"))
    assert prepare_videos(chosen, str(out), max_error_ratio=0.6).rows > 0


@pytest.mark.parametrize("teacher", ["mmray:/no/such/folder", "clip_vit", "torchvision:nonsense"])
def test_bad_teachers_are_user_errors(
    tmp_path: Path, small_world: Path, teacher: str, local_mode: None
) -> None:
    chosen = VideoOptions(source=f"toy:{small_world}", objects=teacher, scenes=None)
    with pytest.raises(UserError):
        prepare_videos(chosen, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"objects": None}, "--objects"),
        ({"clip_s": 0.0}, "--clip-s"),
        ({"frame_s": 30.0}, "--frame-s"),
        ({"min_clip_s": -1.0}, "--min-clip-s"),
        ({"limit": 0}, "--limit"),
        ({"max_clips": 0}, "--max-clips"),
        ({"source": "folder:/no/such/folder"}, "no such folder"),
        ({"source": "nonsense:x"}, "nonsense"),
    ],
)
def test_bad_options_are_user_errors(
    tmp_path: Path,
    small_world: Path,
    random_teacher: Path,
    local_mode: None,
    change: dict,
    flag: str,
) -> None:
    with pytest.raises(UserError, match=flag):
        prepare_videos(options(small_world, random_teacher, **change), str(tmp_path / "out"))


def test_names_that_are_not_utf8_and_flac_and_keyframes(
    tmp_path: Path, small_world: Path, random_teacher: Path, local_mode: None
) -> None:
    healthy = next(key for key, row in truth(small_world).items() if row["broken"] is None)
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(
        small_world / healthy, folder / b"caf\xe9 \xff.mp4".decode("utf8", "surrogateescape")
    )
    out = tmp_path / "out"
    chosen = options(small_world, random_teacher, source=f"folder:{folder}", audio="flac")
    prepare_videos(replace(chosen, frames="keyframe"), str(out))
    row = Dataset(str(out)).read(["uri", "audio", "duration_s"]).to_pylist()[0]
    assert "%E9" in row["uri"]
    assert len(waveform(row["audio"], "flac")) == round(row["duration_s"] * 22050)


@pytest.mark.cluster
def test_a_cluster_makes_the_same_rows(
    prepared: Path, small_world: Path, random_teacher: Path, tmp_path: Path, ray_cluster: None
) -> None:
    chosen = options(small_world, random_teacher, clip_s=8.0, frame_s=4.0)
    prepare_videos(chosen, str(tmp_path / "clips"), max_error_ratio=0.6)
    assert rows_of(tmp_path / "clips") == rows_of(prepared)


def test_overwriting_removes_nothing_but_the_dataset(
    tmp_path: Path, small_world: Path, random_teacher: Path, local_mode: None
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is not empty and not a dataset"):
        prepare_videos(options(small_world, random_teacher), str(tmp_path), overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_a_lost_shard_is_noticed(prepared: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(prepared, tmp_path / "copy")
    next(copy.glob("part-*.parquet")).unlink()
    with pytest.raises(UserError, match="its manifest counts"):
        _ = Dataset(str(copy)).shards


def test_a_teacher_that_moved_is_the_same_teacher(
    prepared: Path, small_world: Path, random_teacher: Path, tmp_path: Path, local_mode: None
) -> None:
    moved = shutil.copytree(random_teacher, tmp_path / "moved")
    chosen = options(small_world, moved, clip_s=8.0, frame_s=4.0)
    again = prepare_videos(chosen, str(prepared), max_error_ratio=0.6)
    assert again.rows == Dataset(str(prepared)).num_rows


def test_parts_of_one_file_have_ids_of_their_own() -> None:
    parts = [VideoItem("u", "k", start_s=s) for s in (None, 1234.567, 1234.568)]
    assert len({name for name, _ in with_ids(parts, "manifest:x")}) == 3
    with pytest.raises(UserError, match="lists k twice"):
        list(with_ids([VideoItem("u", "k"), VideoItem("u", "k", start_s=0.0)], "manifest:x"))
