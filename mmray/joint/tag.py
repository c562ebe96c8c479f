"""Tagging any number of pictures: any source in, a dataset of answers out, and an index of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np

from mmray import storage
from mmray.cli import console
from mmray.errors import UserError
from mmray.joint.index import Index
from mmray.joint.predict import Tagger
from mmray.joint.tag_stages import TagPictures
from mmray.models import absolute, load_predictor
from mmray.pipeline.asking import Pictures, check_limit
from mmray.pipeline.dataset import Dataset, tensor
from mmray.pipeline.images import Workers
from mmray.pipeline.job import Prepared

INDEX = "index"
NUM_QUERIES = 200
"""Most queries of each kind that the index is tried with."""


@dataclass(frozen=True, kw_only=True)
class TagOptions:
    """What determines the answers; the flags of `jobs/predict.py tags`.

    Args:
        model: a joint model, as `mmray.load` takes it.
        input: where the pictures are, as `mmray.sources.images` reads it; or the folder of an
            image dataset, whose features are used as they are.
        top: how many of the likeliest tags to name.
        useless: also name tags that pictures do not tell (cameras, years, awards).
        limit: use only the first pictures.
    """

    model: str
    input: str
    top: int = 10
    useless: bool = False
    limit: int | None = None

    def check(self) -> None:
        """Raise a `UserError` that names the flag when a value cannot work."""
        if self.top < 1:
            raise UserError(f"--top {self.top}: expected 1 or more")
        check_limit(self.limit)


def tag_pictures(
    options: TagOptions,
    out: str,
    *,
    index: bool = False,
    workers: Workers | None = None,
    max_error_ratio: float = 0.2,
    overwrite: bool = False,
) -> Prepared:
    """Ask a joint model about every picture; the same call again goes on where it stopped.

    Writes a dataset of kind `tags`, one row a picture: `id, uri, tags, vector`; see `TagPictures`
    for their types.

    Args:
        options: what to ask, and of what.
        out: folder (or URI) of the answers.
        index: when they are complete, index the vectors in `out`/index, unless that is done.
        workers: how the work is spread.
        max_error_ratio: largest share of pictures that cannot be used, 0 to 1.
        overwrite: start afresh.

    Raises:
        UserError: bad options, no such model or input, features of another backbone than the
            model's, or `out` holds something else.
        JobFailed: more than `max_error_ratio` of the pictures are bad; what is done is kept.
    """
    workers = workers or Workers()
    options.check()
    workers.check()
    options = replace(options, model=absolute(options.model))
    tagger = load_predictor(options.model, device="cpu")
    if not isinstance(tagger, Tagger):
        raise UserError(
            f"{options.model}: is no model of tags; expected one that jobs/train_joint.py made"
        )
    pictures = Pictures(options.input, options.limit, tagger.scorer.backbone)
    if pictures.dataset is not None:
        from mmray.joint.evaluate import check_backbone

        check_backbone(tagger, pictures.dataset)
    job = pictures.job(
        *(out, "tags", asdict(options), tagger.fingerprint),
        max_error_ratio=max_error_ratio,
        derived=(INDEX,),
    )
    prepared = job.claim(overwrite)
    if prepared is None:
        ask = TagPictures(options.model, options.top, options.useless, pictures.size)
        prepared = pictures.answer(job, ask, ("id", "uri", "tags", "vector"), workers)
    if index:
        index_answers(tagger, job.out)
    return prepared


def index_answers(tagger: Tagger, out: str) -> None:
    """Index the vectors of finished answers in `out`/index; one that is there and fits is kept.

    Raises:
        UserError: there are no answers to index.
    """
    answers, where = Dataset(out, "tags"), storage.join(out, INDEX)
    if not answers.num_rows:
        raise UserError(f"{out}: has no rows to index; see its errors")
    try:
        found = Index.load(where, model=tagger.fingerprint)
    except UserError:
        found = None
    if found is None or len(found) != answers.num_rows:
        found = Index.build(
            (tensor(table["vector"]) for table in answers.batches(["vector"], 4096)),
            answers.read(["id"])["id"],
            queries=likely_queries(tagger, answers),
            model=tagger.fingerprint,
        )
        found.save(where)
    info = found.info
    how = f"recall@10 {info.recall:.3f}" if info.num_queries else "exact"
    console.print(f"{where}: {len(found)} pictures, {how}")


def likely_queries(tagger: Tagger, answers: Dataset) -> np.ndarray:
    """What people may ask, as `Tagger.combine` makes it: float32 [Q, d].

    Tags, pictures, and each of the pictures plus a tag, minus another.
    """
    words = tagger.vocabulary.tags
    words = words[:: -(-len(words) // NUM_QUERIES)]
    pictures = [vector[None] for vector in _some_vectors(answers)]
    queries = [tagger.combine(None, [word], []) for word in words]
    queries += [tagger.combine(picture, [], []) for picture in pictures]
    for i, picture in enumerate(pictures):
        j = i % len(words)
        queries.append(tagger.combine(picture, [words[j]], [words[-1 - j]]))
    vectors = np.stack(queries)
    # A picture like the mean of all points nowhere.
    return vectors[np.linalg.norm(vectors, axis=1) > 0.5]


def _some_vectors(answers: Dataset) -> np.ndarray:
    """Up to `NUM_QUERIES` of the pictures' vectors, from all over the dataset: [n, d]."""
    groups = answers.row_groups()
    groups = groups[:: -(-len(groups) // NUM_QUERIES)]
    each = -(-NUM_QUERIES // len(groups))
    parts = []
    for group in groups:
        vectors = tensor(answers.read_row_group(group, ["vector"])["vector"])
        parts.append(vectors[:: -(-len(vectors) // each)])
    return np.concatenate(parts)[:NUM_QUERIES].astype(np.float32)
