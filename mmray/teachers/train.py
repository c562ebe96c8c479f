"""Training a small teacher on labelled pictures, in plain torch.

For worlds that no public net knows: two thousand pictures and two CPU cores are enough for the
toy world. The trained net is calibrated, so that its probabilities, which others learn from, mean
what they say.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from mmray import storage
from mmray.errors import UserError
from mmray.sources import split_of
from mmray.teachers.labelled import LabelledPicture, Task, labelled_pictures, read_pictures
from mmray.teachers.nets import PictureNet, new_net
from mmray.teachers.recipes import FORMAT_VERSION, TEACHER_KIND

_CHANNELS = [16, 32, 64, 128]
_LABEL_SMOOTHING = 0.02
_WEIGHT_DECAY = 0.02
_CALIBRATION_BINS = 15


@dataclass(frozen=True, kw_only=True)
class TeacherOptions:
    """What determines a trained teacher."""

    source: str = "toy"
    what: Task = "objects"
    epochs: int = 10
    size: int = 64
    lr: float = 5e-3
    batch_size: int = 32
    limit: int | None = None
    seed: int = 0

    def check(self) -> None:
        """Raise a `UserError` that names the flag when a value cannot work."""
        smallest = {"epochs": 1, "size": 32, "batch_size": 2, "limit": 2}
        for name, least in smallest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                flag = f"--{name.replace('_', '-')}"
                raise UserError(f"{flag} {value}: expected {least} or more")
        if not self.lr > 0:
            raise UserError(f"--lr {self.lr:g}: expected more than 0")
        if self.what not in ("objects", "scenes"):
            raise UserError(f"--what {self.what}: expected objects or scenes")


@dataclass(frozen=True, kw_only=True)
class TrainedTeacher:
    """What `train_teacher` made.

    Args:
        path: the model folder; `mmray:PATH` is the spec of the teacher.
        what: objects or scenes.
        accuracy: share of held-out pictures whose class is guessed right.
        nll: mean negative log-likelihood of the held-out labels, in nats.
        ece: expected calibration error, 0 to 1 (Guo et al., "On Calibration of Modern Neural
            Networks", ICML 2017).
        num_train: pictures it was trained on.
        num_test: held-out pictures that the three numbers are measured on.
        seconds: that reading and training took.
    """

    path: str
    what: str
    accuracy: float
    nll: float
    ece: float
    num_train: int
    num_test: int
    seconds: float


def train_teacher(
    options: TeacherOptions,
    out: str,
    *,
    overwrite: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> TrainedTeacher:
    """Train a teacher and write its model folder, or find it finished.

    Args:
        options: what to train.
        out: the folder (or URI).
        overwrite: train again even when it is there.
        report: called with a line of progress an epoch.

    Raises:
        UserError: bad options, too few pictures, or `out` holds something else.
    """
    options.check()
    if not overwrite and (finished := _finished(options, out)):
        return finished
    _check_free(out)
    start = time.perf_counter()
    pictures = labelled_pictures(options.source, options.what, options.limit)
    data = _split(*read_pictures(pictures, options.size), options.source)
    report(
        f"{options.source}: {len(data.classes)} {options.what}, {len(data.train[1])} pictures to "
        f"train on, {len(data.val[1])} to calibrate, {len(data.test[1])} held out"
    )
    net = fit(data, options, report)
    temperature = calibrate(net, *data.val)
    accuracy, nll, ece = score(net, *data.test)
    result = TrainedTeacher(
        path=out,
        what=options.what,
        accuracy=accuracy,
        nll=nll,
        ece=ece,
        num_train=len(data.train[1]),
        num_test=len(data.test[1]),
        seconds=round(time.perf_counter() - start, 1),
    )
    save(net, out, {"options": asdict(options), "temperature": temperature, **asdict(result)})
    return result


def toy_teacher(what: Task, source: str = "toy", seed: int = 0) -> str:
    """The folder of the toy world's own teacher, trained when it is missing.

    One that `jobs/train_teacher.py` made at its default place is taken as it is.

    Args:
        what: objects or scenes.
        source: `toy` or `toy:DIR`.
        seed: of the training.
    """
    usual = default_out(what)
    found = storage.join(usual, "config.json")
    if storage.exists(found):
        config = storage.read_json(found)
        if config.get("kind") == TEACHER_KIND:
            made_with = config.get("training", {}).get("options", {})
            if (made_with.get("source"), made_with.get("what")) == (source, what):
                return usual
    options = TeacherOptions(source=source, what=what, seed=seed)
    name = hashlib.sha256(json.dumps(asdict(options)).encode()).hexdigest()[:12]
    out = storage.cache_dir() / "toy_teachers" / f"{what}-{name}"
    return train_teacher(options, str(out)).path


def default_out(what: Task) -> str:
    """Where `jobs/train_teacher.py` writes without `--out`."""
    return f"runs/train_teacher/{what}"


@dataclass(frozen=True)
class _Data:
    """Pictures uint8 [N, S, S, 3] and numbers of classes int64 [N], by split."""

    classes: list[str]
    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def _split(images: np.ndarray, pictures: list[LabelledPicture], source: str) -> _Data:
    splits = [split_of(picture.key) for picture in pictures]
    classes = sorted({picture.label for picture in pictures})
    numbers = [classes.index(picture.label) for picture in pictures]
    trained = {n for n, split in zip(numbers, splits, strict=True) if split == "train"}
    if len(classes) < 2:
        raise UserError(f"{source}: has the one class {classes}; expected two or more")
    if missing := [name for i, name in enumerate(classes) if i not in trained]:
        raise UserError(f"{source}: too few pictures of {missing[0]!r}; give at least ten a class")
    parts = {}
    for name in ("train", "val", "test"):
        chosen = [i for i, split in enumerate(splits) if split == name]
        if not chosen:
            raise UserError(
                f"{source}: its {len(pictures)} pictures leave none to hold out; give at least "
                "ten a class"
            )
        labels = torch.tensor([numbers[i] for i in chosen])
        parts[name] = (torch.from_numpy(images[chosen]), labels)
    return _Data(classes, parts["train"], parts["val"], parts["test"])


def fit(data: _Data, options: TeacherOptions, report: Callable[[str], None]) -> PictureNet:
    """Train a net on the training pictures; it returns on the CPU, in evaluation mode."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(options.seed)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        name = f"{options.what} of {options.source.split(':')[0]}"
        net = new_net(name, data.classes, options.size, _CHANNELS)
    net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = data.train
    batch = min(options.batch_size, len(labels))
    steps = len(labels) // batch
    optimizer = torch.optim.AdamW(net.parameters(), lr=options.lr, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.lr, total_steps=options.epochs * steps
    )
    for epoch in range(options.epochs):
        net.train()
        order = torch.randperm(len(labels), generator=generator)
        total = 0.0
        for step in range(steps):
            chosen = order[step * batch : (step + 1) * batch]
            pixels = net.normalise(images[chosen].to(device))
            logits = net.head(net.body(augment(pixels, generator)))
            target = labels[chosen].to(device)
            loss = F.cross_entropy(logits, target, label_smoothing=_LABEL_SMOOTHING)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        accuracy = score(net, *data.val)[0]
        report(
            f"epoch {epoch + 1}/{options.epochs}: loss {total / steps:.3f}, accuracy on the "
            f"calibration pictures {accuracy:.1%}"
        )
    return net.cpu().eval()


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Vary pictures float32 [N, 3, S, S]: crop, mirror, brightness, contrast, colour."""
    n = len(pixels)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    scale = uniform(0.75, 1.0)
    mirror = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = scale * mirror, scale
    theta[:, 0, 2], theta[:, 1, 2] = (1 - scale) * uniform(-1, 1), (1 - scale) * uniform(-1, 1)
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    pixels = F.grid_sample(
        pixels, grid.to(pixels.device), padding_mode="reflection", align_corners=False
    )
    brightness, contrast, colour = (
        t.view(n, 1, 1, 1).to(pixels.device)
        for t in (uniform(-0.2, 0.2), uniform(0.75, 1.25), uniform(0.6, 1.4))
    )
    grey = pixels.mean(dim=1, keepdim=True)
    pixels = grey + colour * (pixels - grey)
    return (contrast * pixels + brightness).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def logits_of(net: PictureNet, images: Tensor) -> Tensor:
    """Logits float32 [N, K] of pictures uint8 [N, S, S, 3], in evaluation mode, on the CPU."""
    net.eval()
    device = net.mean.device
    parts = [net.head(net.body(net.normalise(part.to(device)))) for part in images.split(256)]
    return torch.cat(parts).cpu()


def calibrate(net: PictureNet, images: Tensor, labels: Tensor) -> float:
    """Temperature scaling (Guo et al. 2017): fitted on held-out pictures, folded into the head.

    Returns:
        The temperature, between 1/2 and 2; above 1 where the net was too sure of itself.
    """
    logits = logits_of(net, images)
    temperatures = torch.logspace(-1, 1, 81, base=2.0)
    losses = [float(F.cross_entropy(logits / t, labels)) for t in temperatures]
    best = float(temperatures[int(np.argmin(losses))])
    with torch.no_grad():
        net.head.weight.div_(best)
        net.head.bias.div_(best)
    return round(best, 4)


def score(net: PictureNet, images: Tensor, labels: Tensor) -> tuple[float, float, float]:
    """Accuracy, negative log-likelihood and expected calibration error on labelled pictures."""
    logits = logits_of(net, images)
    confidence, guess = logits.softmax(dim=-1).max(dim=-1)
    right = (guess == labels).float()
    bins = (confidence * _CALIBRATION_BINS).long().clamp_max(_CALIBRATION_BINS - 1)
    gaps = torch.zeros(_CALIBRATION_BINS).index_add(0, bins, right - confidence)
    ece = float(gaps.abs().sum()) / len(labels)
    return float(right.mean()), float(F.cross_entropy(logits, labels)), ece


def save(net: PictureNet, out: str, training: dict[str, Any]) -> None:
    """Write a model folder; `config.json` comes last and makes it complete."""
    storage.remove(storage.join(out, "config.json"))
    weights = {name: t.detach().cpu().contiguous() for name, t in net.state_dict().items()}
    storage.write_bytes(storage.join(out, "model.safetensors"), safetensors.torch.save(weights))
    storage.write_bytes(storage.join(out, "README.md"), _card(net, training).encode())
    config = {
        "kind": TEACHER_KIND,
        "format_version": FORMAT_VERSION,
        "name": net.info.name,
        "arch": "convnet",
        "channels": net.body.channels,
        "size": net.info.size,
        "classes": net.info.classes,
        "training": training,
    }
    storage.write_json(storage.join(out, "config.json"), config)


def _finished(options: TeacherOptions, out: str) -> TrainedTeacher | None:
    """The result of an earlier run; None when there was none."""
    path = storage.join(out, "config.json")
    if not storage.exists(path):
        return None
    config = storage.read_json(path)
    if config.get("kind") != TEACHER_KIND:
        raise UserError(
            f"{out}: holds a model of kind {config.get('kind')!r}; choose another --out"
        )
    training = config["training"]
    wanted = asdict(options)
    if differs := [k for k, v in wanted.items() if training["options"].get(k) != v]:
        name = differs[0]
        raise UserError(
            f"{out}: was trained with --{name.replace('_', '-')} {training['options'].get(name)}, "
            f"not {wanted[name]}; give --overwrite to train it again, or another --out"
        )
    names = TrainedTeacher.__dataclass_fields__
    return TrainedTeacher(**{**{name: training[name] for name in names}, "path": out})


def _check_free(out: str) -> None:
    """Refuse to write among files that are not a teacher's."""
    ours = {"config.json", "model.safetensors", "README.md"}
    others = [n for n in storage.list_files(out) if n not in ours] + storage.list_folders(out)
    path = storage.join(out, "config.json")
    if not others and storage.exists(path) and storage.read_json(path).get("kind") != TEACHER_KIND:
        others = ["config.json"]
    if others:
        raise UserError(f"{out}: holds {others[0]}, which no teacher has; choose another --out")


def _card(net: PictureNet, training: dict[str, Any]) -> str:
    names = ", ".join(net.info.classes[:20]) + (", ..." if len(net.info.classes) > 20 else "")
    return f"""# Teacher: {net.info.name}

Tells {len(net.info.classes)} {training["what"]} apart in a picture of {net.info.size} x \
{net.info.size} pixels: {names}.

A convolutional net of {sum(p.numel() for p in net.parameters()):,} weights, trained on \
{training["num_train"]} labelled pictures of `{training["options"]["source"]}`. On \
{training["num_test"]} pictures held out: accuracy {training["accuracy"]:.1%}, negative \
log-likelihood {training["nll"]:.3f} nats, expected calibration error {training["ece"]:.3f}.

    from mmray.teachers import load_teacher
    teacher = load_teacher("mmray:this folder")
    probabilities = teacher(images)  # uint8 [N, S, S, 3] -> float32 [N, {len(net.info.classes)}]

It knows these classes only: of anything else it says the nearest of them.
"""
