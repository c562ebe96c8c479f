"""The folder of a trained storyteller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch

from mmray import storage
from mmray.errors import UserError
from mmray.models import read_config_of
from mmray.storyteller.describers import copy_folder
from mmray.storyteller.model import StoryConfig, StoryNet
from mmray.storyteller.passages import PLAIN
from mmray.storyteller.pieces import Pieces
from mmray.storyteller.styles import Style

KIND = "storyteller"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class Stored:
    """A trained storyteller.

    Args:
        net: encoder and decoder.
        pieces: its vocabulary.
        styles: by name; captions are `PLAIN`.
        describer: kind and folder of what finds sentences about pictures; None of none.
    """

    net: StoryNet
    pieces: Pieces
    styles: dict[str, Style]
    describer: tuple[str, str] | None


def save(
    net: StoryNet,
    pieces: Pieces,
    styles: Mapping[str, Style],
    where: str,
    training: dict[str, Any],
    describer: tuple[str, str] | None = None,
) -> None:
    """Write a model folder; styles that were added to the same net there are kept.

    Args:
        net: trained.
        pieces: its vocabulary.
        styles: by name.
        where: the model folder.
        training: record of the training.
        describer: kind and folder of a describer to keep inside.
    """
    same = _same(where, net, pieces)
    if same is None:  # written last, the configuration makes the rest a model
        storage.remove(storage.join(where, "config.json"))
    styles = {**(same.styles if same else {}), **styles}
    tensors = {k: t.detach().cpu().contiguous() for k, t in net.state_dict().items()}
    storage.write_bytes(storage.join(where, "model.safetensors"), safetensors.torch.save(tensors))
    storage.write_bytes(storage.join(where, "pieces.model"), pieces.model)
    storage.write_bytes(storage.join(where, "README.md"), _card(styles, training).encode())
    if describer is not None:
        copy_folder(describer[1], storage.join(where, describer[0]))
    config = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "sizes": net.config.to_json(),
        "describer": describer and describer[0],
        "training": training,
    }
    write_styles(where, styles)
    storage.write_json(storage.join(where, "config.json"), config)


def _same(where: str, net: StoryNet, pieces: Pieces) -> Stored | None:
    """The model at `where`, if it has the same net: a finished training that is started again."""
    if not storage.exists(storage.join(where, "config.json")):
        return None
    try:
        old = load(where)
    except UserError:  # it is about to be replaced
        return None
    weights = old.net.state_dict()
    same = old.pieces.model == pieces.model and all(
        name in weights and torch.equal(weights[name], tensor.cpu())
        for name, tensor in net.state_dict().items()
    )
    return old if same else None


def write_styles(where: str, styles: Mapping[str, Style]) -> None:
    """Write a model's styles, in place of those it has."""
    known = {
        f"{name}.{key}": np.asarray(value)
        for name, s in styles.items()
        for key, value in (
            ("vector", s.vector),
            ("preference", s.preference),
            ("passages", np.int64(s.passages)),
        )
    }
    data = safetensors.numpy.save(
        {k: np.ascontiguousarray(v).reshape(-1) for k, v in known.items()}
    )
    words = {name: sorted(style.words) for name, style in styles.items()}
    storage.write_json(storage.join(where, "words.json"), words)
    storage.write_bytes(storage.join(where, "styles.safetensors"), data)


def load(where: str) -> Stored:
    """Read a model folder.

    Raises:
        UserError: it is not one of a storyteller, or its files do not belong together.
    """
    config = read_config_of(where, KIND, FORMAT_VERSION)
    try:
        sizes = StoryConfig(**config["sizes"])
        net = StoryNet(sizes)
        with storage.localized(storage.join(where, "model.safetensors")) as path:
            net.load_state_dict(safetensors.torch.load_file(path))
        with storage.open_file(storage.join(where, "pieces.model")) as f:
            pieces = Pieces(f.read())
        if len(pieces) != sizes.num_pieces:
            raise ValueError(f"{len(pieces)} pieces, the net was trained with {sizes.num_pieces}")
        with storage.open_file(storage.join(where, "styles.safetensors")) as f:
            words = storage.read_json(storage.join(where, "words.json"))
            styles = _styles(safetensors.numpy.load(f.read()), words, sizes)
        kind = config["describer"]
        describer = (kind, storage.join(where, kind)) if kind else None
        return Stored(net.eval(), pieces, styles, describer)
    except (
        *(KeyError, TypeError, ValueError, RuntimeError, FileNotFoundError),
        safetensors.SafetensorError,
    ) as e:
        raise UserError(f"{where}: its files do not belong together ({e})") from e


def _styles(
    tensors: dict[str, np.ndarray], words: dict[str, list[str]], sizes: StoryConfig
) -> dict[str, Style]:
    names = [name.removesuffix(".vector") for name in tensors if name.endswith(".vector")]
    styles = {}
    for name in sorted(names, key=lambda n: (n != PLAIN, n)):
        vector, preference = tensors[f"{name}.vector"], tensors[f"{name}.preference"]
        if vector.shape != (sizes.dim,) or preference.shape != (sizes.num_pieces,):
            raise ValueError(f"the style {name!r} is of another model")
        number = int(tensors[f"{name}.passages"][0])
        styles[name] = Style(name, vector, preference, frozenset(words[name]), number)
    if PLAIN not in styles:
        raise ValueError(f"styles.safetensors lacks the style {PLAIN!r}")
    return styles


def _card(styles: Mapping[str, Style], training: dict[str, Any]) -> str:
    metrics = ", ".join(f"{k} {v:.3f}" for k, v in training.get("val", {}).items())
    return f"""# Storyteller

Writes passages about pictures in the styles {", ".join(n for n in styles if n != PLAIN)}.
On held-out passages: {metrics or "not measured"}.

    import mmray
    storyteller = mmray.load("this folder")
    storyteller.stories([picture], style="{next((n for n in styles if n != PLAIN), PLAIN)}")

It writes what its books and captions have, with their language, errors and prejudices. What it
writes did not happen.
"""
