"""Stories about any number of pictures: any source in, a dataset of stories out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa

from mmray.errors import UserError
from mmray.models import absolute, load_predictor, read_config, resolve
from mmray.pipeline.asking import Pictures, answered, check_limit, load_in_worker, seen
from mmray.pipeline.images import Workers
from mmray.pipeline.job import Prepared
from mmray.pipeline.stages import failed
from mmray.storyteller.predict import Storyteller

STORY = pa.struct([("story", pa.string()), ("match", pa.float32()), ("log_odds", pa.float32())])
COLUMNS = ("id", "uri", "story", "stories", "captions")


@dataclass(frozen=True, kw_only=True)
class TellOptions:
    """What determines the stories; the flags of `jobs/predict.py stories`.

    Args:
        model: a storyteller that can look at pictures, as `mmray.load` takes it.
        input: where the pictures are, as `mmray.sources.images` reads it; or the folder of an
            image dataset, whose features (or grids) are used as they are.
        style: one of the model's.
        strength: 0 for plain description, 1 for the book.
        n: stories of each picture.
        captioner: in place of what the model looks at pictures with.
        seed: of what is drawn.
        limit: use only the first pictures.
    """

    model: str
    input: str
    style: str
    strength: float = 1.0
    n: int = 1
    captioner: str | None = None
    seed: int = 0
    limit: int | None = None


def tell_pictures(
    options: TellOptions,
    out: str,
    *,
    workers: Workers | None = None,
    max_error_ratio: float = 0.2,
    overwrite: bool = False,
) -> Prepared:
    """Ask a storyteller about every picture; the same call again goes on where it stopped.

    Writes a dataset of kind `stories`, one row a picture: `id, uri, story, stories, captions`; see
    `TellPictures` for their types.

    Args:
        options: what to ask, and of what.
        out: folder (or URI) of the stories.
        workers: how the work is spread.
        max_error_ratio: largest share of pictures that cannot be used, 0 to 1.
        overwrite: start afresh.

    Raises:
        UserError: bad options, no such model or input, features of another backbone than the
            model's, or `out` holds something else.
        JobFailed: more than `max_error_ratio` of the pictures are bad; what is done is kept.
    """
    workers = workers or Workers()
    workers.check()
    check_limit(options.limit)
    captioner = options.captioner and absolute(resolve(options.captioner))
    options = replace(options, model=absolute(options.model), captioner=captioner)
    if read_config(resolve(options.model)).get("kind") != "storyteller":
        raise UserError(
            f"{options.model}: tells no stories; expected a model that "
            "jobs/train_storyteller.py made"
        )
    teller: Storyteller = load_predictor(options.model, device="cpu", captioner=captioner)
    teller.check(options.style, options.strength, options.n)
    describer = teller.need_describer()
    pictures = Pictures(options.input, options.limit, describer.backbone, describer.column)
    if pictures.dataset is not None:
        describer.check(pictures.dataset)
    described, fingerprint = asdict(options), teller.fingerprint
    job = pictures.job(out, "stories", described, fingerprint, max_error_ratio=max_error_ratio)
    if (prepared := job.claim(overwrite)) is not None:
        return prepared
    ask = TellPictures(options, pictures.size)
    return pictures.answer(job, ask, COLUMNS, workers)


@dataclass
class TellPictures:
    """What a storyteller tells of each picture; pixels, features and grids are dropped.

    Args:
        options: what to ask.
        size: width and height of the pixels, where rows have pixels.
        device: as `mmray.load` takes it.
        threads: CPU threads of the nets.
    """

    options: TellOptions
    size: int = 0
    device: str = "auto"
    threads: int = 1

    def setup(self) -> None:
        """Load the model."""
        captioner = self.options.captioner
        self._teller: Storyteller = load_in_worker(
            self.options.model, self.device, self.threads, captioner=captioner
        )

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Replace `pixels`, `features` or `grid` by the stories.

        Adds `stories` list<struct<story string, match float, log_odds float>>, the best first, the
        best one as `story` string, and `captions` list<string>, what they are about. A picture of
        which the nets make no numbers fails.
        """
        options, describer = self.options, self._teller.need_describer()
        good = np.flatnonzero(~np.array(failed(rows), dtype=bool))
        places = seen(rows, good, describer.column, self.size, describer.see)
        right = np.isfinite(places).all(axis=tuple(range(1, places.ndim)))
        texts = describer.describe(places[right])
        told = self._teller.stories_of(
            texts, options.style, options.strength, options.n, seed=options.seed
        )
        stories: list[list[dict[str, object]] | None] = [None] * rows.num_rows
        captions: list[list[str] | None] = [None] * rows.num_rows
        for i, known, best in zip(good[right].tolist(), texts, told, strict=True):
            captions[i] = known
            stories[i] = [
                {"story": s.story, "match": s.match, "log_odds": s.log_odds} for s in best
            ]
        first = [best[0]["story"] if best else None for best in stories]
        columns = {
            "story": pa.array(first, pa.string()),
            "stories": pa.array(stories, pa.list_(STORY)),
            "captions": pa.array(captions, pa.list_(pa.string())),
        }
        return answered(rows, columns, good[~right].tolist())
