"""Pictures with the captions that were written of them, as one picture."""

from __future__ import annotations

import contextlib
import io
import textwrap

import numpy as np
import pyarrow as pa
import torch

from mmray.captioner.data import places_of
from mmray.captioner.decode import beam
from mmray.captioner.model import CaptionNet
from mmray.captioner.vocabulary import Words
from mmray.errors import MediaError
from mmray.media.image import decode_image
from mmray.pipeline.dataset import Dataset, tensor

SHOWN = 12


def gallery(net: CaptionNet, words: Words, data: str) -> bytes:
    """The first held-out pictures, what is written of them, and what people wrote: a PNG file."""
    from matplotlib.figure import Figure

    column = "grid" if net.config.places > 1 else "features"
    dataset = Dataset(data, "images")
    split = "val" if next(dataset.batches(["id"], 1, split="val"), None) is not None else "train"
    columns = ["thumbnail", "captions", column]
    table = pa.concat_tables(dataset.batches(columns, 64, split=split, limit=SHOWN))
    rows = [{column: value} for value in tensor(table[column])]
    picture = torch.from_numpy(places_of(rows, column)).to(next(net.parameters()).device)
    written = beam(net, picture, net.config.max_length, 5, length_penalty=0.7).tokens[:, 0]
    figure = Figure(figsize=(12, 10), layout="constrained")
    axes = np.ravel(figure.subplots(3, 4))
    for axis in axes:
        axis.axis("off")
    parts = zip(axes, table["thumbnail"], table["captions"].to_pylist(), written, strict=False)
    for axis, thumbnail, captions, tokens in parts:
        with contextlib.suppress(MediaError):  # a picture less is no reason to lose a training
            axis.imshow(decode_image(thumbnail.as_py()))
        ours = textwrap.fill(" ".join(words.decode(tokens.tolist())), 36)
        theirs = textwrap.fill(captions[0] if captions else "", 40)
        axis.set_title(f"{ours}\n({theirs})", fontsize=8, parse_math=False)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=80)
    return png.getvalue()
