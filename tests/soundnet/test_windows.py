"""The best windows of each unit, against brute force."""

from pathlib import Path

import numpy as np
import pytest

from mmray.errors import UserError
from mmray.models import load_predictor
from mmray.pipeline.dataset import Dataset, tensor, waveform
from mmray.soundnet.predict import repeat
from mmray.soundnet.survey import Cuts, SurveyOptions, frame_labels, survey_clips, survey_sounds
from mmray.soundnet.windows import MODEL, SHARD, TopWindows, best_of_sources
from mmray.sources.items import SoundItem
from tests.soundnet.clips import FRAMES, OBJECTS, RATE, write_clips, write_net
from tests.soundnet.test_transfer import write_wav

K = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_clips(tmp_path_factory.mktemp("clips") / "data")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_net(tmp_path_factory.mktemp("net") / "model")


def brute_force(model: str, data: Dataset, layer: str) -> list[list[tuple[float, str]]]:
    """For each unit the highest activation in each video, with the clip, the highest first."""
    net = load_predictor(model, device="cpu")
    geometry = net.config.geometry(layer)
    rows = data.read(["id", "uri", "audio"]).to_pylist()
    found: list[dict[str, tuple[float, str]]] = [{} for _ in range(net.channels(layer))]
    for row in rows:
        wave = repeat(waveform(row["audio"], "pcm16"), 10 * RATE)
        (x,) = net.features([wave], RATE, layer)
        starts = geometry.start + geometry.stride * np.arange(x.shape[1])
        x = x[:, (starts >= 0) & (starts + geometry.field <= len(wave))]
        for unit, value in enumerate(x.max(axis=1).tolist()):
            best = found[unit].get(row["uri"], (-np.inf, ""))
            if value > best[0]:
                found[unit][row["uri"]] = (value, row["id"])
    return [sorted(each.values(), key=lambda pair: -pair[0])[:K] for each in found]


@pytest.mark.parametrize("layer", ["conv7", "pool5", "conv3", "objects"])
@pytest.mark.usefixtures("local_mode")
def test_top_windows_equal_brute_force(model: str, data: Dataset, layer: str) -> None:
    net = load_predictor(model, device="cpu")
    survey = survey_clips(model, net, data, SurveyOptions((layer,), k=K))
    top = survey.top[layer]
    for unit, wanted in enumerate(brute_force(model, data, layer)):
        np.testing.assert_allclose(
            top.values[unit], [value for value, _ in wanted], rtol=1e-4, atol=1e-6
        )
        if min(np.diff([-v for v, _ in wanted])) > 1e-4:  # else equals may change places
            ids = [survey.rows[int(key)]["id"] for key in top.keys[unit]]
            assert ids == [name for _, name in wanted]
    assert len({survey.rows[int(k)]["uri"] for k in top.keys[0]}) == K


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_a_cluster_finds_the_same(model: str, data: Dataset) -> None:
    from mmray import runtime

    net = load_predictor(model, device="cpu")
    options = SurveyOptions(("conv5", "conv7"), k=K)
    spread = survey_clips(model, net, data, options)
    runtime.set_local_mode(True)
    here = survey_clips(model, net, data, options)
    for layer in options.layers:
        np.testing.assert_array_equal(spread.top[layer].values, here.top[layer].values)
        np.testing.assert_array_equal(spread.top[layer].keys, here.top[layer].keys)
        np.testing.assert_array_equal(spread.frames[layer][MODEL], here.frames[layer][MODEL])
    assert spread.sample == here.sample
    assert spread.rows == here.rows


@pytest.mark.usefixtures("local_mode")
def test_the_sample_is_of_one_split_and_in_order(model: str, data: Dataset) -> None:
    net = load_predictor(model, device="cpu")
    survey = survey_clips(model, net, data, SurveyOptions(("conv7",), k=1, sample=5))
    held_out = data.read(["id"], "test")["id"].to_pylist()
    assert [row["id"] for row in survey.sample] == held_out[:5]
    assert survey.means.shape == (5, 1024)
    frames = survey.frames["conv7"]
    assert frames[MODEL].shape == frames["untrained"].shape == (5 * FRAMES, 1024)
    labels, who = frame_labels(data, "test", 5)
    assert who == "the truth"
    assert [x[0].removeprefix("object:") for x in labels[::FRAMES]] == [
        OBJECTS[3 * i % len(OBJECTS)] for i in range(5)
    ]


@pytest.mark.usefixtures("local_mode")
def test_teachers_speak_where_there_is_no_truth(tmp_path: Path) -> None:
    labels, who = frame_labels(write_clips(tmp_path, 6, truth=False), "test", 2)
    assert who == "the teachers"
    assert labels == [["object:bell", "place:beach"]] * 4


@pytest.mark.usefixtures("local_mode")
def test_files_are_watched_and_bad_ones_counted(model: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(5):
        write_wav(tmp_path / f"{i}.wav", rng.normal(0, 0.1, RATE * (1 + 3 * i)))
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    items = [SoundItem(str(p), p.name, "a") for p in sorted(tmp_path.iterdir())]
    net = load_predictor(model, device="cpu")
    survey = survey_sounds(model, net, items, SurveyOptions(("conv7",), k=9))
    assert survey.errors == 1
    assert np.isfinite(survey.top["conv7"].values).sum(axis=1).tolist() == [5] * 1024
    assert len(survey.sample) == 5
    top = survey.top["conv7"]
    for key, time in zip(top.keys[0].tolist(), top.times_s[0].tolist(), strict=True):
        row = survey.rows[key]
        assert 0 <= time <= row["duration_s"]
        assert len(Cuts(None, RATE).sound(key, row, 0.0, 0.5)) == round(0.5 * RATE)


@pytest.mark.usefixtures("local_mode")
def test_layers_may_be_asked_for_in_any_order(model: str, data: Dataset) -> None:
    net = load_predictor(model, device="cpu")
    up = survey_clips(model, net, data, SurveyOptions(("conv5", "conv7"), k=2, sample=4))
    down = survey_clips(model, net, data, SurveyOptions(("conv7", "conv5"), k=2, sample=4))
    for layer in ("conv5", "conv7"):
        np.testing.assert_array_equal(up.top[layer].keys, down.top[layer].keys)
        np.testing.assert_array_equal(up.frames[layer][MODEL], down.frames[layer][MODEL])
    assert (up.means.shape, down.means.shape) == ((4, 1024), (4, 256))


@pytest.mark.usefixtures("local_mode")
def test_a_frame_is_the_mean_of_the_cells_in_it(model: str, data: Dataset) -> None:
    net = load_predictor(model, device="cpu")
    survey = survey_clips(model, net, data, SurveyOptions(("pool5",), k=1, sample=4))
    row = data.read(["audio", "frame_times", "duration_s"], "test").slice(3, 1)
    assert row["duration_s"][0].as_py() == 6.0
    assert tensor(row["frame_times"]).tolist() == [[1.5, 4.5]]
    wave = repeat(waveform(row["audio"][0].as_py(), "pcm16"), 10 * RATE)
    (x,) = net.features([wave], RATE, "pool5")
    times = net.times("pool5", x.shape[1])
    half = 8192 / RATE / 2
    shared = np.minimum(6.0, times + half) - np.maximum(3.0, times - half)
    wanted = x @ (np.clip(shared, 0, None) / np.clip(shared, 0, None).sum())
    np.testing.assert_allclose(survey.frames["pool5"][MODEL][7], wanted, rtol=2e-3, atol=1e-6)


@pytest.mark.usefixtures("local_mode")
def test_only_the_first_clips_are_watched(model: str, data: Dataset) -> None:
    net = load_predictor(model, device="cpu")
    survey = survey_clips(model, net, data, SurveyOptions(("conv3",), k=9, limit=7))
    first = set(data.read(["id"], limit=7)["id"].to_pylist())
    assert {row["id"] for row in survey.rows.values()} <= first
    assert [row["id"] for row in survey.sample] == ["clip-0", "clip-3", "clip-6"]


@pytest.mark.usefixtures("local_mode")
def test_where_nothing_can_be_heard(model: str, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    items = [SoundItem(str(tmp_path / "bad.wav"), "bad.wav", None)]
    net = load_predictor(model, device="cpu")
    with pytest.raises(
        UserError, match=r"none of the sounds can be heard \(1 cannot be read, as .*bad.wav: .*\)"
    ):
        survey_sounds(model, net, items, SurveyOptions(("conv7",)))


def test_an_unknown_layer_names_those_there_are(model: str, data: Dataset) -> None:
    net = load_predictor(model, device="cpu")
    with pytest.raises(UserError, match=r"--layers conv9: the model has conv1, .*conv7"):
        survey_clips(model, net, data, SurveyOptions(("conv9",)))


def test_merging_does_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(0)
    units, shards = 6, 8
    parts = []
    for shard in range(shards):
        values = rng.integers(4, size=(units, 10)).astype(np.float32)  # many equal ones
        keys = shard * SHARD + np.arange(10)
        sources = rng.integers(5, size=10)
        parts.append(best_of_sources(values, keys, values * 0, sources, K))
    first = second = None
    for a, b in zip(parts, parts[::-1], strict=True):
        first = a if first is None else first.with_others(a, K)
        second = b if second is None else second.with_others(b, K)
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.keys, second.keys)
    assert all(len(set(row)) == len(row) for row in first.sources[:, : min(K, 5)].tolist())
    again = TopWindows.from_bytes(first.to_bytes(), units)
    np.testing.assert_array_equal(again.keys, first.keys)
    np.testing.assert_array_equal(again.values, first.values)


def test_silent_units_have_no_windows() -> None:
    top = TopWindows(
        np.array([[2, 1, 0], [0, 0, 0], [-1, -2, -np.inf]], np.float32),
        *(np.zeros((3, 3)) for _ in range(3)),
    )
    assert [top.answered(unit) for unit in range(3)] == [[0, 1], [], [0, 1]]


def test_a_row_is_read_again(data: Dataset) -> None:
    cuts = Cuts(data, RATE)
    row = data.read(["id", "uri", "start_s", "duration_s"]).slice(7, 1).to_pylist()[0]
    key = 1 * SHARD + 2  # the third row of the second shard of five
    whole = waveform(data.read(["audio"])["audio"][7].as_py(), "pcm16")
    np.testing.assert_array_equal(cuts.sound(key, row, 0.5, 1.0), whole[RATE // 2 : RATE])
    # The video is gone: the thumbnail stands for its frame.
    assert cuts.frame(key, row, 0.5) == data.read(["thumbnail"])["thumbnail"][7].as_py()
