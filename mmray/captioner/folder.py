"""The folder of a trained captioner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import safetensors.torch

from mmray import storage
from mmray.captioner.model import CaptionConfig, CaptionNet, build_net
from mmray.captioner.vocabulary import Words
from mmray.errors import UserError
from mmray.models import read_config_of
from mmray.pipeline.dataset import Dataset
from mmray.pipeline.images import backbone_of, grid_of
from mmray.teachers.stored import find_nets, keep_nets

KIND = "captioner"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Stored:
    """A trained captioner.

    Args:
        net: the decoder.
        words: its vocabulary.
        backbone: that made the features, as `describe_backbone` gives it.
        grid: rows and columns of the places that it sees; None where it sees pooled features.
    """

    net: CaptionNet
    words: Words
    backbone: dict[str, Any]
    grid: tuple[int, int] | None

    @property
    def column(self) -> str:
        """The column of an image dataset that it sees."""
        return "features" if self.grid is None else "grid"


def save(net: CaptionNet, words: Words, data: str, where: str, training: dict[str, Any]) -> None:
    """Write a model folder.

    Args:
        net: the trained decoder.
        words: its vocabulary.
        data: the image dataset it was trained on.
        where: the model folder.
        training: record of the training.
    """
    dataset = Dataset(data, "images")
    storage.remove(storage.join(where, "config.json"))  # written last: it makes the rest a model
    tensors = {k: t.detach().cpu().contiguous() for k, t in net.state_dict().items()}
    storage.write_bytes(storage.join(where, "model.safetensors"), safetensors.torch.save(tensors))
    vocabulary: dict[str, list[Any]] = {"words": list(words.words), "counts": list(words.counts)}
    if words.names:
        vocabulary["names"] = list(words.names)
    storage.write_json(storage.join(where, "words.json"), vocabulary)
    storage.write_bytes(storage.join(where, "README.md"), _card(net, words, training).encode())
    grid = grid_of(dataset) if net.config.places > 1 else None
    config = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "sizes": net.config.to_json(),
        "grid": list(grid[:2]) if grid else None,
        "words_sha256": words.sha256,
        "backbone": keep_nets(backbone_of(dataset), where),
        "training": training,
    }
    storage.write_json(storage.join(where, "config.json"), config)


def load(where: str) -> Stored:
    """Read a model folder.

    Raises:
        UserError: it is not one of a captioner, or its files do not belong together.
    """
    config = read_config_of(where, KIND, FORMAT_VERSION)
    try:
        record = storage.read_json(storage.join(where, "words.json"))
        words = Words(
            tuple(map(str, record["words"])),
            tuple(map(int, record["counts"])),
            tuple(map(str, record.get("names", []))),
        )
        sizes = CaptionConfig(**config["sizes"])
        trained = sizes.num_tokens + sizes.num_names
        if len(words) != trained or len(words.words) != len(words.counts):
            raise ValueError(
                f"words.json has {len(words)} words and names, the net was trained with {trained}"
            )
        if words.sha256 != config["words_sha256"]:
            raise ValueError("words.json is of another model")
        net = build_net(sizes)
        with storage.localized(storage.join(where, "model.safetensors")) as path:
            net.load_state_dict(safetensors.torch.load_file(path))
        grid = config["grid"]
        backbone = find_nets(config["backbone"], where)
        return Stored(net.eval(), words, backbone, (grid[0], grid[1]) if grid else None)
    except (
        *(KeyError, TypeError, ValueError, RuntimeError, FileNotFoundError),
        safetensors.SafetensorError,
    ) as e:
        raise UserError(f"{where}: its files do not belong together ({e})") from e


def _card(net: CaptionNet, words: Words, training: dict[str, Any]) -> str:
    metrics = ", ".join(f"{k} {v:.3f}" for k, v in training.get("val", {}).items())
    return f"""# Captioner

A decoder ({net.config.arch}) that writes sentences about pictures, with {len(words.words)} words.
On held-out pictures: {metrics or "not measured"}.

    import mmray
    captioner = mmray.load("this folder")
    captioner.captions([picture], beam=5)    # a path, bytes, or uint8 [height, width, 3]

It writes what people wrote of the training pictures, with their language, errors and prejudices,
and never that it does not know.
"""
