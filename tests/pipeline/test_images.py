"""From pictures to an image dataset: real files, real decoders, a small net."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from mmray.cli import JobFailed
from mmray.errors import UserError
from mmray.pipeline import images as module
from mmray.pipeline import shards
from mmray.pipeline.dataset import Dataset, part_names, tensor
from mmray.pipeline.images import (
    ImageOptions,
    Workers,
    backbone_of,
    grid_of,
    image_job,
    prepare_images,
)
from mmray.pipeline.pictures import DescribePictures
from mmray.teachers.backbone import Backbone
from tests.joint.worlds import described, write_teacher
from tests.teachers.worlds import write_mapless

COUNT = 12
ONE = Workers(decoders=1, nets=1)


def write_pictures(folder: Path) -> Path:
    """Pictures of 40 x 24 pixels, half of them with tags beside them, and a broken one."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        pixels = np.asarray(
            Image.fromarray(rng.integers(0, 256, (3, 5, 3), dtype=np.uint8)).resize((40, 24))
        )
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
        if i % 2:
            (folder / f"{i:02d}.txt").write_text(f"Tag {i}\n#dog\n")
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("source") / "pictures")


def options(folder: Path, teacher: str, **others: Any) -> ImageOptions:
    made = ImageOptions(source=f"folder:{folder}", backbone=(teacher,), objects=teacher)
    return replace(made, **others)


@pytest.fixture(scope="module")
def prepared(source: Path, tiny_teacher: str, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    from mmray import runtime

    runtime.set_local_mode(True)
    out = str(tmp_path_factory.mktemp("images") / "images")
    done = prepare_images(options(source, tiny_teacher), out, workers=ONE)
    assert (done.path, done.rows, done.errors) == (out, COUNT, 1)
    return Dataset(out, "images")


def pixels_of(data: Dataset) -> list[np.ndarray]:
    return [np.asarray(Image.open(uri)) for uri in data.read(["uri"])["uri"].to_pylist()]


def rows_of(out: str) -> dict[str, tuple]:
    columns = ["id", "uri", "split", "width", "height", "tags", "captions", "labels", "thumbnail"]
    table = Dataset(out, "images").read([*columns, "features", "objects"])
    arrays = (tensor(table[name]) for name in ("features", "objects"))
    rows = table.select(columns).to_pylist()
    return {
        row["id"]: (*map(str, row.values()), f.tobytes(), o.tobytes())
        for row, f, o in zip(rows, *arrays, strict=True)
    }


def test_columns_are_what_the_contract_says(prepared: Dataset) -> None:
    (part,) = prepared.shards
    texts = pa.list_(pa.string())
    assert {f.name: f.type for f in pa.parquet.read_schema(part)} == {
        **dict.fromkeys(("id", "uri", "split"), pa.string()),
        **dict.fromkeys(("width", "height"), pa.int32()),
        **dict.fromkeys(("tags", "captions", "labels"), texts),
        "features": pa.fixed_shape_tensor(pa.float16(), [48]),
        "objects": pa.fixed_shape_tensor(pa.float16(), [3]),
        "thumbnail": pa.binary(),
    }


def test_rows_are_what_the_files_say(prepared: Dataset, tiny_teacher: str) -> None:
    table = prepared.read(["id", "uri", "split", "width", "height", "tags", "thumbnail"])
    for row in table.to_pylist():
        number = int(Path(row["uri"]).stem)
        assert (row["width"], row["height"]) == (40, 24)
        assert row["tags"] == ([f"Tag {number}", "#dog"] if number % 2 else [])
        assert row["split"] in ("train", "val", "test")
        with Image.open(io.BytesIO(row["thumbnail"])) as thumbnail:
            assert thumbnail.format == "JPEG"
            assert thumbnail.size == (40, 24)
    vectors, objects = Backbone([tiny_teacher]).describe(pixels_of(prepared))
    stored = prepared.read(["features", "objects"])
    np.testing.assert_allclose(tensor(stored["features"]), vectors, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(tensor(stored["objects"]), objects[tiny_teacher], atol=1e-3)
    assert np.unique(tensor(stored["features"]), axis=0).shape == (COUNT, 48)


def test_a_broken_picture_is_quarantined(prepared: Dataset) -> None:
    (error,) = prepared.errors().to_pylist()
    assert Path(error["uri"]).name == "bad.jpg"
    assert error["stage"] == "image"
    assert error["id"]
    assert error["error_class"]
    assert "picture" in error["message"]


def test_the_manifest_knows_the_backbone(prepared: Dataset, tiny_teacher: str) -> None:
    assert prepared.manifest["counts"] == {"pictures": 13, "rows": 12, "shards": 1, "errors": 1}
    assert backbone_of(prepared) == described(tiny_teacher)
    assert grid_of(prepared) is None
    assert "grid" not in prepared.manifest["options"]  # as before there were grids
    assert not (Path(prepared.uri) / ".work").exists()


@pytest.mark.usefixtures("local_mode")
def test_the_same_command_again_does_nothing(
    prepared: Dataset, source: Path, tiny_teacher: str
) -> None:
    before = {p: p.stat().st_mtime_ns for p in Path(prepared.uri).rglob("*")}
    assert prepare_images(options(source, tiny_teacher), prepared.uri, workers=ONE).rows == COUNT
    assert {p: p.stat().st_mtime_ns for p in Path(prepared.uri).rglob("*")} == before


@pytest.mark.usefixtures("local_mode")
def test_a_killed_job_goes_on_to_the_same_rows(
    source: Path, tiny_teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "MAX_ROWS", 4)

    class Killed(Exception):
        pass

    whole, killed = str(tmp_path / "whole"), str(tmp_path / "killed")
    chosen = options(source, tiny_teacher)
    prepare_images(chosen, whole, workers=ONE)
    with monkeypatch.context() as patch:

        def write(self: Any, rows: Any, before: Any = module.shards.WriteShard.__call__) -> Any:
            if part_names(killed):
                raise Killed
            return before(self, rows)

        patch.setattr(module.shards.WriteShard, "__call__", write)
        with pytest.raises(Killed):
            prepare_images(chosen, killed, workers=ONE)
    assert len(part_names(killed)) == 1
    kept = (Path(killed) / part_names(killed)[0]).stat().st_mtime_ns
    prepare_images(chosen, killed, workers=ONE)
    assert (Path(killed) / part_names(killed)[0]).stat().st_mtime_ns == kept
    assert rows_of(killed) == rows_of(whole)
    assert len(rows_of(whole)) == COUNT
    assert len(Dataset(killed, "images").errors()) == 1


@pytest.mark.usefixtures("local_mode")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fit": "crop"}, "--fit was pad, is crop"),
        ({"grid": True}, "--grid was None, is True"),
        ({"limit": 3}, "--limit was None, is 3"),
        ({"seed": 8}, "weights of features_0"),
    ],
)
def test_other_options_are_refused(
    prepared: Dataset,
    source: Path,
    tiny_teacher: str,
    tmp_path: Path,
    change: dict,
    message: str,
) -> None:
    if "seed" in change:
        change = {"backbone": (write_teacher(tmp_path / "other", change["seed"]),)}
    with pytest.raises(UserError, match=f"{message}.*--overwrite"):
        prepare_images(options(source, tiny_teacher, **change), prepared.uri, workers=ONE)


@pytest.mark.usefixtures("local_mode")
def test_pad_keeps_what_is_at_the_edges_and_crop_does_not(
    tiny_teacher: str, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, left in (("a", 0), ("b", 255)):
        pixels = np.full((20, 60, 3), 128, np.uint8)
        pixels[:, :15] = left
        Image.fromarray(pixels).save(folder / f"{name}.png")
    equal = {}
    for fit in ("pad", "crop"):
        out = str(tmp_path / fit)
        prepare_images(options(folder, tiny_teacher, fit=fit), out, workers=ONE)
        a, b = tensor(Dataset(out, "images").read(["features"])["features"])
        equal[fit] = np.array_equal(a, b)
    assert equal == {"pad": False, "crop": True}


@pytest.mark.usefixtures("local_mode")
def test_some_pictures_with_two_nets(source: Path, tiny_teacher: str, tmp_path: Path) -> None:
    second = write_teacher(tmp_path / "second", seed=2)
    chosen = options(source, tiny_teacher, backbone=(tiny_teacher, second), limit=5)
    done = prepare_images(chosen, str(tmp_path / "out"), workers=ONE)
    data = Dataset(done.path, "images")
    assert done.rows == data.manifest["counts"]["pictures"] == 5
    features = tensor(data.read(["features"])["features"])
    expected = Backbone([tiny_teacher, second])(pixels_of(data))
    np.testing.assert_allclose(features, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.usefixtures("local_mode")
def test_the_grid_is_kept_beside_the_features(
    prepared: Dataset, source: Path, tiny_teacher: str, tmp_path: Path
) -> None:
    chosen, out = options(source, tiny_teacher, grid=True), str(tmp_path / "out")
    assert prepare_images(chosen, out, workers=ONE).rows == COUNT
    data = Dataset(out, "images")
    assert grid_of(data) == (4, 4, 8)
    assert backbone_of(data) == backbone_of(prepared)
    assert rows_of(out) == rows_of(prepared.uri)
    schema = pa.parquet.read_schema(data.shards[0])
    assert schema.field("grid").type == pa.fixed_shape_tensor(pa.float16(), [4, 4, 8])
    grids = tensor(data.read(["grid"])["grid"])
    expected = Backbone([tiny_teacher]).grids(pixels_of(data))
    np.testing.assert_allclose(grids, expected, rtol=2e-3, atol=2e-3)
    assert np.unique(grids, axis=0).shape == (COUNT, 4, 4, 8)
    assert prepare_images(chosen, out, workers=ONE).rows == COUNT
    with pytest.raises(UserError, match=r"--grid was True, is None.*--overwrite"):
        prepare_images(options(source, tiny_teacher), out, workers=ONE)


@pytest.mark.usefixtures("local_mode")
def test_a_job_with_grids_goes_on(
    source: Path, tiny_teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "MAX_ROWS", 4)
    chosen, out = options(source, tiny_teacher, grid=True), str(tmp_path / "out")
    prepare_images(chosen, out, workers=ONE)
    before = tensor(Dataset(out, "images").read(["grid"])["grid"])
    lost, kept, *_ = (Path(out) / name for name in part_names(out))
    lost.unlink()
    written = kept.stat().st_mtime_ns
    prepare_images(chosen, out, workers=ONE)
    assert kept.stat().st_mtime_ns == written
    np.testing.assert_array_equal(tensor(Dataset(out, "images").read(["grid"])["grid"]), before)


@pytest.mark.usefixtures("local_mode")
def test_a_grid_needs_a_net_with_a_map(source: Path, tiny_teacher: str, tmp_path: Path) -> None:
    mapless = write_mapless(tmp_path / "mapless")
    chosen = options(source, tiny_teacher, backbone=(mapless, tiny_teacher), grid=True)
    with pytest.raises(UserError, match=f"--grid: the net {mapless} has no convolutional map"):
        prepare_images(chosen, str(tmp_path / "out"), workers=ONE)
    assert not (tmp_path / "out").exists()
    described = image_job(replace(chosen, backbone=(tiny_teacher, mapless)), str(tmp_path)).nets
    assert [net.get("grid") for net in described.values()] == [None, [4, 4, 8], None]


@pytest.mark.usefixtures("local_mode")
def test_too_many_errors_fail(tiny_teacher: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match=r"1 of 13 items are bad.*--max-error-ratio 0\.01"):
        prepare_images(
            options(source, tiny_teacher), str(tmp_path), workers=ONE, max_error_ratio=0.01
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": ()}, "--backbone: expected the specs"),
        ({"backbone": "twice"}, "names a net twice"),
        ({"backbone": ("mmray:nowhere",)}, "nowhere"),
        ({"objects": "clip_vit"}, "clip_vit"),
        ({"limit": 0}, "--limit 0"),
        ({"source": "folder:nowhere"}, "no such folder"),
        ({"source": "what:x"}, "what"),
    ],
)
@pytest.mark.usefixtures("local_mode")
def test_bad_options_are_user_errors(
    source: Path, tiny_teacher: str, tmp_path: Path, change: dict, message: str
) -> None:
    if change.get("backbone") == "twice":
        change = {"backbone": (tiny_teacher, tiny_teacher)}
    with pytest.raises(UserError, match=message):
        prepare_images(options(source, tiny_teacher, **change), str(tmp_path / "out"), workers=ONE)


@pytest.mark.usefixtures("local_mode")
@pytest.mark.parametrize("name", ["timeout_s", "decoders", "nets", "max_error_ratio"])
def test_bad_workers_are_user_errors(
    source: Path, tiny_teacher: str, tmp_path: Path, name: str
) -> None:
    how: dict[str, Any] = {"workers": ONE}
    how = (
        {"max_error_ratio": -1} if name == "max_error_ratio" else {"workers": Workers(**{name: 0})}
    )
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')}"):
        prepare_images(options(source, tiny_teacher), str(tmp_path / "out"), **how)


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_a_cluster_gives_the_same_rows(
    prepared: Dataset, source: Path, tiny_teacher: str, tmp_path: Path
) -> None:
    done = prepare_images(options(source, tiny_teacher), str(tmp_path / "out"), workers=ONE)
    assert done.errors == 1
    assert rows_of(done.path) == rows_of(prepared.uri)


def test_a_picture_without_numbers_is_quarantined(
    source: Path, tiny_teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe = Backbone.describe

    def spoilt(self: Backbone, images: np.ndarray) -> Any:
        vectors, answers = describe(self, images)
        vectors[1] = np.nan
        return vectors, answers

    monkeypatch.setattr(Backbone, "describe", spoilt)
    assert stages_of_three(tiny_teacher) == [None, "teacher", None]


def test_a_grid_without_numbers_is_quarantined(
    tiny_teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe = Backbone.describe_with_grids

    def spoilt(self: Backbone, images: np.ndarray) -> Any:
        vectors, answers, grids = describe(self, images)
        vectors[0, 3], grids[2, 0, 1, 2] = np.nan, np.inf
        return vectors, answers, grids

    monkeypatch.setattr(Backbone, "describe_with_grids", spoilt)
    assert stages_of_three(tiny_teacher, grid=True) == ["teacher", None, "teacher"]


def stages_of_three(teacher: str, grid: bool = False) -> list[str | None]:
    """Where three pictures failed that a stage described."""
    stage = DescribePictures([teacher], teacher, 16, grid=grid)
    stage.setup()
    pixels = pa.array([bytes(16 * 16 * 3)] * 3, pa.large_binary())
    rows = stage(pa.table({"id": ["a", "b", "c"], "pixels": pixels}))
    return list(rows["error_stage"].to_pylist())


@pytest.mark.usefixtures("local_mode")
def test_nothing_is_removed_for_a_source_that_is_not_there(
    source: Path, tiny_teacher: str, tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    prepare_images(options(source, tiny_teacher), out, workers=ONE)
    with pytest.raises(UserError, match="no such folder"):
        prepare_images(options(tmp_path / "gone", tiny_teacher), out, workers=ONE, overwrite=True)
    assert Dataset(out, "images").num_rows == 12
