"""The evaluation job, as a user starts it."""

import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs import evaluate
from mmray.errors import UserError
from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.model import SoundNetModel, save_model

JOB = Path(evaluate.__file__)


@pytest.fixture
def model(tmp_path) -> str:
    torch.manual_seed(0)
    save_model(tmp_path / "model", SoundNetModel(SoundNetConfig("soundnet5", objects=["a", "b"])))
    return str(tmp_path / "model")


@pytest.fixture
def sounds(tmp_path) -> str:
    rng = np.random.default_rng(0)
    for label, loud in {"quiet": 300, "loud": 9000}.items():
        (tmp_path / "sounds" / label).mkdir(parents=True)
        for i in range(5):
            with wave.open(str(tmp_path / "sounds" / label / f"{i}.wav"), "wb") as f:
                f.setparams((1, 2, 22050, 0, "NONE", ""))
                f.writeframes(rng.integers(-loud, loud, 11025).astype("<i2").tobytes())
    return f"folder:{tmp_path / 'sounds'}"


def run(*argv: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, str(JOB), *argv], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_help_comes_without_heavy_imports():
    code, out, _ = run("soundnet", "--help")
    assert code == 0
    for flag in ("--model", "--data", "--sounds", "--layers", "--json", "--split"):
        assert flag in out
    loaded = "import sys; sys.argv = ['x', '--help']; import jobs.evaluate; "
    check = loaded + "sys.exit(bool({'torch', 'ray', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], cwd=JOB.parents[1]).returncode == 0


def test_sounds_give_a_table_and_json(model, sounds, tmp_path, capsys):
    report = tmp_path / "metrics" / "soundnet.json"
    flags = {"--model": model, "--sounds": sounds, "--json": str(report)}
    argv = [word for flag in flags.items() for word in flag]
    metrics = evaluate.main(["soundnet", *argv, "--layers", "conv2", "pool3"])
    assert json.loads(report.read_text()) == metrics
    assert {"transfer.conv2", "transfer.pool3", "transfer.untrained_pool3"} < set(metrics)
    assert metrics["transfer.conv2"] > 0.8
    assert "10 sounds of 2 classes" in capsys.readouterr().out


def test_without_json_the_metrics_go_to_out(model, sounds, tmp_path):
    out = str(tmp_path / "out")
    argv = ["--model", model, "--sounds", sounds, "--out", out, "--layers", "conv2"]
    evaluate.main(["soundnet", *argv])
    assert (tmp_path / "out" / "soundnet.json").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--model": "nowhere"}, "nowhere: no such model"),
        ({"--model": "official:nowhere.npy"}, "nowhere.npy: no such file"),
        ({"--sounds": "esc50:nowhere"}, "esc50"),
        ({"--sounds": "nowhere"}, "nowhere"),
        ({"--layers": "conv9"}, "layer 'conv9'"),
        ({"--data": "nowhere"}, "nowhere: is not a finished dataset"),
        ({"--device": "tpu"}, "device is 'tpu'"),
    ],
)
def test_user_errors_name_what_is_wrong(model, sounds, tmp_path, change, message):
    flags = {"--model": model, "--sounds": sounds, "--layers": "conv2", **change}
    with pytest.raises(UserError, match=message):
        evaluate.main(["soundnet", *(word for flag in flags.items() for word in flag)])


def test_a_user_error_is_one_line_and_exit_code_2(sounds):
    code, out, err = run("soundnet", "--model", "nowhere", "--sounds", sounds)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert "nowhere" in err
    assert out == ""


def test_joint_gives_tables_and_json(joint_model, picture_world, tmp_path, capsys, local_mode):
    questions = tmp_path / "analogies.txt"
    questions.write_text("red,rojo,blue,azul\n")
    argv = ["--model", joint_model, "--data", picture_world, "--out", str(tmp_path / "out")]
    more = ["--analogies", str(questions), "--baselines", "prior", "kNN"]
    metrics = evaluate.main(["joint", *argv, *more])
    assert json.loads((tmp_path / "out" / "joint.json").read_text()) == metrics
    names = {"tags.prior.map_tags", "tags.joint.r5", "classes.concat_baseline", "missing.100"}
    names |= {"retrieval.tags_to_image.r10", "arithmetic.success10", "analogy.acc1"}
    assert names < set(metrics)
    printed = capsys.readouterr().out
    for title in ("tags of held-out pictures", "classes: MAP", "tags removed", "analogies"):
        assert title in printed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--data": "nowhere"}, "nowhere: is not a finished dataset.*prepare_images"),
        ({"--model": "nowhere"}, "nowhere: no such model"),
        ({"--analogies": "nowhere"}, "nowhere"),
        ({"--split": "val", "--min-count": "9999"}, "occurs in 9999 or more"),
        ({"--protocol": "mirflickr", "--limit": "9"}, "--limit: has no effect with --protocol"),
        ({"--protocol": "mirflickr"}, "360 labelled pictures, the protocol needs 25000"),
        ({"--dbm": "nowhere"}, "nowhere: no such model"),
        ({"--measure": "useless"}, "--measure useless: nothing of that can be measured"),
        ({"--baselines": "magic"}, "--baselines magic: expected some of prior, kNN"),
    ],
)
def test_joint_names_what_is_wrong(
    joint_model, picture_world, tmp_path, local_mode, change, message
):
    usual = {"--model": joint_model, "--data": picture_world, "--out": str(tmp_path)}
    with pytest.raises(UserError, match=message):
        evaluate.main(["joint", *(word for flag in {**usual, **change}.items() for word in flag)])


def test_each_subcommand_wants_a_model_of_its_kind(
    model, sounds, joint_model, picture_world, tiny_teacher, tmp_path
):
    argv = ["--data", picture_world, "--out", str(tmp_path)]
    with pytest.raises(UserError, match=r"kind 'soundnet', expected 'joint'"):
        evaluate.main(["joint", "--model", model, *argv])
    with pytest.raises(UserError, match="kind 'teacher', expected 'joint'"):
        evaluate.main(["joint", "--model", tiny_teacher.removeprefix("mmray:"), *argv])
    with pytest.raises(UserError, match=r"kind 'joint', expected 'soundnet'"):
        evaluate.main(["soundnet", "--model", joint_model, "--sounds", sounds])


def test_features_of_another_backbone_are_refused(joint_model, tmp_path):
    from tests.joint.worlds import write_teacher, write_world

    other = write_teacher(tmp_path / "other", seed=9)
    data = write_world(tmp_path / "data", other, {"train": 20, "test": 20})
    with pytest.raises(
        UserError, match=rf"features are of {other} .*model's are of mmray:.*backbone"
    ):
        evaluate.main(["joint", "--model", joint_model, "--data", data, "--out", str(tmp_path)])
