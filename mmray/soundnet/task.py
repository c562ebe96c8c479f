"""Teaching a SoundNet what frozen nets see: the task that the shared training loop runs.

The loss is the KL divergence from the teachers' posterior to the student's at each frame, as in
Aytar et al. (2016), averaged over the frames of a clip and then over clips. The weights of the
two heads are open. In the published code each KL is divided by its number of classes, so that
scenes weigh 1000 / 401 = 2.49 times as much as objects by accident; `--scenes-weight 2.49`
gives that ratio.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmray.soundnet.augment import AugmentConfig
from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.folded import fold_trunk
from mmray.soundnet.model import ConvBlock, SoundNetModel, save_model
from mmray.soundnet.official import initial_model
from mmray.training import exact
from mmray.training.fused import conv_norm_relu_pool
from mmray.training.loader import Batch


class TrainedSoundNet(SoundNetModel):
    """A `SoundNetModel` that trains faster on a CPU, and in the same way on any number of workers.

    There the first convolution and its pooling are one step (`mmray.training.fused`), and sums
    over examples do not show their order (`mmray.training.exact`). Parameters and results are
    those of `SoundNetModel`. The biases before BatchNorms stay as they are: nothing depends on
    them, and Adam would have rounding errors push them about.
    """

    def __init__(self, config: SoundNetConfig) -> None:
        super().__init__(config)
        for block in self.trunk.values():
            if isinstance(block, ConvBlock) and block.conv.bias is not None:
                block.conv.bias.requires_grad_(False)

    def walk(
        self, wave: Tensor, last: str | None = None, trunk: nn.ModuleDict | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """As of `SoundNetModel`; on a CPU without the output of conv1."""
        as_asked = last is not None or trunk is not None
        if as_asked or wave.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            yield from super().walk(wave, last, trunk)
            return
        if not self.training:
            yield from super().walk(wave, trunk=fold_trunk(self))
            return
        x = wave.unsqueeze(1) * self.config.scale
        (_, conv1), (pool1_name, pool1), *rest = self.trunk.items()
        assert isinstance(conv1, ConvBlock)
        assert isinstance(pool1, nn.MaxPool1d)
        assert isinstance(pool1.kernel_size, int)
        x = conv_norm_relu_pool(x, conv1.conv, conv1.norm, pool1.kernel_size)
        yield pool1_name, x
        for name, module in rest:
            if isinstance(module, ConvBlock):
                y = exact.conv1d(x, module.conv, channels_last=module.conv.in_channels <= 32)
                x = F.relu(module.norm(y))
            else:
                x = module(x)
            yield name, x
        x = self.below_heads(x, wave.shape[-1])
        for name, head in self.heads.items():
            assert isinstance(head, nn.Conv1d)
            yield name, exact.conv1d(x, head)


@dataclass(frozen=True)
class SoundNetTask:
    """Distil teachers' posteriors into a SoundNet.

    Args:
        model: the student; its classes are the teachers'.
        augment: how sounds are varied, for the record.
        crop_s: seconds of the waves, for the record.
        init: where the first weights come from: `random`, `official:FILE` or a model folder.
        objects_weight: of the KL divergence of the object head.
        scenes_weight: of that of the scene head.
        sparse_heads: of the L1 norm of the weights that lead from one unit of the last shared layer
            to all classes, averaged over units. Units then speak for few classes each, and
            become detectors of them.
    """

    model: SoundNetConfig
    augment: AugmentConfig | None = None
    crop_s: float = 5.0
    init: str = "random"
    objects_weight: float = 1.0
    scenes_weight: float = 1.0
    sparse_heads: float = 0.0

    name = "soundnet"

    @property
    def leading(self) -> tuple[str, Literal["min", "max"]]:
        """The best checkpoint has the lowest loss on the split val."""
        return "loss", "min"

    def settings(self) -> dict[str, Any]:
        """All that the losses depend on, flat and as JSON."""
        augment = asdict(self.augment) if self.augment else {}
        augment = {k: list(v) if isinstance(v, tuple) else v for k, v in augment.items()}
        return {
            "arch": self.model.arch,
            "aligned": self.model.aligned,
            "head_kernel": self.model.head_kernel,
            "init": self.init,
            "crop_s": self.crop_s,
            "objects_weight": self.objects_weight,
            "scenes_weight": self.scenes_weight,
            "sparse_heads": self.sparse_heads,
            **{f"augment_{name}": value for name, value in augment.items()},
        }

    def build(self) -> TrainedSoundNet:
        """The student with its first weights."""
        source = initial_model(self.model, self.init)
        model = TrainedSoundNet(source.config)
        model.load_state_dict(source.state_dict())
        return model

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of both heads' KL divergences and their sparsity, and each of them."""
        logits = model(batch["wave"], batch["frame_times"], batch["window_s"])
        kls = {
            f"kl_{head}": _over_frames(kl(values, batch[head]), batch["weights"]).mean()
            for head, values in logits.items()
        }
        total = sum(self._weight(name.removeprefix("kl_")) * value for name, value in kls.items())
        assert isinstance(total, Tensor)
        if not self.sparse_heads:
            return total, kls
        net = getattr(model, "module", model)  # of several workers it is wrapped
        assert isinstance(net, SoundNetModel)
        l1 = _l1_of_units(net)
        return total + self.sparse_heads * l1, {**kls, "l1_heads": l1}

    def evaluate(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """For each clip the loss, each head's `kl_HEAD`, and `top1_HEAD`.

        `top1` is the share of frames where student and teacher have the same likeliest class.
        """
        logits = model(batch["wave"], batch["frame_times"], batch["window_s"])
        metrics: dict[str, Tensor] = {}
        losses = []
        for head, values in logits.items():
            divergence = _over_frames(kl(values, batch[head]), batch["weights"])
            same = (values.argmax(-1) == batch[head].argmax(-1)).float()
            metrics[f"kl_{head}"] = divergence
            metrics[f"top1_{head}"] = _over_frames(same, batch["weights"])
            losses.append(self._weight(head) * divergence)
        return {"loss": torch.stack(losses).sum(0), **metrics}

    def save(self, model: TrainedSoundNet, where: str, training: dict[str, Any]) -> None:
        """Write the model folder."""
        save_model(where, model, training)

    def pictures(self, model: TrainedSoundNet) -> dict[str, bytes]:
        """The filters of the first layer, as waveforms (figure 5 of the paper)."""
        import io

        from matplotlib.figure import Figure

        weights = model.state_dict()["trunk.conv1.conv.weight"][:, 0].cpu().numpy()
        figure = Figure(figsize=(8, 1.0 + len(weights) // 4), layout="constrained")
        axes = figure.subplots(-(-len(weights) // 4), 4, squeeze=False).flatten()
        for axis, weight in zip(axes, weights, strict=False):
            axis.plot(weight, linewidth=0.8)
            axis.axis("off")
        png = io.BytesIO()
        figure.savefig(png, format="png")
        return {"conv1.png": png.getvalue()}

    def _weight(self, head: str) -> float:
        return self.objects_weight if head == "objects" else self.scenes_weight


def _l1_of_units(model: SoundNetModel) -> Tensor:
    """The L1 norm of the heads' weights of one unit, averaged over units."""
    weights = [head.weight for head in model.heads.values() if isinstance(head, nn.Conv1d)]
    return torch.stack([weight.abs().sum() for weight in weights]).sum() / weights[0].shape[1]


def kl(logits: Tensor, posteriors: Tensor) -> Tensor:
    """KL divergence from a posterior to the student's softmax, in nats: [..., K] -> [...].

    Posteriors are normalised first: they are stored in half precision.
    """
    posteriors = posteriors.clamp_min(0)
    posteriors = posteriors / posteriors.sum(-1, keepdim=True).clamp_min(1e-8)
    divergence = torch.xlogy(posteriors, posteriors) - posteriors * F.log_softmax(
        logits.float(), dim=-1
    )
    return divergence.sum(-1)


def _over_frames(values: Tensor, weights: Tensor) -> Tensor:
    """Mean over a clip's frames that count: [B, T] -> [B].

    Each clip weighs the same however many of its frames are in the crop, so that the mean over
    workers is the mean over the global batch.
    """
    return (values * weights).sum(1) / weights.sum(1)
