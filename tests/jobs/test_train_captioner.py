"""The job on a small world: it learns with each decoder, resumes, and is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mmray
from jobs import evaluate, train_captioner
from mmray import storage
from mmray.captioner import meteor
from mmray.captioner.evaluate import read_captioned
from mmray.captioner.model import NETS
from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset
from tests.captioner.worlds import write_captioned
from tests.joint.worlds import write_rows


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: str) -> str:
    return write_captioned(tmp_path_factory.mktemp("captioned"), tiny_teacher)


def flags(data: str, out: Path, *more: str) -> list[str]:
    small = ["--dim", "32", "--layers", "2", "--heads", "2", "--dropout", "0", "--max-length", "8"]
    often = ["--batch-size", "32", "--lr", "5e-3", "--warmup", "4", "--eval-every", "40"]
    where = ["--data", data, "--out", str(out)]
    return [*where, *small, *often, "--captions", "2", "--smoothing", "0", *more]


@pytest.mark.parametrize("arch", NETS)
def test_every_decoder_learns(data: str, arch: str, tmp_path: Path, local_mode: None) -> None:
    argv = flags(data, tmp_path, "--arch", arch, "--steps", "160", "--local")
    result = train_captioner.main(argv)
    assert result.metrics.keys() == {"loss", "cider"}
    assert result.metrics["cider"] > 2
    captioner = mmray.load(f"models:/mmray-captioner/{result.version}", device="cpu")
    test = read_captioned(Dataset(data, "images"), "test", captioner.stored.column)
    has_places = captioner.stored.grid is not None
    told = captioner.captions_of(test.places[:5], 4, 3, attention=has_places)
    assert all(len(captions) == 3 for captions in told)
    best = told[0][0]
    if has_places:
        assert best.attention is not None
        assert best.attention.shape == (len(best.caption.split()), *captioner.stored.grid)
    else:
        with pytest.raises(UserError, match="as one vector, not as places"):
            captioner.captions_of(test.places[:5], attention=True)
    assert train_captioner.main(argv) == result


def test_is_measured_beside_people_and_copies(
    data: str, tmp_path: Path, local_mode: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = train_captioner.main(flags(data, tmp_path, "--steps", "80", "--local")).path
    argv = ["captioner", "--model", model, "--data", data, "--out", str(tmp_path)]
    # Java takes its time; METEOR has tests of its own.
    monkeypatch.setattr(meteor, "why_not", lambda: "")
    monkeypatch.setattr(meteor, "meteors", lambda sets, references: [0.5] * len(sets))
    found = evaluate.main([*argv, "--also", f"again={model}", "--local"])
    assert found["cider"] > found["blind.cider"] + 1
    assert found["again.cider"] == found["cider"]
    assert found["people.cider"] > found["commonest.cider"]
    assert found["meteor"] == found["blind.meteor"] == 0.5
    assert storage.read_json(tmp_path / "captioner.json") == found


def test_rewards_come_after_captions(data: str, tmp_path: Path, local_mode: None) -> None:
    more = ("--steps", "60", "--scst", "--scst-epochs", "6", "--scst-lr", "2e-3", "--local")
    result = train_captioner.main(flags(data, tmp_path, *more))
    first = storage.read_json(tmp_path / "cross_entropy/model/config.json")["training"]
    assert first["steps"] == 60
    assert first["rewards"] is False
    assert result.metrics["cider"] > first["val"]["cider"]


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_one_and_two_workers_have_the_same_losses(data: str, tmp_path: Path) -> None:
    results = [
        train_captioner.main(flags(data, tmp_path / n, "--steps", "10", "--num-workers", n))
        for n in ("2", "1")
    ]
    assert results[0].losses == pytest.approx(results[1].losses, abs=1e-4)
    assert results[0].metrics == pytest.approx(results[1].metrics, abs=1e-3)


def test_what_does_not_fit(
    data: str,
    tmp_path: Path,
    tiny_teacher: str,
    local_mode: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pooled = write_captioned(tmp_path / "pooled", tiny_teacher, grid=False)
    with pytest.raises(UserError, match=r"--arch attention: .* prepare the pictures with --grid"):
        train_captioner.main(flags(pooled, tmp_path / "out", "--arch", "attention", "--local"))
    none = write_rows(tmp_path / "none", [{"tags": []}] * 8, tiny_teacher)
    with pytest.raises(UserError, match="no picture of the split 'train' has a caption, 0 of"):
        train_captioner.main(flags(none, tmp_path / "out", "--local"))
    with pytest.raises(UserError, match="lower --min-count"):
        train_captioner.main(flags(data, tmp_path / "out", "--min-count", "9999", "--local"))
    result = train_captioner.main(flags(data, tmp_path / "out", "--steps", "2", "--local"))
    assert "24 training pictures have no caption" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UserError, match="only pooled features; prepare the pictures with --grid"):
        evaluate.main(["captioner", "--model", result.path, "--data", pooled])
    for bad in (["--heads", "3"], ["--samples", "1"], ["--smoothing", "2"], ["--dim", "0"]):
        with pytest.raises(UserError, match=bad[0]):
            train_captioner.main(flags(data, tmp_path / "bad", *bad, "--local"))
    argv = ["captioner", "--model", result.path, "--data", data]
    for also in (["x"], ["blind=y"], ["x=y", "x=z"]):
        with pytest.raises(UserError, match=f"--also {also[0].split('=')[0]}"):
            evaluate.main([*argv, "--also", *also])
    with pytest.raises(UserError, match="--beam 0"):
        evaluate.main([*argv, "--beam", "0"])
    with pytest.raises(UserError, match=r"--scst: .* holds a training without it"):
        train_captioner.main(flags(data, tmp_path / "out", "--scst", "--local"))
    with pytest.raises(UserError, match=r"other settings \(captions"):
        train_captioner.main(
            flags(data, tmp_path / "out", "--steps", "3", "--local", "--captions", "1")
        )


def test_datasets_of_few_captions(tmp_path: Path, tiny_teacher: str, local_mode: None) -> None:
    pooled = write_captioned(tmp_path / "pooled", tiny_teacher, grid=False)
    rows: list[dict[str, Any]]
    rows = [{"split": "train", "tags": [], "captions": ["a dog", "the dog"]}]
    lonely = write_rows(tmp_path / "lonely", rows, tiny_teacher)
    with pytest.raises(UserError, match="--scst: rewards need the captions of two"):
        train_captioner.main(flags(lonely, tmp_path / "lonely_out", "--scst", "--local"))
    rows.append({"split": "val", "tags": []})
    unheard = write_rows(tmp_path / "unheard", rows, tiny_teacher)
    with pytest.raises(UserError, match="no picture of the split 'val' has a caption"):
        train_captioner.main(flags(unheard, tmp_path / "unheard_out", "--local"))
    (tmp_path / "held").mkdir()
    rows = [{"split": "test", "tags": [], "captions": ["a red dog", "the dog"]}] * 3
    held = write_rows(tmp_path / "held", rows, tiny_teacher)
    pooled_model = train_captioner.main(flags(pooled, tmp_path / "p", "--steps", "2", "--local"))
    found = evaluate.main(["captioner", "--model", pooled_model.path, "--data", held])
    assert "nearest.cider" not in found
    assert found["people.cider"] >= 0


def test_a_vocabulary_of_another_model(data: str, tmp_path: Path, local_mode: None) -> None:
    result = train_captioner.main(flags(data, tmp_path, "--steps", "2", "--local"))
    names = Path(result.path) / "words.json"
    record = storage.read_json(names)
    storage.write_json(names, {**record, "words": record["words"][::-1]})
    with pytest.raises(UserError, match=r"words.json is of another model"):
        mmray.load(result.path)
    storage.write_json(names, {k: v[:-1] for k, v in record.items()})
    with pytest.raises(UserError, match=r"its files do not belong together .*words"):
        mmray.load(result.path)
