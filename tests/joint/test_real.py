"""The joint model on drawings that people have tagged."""

from pathlib import Path

import pytest

import mmray
from jobs import evaluate, predict, prepare_images, train_joint
from mmray.sources.openclipart import OPENCLIPART

pytestmark = pytest.mark.real


def test_openclipart_from_files_to_search(tmp_path: Path) -> None:
    if not Path(OPENCLIPART, "png").is_dir():
        pytest.skip("needs Debian's openclipart-png and openclipart-svg: make debian-data")
    data, model = str(tmp_path / "data"), str(tmp_path / "joint" / "model")
    found = prepare_images.main(["openclipart", "--out", data, "--limit", "1600", "--local"])
    assert found.rows > 1500
    train_joint.main(
        [
            *("--data", data, "--out", str(tmp_path / "joint"), "--local", "--steps", "250"),
            *("--min-count", "5"),
        ]
    )
    metrics = evaluate.main(
        [
            *("joint", "--model", model, "--data", data, "--local", "--out", str(tmp_path / "e")),
            *("--baselines", "prior", "kNN", "linear"),
        ]
    )
    joint = metrics["tags.joint.map_tags"]
    assert joint > metrics["tags.kNN".lower() + ".map_tags"] > metrics["tags.prior.map_tags"]
    assert joint > metrics["tags.linear.map_tags"]
    # On three hundred pictures of few classes a standard error is about .02.
    assert metrics["missing.100"] >= metrics["classes.image_baseline"] - 0.02
    answers = str(tmp_path / "answers")
    predict.main(
        [
            *("tags", "--model", model, "--input", data, "--out", answers, "--index", "--local"),
        ]
    )
    tagger = mmray.load(model, index=f"{answers}/index")
    assert len(tagger.search(plus=["bird"], k=5)) == 5
