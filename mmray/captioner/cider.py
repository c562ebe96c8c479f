"""CIDEr-D: how much a caption agrees with those of people, telling phrases first.

Captions are vectors of their n-grams (n = 1 to 4), weighted by how rarely images' references have
them; the score is the mean cosine to the references, times 10. (Vedantam et al.: *CIDEr:
Consensus-based Image Description Evaluation*, CVPR 2015. CIDEr-D clips repeated n-grams and damps
by the difference of lengths, as pycocoevalcap 1.2 does under the name CIDEr.)

A caption is a sequence of tokens: words, or any hashable things such as token ids.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmray.errors import UserError

Tokens = Sequence[Hashable]
NGram = tuple[Hashable, ...]
# A caption: the weight of each n-gram, the length of the vector of each n, and the number of
# bigrams, by which the lengths of captions are compared.
_Vector = tuple[dict[NGram, float], list[float], int]

LONGEST = 4  # n-grams
SIGMA = 6.0  # of the damping by the difference of lengths


def ngrams(tokens: Tokens) -> Counter[NGram]:
    """How often each n-gram of 1 to 4 tokens occurs."""
    shifted = [tokens[i:] for i in range(LONGEST)]
    counts: Counter[NGram] = Counter()
    for n in range(1, LONGEST + 1):
        counts.update(zip(*shifted[:n], strict=False))
    return counts


@dataclass(frozen=True)
class DocumentFrequencies:
    """In how many images' references each n-gram occurs.

    Scores are comparable only where they were taken with the same frequencies. Evaluation takes
    those of the evaluated references; a reward in training takes those of the training split,
    built once.

    Args:
        num_images: how many images were counted.
        counts: images per n-gram. Those of one image may be left out, as an n-gram never seen
            weighs as much as one seen once.
    """

    num_images: int
    counts: Mapping[NGram, int]

    @classmethod
    def of(cls, references: Iterable[Sequence[Tokens]]) -> DocumentFrequencies:
        """Counts the references of many images.

        Args:
            references: for each image the tokens of each of its captions. May be a generator.

        Raises:
            UserError: there is no image.
        """
        counts: Counter[NGram] = Counter()
        num_images = 0
        for captions in references:
            num_images += 1
            counts.update({ngram for tokens in captions for ngram in ngrams(tokens)})
        if not num_images:
            raise UserError("document frequencies need the references of at least one image")
        # Most n-grams are seen once: without them it is a fraction of the size.
        return cls(num_images, {ngram: count for ngram, count in counts.items() if count > 1})


class Cider:
    """Scores candidates against references that are made into vectors once.

    For self-critical training (Rennie et al., CVPR 2017) build it from the training split with
    frequencies of the same, and append one and the same end token to all references and to
    candidates that ended by themselves; otherwise leaving out the end costs nothing, and the
    captioner learns sentences that break off.

    Args:
        references: for each image the tokens of each of its captions, at least one.
        frequencies: those of these references by default. With a single image all n-grams weigh
            nothing then, and all scores are 0.

    Raises:
        UserError: there is no image, or one without references.
    """

    def __init__(
        self,
        references: Sequence[Sequence[Tokens]],
        frequencies: DocumentFrequencies | None = None,
    ) -> None:
        for i, captions in enumerate(references):
            if not captions:
                raise UserError(f"image {i} has no reference; CIDEr needs at least one of each")
        self.frequencies = frequencies or DocumentFrequencies.of(references)
        self._counts = self.frequencies.counts
        # What all images have weighs nothing, what one has weighs most.
        self._weights = {
            count: math.log(self.frequencies.num_images) - math.log(count)
            for count in {1, *self._counts.values()}
        }
        self._images = [[self._vector(tokens) for tokens in captions] for captions in references]

    def score(
        self, candidates: Sequence[Tokens], images: Sequence[int] | None = None
    ) -> np.ndarray:
        """CIDEr-D of each candidate.

        Args:
            candidates: the tokens of N captions; may be empty ones.
            images: whose references each is compared with, N numbers; by default there is one
                candidate for each image, in their order.

        Returns:
            float64 [N], from 0 to 10.

        Raises:
            UserError: candidates and images are not as many.
        """
        which = range(len(self._images)) if images is None else images
        if len(candidates) != len(which):
            raise UserError(f"{len(candidates)} candidates for {len(which)} images")
        pairs = zip(candidates, which, strict=True)
        return np.array([self._one(tokens, self._images[i]) for tokens, i in pairs])

    def _vector(self, tokens: Tokens) -> _Vector:
        weighted, squares = {}, [0.0] * LONGEST
        seen, weights = self._counts, self._weights
        for ngram, count in ngrams(tokens).items():
            weighted[ngram] = value = count * weights[seen.get(ngram, 1)]
            squares[len(ngram) - 1] += value * value
        return weighted, [math.sqrt(x) for x in squares], max(0, len(tokens) - 1)

    def _one(self, tokens: Tokens, references: list[_Vector]) -> float:
        ours, norms, num_bigrams = self._vector(tokens)
        total = 0.0
        for theirs, their_norms, their_bigrams in references:
            products = [0.0] * LONGEST
            for ngram, weight in ours.items():
                their_weight = theirs.get(ngram)
                if their_weight:
                    # Clipped: repeating what the reference says once earns nothing.
                    products[len(ngram) - 1] += min(weight, their_weight) * their_weight
            damping = math.exp(-((num_bigrams - their_bigrams) ** 2) / (2 * SIGMA**2))
            for product, norm, their_norm in zip(products, norms, their_norms, strict=True):
                if product:
                    total += damping * product / (norm * their_norm)
        return 10 * total / (LONGEST * len(references))
