"""What tests of captioning files share: a captioner with random weights."""

from __future__ import annotations

from pathlib import Path

import torch

from mmray.captioner import folder
from mmray.captioner.decode import END
from mmray.captioner.model import Arch, CaptionConfig, build_net
from mmray.captioner.vocabulary import Words
from mmray.pipeline.dataset import Dataset
from mmray.pipeline.images import backbone_of, grid_of
from mmray.pipeline.statistics import feature_statistics

WORDS = Words.of(["a red ball on the grass", "a blue box in the room", "two cats under a tree"])


def write_captioner(where: Path, data: str, arch: Arch = "transformer") -> str:
    """A captioner that sees what an image dataset has, grids if it has them; but for an LSTM.

    Random weights say the same of everything; these are made to heed the picture.
    """
    dataset = Dataset(data, "images")
    grid = None if arch == "lstm" else grid_of(dataset)
    dim = grid[2] if grid else backbone_of(dataset)["dim"]
    places = grid[0] * grid[1] if grid else 1
    torch.manual_seed(0)
    net = build_net(CaptionConfig(arch, dim, places, len(WORDS), 8, 32, 2, 2, 0.0))
    known = feature_statistics(dataset, None, "grid" if grid else "features")
    mean, std = torch.from_numpy(known.mean), torch.from_numpy(known.std)
    net.set_statistics(mean, std, torch.ones(len(WORDS)))
    with torch.no_grad():
        net.bias[END] -= 2
        for name, weight in net.named_parameters():
            if weight.dim() > 1 and any(x in name for x in ("picture", "position", "project")):
                weight *= 4
    folder.save(net, WORDS, data, str(where), {})
    return str(where)
