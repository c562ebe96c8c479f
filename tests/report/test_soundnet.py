"""The page of a SoundNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from jobs import report
from mmray import storage
from mmray.errors import UserError
from mmray.models import load_predictor
from mmray.pipeline.dataset import Dataset
from mmray.report.soundnet.page import filter_charts
from mmray.report.soundnet.units import spoken_for
from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.model import SoundNetModel, save_model
from tests.report.html import Page
from tests.soundnet.clips import OBJECTS, RATE, SCENES, write_clips, write_net
from tests.soundnet.test_transfer import write_wav


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_clips(tmp_path_factory.mktemp("clips") / "data")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_net(tmp_path_factory.mktemp("net") / "model")


def page_of(*argv: str) -> Page:
    page = Page(Path(report.main(["soundnet", "--local", *argv])).read_text())
    page.check()
    return page


def test_a_page_of_clips(model: str, data: Dataset, tmp_path: Path) -> None:
    other = write_net(tmp_path / "other", seed=1)
    page = page_of(
        *("--model", model, "--data", data.uri, "--out", str(tmp_path), "--items", "3"),
        *("--windows", "2", "--also", f"second={other}", "--layers", "conv5", "conv7"),
    )
    for text in ("Agreement", "Detectors nobody asked for", "Maps of sounds", "Filters"):
        assert text in page.text
    assert "All units of conv7" in page.text
    assert "(untrained)" in page.text
    assert "(second)" in page.text
    sounds = [m for m in page.media.values() if m.startswith("data:audio/mpeg")]
    assert len(sounds) >= 3
    units = pq.read_table(tmp_path / "soundnet-units.parquet")
    assert set(units["layer"].to_pylist()) == {"conv5", "conv7"}
    assert max(units["rank"].to_pylist()) == 2
    titles = [label for label in page.labels if "Confusion of objects" in label]
    assert titles
    assert "of all frames" in titles[0]


def test_a_page_of_sound_files(model: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("dog", "rain"):
        for i in range(6):
            write_wav(tmp_path / f"in/{kind}/{i}.wav", rng.normal(0, 0.1, RATE))
    (tmp_path / "in/dog/bad.wav").write_bytes(b"nothing")
    page = page_of(
        *("--model", model, "--sounds", f"folder:{tmp_path}/in", "--out", str(tmp_path)),
        *("--items", "2", "--windows", "3"),
    )
    assert "the collection's classes" in page.text
    assert "1 that cannot be read" in page.text
    assert "Agreement" not in page.text
    assert {
        r["uri"].rpartition("/")[2]
        for r in pq.read_table(tmp_path / "soundnet-units.parquet").to_pylist()
    } == {f"{i}.wav" for i in range(6)}


def test_the_metrics_of_a_file_are_taken(model: str, data: Dataset, tmp_path: Path) -> None:
    storage.write_json(tmp_path / "m.json", {"objects.top1": 0.1234, "scenes.kl": 7.0})
    page = page_of(
        *("--model", model, "--data", data.uri, "--out", str(tmp_path), "--items", "1"),
        *("--windows", "1", "--metrics", str(tmp_path / "m.json")),
    )
    assert "0.123" in page.text
    assert "The metrics seem to be of another model or of other sounds: objects 0.123" in page.text


def test_metrics_of_something_else_are_refused(model: str, data: Dataset, tmp_path: Path) -> None:
    for wrong in ([1], {"bleu4": 1.0}):
        storage.write_json(tmp_path / "m.json", wrong)
        with pytest.raises(UserError, match="--metrics: holds no metrics that"):
            page_of("--model", model, "--data", data.uri, "--metrics", str(tmp_path / "m.json"))


def test_a_net_of_other_classes_is_shown_without_agreement(data: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_model(tmp_path / "net", SoundNetModel(SoundNetConfig("soundnet5", ["violin"], [])))
    page = page_of(
        *("--model", str(tmp_path / "net"), "--data", data.uri, "--out", str(tmp_path)),
        *("--items", "2", "--windows", "2", "--layers", "conv4", "conv3"),
    )
    assert "Agreement with the teachers" not in page.text
    assert "All units of conv3" in page.text
    assert "All units of conv4" in page.text
    assert sum("best unit for each label" in label for label in page.labels) == 2


def test_silence_has_a_page(model: str, tmp_path: Path) -> None:
    for i in range(6):
        write_wav(tmp_path / f"in/quiet/{i}.wav", np.zeros(RATE))
    argv = ["--sounds", f"folder:{tmp_path}/in", "--out", str(tmp_path), "--items", "1"]
    assert "What units hear" in page_of("--model", model, *argv).text


def test_the_page_is_logged_to_mlflow(model: str, data: Dataset, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    from mmray.training.tracking import tracking_uri

    page_of(
        *("--model", model, "--data", data.uri, "--out", str(tmp_path), "--items", "1"),
        *("--windows", "1"),
    )
    client = MlflowClient(tracking_uri())
    (run, *_) = client.search_runs(
        [client.get_experiment_by_name("mmray").experiment_id],
        f"tags.`mmray.model` = '{model}'",
    )
    assert [a.path for a in client.list_artifacts(run.info.run_id, "report")] == [
        "report/soundnet.html"
    ]
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--items", "0"], "--items 0: expected 1 or more"),
        (["--windows", "-1"], "--windows -1: expected 1 or more"),
        (["--layers", "conv9"], "--layers conv9: the model has conv1"),
        (["--also", "x"], "--also x: expected NAME=MODEL"),
        (["--also", "x=/nowhere"], "/nowhere: no such model"),
        (["--metrics", "/nowhere.json"], "/nowhere.json"),
        (["--sounds", "sonicpi"], "--sounds: takes no --data"),
        (["--data", "/nowhere"], "/nowhere: is not a finished dataset"),
    ],
)
def test_wrong_flags_are_one_line(
    model: str, data: Dataset, tmp_path: Path, argv: list[str], message: str
) -> None:
    base = ["soundnet", "--local", "--model", model, "--out", str(tmp_path)]
    base += [] if "--data" in argv else ["--data", data.uri]
    with pytest.raises((UserError, FileNotFoundError), match=message):
        report.main([*base, *argv])


def test_another_kind_of_model_is_refused(joint_model: str, data: Dataset) -> None:
    with pytest.raises(UserError, match="is a model of kind 'joint', expected 'soundnet'"):
        report.main(["soundnet", "--local", "--model", joint_model, "--data", data.uri])


def test_filters_are_sorted_by_pitch(model: str) -> None:
    net = load_predictor(model, device="cpu")
    weights = net.model.trunk["conv1"].conv.weight
    t = np.arange(64) / RATE
    for i in range(16):
        hertz = 500 + (16 - i) * 500
        weights.data[i, 0] = weights.new_tensor(np.sin(2 * np.pi * hertz * t) * np.hanning(64))
    waves, spectra = filter_charts(net)
    assert waves.spec["facet"]["sort"] == [str(i) for i in reversed(range(16))]
    assert "between 1.0" in spectra.alt


def test_a_unit_speaks_for_what_its_weights_raise(model: str) -> None:
    net = load_predictor(model, device="cpu")
    head = net.model.heads["objects"]
    head.weight.data.zero_()
    head.weight.data[2, 5] = 1.0
    spoken = spoken_for(net, "conv7")
    assert spoken["objects"][5][0] == OBJECTS[2]
    assert set(spoken) == {"objects", "scenes"}
    assert set(spoken["scenes"][0]) == set(SCENES)
    assert spoken_for(net, "conv5") == {}
