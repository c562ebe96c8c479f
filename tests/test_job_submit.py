"""`ray job submit` from the root of the repository, through the real CLI to a real head.

As with `cluster.yaml`, the head demands a token and runs drivers but no work; another node does.
"""

from __future__ import annotations

import dataclasses
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml

import mmray
from mmray import storage
from mmray.media.sound import SAMPLE_RATE, to_pcm16
from mmray.pipeline.dataset import tensor_column, write_table
from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.model import SoundNetModel, save_model
from mmray.toyworld import build
from tests.ray_nodes import Nodes, free_port

ROOT = Path(__file__).parent.parent

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@dataclasses.dataclass(frozen=True)
class Head:
    """A running head: where its dashboard is, and the environment of those who have its token."""

    url: str
    env: dict[str, str]

    def submit(self, *entrypoint: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = ["ray", "job", "submit", "--working-dir", ".", "--", *entrypoint]
        return self.run(*command, **env)

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=ROOT,
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    url = f"http://127.0.0.1:{(dashboard := free_port())}"
    options = {"dashboard_host": "127.0.0.1", "dashboard_port": dashboard}
    with Nodes(**options, ray_client_server_port=free_port()) as nodes:
        nodes.add("127.0.0.2", num_cpus=4, object_store_memory=200_000_000)
        yield Head(url, nodes.env | {"RAY_API_SERVER_ADDRESS": url})


def status(url: str) -> int | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status
    except urllib.error.HTTPError as e:
        return e.code
    except OSError:
        return None


def test_the_uploaded_code_runs_and_its_exit_code_comes_back(head: Head) -> None:
    show = "import mmray, os; print('runs', mmray.__file__, sorted(os.listdir('.')))"
    done = head.submit("python", "-c", show)
    assert done.returncode == 0, done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("runs ")]
    assert "working_dir_files" in line.split()[1], "the package must come from the upload"
    assert "'jobs'" in line
    for heavy in (".venv", ".git'", "'runs'"):
        assert heavy not in line, "what is heavy must stay at home"
    failed = head.submit("python", "-c", "print('so it ends'); raise SystemExit(2)")
    assert failed.returncode != 0
    assert "so it ends" in failed.stdout


def test_without_the_token_nothing_is_taken(head: Head) -> None:
    wrong = Path(head.env["HOME"]) / "wrong"
    wrong.write_text("not-the-token")
    refused = head.submit("python", "-c", "print('taken')", RAY_AUTH_TOKEN_PATH=str(wrong))
    assert refused.returncode != 0
    assert "Authentication failed" in refused.stdout
    assert status(f"{head.url}/api/jobs/") == 401
    assert status(f"{head.url}/api/version") == 401


def write_clips(folder: Path, clips: int = 12, seconds: float = 2.0) -> None:
    """A clip dataset of noise, with one frame a clip."""
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, 0.1, round(seconds * SAMPLE_RATE)) for _ in range(clips)]
    table = pa.table(
        {
            "id": [f"clip-{i}" for i in range(clips)],
            "split": ["val" if i % 4 == 0 else "train" for i in range(clips)],
            "duration_s": pa.array([seconds] * clips, pa.float64()),
            "sample_rate": pa.array([SAMPLE_RATE] * clips, pa.int32()),
            "audio": pa.array([to_pcm16(n.astype(np.float32)) for n in noise], pa.large_binary()),
            "frame_times": tensor_column([np.array([seconds / 2])] * clips, [1], "float32"),
            "objects": tensor_column([np.array([[0.7, 0.3]])] * clips, [1, 2], "float16"),
        }
    )
    write_table(str(folder / "part-00000.parquet"), table)
    manifest = {
        "kind": "clips",
        "schema_version": 1,
        "options": {"audio": "pcm16", "clip_s": seconds, "frame_s": seconds},
        "teachers": {"objects": {"classes": ["dog", "cat"]}},
        "counts": {"rows": clips, "errors": 0},
    }
    storage.write_json(folder / "manifest.json", manifest)


def test_a_submitted_training_leaves_its_model_where_it_was_told(
    head: Head, tmp_path: Path
) -> None:
    write_clips(tmp_path / "clips")
    flags = {
        "data": tmp_path / "clips",
        "out": tmp_path / "out",
        "arch": "soundnet5",
        "crop-s": 1.0,
        "steps": 2,
        "batch-size": 4,
        "num-workers": 1,
    }
    done = head.submit(
        *("python", "jobs/distill_soundnet.py"),
        *(word for name, value in flags.items() for word in (f"--{name}", str(value))),
    )
    assert done.returncode == 0, done.stdout
    assert "2 steps" in done.stdout, "the job's own words must reach the terminal"
    net = mmray.load(str(tmp_path / "out" / "model"), device="cpu")
    assert net.classes == {"objects": ["dog", "cat"]}


def small_default_world(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small toy world that passes for the default one, which takes minutes to draw."""
    asked: dict[str, Any] = {}
    with monkeypatch.context() as patch:
        patch.setenv("MMRAY_CACHE", str(home / ".cache/mmray"))
        patch.setattr(build, "make_world", lambda folder, **kw: asked.update(kw, folder=folder))
        build.default_world()
    folder = asked.pop("folder")
    build.make_world(folder, **asked | {"num_videos": 12, "num_images": 200}, workers=1)
    world = storage.read_json(folder / "world.json")
    storage.write_json(folder / "world.json", world | {"arguments": asked})


def test_without_data_a_submitted_training_makes_the_toy_worlds(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_default_world(Path(head.env["HOME"]), monkeypatch)
    command = ("python", "jobs/distill_soundnet.py", "--steps", "1", "--out", str(tmp_path / "out"))
    done = head.submit(*command)
    assert done.returncode == 0, done.stdout
    net = mmray.load(str(tmp_path / "out" / "model"), device="cpu")
    assert "dog" in net.classes["objects"]


def test_a_users_mistake_in_a_submitted_job_is_told(head: Head, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    failed = head.submit("python", "jobs/distill_soundnet.py", "--data", missing)
    assert failed.returncode != 0
    assert f"error: {missing}: is not a finished dataset" in failed.stdout


def test_a_submitted_service_answers_until_it_is_stopped(head: Head, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = SoundNetConfig("soundnet5", ["dog", "cat"])
    save_model(tmp_path / "model", SoundNetModel(config))
    settings = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    models = {"sound": str(tmp_path / "model")}
    settings["applications"][0]["args"] |= {"models": models, "search": {}}
    settings["http_options"]["port"] = free_port()
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(settings))
    url = f"http://127.0.0.1:{settings['http_options']['port']}/healthz"
    submit = "ray job submit --working-dir . --no-wait --submission-id serve -- "
    serving = ["python", "-m", "mmray.serving", "--config", str(tmp_path / "serve.yaml")]
    submitted = head.run(*submit.split(), *serving)
    assert submitted.returncode == 0, submitted.stdout
    deadline = time.monotonic() + 120
    while status(url) != 200 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert status(url) == 200, head.run("ray", "job", "logs", "serve").stdout
    assert head.run("ray", "job", "stop", "serve").returncode == 0
    assert status(url) != 200
