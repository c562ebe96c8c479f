"""`python -m mmray.serving`, what `make serve` runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch
import yaml

from mmray import UserError
from mmray.serving.__main__ import main
from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.model import SoundNetModel, save_model

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config file with a model and a free port."""
    torch.manual_seed(0)
    save_model(tmp_path / "model", SoundNetModel(SoundNetConfig("soundnet5", ["dog", "cat"])))
    raw = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    raw["applications"][0]["args"] |= {"models": {"sound": str(tmp_path / "model")}, "search": {}}
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        raw["http_options"]["port"] = s.getsockname()[1]
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def port_of(config: Path) -> int:
    return yaml.safe_load(config.read_text())["http_options"]["port"]


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(**options: object) -> None:
        raise AssertionError("nothing may be started before the settings are right")

    monkeypatch.setattr("mmray.runtime.init", start)


def test_a_missing_model_is_one_line_before_anything_starts(config: Path, no_ray: None) -> None:
    (config.parent / "model").rename(config.parent / "elsewhere")
    with pytest.raises(UserError, match=r"cannot serve sound: .*/model: no such model"):
        main(["--config", str(config)])


def test_a_missing_config_is_one_line(tmp_path: Path, no_ray: None) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read"):
        main(["--config", str(tmp_path / "none.yaml")])


def test_a_port_in_use_is_one_line(config: Path, no_ray: None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port_of(config)))
        taken.listen()
        with pytest.raises(UserError, match=rf"cannot listen on 127.0.0.1:{port_of(config)}"):
            main(["--config", str(config)])


@pytest.mark.cluster
@pytest.mark.slow
def test_it_serves_until_it_is_told_to_end(config: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "mmray.serving", "--config", str(config)],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        ready = next((line for line in lines if line.startswith("ready")), "")
        url = f"http://127.0.0.1:{port_of(config)}"
        assert url in ready
        with urllib.request.urlopen(f"{url}/healthz", timeout=10) as response:
            assert response.status == 200
        # As Ctrl-C in a terminal does: to the whole group.
        os.killpg(process.pid, signal.SIGINT)
        rest = process.communicate(timeout=60)[0]
        assert process.returncode == 0, rest
        assert "Traceback" not in rest
    finally:
        process.kill()
