"""The joint model on the whole toy world: what the documentation says it does."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import evaluate, prepare_images, train_joint

pytestmark = pytest.mark.slow


def test_swaps_analogies_and_useless_tags(tmp_path: Path) -> None:
    data, model = str(tmp_path / "data"), str(tmp_path / "joint" / "model")
    prepare_images.main(["toy", "--objects", "efficientnet_lite0", "--out", data, "--local"])
    train = ["--steps", "250", "--pretrain-epochs", "5", "--local"]
    train_joint.main(["--data", data, "--out", str(tmp_path / "joint"), *train])
    measure = ["--measure", "arithmetic", "analogies", "useless"]
    found = evaluate.main(
        ["joint", "--model", model, "--data", data, "--out", str(tmp_path / "e"), *measure]
    )
    assert found["arithmetic.success10"] > 0.7
    assert found["arithmetic.success10"] > found["arithmetic.tags_only"] + 0.2
    assert found["arithmetic.success10"] > found["arithmetic.picture_only"] + 0.3
    assert found["analogy.acc1"] >= 0.9
    assert found["useless.auc"] >= 0.95
