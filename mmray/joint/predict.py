"""What users call: tags for pictures, pictures for tags, and arithmetic with both.

tagger = mmray.load("runs/train_joint/model", index="runs/predict_tags/index")
tagger.tags([picture], k=5)[0]                       # [("beach", .93), ("dog", .81), ...]
tagger.tags([picture], given=[["playa"]])            # what else, since somebody wrote playa
tagger.search(images=[picture], plus=["box"], minus=["bowl"], k=10)
tagger.neighbours("dog"), tagger.analogy("red", "rojo", "blue")
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmray.errors import UserError
from mmray.joint import finish
from mmray.joint.index import Index
from mmray.joint.scorer import Scorer
from mmray.joint.vocabulary import Vocabulary, presence
from mmray.media.picture import Image, read_pictures
from mmray.models import choose_device
from mmray.teachers.backbone import Backbone
from mmray.teachers.stored import load_backbone

TAG_WEIGHT = 0.75
"""Weight of a tag beside the weight 1 of a picture, in sums of both (chosen on val)."""


class Tagger:
    """A trained joint model, ready to use.

    Args:
        scorer: the model on features.
        device: `auto` (GPU where there is one), `cpu`, `cuda` or `cuda:N`.
        index: of the pictures to search; see `jobs/predict.py tags --index`.
        threads: CPU threads of the backbone.
    """

    def __init__(
        self, scorer: Scorer, device: str = "auto", index: Index | None = None, threads: int = 1
    ) -> None:
        self.scorer = scorer
        self.index = index
        chosen = choose_device(device)
        scorer.model.to(chosen)
        self.device, self._threads = str(chosen), threads
        self._nets: Backbone | None = None

    @classmethod
    def load(
        cls, where: str, device: str = "auto", index: str | None = None, threads: int = 1
    ) -> Tagger:
        """Load a model folder, and an index to search in.

        Raises:
            UserError: nothing usable is there, or the index was made by another model.
        """
        scorer = finish.load(where)
        tagger = cls(scorer, device, None, threads)
        if index is not None:
            tagger.index = Index.load(index)
            if tagger.index.info.model != tagger.fingerprint:
                raise UserError(
                    f"{index}: was made by another model than {where}; make it again with "
                    "`python jobs/predict.py tags --index`"
                )
        return tagger

    @property
    def vocabulary(self) -> Vocabulary:
        """The tags that the model knows."""
        return self.scorer.vocabulary

    @property
    def fingerprint(self) -> str:
        """Hash of the weights: indexes and features of other models do not fit."""
        return self.scorer.fingerprint

    @property
    def backbone(self) -> Backbone:
        """The frozen nets that see the pictures, loaded when they are first wanted."""
        if self._nets is None:
            self._nets = load_backbone(self.scorer.backbone, self.device, self._threads)
        return self._nets

    def features(self, images: Sequence[Image]) -> np.ndarray:
        """The backbone's features of pictures, float32 [N, D].

        Raises:
            MediaError: a picture cannot be decoded.
            UserError: something is no picture.
        """
        return self.backbone(read_pictures(images))

    def tags(
        self,
        images: Sequence[Image] | None = None,
        k: int = 10,
        given: Sequence[Sequence[str]] | None = None,
        useless: bool = False,
    ) -> list[list[tuple[str, float]]]:
        """The likeliest tags of each picture, with their probabilities.

        Args:
            images: the pictures; None where only tags are known.
            k: how many tags to name.
            given: for each picture tags that are known already; they are not named again.
            useless: also name tags that pictures do not tell (cameras, years, awards).

        Returns:
            For each picture (tag, probability), the likeliest first. A probability says how
            likely a person of the training data would give the tag.

        Raises:
            UnknownTag: a given tag is not in the vocabulary.
            UserError: k, or the number of lists in `given`, is wrong.
        """
        features = None if images is None else self.features(images)
        return self.tags_of_features(features, k, given, useless)

    def tags_of_features(
        self,
        features: np.ndarray | None,
        k: int = 10,
        given: Sequence[Sequence[str]] | None = None,
        useless: bool = False,
    ) -> list[list[tuple[str, float]]]:
        """As `tags`, for pictures that the backbone has seen already: features [N, D]."""
        if k < 1:
            raise UserError(f"k is {k}, expected 1 or more")
        known = self._given(given, None if features is None else len(features))
        if features is not None and features.shape[1] != self.scorer.model.config.feature_dim:
            raise UserError(
                f"features have {features.shape[1]} numbers, this model's backbone "
                f"({', '.join(self.scorer.backbone['nets'])}) gives "
                f"{self.scorer.model.config.feature_dim}"
            )
        if features is not None and not np.isfinite(features).all():
            raise UserError("features: hold values that are no finite numbers")
        values = self.scorer.probabilities(features, known)
        blocked = np.zeros(values.shape, bool) if known is None else known.copy()
        if not useless:
            blocked |= self.scorer.visual < finish.VISUAL_AUC
        ranked = np.argsort(-values, axis=1, kind="stable")
        names = self.vocabulary.tags
        return [
            [(names[j], float(values[i, j])) for j in row if not blocked[i, j]][:k]
            for i, row in enumerate(ranked)
        ]

    def _given(self, given: Sequence[Sequence[str]] | None, count: int | None) -> np.ndarray | None:
        if given is None:
            if count is None:
                raise UserError("neither pictures nor tags are given; expected one or both")
            return None
        if isinstance(given, str) or any(isinstance(tags, str) for tags in given):
            raise UserError("given: expected a list of tags for each picture, as in [['dog']]")
        if count is not None and len(given) != count:
            raise UserError(f"given: has {len(given)} lists of tags for {count} pictures")
        for tags in given:
            for tag in tags:
                self.vocabulary.number(tag)
        return presence(self.vocabulary, given)

    def query(
        self,
        images: Sequence[Image] | None = None,
        plus: Sequence[str] = (),
        minus: Sequence[str] = (),
    ) -> np.ndarray:
        """The vector to search with, float32 [d]; see `search`."""
        vectors = None
        if images is not None and len(images):
            vectors = self.scorer.picture_vectors(self.features(images))
        return self.combine(vectors, plus, minus)

    def combine(
        self, pictures: np.ndarray | None, plus: Sequence[str], minus: Sequence[str]
    ) -> np.ndarray:
        """Pictures' vectors [n, d] (or None), plus tags, minus tags: a unit vector [d]."""
        for name, tags in (("plus", plus), ("minus", minus)):
            if isinstance(tags, str):
                raise UserError(f"{name}: expected a list of tags, as in {name}=[{tags!r}]")
        if pictures is None and not plus:
            raise UserError("search: expected pictures or plus tags to start from")
        total = np.zeros_like(self.scorer.centre)
        if pictures is not None:
            around = pictures - self.scorer.centre
            around /= np.maximum(np.linalg.norm(around, axis=1, keepdims=True), 1e-6)
            total += around.mean(axis=0)
        for sign, tags in ((1.0, plus), (-1.0, minus)):
            for tag in tags:
                total += sign * TAG_WEIGHT * self.scorer.tag_directions[self.vocabulary.number(tag)]
        return total / max(float(np.linalg.norm(total)), 1e-6)

    def search(
        self,
        images: Sequence[Image] | None = None,
        plus: Sequence[str] = (),
        minus: Sequence[str] = (),
        k: int = 10,
    ) -> list[str]:
        """Pictures of the index that are near pictures and tags, and far from other tags.

        Args:
            images: pictures to start from; several count as their mean.
            plus: tags to add.
            minus: tags to take away.
            k: how many to find.

        Returns:
            Ids of the pictures, the nearest first.

        Raises:
            UnknownTag: a tag is not in the vocabulary.
            UserError: there is no index, or nothing to start from.
        """
        return [name for name, _ in self.search_scored(images, plus, minus, k)]

    def search_scored(
        self,
        images: Sequence[Image] | None = None,
        plus: Sequence[str] = (),
        minus: Sequence[str] = (),
        k: int = 10,
    ) -> list[tuple[str, float]]:
        """As `search`, each id with its similarity to the query, -1 to 1."""
        if self.index is None:
            raise UserError(
                "search: this model has no index of pictures; make one with `python "
                "jobs/predict.py tags --model MODEL --input SOURCE --index` and load the model "
                "with index=OUT/index"
            )
        query = self.query(images, plus, minus)
        found = self.index.search(query[None], k)
        (ids,) = self.index.ids_of(found.positions)
        return list(zip(ids, map(float, found.similarities[0]), strict=True))

    def neighbours(self, tag: str, k: int = 10) -> list[tuple[str, float]]:
        """The tags that mean the most similar, with their cosines, -1 to 1.

        Raises:
            UnknownTag: it is not in the vocabulary.
        """
        number = self.vocabulary.number(tag)
        return self._nearest(self.scorer.tag_directions[number], {number}, k)

    def analogy(self, a: str, b: str, c: str, k: int = 10) -> list[tuple[str, float]]:
        """Tags that are to `c` as `b` is to `a`, with their cosines to b - a + c.

        Mikolov, Yih and Zweig, *Linguistic Regularities in Continuous Space Word
        Representations* (NAACL 2013).

        Raises:
            UnknownTag: one of them is not in the vocabulary.
        """
        numbers = [self.vocabulary.number(tag) for tag in (a, b, c)]
        first, second, third = self.scorer.tag_directions[numbers]
        return self._nearest(second - first + third, set(numbers), k)

    def _nearest(self, vector: np.ndarray, without: set[int], k: int) -> list[tuple[str, float]]:
        if k < 1:
            raise UserError(f"k is {k}, expected 1 or more")
        cosines = self.scorer.tag_directions @ (vector / max(np.linalg.norm(vector), 1e-6))
        ranked = [j for j in np.argsort(-cosines, kind="stable") if j not in without]
        return [(self.vocabulary.tags[j], float(cosines[j])) for j in ranked[:k]]
