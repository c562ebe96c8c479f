"""Captioning any number of pictures: any source in, a dataset of sentences out."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa

from mmray import storage
from mmray.captioner.data import as_places
from mmray.captioner.predict import Captioner
from mmray.cli import console
from mmray.errors import UserError
from mmray.models import absolute, load_predictor
from mmray.pipeline.asking import Pictures, answered, check_limit, load_in_worker, seen
from mmray.pipeline.dataset import Dataset
from mmray.pipeline.images import Workers
from mmray.pipeline.job import Prepared
from mmray.pipeline.stages import failed

CAPTION = pa.struct([("caption", pa.string()), ("log_probability", pa.float32())])
COLUMNS = ("id", "uri", "caption", "log_probability", "captions")

# COCO names its pictures by their numbers: COCO_val2014_000000391895.jpg, 000000391895.jpg.
_NUMBERED = re.compile(r"(?:COCO_[a-z]+\d{4}_)?(\d{12})\.jpg", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """What determines the captions; the flags of `jobs/predict.py captions`.

    Args:
        model: a captioner, as `mmray.load` takes it.
        input: where the pictures are, as `mmray.sources.images` reads it; or the folder of an
            image dataset, whose features (or grids) are used as they are.
        beam: hypotheses that are followed.
        n: sentences of each picture.
        length_penalty: of Wu et al. (2016); 0 prefers short sentences.
        limit: use only the first pictures.
    """

    model: str
    input: str
    beam: int = 5
    n: int = 1
    length_penalty: float = 0.7
    limit: int | None = None

    def check(self) -> None:
        """Raise a `UserError` that names the flag when a value cannot work."""
        if self.beam < 1:
            raise UserError(f"--beam {self.beam}: expected 1 or more")
        if not 1 <= self.n <= self.beam:
            raise UserError(f"--n {self.n}: expected 1 to --beam {self.beam}")
        if not abs(self.length_penalty) <= 10:  # nor NaN
            raise UserError(f"--length-penalty {self.length_penalty:g}: expected -10 to 10")
        check_limit(self.limit)


def caption_pictures(
    options: WriteOptions,
    out: str,
    *,
    json_file: str | None = None,
    workers: Workers | None = None,
    max_error_ratio: float = 0.2,
    overwrite: bool = False,
) -> Prepared:
    """Ask a captioner about every picture; the same call again goes on where it stopped.

    Writes a dataset of kind `captions`, one row a picture: `id, uri, caption, log_probability,
    captions`; see `CaptionPictures` for their types.

    Args:
        options: what to ask, and of what.
        out: folder (or URI) of the captions.
        json_file: when they are complete, write the best ones here too; see `write_results`.
        workers: how the work is spread.
        max_error_ratio: largest share of pictures that cannot be used, 0 to 1.
        overwrite: start afresh.

    Raises:
        UserError: bad options, no such model or input, features of another backbone than the
            model's, pooled features for a model that looks at places, or `out` holds something
            else.
        JobFailed: more than `max_error_ratio` of the pictures are bad; what is done is kept.
    """
    workers = workers or Workers()
    options.check()
    workers.check()
    options = replace(options, model=absolute(options.model))
    captioner = load_predictor(options.model, device="cpu")
    if not isinstance(captioner, Captioner):
        raise UserError(
            f"{options.model}: is no model of captions; expected one that jobs/train_captioner.py "
            "made"
        )
    pictures = Pictures(
        options.input, options.limit, captioner.stored.backbone, captioner.stored.column
    )
    if pictures.dataset is not None:
        from mmray.captioner.evaluate import check_backbone

        check_backbone("--model", captioner, pictures.dataset)
    job = pictures.job(
        *(out, "captions", asdict(options), captioner.fingerprint),
        max_error_ratio=max_error_ratio,
    )
    prepared = job.claim(overwrite)
    if prepared is None:
        ask = CaptionPictures(
            *(options.model, options.beam, options.n, options.length_penalty, pictures.size)
        )
        prepared = pictures.answer(job, ask, COLUMNS, workers)
    if json_file:
        write_results(Dataset(job.out, "captions"), json_file)
    return prepared


@dataclass
class CaptionPictures:
    """What a captioner writes about each picture; pixels, features and grids are dropped.

    Args:
        model: anything that `mmray.load` takes.
        beam: hypotheses that are followed.
        n: sentences of each picture.
        length_penalty: of the beam.
        size: width and height of the pixels, where rows have pixels.
        device: as `mmray.load` takes it.
        threads: CPU threads of the nets.
    """

    model: str
    beam: int = 5
    n: int = 1
    length_penalty: float = 0.7
    size: int = 0
    device: str = "auto"
    threads: int = 1

    def setup(self) -> None:
        """Load the model."""
        self._captioner: Captioner = load_in_worker(self.model, self.device, self.threads)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Replace `pixels`, `features` or `grid` by the captions.

        Adds `captions` list<struct<caption string, log_probability float>>, the best first, and
        of the best one `caption` string and `log_probability` float. A picture of which the nets
        make no numbers fails.
        """
        good = np.flatnonzero(~np.array(failed(rows), dtype=bool))
        column = self._captioner.stored.column
        places = as_places(seen(rows, good, column, self.size, self._captioner.see))
        right = np.isfinite(places).all(axis=(1, 2))
        found = self._captioner.captions_of(
            places[right], self.beam, self.n, length_penalty=self.length_penalty
        )
        captions: list[list[dict[str, object]] | None] = [None] * rows.num_rows
        for i, told in zip(good[right].tolist(), found, strict=True):
            captions[i] = [
                {"caption": c.caption, "log_probability": c.log_probability} for c in told
            ]
        best = [told[0] if told else {} for told in captions]
        columns = {
            "caption": pa.array([b.get("caption") for b in best], pa.string()),
            "log_probability": pa.array([b.get("log_probability") for b in best], pa.float32()),
            "captions": pa.array(captions, pa.list_(CAPTION)),
        }
        return answered(rows, columns, good[~right].tolist())


def write_results(captions: Dataset, file: str) -> None:
    """The best captions in COCO's format of results, `[{"image_id": ..., "caption": ...}, ...]`.

    Pictures that are called as COCO calls them have its numbers, others the ids of the dataset.
    """
    with storage.atomic_path(file) as path, path.open("w", encoding="utf-8") as f:
        separator = "["
        for table in captions.batches(["id", "uri", "caption"], 4096):
            for row in table.to_pylist():
                match = _NUMBERED.fullmatch(row["uri"].rsplit("/", 1)[-1])
                number = int(match[1]) if match else row["id"]
                f.write(f"{separator}\n")
                f.write(json.dumps({"image_id": number, "caption": row["caption"]}))
                separator = ","
        f.write("\n]\n" if separator == "," else "[]\n")
    console.print(f"{file}: {captions.num_rows} captions")
