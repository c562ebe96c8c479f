"""From an image dataset and a few choices to the training jobs of a joint model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import scipy.sparse

from mmray import storage
from mmray.cli import console
from mmray.joint.config import JointOptions
from mmray.joint.data import JointExamples
from mmray.joint.dbm import DbmConfig
from mmray.joint.finetune import finetuned
from mmray.joint.historic import DbmTask
from mmray.joint.model import JointConfig
from mmray.joint.pretrain import PicturePretraining, TagPretraining, first_embeddings
from mmray.joint.task import JointTask
from mmray.joint.vocabulary import Vocabulary, build_vocabulary
from mmray.pipeline.dataset import Dataset
from mmray.pipeline.images import backbone_of
from mmray.pipeline.statistics import Statistics, feature_statistics
from mmray.training.config import TrainConfig
from mmray.training.train import Job, Trained, train

EMBEDDING_ROWS = 500_000
PRETRAINING_LR = 1e-3


@dataclass(frozen=True)
class JointTraining:
    """The jobs of one joint model: its backbone where asked for, each tower alone, then all of it.

    Args:
        options: the choices.
        config: how the joint net is trained.
        data: folder (or URI) of the image dataset.
        out: folder (or URI) that the jobs write.
        limit: use only the first rows of each split.
    """

    options: JointOptions
    config: TrainConfig
    data: str
    out: str
    limit: int | None = None

    def run(self, *, overwrite: bool = False) -> Trained:
        """Train, or go on where an earlier run stopped.

        Raises:
            UserError: the dataset, the options or what is in `out` do not allow it.
            mmray.cli.JobFailed: workers died too often.
        """
        self.options.check()
        self.config.check()
        if self.options.backbone_init is not None:
            return self._finetuned(overwrite).run(overwrite=overwrite)
        dataset = Dataset(self.data, "images")
        vocabulary = build_vocabulary(
            dataset,
            min_count=self.options.min_count,
            max_tags=self.options.max_tags,
            limit=self.limit,
        )
        statistics = feature_statistics(dataset, self.limit)
        sizes = JointConfig(
            feature_dim=int(backbone_of(dataset)["dim"]),
            num_tags=len(vocabulary),
            hidden=self.options.hidden,
            dim=self.options.dim,
            dropout=self.options.dropout,
        )
        if self.options.arch == "dbm":
            return train(self._historic(vocabulary, statistics, sizes), overwrite=overwrite)
        towers = {}
        if self.options.pretrain_epochs > 0:
            for name, job in self._pretraining(dataset, vocabulary, statistics, sizes).items():
                console.print(f"first the {name} alone")
                towers[name] = train(job, overwrite=overwrite).path
            console.print("now both together")
        return train(self._joint(vocabulary, statistics, sizes, towers), overwrite=overwrite)

    def _finetuned(self, overwrite: bool) -> JointTraining:
        """The same training on features of a backbone that is trained first."""
        data = finetuned(
            self.options, self.config, self.data, self.out, self.limit, overwrite=overwrite
        )
        options = dataclasses.replace(self.options, backbone_init=None, freeze_transferred=False)
        return dataclasses.replace(self, options=options, data=data)

    def _pretraining(
        self, dataset: Dataset, vocabulary: Vocabulary, statistics: Statistics, sizes: JointConfig
    ) -> dict[str, Job]:
        embeddings = first_embeddings(_tag_sets(dataset, vocabulary, self.limit), sizes.dim)
        tasks: dict[str, PicturePretraining | TagPretraining] = {
            "pictures": PicturePretraining(sizes, statistics),
            "tags": TagPretraining(sizes, vocabulary, embeddings),
        }
        config = dataclasses.replace(
            self.config,
            steps=None,
            epochs=self.options.pretrain_epochs,
            lr=PRETRAINING_LR,
            schedule="cosine",
        )
        return {
            name: self._job(task, vocabulary, sizes, f"{name}_alone", config)
            for name, task in tasks.items()
        }

    def _historic(self, vocabulary: Vocabulary, statistics: Statistics, sizes: JointConfig) -> Job:
        config = DbmConfig(
            feature_dim=sizes.feature_dim,
            num_tags=sizes.num_tags,
            picture_hidden=sizes.hidden,
            text_hidden=sizes.hidden,
            joint_hidden=2 * sizes.hidden,
        )
        data = storage.absolute(self.data)
        task = DbmTask(config, vocabulary, statistics, data)
        return self._job(task, vocabulary, sizes, "", self.config)

    def _joint(
        self,
        vocabulary: Vocabulary,
        statistics: Statistics,
        sizes: JointConfig,
        towers: dict[str, str],
    ) -> Job:
        options = self.options
        task = JointTask(
            sizes,
            vocabulary,
            statistics,
            options.weights,
            towers,
            storage.absolute(self.data),
            options.mixup,
        )
        return self._job(task, vocabulary, sizes, "", self.config)

    def _job(
        self,
        task: JointTask | DbmTask | PicturePretraining | TagPretraining,
        vocabulary: Vocabulary,
        sizes: JointConfig,
        folder: str,
        config: TrainConfig,
    ) -> Job:
        out = storage.join(self.out, folder) if folder else self.out
        mixup = self.options.mixup if isinstance(task, JointTask) else 0.0
        examples = JointExamples(vocabulary, sizes.noise, mixup)
        held_out = JointExamples(vocabulary)
        return Job(task, examples, held_out, self.data, "images", out, config, self.limit)


def _tag_sets(
    dataset: Dataset, vocabulary: Vocabulary, limit: int | None
) -> scipy.sparse.csr_matrix:
    """The training pictures' tag sets, as a sparse table [N, V]; of the first half million."""
    rows, columns, count = [], [], 0
    for table in dataset.batches(["tags"], 4096, split="train", limit=limit or EMBEDDING_ROWS):
        for tags in table["tags"].to_pylist():
            known = vocabulary.known(tags or [])
            rows += [count] * len(known)
            columns += known
            count += 1
    ones = np.ones(len(rows))
    return scipy.sparse.csr_matrix((ones, (rows, columns)), (count, len(vocabulary)))
