"""The teachers' nets in torch: pictures as they are decoded in, probabilities and features out.

Every net is cut into a body, which ends in one pooled vector of features a picture, and the last
linear layer. Normalisation is part of the net, so that all callers hand over plain uint8 pixels
and nobody can forget or repeat it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmray import storage
from mmray.errors import UserError
from mmray.models import read_config
from mmray.teachers import alexnet, checkpoints
from mmray.teachers.recipes import PLACES365_NAMES, NetInfo, classes_file, read_text


class PictureNet(nn.Module):
    """A picture classifier on raw pixels.

    Args:
        body: float32 [N, 3, S, S] -> features [N, D].
        head: the last linear layer, D -> K.
        name: of the net.
        classes: names of the K classes.
        size: S.
        mean: of each colour, in pixel values (0 to 255).
        std: deviation of each colour, in pixel values.
        taps: modules of the body whose maps make the output `depths`; default: the last of each
            size of map, from an eighth of the picture's size down.

    Attributes:
        info: what is known of it without running it.
        grid_tap: the module of the body that gives the grid; None where `info.grid` is None.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        head: nn.Linear,
        *,
        name: str,
        classes: list[str],
        size: int,
        mean: tuple[float, ...] = (127.5, 127.5, 127.5),
        std: tuple[float, ...] = (127.5, 127.5, 127.5),
        taps: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.body, self.head = body, head
        maps, self.grid_tap = _maps(body, size)
        self.taps = list(taps) if taps is not None else _deepest_by_size(maps, size)
        depths_dim = sum(2 * maps[tap].shape[1] for tap in self.taps)
        grid = None
        if self.grid_tap is not None:
            channels, height, width = maps[self.grid_tap].shape[1:]
            grid = (height, width, channels)
        self.info = NetInfo(name, classes, size, head.in_features, depths_dim, grid)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [N, S, S, 3] -> float32 [N, 3, S, S] (channels last in memory)."""
        return (images.permute(0, 3, 1, 2).float() - self.mean) / self.std

    def forward(self, images: Tensor, grid: bool = False) -> tuple[Tensor, ...]:
        """What a picture shows, and descriptions of it.

        Args:
            images: pixels uint8 [N, S, S, 3].
            grid: give the grid too; only for a net that has one.

        Returns:
            Probabilities float32 [N, K]; features float32 [N, D], the input of the head; depths
            float32 [N, P], mean and maximum over the picture of maps from several depths; and
            where asked the grid, float32 [N, h, w, C], the last map before the body pools it.
        """
        maps: list[Tensor] = []
        last: dict[str, Tensor] = {}
        handles = [
            self.body.get_submodule(tap).register_forward_hook(lambda *args: maps.append(args[2]))
            for tap in self.taps
        ]
        if grid:
            assert self.grid_tap is not None, f"{self.info.name} has no grid"
            # A module may run several times in one pass: its last result stays.
            handles.append(
                self.body.get_submodule(self.grid_tap).register_forward_hook(
                    lambda *args: last.update(grid=args[2])
                )
            )
        features = self.body(self.normalise(images)).float()
        for handle in handles:
            handle.remove()
        pooled = [x.float() for x in maps]
        pooled = [y for x in pooled for y in (x.mean(dim=(2, 3)), x.amax(dim=(2, 3)))]
        depths = torch.cat(pooled, dim=1) if pooled else features[:, :0]
        # The head works in float32 even under autocast: small probabilities need the digits.
        with torch.autocast(images.device.type, enabled=False):
            answers = self.head(features).softmax(dim=-1), features, depths
        return (*answers, last["grid"].permute(0, 2, 3, 1).float()) if grid else answers


@torch.no_grad()
def _maps(body: nn.Module, size: int) -> tuple[dict[str, Tensor], str | None]:
    """The map [1, C, h, w] that each module of a body gives, in the order in which they run.

    Returns:
        The maps by module; and the module that gives the last one of more than one place, None
        where a sequence of tokens follows: the map was then only cut into patches.
    """
    maps: dict[str, Tensor] = {}
    last: str | None = None

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: Any, result: Any) -> None:
            nonlocal last
            if not isinstance(result, Tensor):
                return
            if result.dim() == 4:
                maps[name] = result
                last = name if result.shape[2] > 1 else last
            elif result.dim() == 3:
                last = None

        return hook

    handles = [m.register_forward_hook(note(name)) for name, m in body.named_modules() if name]
    training = body.training
    body.eval()(torch.zeros(1, 3, size, size))
    body.train(training)
    for handle in handles:
        handle.remove()
    return maps, last


def _deepest_by_size(maps: dict[str, Tensor], size: int) -> list[str]:
    """The last module of each size of map that is at most an eighth of the picture's size."""
    last = {x.shape[2]: name for name, x in maps.items() if 1 < x.shape[2] <= max(8, size // 8)}
    return [name for name in maps if name in last.values()]


class ConvNet(nn.Module):
    """The body of our own small nets: 3x3 convolutions with max pooling between them.

    float32 [N, 3, S, S] -> [N, 2 * channels[-1]]: mean and maximum over the picture, since a
    scene fills the picture and an object may be a small part of it. Pooling by the maximum
    rather than by strides is what lets it learn from a few thousand pictures (toy objects,
    1,400 pictures, the same time: 96% against 83%).
    """

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.channels = list(channels)
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip([3, *channels[:-1]], channels, strict=True)):
            layers.append(nn.Conv2d(before, after, 3, padding=1, bias=False))
            if i + 1 < len(channels):
                # Right after the convolution: the rest then works on a quarter of the cells.
                layers.append(nn.MaxPool2d(2))
            layers += [nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels, normalised, to features."""
        x = self.layers(x)
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)


def efficientnet_lite0(weights: str | Path) -> PictureNet:
    """EfficientNet-lite0 with its ImageNet weights: 1000 objects, 1280 features, 224 pixels.

    Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (ICML
    2019), in the variant without squeeze-and-excitation; its pixels are (x - 127) / 128.
    """
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    state, _ = checkpoints.read_checkpoint(str(weights))
    checkpoints.fill(net, state, str(weights), "efficientnet_lite0")
    head, net._fc = net._fc, nn.Identity()
    return PictureNet(
        net,
        head,
        name="efficientnet_lite0",
        classes=imagenet_classes(),
        size=224,
        mean=(127.0,) * 3,
        std=(128.0,) * 3,
        taps=[f"_blocks.{i}" for i in (4, 9, 14, 15)],
    ).eval()


def imagenet_classes() -> list[str]:
    """Names of the 1000 ImageNet classes, in the usual order."""
    from torchvision.models import ResNet18_Weights

    return list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def download_torchvision(arch: str) -> Path:
    """The file with torchvision's own default weights of a net, downloaded once.

    Raises:
        UserError: there is no such net, or the download fails.
    """
    weights = _weights_of(arch)
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name ends in the first digits of the content's hash: `resnet18-f37072fd.pth`.
    digits = path.stem.rsplit("-", 1)[-1]
    try:
        torch.hub.download_url_to_file(weights.url, str(path), digits, progress=False)
    except (OSError, RuntimeError) as e:
        raise UserError(
            f"torchvision:{arch}: its weights cannot be downloaded ({e}); give a checkpoint with "
            f"torchvision:{arch}=FILE"
        ) from e
    return path


def torchvision_net(arch: str, weights: str) -> PictureNet:
    """A classifier of torchvision with the weights of a checkpoint.

    Its classes are the names in `FILE.classes.txt`, one a line; without that file, a net of 1000
    classes is taken for an ImageNet one.

    Raises:
        UserError: no such net, another kind of checkpoint, or class names that do not fit.
    """
    state, _ = checkpoints.read_checkpoint(weights)
    net, head = _filled(arch, state, weights)
    names = classes_file(weights)
    if storage.exists(names):
        classes = _read_classes(names, head.out_features, weights)
    elif head.out_features == 1000:
        classes = imagenet_classes()
    else:
        raise UserError(
            f"{weights}: has {head.out_features} classes, which are not ImageNet's; expected "
            f"their names in {names}, one a line"
        )
    return _torchvision_style(net, head, arch, arch, classes)


def places365(weights: str, names: str) -> PictureNet:
    """A net of scenes from CSAIL's Places365 release.

    Zhou et al., "Places: A 10 Million Image Database for Scene Recognition" (PAMI 2018). The
    checkpoint is `{"arch": ..., "state_dict": ...}`, the names are lines such as `/a/airfield 0`.

    Raises:
        UserError: another kind of checkpoint, or not 365 classes.
    """
    state, rest = checkpoints.read_checkpoint(weights)
    arch = rest.get("arch")
    if not isinstance(arch, str):
        raise UserError(
            f"{weights}: is not a Places365 checkpoint: expected the name of the net under "
            f"`arch` beside `state_dict`, found {sorted(map(str, rest)) or 'nothing'}"
        )
    net, head = _filled(arch, state, weights)
    if head.out_features != 365:
        raise UserError(
            f"{weights}: is not a Places365 checkpoint: expected 365 classes, found "
            f"{head.out_features}"
        )
    return _torchvision_style(net, head, arch, f"places365_{arch}", _read_places(names))


def own_net(folder: str) -> PictureNet:
    """A net that `jobs/train_teacher.py` or `jobs/train_joint.py --backbone-init` trained.

    Raises:
        UserError: the folder is not such a model, or its files do not belong together.
    """
    path = storage.join(folder, "config.json")
    config = read_config(folder)
    try:
        sizes = config["name"], config["classes"], config["size"]
        if config.get("arch") == "alexnet":
            net = new_alexnet(*sizes, config["hidden"])
        else:
            net = new_net(*sizes, config["channels"])
    except (KeyError, TypeError, ValueError, RuntimeError) as e:
        raise UserError(
            f"{path}: is not the config of a teacher ({type(e).__name__}: {e}); train it again"
        ) from e
    weights = storage.join(folder, "model.safetensors")
    state = checkpoints.read_safetensors(weights)
    head = state.get("head.weight")
    if head is not None and head.shape[0] != len(config["classes"]):
        raise UserError(
            f"{folder}: config.json names {len(config['classes'])} classes, model.safetensors "
            f"has {head.shape[0]}; expected files of one training"
        )
    checkpoints.fill(net, state, weights, f"the net in {path}")
    return net.eval()


def new_net(name: str, classes: list[str], size: int, channels: list[int]) -> PictureNet:
    """A small net of our own, with random weights."""
    head = nn.Linear(2 * channels[-1], len(classes))
    return PictureNet(ConvNet(channels), head, name=name, classes=list(classes), size=size)


def new_alexnet(
    name: str, classes: list[str], size: int, hidden: int = alexnet.HIDDEN
) -> PictureNet:
    """A net of our own in AlexNet's layout, with random weights; it takes ImageNet's colours."""
    body, head = alexnet.AlexNetBody(size, hidden), nn.Linear(hidden, len(classes))
    return PictureNet(
        body,
        head,
        name=name,
        classes=list(classes),
        size=size,
        mean=alexnet.MEAN,
        std=alexnet.STD,
    )


def _weights_of(arch: str) -> Any:
    """torchvision's default weights of a net (the entry, not the tensors)."""
    from torchvision import models

    known = models.list_models(module=models)
    if arch not in known:
        near = difflib.get_close_matches(arch, known, n=4)
        hint = f"; near: {', '.join(near)}" if near else f"; for example {', '.join(known[:4])}"
        raise UserError(f"torchvision has no classifier called {arch!r}{hint}")
    return models.get_model_weights(arch).DEFAULT


def _filled(arch: str, state: dict[str, Tensor], uri: str) -> tuple[nn.Module, nn.Linear]:
    """The net of a checkpoint, cut: a body that returns features, and the last linear layer."""
    from torchvision import models

    _weights_of(arch)
    extra: dict[str, Any] = {}
    if arch in ("googlenet", "inception_v3"):
        # The published weights of these two expect other colours, which the net itself turns to.
        extra = {"transform_input": True, "init_weights": False}
    net = models.get_model(arch, weights=None, **extra)
    where, head = _last_linear(net, arch)
    weight = state.get(f"{where}.weight")
    if weight is None or weight.ndim != 2:
        raise UserError(f"{uri}: is not a checkpoint of {arch}: it has no {where}.weight")
    if len(weight) != head.out_features:
        net = models.get_model(arch, weights=None, num_classes=len(weight), **extra)
    checkpoints.fill(net, state, uri, arch)
    where, head = _last_linear(net, arch)
    parent, _, child = where.rpartition(".")
    setattr(net.get_submodule(parent), child, nn.Identity())
    return net, head


def _last_linear(net: nn.Module, arch: str) -> tuple[str, nn.Linear]:
    linear = [(name, m) for name, m in net.named_modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise UserError(f"{arch}: has no linear last layer, so it cannot be a teacher")
    return linear[-1]


def _torchvision_style(
    net: nn.Module, head: nn.Linear, arch: str, name: str, classes: list[str]
) -> PictureNet:
    """Size and colours as torchvision's own transforms of `arch` give them."""
    usual = _weights_of(arch).transforms()
    return PictureNet(
        net,
        head,
        name=name,
        classes=classes,
        size=usual.crop_size[0],
        mean=tuple(255 * m for m in usual.mean),
        std=tuple(255 * s for s in usual.std),
    ).eval()


def _read_classes(uri: str, expected: int, weights: str) -> list[str]:
    names = [line.strip() for line in read_text(uri).splitlines()]
    if len(names) != expected or not all(names):
        raise UserError(
            f"{uri}: expected {expected} class names, one a line, for {weights}; found "
            f"{len([n for n in names if n])}"
        )
    return names


def _read_places(uri: str) -> list[str]:
    """`/b/bazaar/indoor 20` -> `bazaar/indoor`, as number 20."""
    lines = [line.split() for line in read_text(uri).splitlines() if line.strip()]
    if not all(len(line) == 2 and line[0].startswith("/") for line in lines):
        raise UserError(f"{uri}: is not a {PLACES365_NAMES}: expected lines like `/a/airfield 0`")
    if [line[1] for line in lines] != [str(i) for i in range(365)]:
        raise UserError(f"{uri}: expected 365 scenes numbered 0 to 364, found {len(lines)}")
    return [name[3:] for name, _ in lines]
