"""What pictures without tags are worth: the joint model with them, and without them.

    python benchmarks/untagged.py
    python benchmarks/untagged.py --data runs/pictures --tagged 0.2

Takes the tags off most training pictures. One model learns from all pictures, tagged or not; the
other never sees those without tags. Prints how well each names the tags of held-out pictures from
the picture alone, for several draws of which pictures keep their tags.
"""

from __future__ import annotations

import argparse
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

import mmray
from mmray import storage
from mmray.joint import metrics
from mmray.joint.config import JointOptions
from mmray.joint.evaluate import read_splits
from mmray.joint.train import JointTraining
from mmray.pipeline.dataset import PART, Dataset, read_table, write_table
from mmray.pipeline.images import ROW_GROUP, toy_images
from mmray.training.config import TrainConfig

console = Console()


def thinned(dataset: Dataset, out: Path, tagged: float, keep_untagged: bool, draw: int) -> str:
    """A copy of a dataset in which a share of the training pictures keeps its tags."""
    rows = 0
    for number, path in enumerate(dataset.shards):
        table = read_table(path)
        train = np.array(table["split"].to_pylist()) == "train"
        chance = np.array([zlib.crc32(f"{draw}{i}".encode()) for i in table["id"].to_pylist()])
        bare = train & (chance / 2**32 >= tagged)
        tags = [[] if b else t for b, t in zip(bare, table["tags"].to_pylist(), strict=True)]
        column = table.schema.get_field_index("tags")
        table = table.set_column(column, "tags", pa.array(tags, pa.list_(pa.string())))
        if not keep_untagged:
            has = np.array([bool(t) for t in tags])
            table = table.filter(pa.array(~train | has))
        write_table(str(out / PART.format(number)), table, ROW_GROUP)
        rows += table.num_rows
    counts = {**dataset.manifest["counts"], "rows": rows}
    storage.write_json(out / "manifest.json", {**dataset.manifest, "counts": counts})
    return str(out)


def score(data: str, truth: Dataset, out: Path, steps: int, min_count: int) -> tuple[float, float]:
    """MAP over tags and over pictures on the split test."""
    config = TrainConfig(
        steps=steps, batch_size=128, lr=1e-3, warmup=20, schedule="cosine", weight_decay=0.02
    )
    trained = JointTraining(JointOptions(min_count=min_count), config, data, str(out)).run()
    tagger = mmray.load(trained.path)
    test = read_splits(tagger, truth, "test", None, min_count).tag_data("test")
    scores = tagger.scorer.probabilities(test.features)
    return metrics.map_tags(scores, test.tags), metrics.map_images(scores, test.tags)


def main() -> None:
    """Train both, several times, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="image dataset (default: the toy world's)")
    parser.add_argument("--tagged", type=float, default=0.2)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--min-count", type=int, default=5)
    args = parser.parse_args()
    mmray.init(local_mode=True)
    dataset = Dataset(args.data or toy_images(), "images")
    table = Table("draw", "with untagged pictures", "without", title="MAP tags / MAP pictures")
    with tempfile.TemporaryDirectory() as folder:
        for draw in range(args.draws):
            cells = []
            for keep in (True, False):
                base = Path(folder, f"{draw}{keep}")
                data = thinned(dataset, base / "data", args.tagged, keep, draw)
                found = score(data, dataset, base / "model", args.steps, args.min_count)
                cells.append("{:.3f} / {:.3f}".format(*found))
            table.add_row(str(draw), *cells)
    console.print(table)


if __name__ == "__main__":
    main()
