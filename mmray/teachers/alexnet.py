"""AlexNet's layout as the body of a net of our own, and layers from a net that is trained already.

Krizhevsky, Sutskever and Hinton, *ImageNet Classification with Deep Convolutional Neural Networks*
(NIPS 2012), in the layout of torchvision: five convolutional layers, then a fully connected part.
How far such layers serve other tasks: Yosinski, Clune, Bengio and Lipson, *How transferable are
features in deep neural networks?* (NIPS 2014).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmray.teachers import checkpoints

HIDDEN = 1024
"""A quarter of the 4096 of 2012: those were for 1.2 million pictures."""
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of each colour of ImageNet's pictures, in pixel values, as all nets of torchvision take them."""
"""Below, in pixels, nothing is left of a picture after five layers."""


class AlexNetBody(nn.Module):
    """AlexNet with one fully connected layer, all of random weights (He et al., ICCV 2015).

    float32 [N, 3, S, S] -> [N, hidden]; S is 64 or more. There is no dropout inside.
    """

    def __init__(self, size: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.features = _features()
        with torch.no_grad():
            channels, height, width = self.features(torch.zeros(1, 3, size, size)).shape[1:]
        self.layer = nn.Linear(channels * height * width, hidden)
        layers: list[nn.Conv2d | nn.Linear] = [*self.convolutions, self.layer]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    @property
    def convolutions(self) -> list[nn.Conv2d]:
        """The five convolutional layers, the first first."""
        return [layer for layer in self.features if isinstance(layer, nn.Conv2d)]

    def forward(self, x: Tensor) -> Tensor:
        """Pixels, normalised, to features."""
        return self.layer(self.features(x).flatten(1)).relu()


def transfer(body: AlexNetBody, spec: str, layers: int) -> None:
    """Copy the first convolutional layers of a trained net into a body; the rest stays.

    Args:
        body: takes the layers.
        spec: `torchvision:alexnet=FILE`, a PyTorch checkpoint of a net in AlexNet's layout with
            any classes; or `torchvision:alexnet`, torchvision's own, downloaded once.
        layers: how many, 0 to 5.

    Raises:
        UserError: the file is missing, or is one of a net of another layout.
    """
    from mmray.teachers.nets import download_torchvision

    weights = spec.partition("=")[2] or str(download_torchvision("alexnet"))
    state, _ = checkpoints.read_checkpoint(weights)
    donor = nn.ModuleDict({"features": _features()})
    ours = {name: tensor for name, tensor in state.items() if name.startswith("features.")}
    checkpoints.fill(donor, ours, weights, "a net in AlexNet's layout (torchvision:alexnet)")
    trained = [layer for layer in donor.modules() if isinstance(layer, nn.Conv2d)]
    for theirs, layer in list(zip(trained, body.convolutions, strict=True))[:layers]:
        layer.load_state_dict(theirs.state_dict())


def _features() -> nn.Sequential:
    """torchvision's five convolutional layers with what is between them; weights unset."""
    from torchvision import models

    with torch.device("meta"):  # the whole net is 61 million weights
        features = models.alexnet().features
    return features.to_empty(device="cpu")
