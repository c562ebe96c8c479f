"""What users call."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mmray
from mmray.errors import UserError
from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.model import SoundNetModel, save_model
from mmray.soundnet.predict import SoundNet, repeat, resample

RATE = 22050
NAMES = [f"c{i}" for i in range(6)]


def net(arch: str = "soundnet8", max_samples: int | None = None, **changes: object) -> SoundNet:
    torch.manual_seed(0)
    config = SoundNetConfig(arch, **{"objects": NAMES, "scenes": NAMES[:4], **changes})
    model = SoundNetModel(config)
    # Heads of a new net hardly differ from uniform; larger ones let differences show.
    for head in model.heads.values():
        torch.nn.init.normal_(head.weight, 0, 0.3)
    return SoundNet(model, "cpu", max_samples)


def noise(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.5, 0.5, round(seconds * rate)).astype(np.float32)


def test_predictions_over_time():
    a, b = net(frame_s=2.0).predict([noise(10), noise(1)], RATE)
    assert a.times_s.tolist() == pytest.approx([1, 3, 5, 7, 9])
    assert a.objects.shape == (5, 6)
    assert a.scenes.shape == (5, 4)
    assert a.objects.sum(axis=1) == pytest.approx(1)
    assert b.times_s.tolist() == pytest.approx([0.5])
    assert a.classes == {"objects": NAMES, "scenes": NAMES[:4]}


def test_window_s_sets_the_steps():
    assert len(net().predict([noise(10)], RATE, window_s=1)[0].times_s) == 10


def test_predictions_are_what_the_model_says_of_these_frames():
    student = net()
    wave = noise(12)
    prediction = student.predict([wave], RATE)[0]
    times = torch.from_numpy(prediction.times_s)[None]
    with torch.no_grad():
        logits = student.model(torch.from_numpy(wave)[None], times, torch.tensor([6.0]))
    expected = logits["objects"][0].softmax(-1).numpy()
    assert prediction.objects == pytest.approx(expected, abs=1e-5)
    logs = student.log_probabilities([wave], RATE, times.numpy(), np.array([6.0]))
    assert np.exp(logs["objects"][0]) == pytest.approx(expected, abs=1e-5)


def test_top_names_the_likeliest_classes():
    prediction = net().predict([noise(8)], RATE)[0]
    top = prediction.top("scenes", k=2)
    mean = prediction.scenes.mean(axis=0)
    assert top[0] == (NAMES[int(mean.argmax())], pytest.approx(float(mean.max())))
    assert len(top) == 2
    assert top[0][1] >= top[1][1]


def test_a_missing_head_is_empty():
    prediction = net(scenes=[]).predict([noise(6)], RATE)[0]
    assert prediction.scenes.shape == (1, 0)
    with pytest.raises(UserError, match="has no heads"):
        net(objects=[], scenes=[]).predict([noise(1)], RATE)


def test_published_heads_step_by_three_seconds_and_short_sounds_are_repeated():
    student = net(aligned=False)
    long, short = student.predict([noise(20), noise(1)], RATE)
    assert long.times_s.tolist() == pytest.approx([4.75, 7.72, 10.69, 13.66], abs=0.005)
    assert short.times_s.tolist() == pytest.approx([0.5])
    repeated = student.predict([np.tile(noise(1), 10)], RATE)[0]
    assert short.objects == pytest.approx(repeated.objects, abs=1e-6)


@pytest.mark.parametrize("aligned", [True, False])
def test_results_do_not_depend_on_the_batch(aligned):
    student = net(aligned=aligned)
    waves = [noise(3, 1), noise(0.05, 2), noise(3, 3), noise(11, 4), noise(3, 5)]
    together = student.predict(waves, RATE)
    features = student.features(waves, RATE, "conv6")
    for wave, prediction, feature in zip(waves, together, features, strict=True):
        alone = student.predict([wave], RATE)[0]
        assert prediction.objects == pytest.approx(alone.objects, abs=1e-5)
        assert prediction.scenes == pytest.approx(alone.scenes, abs=1e-5)
        assert feature == pytest.approx(student.features([wave], RATE, "conv6")[0], abs=1e-4)


def test_features_have_the_layer_s_shape_and_times():
    student = net()
    for layer in student.layers:
        (x,) = student.features([noise(7)], RATE, layer)
        assert x.dtype == np.float32
        assert x.shape == (student.channels(layer), student.config.cells(layer, 7 * RATE))
        times = student.times(layer, x.shape[1])
        assert times[0] < 0.3 * 7
        assert np.all(np.diff(times) == pytest.approx(times[1] - times[0]))
    assert student.features([noise(0.01)], RATE)[0].shape == (256, 1)


def test_heads_are_not_run_for_features():
    student = net()
    for head in student.model.heads.values():
        head.forward = None  # calling it would raise
    student.features([noise(2)], RATE, "conv7")


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    st.sampled_from(["soundnet8", "soundnet5"]),
    st.booleans(),
    st.integers(10 * RATE, 15 * RATE),
    st.integers(1, 6 * RATE),
    st.data(),
)
def test_long_sounds_in_pieces_are_equal_to_the_whole(arch, aligned, length, piece, data):
    whole = net(arch, aligned=aligned, head_kernel=4)
    pieces = SoundNet(whole.model, "cpu", max_samples=piece)
    names = data.draw(st.lists(st.sampled_from(whole.layers[2:]), min_size=1, max_size=3))
    wave = noise(length / RATE)[:length]
    a = whole.many_features([wave], RATE, names)[0]
    b = pieces.many_features([wave], RATE, names)[0]
    for name in names:
        assert a[name].shape == b[name].shape
        assert np.abs(a[name] - b[name]).max() < 1e-3 * max(1.0, np.abs(a[name]).max())
    x, y = whole.predict([wave], RATE)[0], pieces.predict([wave], RATE)[0]
    assert x.objects == pytest.approx(y.objects, abs=1e-3)


def test_pieces_bound_what_goes_through_the_net_at_once(monkeypatch):
    student = net(max_samples=4 * RATE)
    sizes = []
    forward = student._forward
    monkeypatch.setattr(
        student, "_forward", lambda waves, names: sizes.append(waves.size) or forward(waves, names)
    )
    student.predict([noise(60)] + [noise(1, i) for i in range(9)], RATE)
    # A piece holds, beside its own cells, what the cells at both edges see.
    field = student.config.geometry("objects").field
    assert max(sizes) <= 4 * RATE + 2 * field
    assert len(sizes) > 15


def test_many_frames_of_a_long_sound_are_averaged_like_few():
    student = net("soundnet5", frame_s=0.1)
    (prediction,) = student.predict([noise(40)], RATE)
    assert len(prediction.times_s) == 400
    cells = student.features([noise(40)], RATE, "objects")[0]
    times = torch.from_numpy(prediction.times_s)[None]
    expected = student.model.at_frames(torch.from_numpy(cells)[None], times, torch.tensor([0.1]))
    assert prediction.objects == pytest.approx(expected[0].softmax(-1).numpy(), abs=1e-5)


def test_other_sample_rates_are_resampled():
    t = np.arange(44100 * 4) / 44100
    wave = (0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    at_half = (0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE * 4) / RATE)).astype(np.float32)
    student = net()
    a = student.features([wave], 44100, "pool1")[0]
    b = student.features([at_half], RATE, "pool1")[0]
    assert a.shape == b.shape
    middle = slice(100, -100)
    assert np.abs(a - b)[:, middle].mean() < 0.02 * np.abs(b).mean()


@pytest.mark.parametrize("rate", [1000, 8000, 11025, 16000, 44099, 44100, 48000, 96000, 192000])
def test_resampling_keeps_the_duration(rate):
    wave = noise(1, rate=rate)
    assert len(resample(wave, rate, RATE)) == pytest.approx(RATE, abs=25)


def test_repeat_goes_round():
    assert repeat(np.array([1.0, 2, 3], np.float32), 7).tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert len(repeat(np.zeros(9, np.float32), 7)) == 9


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (np.zeros(0, np.float32), "waveform 1: is empty"),
        (np.array([0.1, np.nan], np.float32), "waveform 1: holds NaN or infinity"),
        (np.array([0.1, -np.inf]), "waveform 1: holds NaN or infinity"),
        (np.zeros((2, 100), np.float32), r"waveform 1: has shape \[2, 100\]; expected .* mono"),
        (np.zeros(100, np.int16), "waveform 1: holds int16; expected floats"),
        (np.full(100, 12000.0, np.float32), r"waveform 1: reaches 12000; expected .* \[-1, 1\]"),
        ("sound.wav", "waveform 1: has shape"),
    ],
)
def test_bad_waveforms_are_refused_by_number(wave, message):
    for call in (net().predict, net().features):
        with pytest.raises(UserError, match=message):
            call([noise(1), wave], RATE)


@pytest.mark.parametrize("rate", [0, -8000, 22.05, None, "22050", 10**9])
def test_bad_sample_rates_are_refused(rate):
    with pytest.raises(UserError, match="sample_rate is"):
        net().predict([noise(1)], rate)


def test_other_bad_arguments_are_refused():
    with pytest.raises(UserError, match="has the layers conv1, pool1"):
        net().features([noise(1)], RATE, "pool9")
    with pytest.raises(UserError, match="window_s is 0"):
        net().predict([noise(1)], RATE, window_s=0)
    with pytest.raises(UserError, match="device is 'gpu'"):
        SoundNet(net().model, "gpu")
    with pytest.raises(UserError, match="finds no such GPU"):
        SoundNet(net().model, "cuda:99")


def test_no_waveforms_give_no_results():
    assert net().predict([], RATE) == []
    assert net().features([], RATE) == []


def test_mmray_load_gives_the_predictor(tmp_path):
    student = net("soundnet5", frame_s=2.0)
    save_model(tmp_path / "m", student.model)
    again = mmray.load(str(tmp_path / "m"), device="cpu")
    assert isinstance(again, SoundNet)
    a, b = (n.predict([noise(6)], RATE)[0] for n in (student, again))
    assert np.array_equal(a.objects, b.objects)
    assert again.classes == student.classes


def test_mmray_load_refuses_other_things(tmp_path):
    with pytest.raises(UserError, match="no such model"):
        mmray.load(str(tmp_path / "nothing"))
    (tmp_path / "sound8.t7").write_bytes(b"x")
    with pytest.raises(UserError, match=r"sound8\.t7"):
        mmray.load(str(tmp_path / "sound8.t7"))
    with pytest.raises(UserError, match="no such file"):
        mmray.load(f"official:{tmp_path}/sound8.npy")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_and_cpu_agree():
    cpu = net()
    gpu = SoundNet(net().model, "cuda")
    a, b = (n.predict([noise(9), noise(2)], RATE) for n in (cpu, gpu))
    for x, y in zip(a, b, strict=True):
        assert x.objects == pytest.approx(y.objects, abs=5e-3)  # TF32 convolutions
