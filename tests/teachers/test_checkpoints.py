from __future__ import annotations

import io
import pickle
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mmray.errors import UserError
from mmray.teachers.checkpoints import fill, read_checkpoint, read_safetensors


def test_plain_state_dict(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "a.pth")
    state, rest = read_checkpoint(str(tmp_path / "a.pth"))
    assert list(state) == ["weight", "bias"]
    assert rest == {}


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_nested_with_dataparallel_prefixes(tmp_path: Path, key: str) -> None:
    # DataParallel around everything (resnet), and around a part only (alexnet).
    weights = {"module.fc.weight": torch.zeros(2, 3), "features.module.0.bias": torch.zeros(1)}
    torch.save({"epoch": 3, "arch": "x", key: weights}, tmp_path / "a.pth")
    state, rest = read_checkpoint(str(tmp_path / "a.pth"))
    assert list(state) == ["fc.weight", "features.0.bias"]
    assert rest == {"epoch": 3, "arch": "x"}


def test_old_densenet_names(tmp_path: Path) -> None:
    old = {"features.denseblock1.denselayer12.norm.1.weight": torch.zeros(1)}
    torch.save(old, tmp_path / "a.pth")
    state, _ = read_checkpoint(str(tmp_path / "a.pth"))
    assert list(state) == ["features.denseblock1.denselayer12.norm1.weight"]


class _Python2Pickler(pickle._Pickler):
    """Pickles strings as Python 2 did, which is how the Places365 checkpoints were written."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_str(self, text: str) -> None:
        data = text.encode("latin1")
        self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)
        self.memoize(text)

    dispatch[str] = save_str


def test_checkpoint_written_by_python_2(tmp_path: Path) -> None:
    weights = OrderedDict([("module.fc.weight", torch.arange(6.0).view(2, 3))])
    content = {"arch": "resnet18", "best_prec1": 54.2, "epoch": 90, "state_dict": weights}
    module = types.SimpleNamespace(Pickler=_Python2Pickler, dump=_dump, __name__="python2")
    torch.save(
        content,
        tmp_path / "a.pth.tar",
        pickle_module=module,
        pickle_protocol=2,
        _use_new_zipfile_serialization=False,
    )
    assert b"U\x05epoch" in (tmp_path / "a.pth.tar").read_bytes()
    state, rest = read_checkpoint(str(tmp_path / "a.pth.tar"))
    assert torch.equal(state["fc.weight"], torch.arange(6.0).view(2, 3))
    assert rest["arch"] == "resnet18"


def _dump(obj: object, file: io.BufferedIOBase, protocol: int) -> None:
    _Python2Pickler(file, protocol).dump(obj)


class _Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must never run",)


def test_code_in_a_checkpoint_never_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}, "x": _Runs()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"evil\.pth: is not a PyTorch checkpoint with nothing but"):
        read_checkpoint(str(tmp_path / "evil.pth"))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"PK\x03\x04 broken zip"])
def test_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.pth: is not a PyTorch checkpoint") as error:
        read_checkpoint(str(path))
    assert "\n" not in str(error.value)


def test_truncated_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(nn.Linear(300, 20).state_dict(), path)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(UserError, match=r"a\.pth: is not a PyTorch checkpoint"):
        read_checkpoint(str(path))


@pytest.mark.parametrize(
    "content", [torch.zeros(3), {"lr": 0.1}, {"state_dict": {"a": 1}}, {}, [1, 2]]
)
def test_no_state_dict_inside(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth: holds"):
        read_checkpoint(str(tmp_path / "a.pth"))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pth: no such file"):
        read_checkpoint(str(tmp_path / "none.pth"))


def test_fill_takes_checkpoints_without_batch_counters() -> None:
    net, donor = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    donor.running_mean.fill_(7.0)
    state = {k: v for k, v in donor.state_dict().items() if k != "num_batches_tracked"}
    fill(net, state, "f", "a norm")
    assert net.running_mean.tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": torch.zeros(2, 3)}, "it lacks bias"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "x": torch.zeros(1)}, "it has x"),
        ({"weight": torch.zeros(4, 3), "bias": torch.zeros(2)}, r"weight has the shape \[4, 3\]"),
        ({"weight": torch.full((2, 3), torch.nan), "bias": torch.zeros(2)}, "holds NaN"),
    ],
)
def test_fill_refuses_other_nets(state: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(UserError, match=f"file: .*{message}"):
        fill(nn.Linear(3, 2), state, "file", "a line")


def test_damaged_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(100)}, path)
    assert read_safetensors(str(path))["a"].shape == (100,)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"model\.safetensors: is not a whole safetensors file"):
        read_safetensors(str(path))
