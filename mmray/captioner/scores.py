"""How good captions are, in the numbers that papers report.

BLEU, ROUGE-L and CIDEr-D with the values of pycocoevalcap 1.2, the reference implementation, and
without Java. All are scores of a whole set of images: BLEU adds up its counts over images, and
CIDEr weighs n-grams by how many images have them. So means over parts of a set are not the score
of the set; gather the captions of all workers, each image once, and score them in one call.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from mmray.captioner.cider import LONGEST, Cider, DocumentFrequencies, NGram, Tokens, ngrams
from mmray.captioner.tokenise import tokenise
from mmray.errors import UserError

_BETA = 1.2  # of ROUGE-L: recall counts somewhat more than precision
# The reference implementation's. They decide the score where nothing matches.
_TINY, _SMALL = 1e-15, 1e-9


def scores(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    frequencies: DocumentFrequencies | None = None,
) -> dict[str, float]:
    """BLEU-1 to 4, ROUGE-L and CIDEr-D of captions, as pycocoevalcap 1.2 scores them.

    Captions are tokenised first (`mmray.captioner.tokenise`); raw text is expected. Texts that
    are tokens already, parted by spaces, are scored by `score_tokenised`.

    Args:
        candidates: one caption for each of N images; may be empty texts.
        references: for each image people's captions, at least one, in any number.
        frequencies: for CIDEr; by default those of these references.

    Returns:
        `bleu1`, `bleu2`, `bleu3`, `bleu4` (Papineni et al., ACL 2002; corpus level, closest
        reference length) and `rouge_l` (Lin, 2004), from 0 to 1, and `cider` (Vedantam et al.,
        CVPR 2015), from 0 to 10, which papers print times 100.

    Raises:
        UserError: there are not as many candidates as lists of references, an image has no
            reference, there is no image, or something is not a text.
    """
    check(candidates, references)
    return score_tokenised(
        [tokenise(text) for text in candidates],
        [[tokenise(text) for text in texts] for texts in references],
        frequencies,
    )


def score_tokenised(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    frequencies: DocumentFrequencies | None = None,
) -> dict[str, float]:
    """`scores` of texts that are tokens parted by single spaces, case and punctuation as they are.

    Arguments, result and errors as in `scores`.
    """
    check(candidates, references)
    # ROUGE parts at spaces only, so that an empty caption is one empty token and equals another.
    spaced = [text.split(" ") for text in candidates]
    rouge = rouge_l(spaced, [[text.split(" ") for text in texts] for texts in references])
    words = [text.split() for text in candidates]
    their_words = [[text.split() for text in texts] for texts in references]
    return {
        **{f"bleu{n + 1}": x for n, x in enumerate(bleu(words, their_words))},
        "rouge_l": float(rouge.mean()),
        "cider": float(Cider(their_words, frequencies).score(words).mean()),
    }


def bleu(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> list[float]:
    """BLEU-1 to 4 of a whole set of captions.

    The length that candidates are compared with is that of the reference closest in length, the
    shorter of two; where nothing matches, scores are not 0 but nearly.

    Args:
        candidates: the tokens of one caption for each of N images.
        references: for each image the tokens of each of its references, at least one.

    Returns:
        Four numbers from 0 to 1.
    """
    length, closest = 0, 0
    correct, guessed = [0] * LONGEST, [0] * LONGEST
    for ours, captions in zip(candidates, references, strict=True):
        length += len(ours)
        closest += min((abs(len(theirs) - len(ours)), len(theirs)) for theirs in captions)[1]
        most: Counter[NGram] = Counter()
        for theirs in captions:
            most |= ngrams(theirs)
        for ngram, count in ngrams(ours).items():
            correct[len(ngram) - 1] += min(count, most[ngram])
        for n in range(LONGEST):
            guessed[n] += max(0, len(ours) - n)
    ratio = (length + _TINY) / (closest + _SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    results, product = [], 1.0
    for n in range(LONGEST):
        product *= (correct[n] + _TINY) / (guessed[n] + _SMALL)
        results.append(brevity * product ** (1 / (n + 1)))
    return results


def rouge_l(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> np.ndarray:
    """ROUGE-L of each caption: how long the longest common subsequence with a reference is.

    The best precision and the best recall count, which may be those of two references.

    Args:
        candidates: the tokens of one caption for each of N images.
        references: for each image the tokens of each of its references, at least one.

    Returns:
        float64 [N], from 0 to 1; the score of a set is the mean.
    """
    return np.array(
        [_rouge_l(ours, theirs) for ours, theirs in zip(candidates, references, strict=True)]
    )


def _rouge_l(ours: Tokens, captions: Sequence[Tokens]) -> float:
    common = [_longest_common(ours, theirs) for theirs in captions]
    precision = max(common) / max(1, len(ours))
    recall = max(n / max(1, len(theirs)) for n, theirs in zip(common, captions, strict=True))
    if not precision:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _longest_common(a: Tokens, b: Tokens) -> int:
    """Length of the longest common subsequence, with one bit for each token of `a`.

    (Hyyro: *Bit-parallel LCS-length computation revisited*, 2004.)
    """
    places: dict[Hashable, int] = {}
    for i, token in enumerate(a):
        places[token] = places.get(token, 0) | 1 << i
    every = (1 << len(a)) - 1
    unmatched = every
    for token in b:
        here = unmatched & places.get(token, 0)
        unmatched = ((unmatched + here) | (unmatched - here)) & every
    return len(a) - unmatched.bit_count()


def check(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Refuses what cannot be scored; errors as in `scores`."""
    if isinstance(candidates, str) or isinstance(references, str):
        raise UserError("expected a list of captions and a list of lists of references, got a text")
    if len(candidates) != len(references):
        raise UserError(
            f"{len(candidates)} candidates but references of {len(references)} images; expected "
            "one candidate and one list of references for each image"
        )
    if not len(candidates):
        raise UserError("there is nothing to score; expected the caption of at least one image")
    for i, (candidate, texts) in enumerate(zip(candidates, references, strict=True)):
        if isinstance(texts, str):
            raise UserError(f"the references of image {i} are one text; expected a list of texts")
        if not len(texts):
            raise UserError(f"image {i} has no reference; expected at least one for each image")
        if not all(isinstance(text, str) for text in (candidate, *texts)):
            raise UserError(f"a candidate or reference of image {i} is not a text")
