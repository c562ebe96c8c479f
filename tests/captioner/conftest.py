"""Image datasets that tests of captioners share."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmray import runtime
from mmray.pipeline import images, shards
from mmray.pipeline.images import ImageOptions, prepare_images
from tests.joint.taggers import write_pictures


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def stored(
    random_teacher: Path, picture_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The same pictures as image datasets of several row groups and shards: of grids, and pooled"""
    runtime.set_local_mode(True)
    net, out = f"mmray:{random_teacher}", tmp_path_factory.mktemp("stored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "MAX_ROWS", 4)
        patch.setattr(images, "ROW_GROUP", 3)
        return {
            name: prepare_images(
                ImageOptions(
                    source=f"folder:{picture_folder}", backbone=(net,), objects=net, grid=grid
                ),
                str(out / name),
            ).path
            for name, grid in (("grid", True), ("pooled", False))
        }
