"""The job as its user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from jobs import prepare_images
from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset, tensor

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for i in range(6):
        Image.new("RGB", (30, 20), (40 * i, 0, 0)).save(tmp_path / "pictures" / f"{i}.png")
        (tmp_path / "pictures" / f"{i}.txt").write_text("red, paint\n")
    return tmp_path / "pictures"


@pytest.mark.usefixtures("local_mode")
def test_main_gives_a_dataset(pictures: Path, tiny_teacher: str, tmp_path: Path) -> None:
    out = tmp_path / "images"
    argv = [f"folder:{pictures}", "--out", str(out), "--backbone", tiny_teacher, "--fit", "crop"]
    done = prepare_images.main([*argv, "--limit", "4", "--decoders", "1", "--local"])
    data = Dataset(str(out), "images")
    assert done.rows == data.num_rows == 4
    assert data.read(["tags"])["tags"].to_pylist() == [["red", "paint"]] * 4
    options = data.manifest["options"]
    assert (options["fit"], options["backbone"]) == ("crop", [tiny_teacher])
    assert options["objects"] == tiny_teacher  # the backbone's first, unless it is said
    with pytest.raises(UserError, match=r"--limit was 4, is None.*--overwrite"):
        prepare_images.main([*argv, "--local"])
    done = prepare_images.main([*argv, "--decoders", "1", "--local", "--overwrite"])
    assert done.rows == 6


@pytest.mark.usefixtures("local_mode")
def test_the_grid_is_kept_where_asked(pictures: Path, tiny_teacher: str, tmp_path: Path) -> None:
    out = str(tmp_path / "images")
    argv = [f"folder:{pictures}", "--out", out, "--backbone", tiny_teacher, "--local"]
    prepare_images.main([*argv, "--grid"])
    data = Dataset(out, "images")
    assert data.manifest["options"]["grid"] is True
    assert tensor(data.read(["grid"])["grid"]).shape == (6, 4, 4, 8)


def test_bad_commands_end_with_one_line_and_2(tmp_path: Path) -> None:
    for args in (["folder:/no/such/folder"], ["what:x"], ["folder:.", "--backbone", "clip_vit"]):
        command = [sys.executable, "jobs/prepare_images.py", *args, "--local"]
        done = subprocess.run(
            [*command, "--out", str(tmp_path / "x")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stderr.startswith("error: ")


def test_help_comes_without_heavy_imports() -> None:
    code = (
        "import sys; sys.argv = ['x', '--help']; import jobs.prepare_images, jobs.train_joint; "
        "sys.exit(bool({'torch', 'ray', 'sklearn', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
