"""Scores by hand, against the reference implementation, and where there is nothing to score."""

import random
import sys

import numpy as np
import pytest

from mmray.captioner import scores
from mmray.captioner.cider import Cider, DocumentFrequencies
from mmray.captioner.scores import bleu, rouge_l, score_tokenised
from mmray.errors import UserError

TEXT = """a a a the the man dog cat on in with red surfboard table street runs 's n't -lrb-
café naïve 日本語 русский 😀 . , ! & 3.5 t-shirt e\u0301 İstanbul ß"""
WORDS = TEXT.split()


def test_small_published_set():
    # The example of Maluuba's nlg-eval, and the values its tests expect.
    found = score_tokenised(["this is a good test"], [["this is a test", "this is also a test"]])
    expected = {"bleu1": 0.799999, "bleu2": 0.632455, "bleu3": 0.5108729, "bleu4": 0.0000903602}
    assert found == pytest.approx({**expected, "rouge_l": 0.9070631, "cider": 0}, abs=1e-6)


def test_cider_published():
    # The example of aac-metrics' documentation, and its values.
    candidates = ["a man is speaking", "rain falls"]
    references = [
        ["a man speaks.", "someone speaks.", "a man is speaking while a bird is chirping in the "
         "background"],
        ["rain is falling hard on a surface"],
    ]  # fmt: skip
    assert scores(candidates, references)["cider"] == pytest.approx(0.9614, abs=5e-5)
    assert scores(candidates, references)["bleu1"] == pytest.approx(0.4278, abs=5e-5)
    tokens = [[text.rstrip(".").split() for text in texts] for texts in references]
    each = Cider(tokens).score([text.split() for text in candidates])
    assert each == pytest.approx([1.3641, 0.5587], abs=5e-5)


def test_bleu_by_hand():
    # 5 words against 6: of the words 4 match, of 4 pairs 2, of 3 triples none.
    found = bleu([_split("a a cat sat down")], [[_split("a cat sat on a mat")]])
    brevity = np.exp(1 - 6 / 5)
    assert found[0] == pytest.approx(brevity * 4 / 5)
    assert found[1] == pytest.approx(brevity * np.sqrt(4 / 5 * 2 / 4))
    assert found[2] == pytest.approx(brevity * (4 / 5 * 2 / 4 * 1 / 3) ** (1 / 3))
    assert found[3] < 1e-3


def test_bleu_takes_the_closest_length_and_of_two_the_shorter():
    ours = [list("abcd")]
    shorter, longer, far = list("abc"), list("abcde"), list("abcdefghijk")
    assert bleu(ours, [[longer, shorter, far]])[0] == pytest.approx(1)
    assert bleu(ours, [[longer, far]])[0] == pytest.approx(np.exp(1 - 5 / 4))


def test_rouge_by_hand():
    # 2 of 3 words in order; the other reference has all of its own, 1 of our 3.
    one, both = rouge_l(
        [list("abc"), list("abc")],
        [[list("axc")], [list("axcx"), list("b")]],
    )
    assert one == pytest.approx(2 / 3)
    assert both == pytest.approx((1 + 1.44) * 2 / 3 * 1 / (1 + 1.44 * 2 / 3))


def test_cider_by_hand():
    # The word x is in one image of two: it weighs log 2; y is in both and weighs nothing.
    cider = Cider([[["x", "y"]], [["y"]]])
    # One word less than the reference is one bigram less: exp(-1 / 72) of damping.
    assert cider.score([["x"], ["y"]])[0] == pytest.approx(10 / 4 * np.exp(-1 / 72))
    assert cider.score([["x", "y"], ["y"]]) == pytest.approx([5, 0])
    # Clipped: saying it twice makes the vector longer, and shares no more.
    assert cider.score([["x", "x"]], [0]) == pytest.approx([10 / 4 / 2])


def test_identical_captions():
    captions = ["a man on a horse", "two cats sleep on a bed", "the red bus stops here today"]
    found = scores(captions, [[caption] for caption in captions])
    assert found == pytest.approx({**{f"bleu{n}": 1 for n in (1, 2, 3, 4)}, "rouge_l": 1,
                                   "cider": 10}, abs=1e-6)  # fmt: skip


def test_case_and_punctuation_do_not_count():
    plain = scores(["a dog runs", "a cat"], [["the dog runs", "a dog"], ["one cat"]])
    noisy = scores(["A dog runs.", "A cat!"], [["The dog, runs", '"A dog"'], ["one\ncat ..."]])
    assert plain == noisy


def test_nothing_said_scores_nothing():
    found = scores(["", "..."], [["a dog"], ["a cat", "cats"]])
    assert found == pytest.approx(dict.fromkeys(found, 0.0), abs=1e-6)
    # As in the reference implementation, where nothing was said and nothing was to be said.
    assert scores(["", "a"], [["", "a dog"], ["."]])["rouge_l"] == 0.5


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ([], [], "nothing to score"),
        (["a"], [], "1 candidates but references of 0"),
        (["a", "b"], [["a"], []], "image 1 has no reference"),
        (["a"], ["a dog"], "image 0 are one text"),
        ("a", ["a"], "got a text"),
        ([["a"]], [["a"]], "image 0 is not a text"),
        (["a"], [[None]], "image 0 is not a text"),
    ],
)
def test_what_cannot_be_scored(candidates, references, message):
    for score in (scores, score_tokenised):
        with pytest.raises(UserError, match=message):
            score(candidates, references)


def test_cider_of_several_candidates_an_image_with_given_frequencies():
    rng = random.Random(0)
    train = [[_words(rng) for _ in range(rng.randint(1, 5))] for _ in range(40)]
    frequencies = DocumentFrequencies.of(iter(train))
    cider = Cider(train, frequencies)
    which = [rng.randrange(40) for _ in range(100)]
    sampled = [rng.choice([_words(rng), rng.choice(train[i])]) for i in which]
    together = cider.score(sampled, which)
    alone = [
        Cider([train[i]], frequencies).score([c])[0] for c, i in zip(sampled, which, strict=True)
    ]
    assert together == pytest.approx(alone)
    assert together.max() > 1
    by_default = Cider(train).score([texts[0] for texts in train])
    assert cider.score([texts[0] for texts in train]) == pytest.approx(by_default)


def test_cider_of_token_numbers_and_an_end_token():
    references = [[[5, 6, 7, 0], [5, 8, 0]], [[9, 6, 4, 0]], [[3, 0]]]
    whole, broken = Cider(references).score([[5, 6, 7, 0], [5, 6, 7]], [0, 0])
    assert whole > broken > 0


def test_frequencies_leave_out_what_weighs_the_same():
    found = DocumentFrequencies.of([[["a", "b"], ["a"]], [["a"]]])
    assert found.num_images == 2
    assert found.counts == {("a",): 2}


def test_cider_refuses():
    with pytest.raises(UserError, match="image 1 has no reference"):
        Cider([[["a"]], []])
    with pytest.raises(UserError, match="2 candidates for 1 images"):
        Cider([[["a"]]]).score([["a"], ["b"]])
    with pytest.raises(UserError, match="at least one image"):
        DocumentFrequencies.of([])


def _split(text: str) -> list[str]:
    return text.split()


def _words(rng: random.Random) -> list[str]:
    length = rng.choice([0, 1, 1, 2, 3, *range(4, 14), 40])
    if rng.random() < 0.1:
        return [rng.choice(WORDS)] * length
    return rng.choices(WORDS, k=length)


def _caption_set(seed: int) -> tuple[list[str], list[list[str]]]:
    """Captions of a few images, some of them copies of a reference or of parts of one."""
    rng = random.Random(seed)
    candidates, references = [], []
    for _ in range(rng.choice([1, 2, 3, 5, 10, 20])):
        texts = [_words(rng) for _ in range(rng.choice([1, 1, 2, 5, 7]))]
        copied = rng.choice(texts)
        tokens = rng.choice([_words(rng), copied, copied[1:], copied + _words(rng), copied[::-1]])
        candidates.append(" ".join(tokens))
        references.append([" ".join(text) for text in texts])
    if seed % 100 == 0:
        candidates[0], references[0][0] = "a dog " * 300, "the dog a " * 200
    return candidates, references


def test_equal_to_the_reference_implementation():
    reason = "needs pycocoevalcap==1.2, which `make install` brings"
    bleus = pytest.importorskip("pycocoevalcap.bleu.bleu", reason=reason)
    rouges = pytest.importorskip("pycocoevalcap.rouge.rouge", reason=reason)
    ciders = pytest.importorskip("pycocoevalcap.cider.cider", reason=reason)
    largest, compared = 0.0, 0
    for seed in range(1000):
        candidates, references = _caption_set(seed)
        found = score_tokenised(candidates, references)
        theirs, ours = dict(enumerate(references)), {i: [c] for i, c in enumerate(candidates)}
        expected = {f"bleu{n + 1}": x for n, x in
                    enumerate(bleus.Bleu().compute_score(theirs, ours, verbose=0)[0])}  # fmt: skip
        expected["rouge_l"] = rouges.Rouge().compute_score(theirs, ours)[0]
        # Where no reference has a word, there is no CIDEr there; here it is 0.
        if any(text.strip() for texts in references for text in texts):
            expected["cider"] = ciders.Cider().compute_score(theirs, ours)[0]
            compared += 1
        else:
            assert found["cider"] == 0
        largest = max(largest, *(abs(found[name] - x) for name, x in expected.items()))
    print(f"largest difference {largest:.1e} on 1,000 sets", file=sys.stderr)
    assert largest < 1e-6
    assert compared > 950
